"""Batches and validation of a raw network that learns from clips for the eye, turned into what a sensor gives."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.metrics import psnr
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.posterior import posterior_mean
from stbn_cli.raw.bayer import pseudo_rgb
from stbn_cli.raw.noise import CRVD_NOISE, add_noise
from stbn_cli.synthesis.raw import RawCamera, draw_camera
from stbn_cli.training.validation import Validation

VALIDATION_SEED = 77
VALIDATION_ISOS = (1600, 6400, 25600)


def raw_pair(clean: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Noisy and clean planes `(T, 4, H / 2, W / 2)` of a clip `(T, 3, H, W)` by a random camera, and the noise level.

    All are on the scale of the noise's stabiliser, where it is white.
    """
    camera, noise = draw_camera(random)
    planes = camera.unprocess(clean).cpu()
    noisy = add_noise(planes, noise, torch.Generator().manual_seed(int(random.integers(2**63))))
    stabiliser = noise.stabiliser
    seen, goal = (stabiliser.forward(part).to(clean.device) for part in (noisy.clamp_max(1.0), planes))
    return seen, goal, stabiliser.sigma


@torch.inference_mode()
def validate_unprocessed(network: STBN, flow: FlowEstimator, clips: Sequence[Tensor]) -> Validation:
    """Mean PSNR in dB on raw values over the clips, at each of three sensitivities; float32, whole clips."""
    device = next(network.parameters()).device
    means, picture = {}, None
    for iso in VALIDATION_ISOS:
        stabiliser = CRVD_NOISE[iso].stabiliser
        scores = []
        for clip in clips:
            clean = RawCamera(pattern="GBRG").unprocess(clip)
            generator = torch.Generator().manual_seed(VALIDATION_SEED)
            noisy = stabiliser.forward(add_noise(clean, CRVD_NOISE[iso], generator)).to(device)
            flows = estimate_clip_flows(flow, noisy, stabiliser.sigma)
            batch = noisy[None]
            outputs = network(batch, stabiliser.sigma, flows[0][None], flows[1][None])
            level = torch.tensor(stabiliser.sigma, device=device).view(1, 1, 1, 1)
            estimate = posterior_mean(outputs, batch, level)[0]
            scores.append(float(psnr(stabiliser.inverse(estimate).cpu(), clean).mean()))
            picture = pseudo_rgb(torch.cat((noisy[-1], estimate[-1]), -1))
        means[str(iso)] = round(sum(scores) / len(scores), 3)
    mean = sum(means.values()) / len(means)
    return Validation({"psnr": means, "mean": mean}, mean, picture)
