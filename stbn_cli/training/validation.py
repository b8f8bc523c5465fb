"""Quality on held-out clips while training, by the protocol's noise and definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.metrics import psnr
from stbn_cli.models.stbn import STBN
from stbn_cli.models.warp import warp_bilinear
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.posterior import colours_of, posterior_mean
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.kinds import conditioning_noise, degrade, lead_of
from stbn_cli.synthesis.protocol import protocol_noise
from stbn_cli.training.footage import Footage
from stbn_cli.training.virtual_camera import draw_scene, render, true_flow

CLIP_FRAMES = 6
CROP = 256  # pixels, from the middle of the frame
FLOW_SCENES = 20  # rendered for a flow network's validation
FLOW_SEED = 99
KIND_DRAWS = 4
# Recurrent networks are tried on so many still frames of this side (pixels) as well: sequences to learn from are too
# short to show a state that grows.
STILL_FRAMES, STILL_SIDE = 60, 96
KIND_SEED = 77


@dataclass(frozen=True, slots=True)
class Validation:
    """Outcome on the held-out clips."""

    row: Mapping[str, object]  # for the journal
    score: float  # higher is better
    picture: Tensor | None = None  # (3, H, W), nominal [0, 1]: noisy and denoised side by side


def crop_clips(footage: Footage) -> list[Tensor]:
    """Clips `(T, C, H, W)` float32, nominal [0, 1]: the middle `CROP` pixels of the first `CLIP_FRAMES` frames."""
    clips = []
    for clip in footage.clips:
        height, width = clip.shape[-2:]
        top, left = max(height - CROP, 0) // 2, max(width - CROP, 0) // 2
        frames = clip[:CLIP_FRAMES, :, top : top + CROP, left : left + CROP]
        clips.append(frames.float() / BYTE_SCALE if frames.dtype == torch.uint8 else frames.float())
    return clips


@torch.inference_mode()
def validate_denoiser(
    network: STBN, flow: FlowEstimator, clips: Sequence[Tensor], sigmas: Sequence[float]
) -> Validation:
    """Mean PSNR in dB over the clips for each noise level (0-255 scale), in float32, whole clips."""
    device = next(network.parameters()).device
    means, picture = {}, None
    for sigma in sigmas:
        level = sigma / BYTE_SCALE
        scores = []
        for clean in clips:
            noisy = protocol_noise(clean, level).to(device)
            flows = estimate_clip_flows(flow, noisy, level)
            batch = noisy[None]
            outputs = network(batch, level, flows[0][None], flows[1][None])
            estimate = posterior_mean(outputs, batch, broadcast_sigma(level, batch))[0]
            scores.append(float(psnr(estimate.float().cpu(), clean).mean()))
            picture = torch.cat((noisy[-1], estimate[-1]), -1)
        means[f"{sigma:g}"] = round(sum(scores) / len(scores), 3)
    mean = sum(means.values()) / len(means)
    return Validation({"psnr": means, "mean": mean}, mean, picture)


@torch.inference_mode()
def validate_on_kind(
    network: STBN,
    flow: FlowEstimator,
    clips: Sequence[Tensor],
    kind: NoiseKind,
    sigma_range: tuple[float, float],
) -> Validation:
    """Mean PSNR in dB over the clips under `KIND_DRAWS` random draws each of a kind of noise, always the same ones.

    `sigma_range` on the [0, 1] scale; float32, whole clips, less the first frames that the synthesis needs.
    """
    device = next(network.parameters()).device
    before, after, picture = [], [], None
    for number, clean in enumerate(clips):
        for draw in range(KIND_DRAWS):
            random = np.random.default_rng((KIND_SEED, number, draw))
            # The lead is the clip's beginning, backwards: no frame is lost.
            lead = lead_of(kind)
            frames = torch.cat((clean[1 : 1 + lead].flip(0), clean)) if lead else clean
            found = degrade(kind, frames, random, sigma_range)
            found = found._replace(noise=conditioning_noise(kind, found.noise, found.noisy, 0.0))
            noisy, target = found.noisy.to(device), found.clean.to(device)
            flows = estimate_clip_flows(flow, noisy, found.noise.level(noisy))
            sigma = found.noise.sigma_at(noisy).expand_as(noisy)[None]
            outputs = network(noisy[None], sigma, flows[0][None], flows[1][None])
            level = found.noise.sigma_at(outputs[:, :, : colours_of(outputs)].float())
            estimate = posterior_mean(outputs, noisy[None], level)[0]
            before.append(float(psnr(noisy, target).mean()))
            after.append(float(psnr(estimate, target).mean()))
            picture = torch.cat((noisy[-1], estimate[-1]), -1)
    mean = sum(after) / len(after)
    row = {"psnr": round(mean, 3), "noisy": round(sum(before) / len(before), 3)}
    return Validation(row, mean, picture)


@torch.inference_mode()
def validate_raw(network: STBN, flow: FlowEstimator, clips: Sequence[Tensor]) -> Validation:
    """Mean squared error against the noisy clips themselves: for a blind spot, the true error plus the noise."""
    device = next(network.parameters()).device
    losses = []
    for clip in clips:
        noisy = clip.to(device)[None]
        flows = estimate_clip_flows(flow, noisy)
        losses.append(float((network(noisy, 0.0, *flows) - noisy).square().mean()))
    loss = sum(losses) / len(losses)
    return Validation({"blind_error": loss}, -loss)


@torch.inference_mode()
def validate_flow(
    flow: FlowEstimator,
    clips: Sequence[Tensor],
    sigmas: Sequence[float],
    device: torch.device | str = "cpu",
) -> Validation:
    """End-point error (pixels) on rendered motion, and PSNR (dB) of a clean frame predicted from its neighbour.

    Motion is rendered over the first frames of the clips; the neighbour is warped bilinearly by the flow that was
    found between the noisy frames. `sigmas` on the 0-255 scale; `device`: of the flow network.
    """
    scenes = [
        draw_scene(
            [(clip[0] * BYTE_SCALE).to(torch.uint8) for clip in clips],
            2,
            CROP,
            np.random.default_rng((FLOW_SEED, number)),
        )
        for number in range(FLOW_SCENES)
    ]
    errors, warped = {}, {}
    for sigma in sigmas:
        level = sigma / BYTE_SCALE
        distances, scores = [], []
        for scene in scenes:
            frames, alpha = render(scene)
            goal, seen = true_flow(scene, alpha, 0, 1)
            noisy = protocol_noise(frames, level).to(device)
            found = flow(noisy[:1], noisy[1:], level)[0].cpu()
            distances.append(float(torch.linalg.vector_norm(found - goal, dim=0)[seen].mean()))
        for clip in clips:
            noisy = protocol_noise(clip, level).to(device)
            found = flow(noisy[:-1], noisy[1:], level).cpu()
            scores.append(float(psnr(warp_bilinear(clip[1:], found), clip[:-1]).mean()))
        errors[f"{sigma:g}"] = round(sum(distances) / len(distances), 3)
        warped[f"{sigma:g}"] = round(sum(scores) / len(scores), 3)
    mean = sum(warped.values()) / len(warped)
    return Validation({"end_point_error": errors, "warp_psnr": warped}, mean)
