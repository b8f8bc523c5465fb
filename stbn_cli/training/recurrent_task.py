"""What training a recurrent denoiser means: crops of a pool, the logarithm of the squared error, its validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.metrics import psnr
from stbn_cli.models.config import TRAINED_FLOW
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.noise.calibration import LEVEL_ERROR
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levels import level_map
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.kinds import degrade, lead_of
from stbn_cli.synthesis.mixture import measured_levels
from stbn_cli.synthesis.protocol import protocol_noise
from stbn_cli.training.muon import hidden_and_others
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.pool import FLOW_SCALE, Pool, PoolBatch
from stbn_cli.training.validation import STILL_FRAMES, STILL_SIDE, Validation

# Sequences hardly wrong (0-255 scale) are not to be made perfect at the expense of others.
NEGLIGIBLE_ERROR = 0.7
SPREAD_WEIGHT = 0.03  # of the likelihood that teaches the spread; its gradient does not reach the estimate
SINGLE_SHARE = 0.12  # of the steps that learn from single frames
LARGE_SHARE = 0.28  # of the steps with crops of LARGE times the size, and fewer of them
LARGE = 1.5
REFRESH_STEPS = 500  # between two looks for new entries of the pool
VALIDATION_SEED = 77
VALIDATION_KINDS: tuple[NoiseKind, ...] = ("camera", "compressed")
STILL_SIGMA = 30.0  # of white noise, 0-255 scale
STILL_LAST = 10  # frames of a still scene that count, at its end
VALIDATION_RANGE = (5.0, 40.0)  # 0-255 scale


class RecurrentTask(nn.Module):
    """Called with a batch, it gives the loss."""

    margin = 0

    def __init__(self, options: TrainOptions, network: Recurrent) -> None:
        super().__init__()
        self.options = options
        self.network = network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser gets."""
        if self.options.optimizer == "adam":
            return [{"params": list(self.network.parameters()), "factor": 1.0}]
        return hidden_and_others(self.network, ("fusion.leave", "fusion.spread"))

    @torch.no_grad()
    def prepare(self, source: Pool, numbers: range) -> PoolBatch:
        """The batch of these sequence numbers."""
        step, count = numbers.start, len(numbers)
        if numbers.start // count % REFRESH_STEPS == 0:
            source.refresh()
        size, frames = self.options.patch_size, self.options.train_length
        choice = np.random.default_rng((self.options.seed, step, 1)).random()
        large = round(size * LARGE / 4) * 4
        if choice < SINGLE_SHARE:
            count, frames, size = 2 * count, 1, large
        elif choice < SINGLE_SHARE + LARGE_SHARE:
            count, frames, size = max(count // 2, 1), frames + 2, large
        return source.batch(step, count, frames, size, LEVEL_ERROR)

    def forward(self, batch: PoolBatch) -> Tensor:
        """The loss, in float32 whatever autocast has set for the network."""
        estimate, log_spread = self.network(batch.noisy, batch.level, batch.to_previous, batch.to_next)
        error = estimate.float() - batch.clean
        # As PSNR has it: each sequence counts the same, however noisy it is.
        squares = error.square().mean(dim=(1, 2, 3, 4)) + (NEGLIGIBLE_ERROR / BYTE_SCALE) ** 2
        likelihood = log_spread + 0.5 * (error.detach() * torch.exp(-log_spread)).square()
        return squares.log().mean() + SPREAD_WEIGHT * likelihood.mean()

    def validate(self, state: Mapping[str, Tensor], clips: list[Tensor]) -> Validation:
        """Quality of the weights in `state`."""
        network = Recurrent(self.network.config)
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
        device = next(self.network.parameters()).device
        return validate_recurrent(network.to(device).eval(), clips, self.options.validation_noise)

    def save(self, path: Path, state: Mapping[str, Tensor], training: dict[str, Any]) -> None:
        """Write the weights in `state` as a checkpoint."""
        info = ModelInfo(
            name=self.options.model,
            flow=TRAINED_FLOW[self.options.model],
            sigma_range=(0.0, 60.0),
            licence="Apache-2.0",
            noise_kind="camera",
            training=training,
        )
        weights = {name.removeprefix("network."): value for name, value in state.items()}
        save_checkpoint(path, Checkpoint(self.network.config, info, weights))


@torch.inference_mode()
def validate_recurrent(network: Recurrent, clips: Sequence[Tensor], sigmas: Sequence[float]) -> Validation:
    """Mean PSNR in dB over the clips under white noise (0-255 scale) and other kinds, given the true levels.

    And of the last frames of still scenes, each a clip's first frame: they are lost where the state grows.
    """
    device = next(network.parameters()).device
    flow = create_flow_estimator("dis-half")
    picture = None

    def denoised(noisy: Tensor, clean: Tensor) -> Tensor:
        flows = estimate_clip_flows(flow, F.avg_pool2d(noisy, FLOW_SCALE))
        level = level_map(noisy, measured_levels(noisy, clean), FLOW_SCALE)
        batch = [part[None].to(device) for part in (noisy, level, *flows)]
        return network(*batch)[0][0].float().cpu()

    means: dict[str, float] = {}
    cut = [clip[..., : clip.shape[-2] // 4 * 4, : clip.shape[-1] // 4 * 4] for clip in clips]
    for sigma in sigmas:
        scores = []
        for clean in cut:
            noisy = protocol_noise(clean, sigma / BYTE_SCALE)
            estimate = denoised(noisy, clean)
            scores.append(float(psnr(estimate, clean).mean()))
            picture = torch.cat((noisy[-1], estimate[-1]), -1)
        means[f"{sigma:g}"] = round(sum(scores) / len(scores), 3)
    low, high = VALIDATION_RANGE
    for kind in VALIDATION_KINDS:
        scores = []
        for number, clean in enumerate(cut):
            random = np.random.default_rng((VALIDATION_SEED, number))
            lead = lead_of(kind)
            frames = torch.cat((clean[1 : 1 + lead].flip(0), clean)) if lead else clean
            found = degrade(kind, frames, random, (low / BYTE_SCALE, high / BYTE_SCALE))
            scores.append(float(psnr(denoised(found.noisy, found.clean), found.clean).mean()))
        means[kind] = round(sum(scores) / len(scores), 3)
    scores = []
    for clean in cut:
        top, left = (max(side - STILL_SIDE, 0) // 8 * 4 for side in clean.shape[-2:])
        still = clean[:1, :, top : top + STILL_SIDE, left : left + STILL_SIDE].expand(
            STILL_FRAMES, -1, -1, -1
        )
        estimate = denoised(protocol_noise(still, STILL_SIGMA / BYTE_SCALE), still)
        scores.append(float(psnr(estimate, still)[-STILL_LAST:].mean()))
    means["still"] = round(sum(scores) / len(scores), 3)
    mean = sum(means.values()) / len(means)
    return Validation({"psnr": means, "mean": mean}, mean, picture)
