"""Both directions' flow of whole clips at once."""

import torch
from torch import Tensor

from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.raw.bayer import pseudo_rgb
from stbn_cli.raw.pattern import PLANES


def estimate_clip_flows(
    estimator: FlowEstimator, noisy: Tensor, sigma: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`flow_to_previous` and `flow_to_next`, each `(..., T, 2, H, W)` float32 pixels, of `noisy (..., T, C, H, W)`.

    C: 3 of RGB, or 4 Bayer planes, of which red, mean green and blue are taken. `sigma`: noise std on [0, 1], one
    number or one per clip (N,) for `noisy (N, T, C, H, W)`. Entry 0 of the first and the last entry of the second lead
    nowhere and are zero.
    """
    if noisy.shape[-3] == PLANES:
        noisy = pseudo_rgb(noisy)
    clips = noisy if noisy.ndim == 5 else noisy[None]
    batch, frames, _, height, width = clips.shape
    to_previous = clips.new_zeros(batch, frames, 2, height, width, dtype=torch.float32)
    to_next = torch.zeros_like(to_previous)
    if frames > 1 and isinstance(estimator, NetworkFlow) and estimator.finds_features_once:
        to_previous[:, 1:], to_next[:, :-1] = estimator.neighbours(clips, sigma)
    elif frames > 1:
        if isinstance(sigma, Tensor) and sigma.ndim:
            sigma = sigma.repeat_interleave(frames - 1)
        earlier, later = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        to_previous[:, 1:] = estimator(later, earlier, sigma).unflatten(0, (batch, frames - 1))
        to_next[:, :-1] = estimator(earlier, later, sigma).unflatten(0, (batch, frames - 1))
    shape = (*noisy.shape[:-3], 2, height, width)
    return to_previous.view(shape), to_next.view(shape)
