"""Quality on held-out clips while training: posterior PSNR by the protocol's noise and definition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.metrics import psnr
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.posterior import posterior_mean
from stbn_cli.noise.synthetic import protocol_noise
from stbn_cli.training.library import Library

CLIP_FRAMES = 6
CROP = 256  # pixels, from the middle of the frame


def validation_clips(library: Library) -> list[Tensor]:
    """Clean clips `(T, 3, H, W)` float32 [0, 1]: the middle `CROP` pixels of the first `CLIP_FRAMES` frames."""
    clips = []
    for clip in library.clips:
        height, width = clip.shape[1:3]
        top, left = max(height - CROP, 0) // 2, max(width - CROP, 0) // 2
        frames = clip[:CLIP_FRAMES, top : top + CROP, left : left + CROP]
        clips.append(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255.0)
    return clips


@torch.inference_mode()
def validate(
    network: STBN, flow: FlowEstimator, clips: Sequence[Tensor], sigmas: Sequence[float], device: str
) -> dict[float, float]:
    """Mean PSNR in dB over the clips for each noise level (0-255 scale), in float32, whole clips."""
    results = {}
    for sigma in sigmas:
        level = sigma / 255.0
        scores = []
        for clean in clips:
            noisy = protocol_noise(clean, level)
            to_previous, to_next = estimate_clip_flows(flow, noisy, level)
            batch, to_previous, to_next = (
                tensor[None].to(device) for tensor in (noisy, to_previous, to_next)
            )
            outputs = network(batch, level, to_previous, to_next)
            if network.config.head == "gaussian":
                outputs = posterior_mean(outputs, batch, broadcast_sigma(level, batch))
            scores.append(float(psnr(outputs[0].float().cpu(), clean).mean()))
        results[sigma] = sum(scores) / len(scores)
    return results
