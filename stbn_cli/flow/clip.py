"""Both directions' flow of a whole clip at once."""

import torch
from torch import Tensor

from stbn_cli.flow.estimator import FlowEstimator


def estimate_clip_flows(
    estimator: FlowEstimator, noisy: Tensor, sigma: float | None = None
) -> tuple[Tensor, Tensor]:
    """`flow_to_previous` and `flow_to_next`, each `(T, 2, H, W)` float32 pixels, of `noisy (T, 3, H, W)`.

    Entry 0 of the first and the last entry of the second lead nowhere and are zero.
    """
    frames, _, height, width = noisy.shape
    to_previous = torch.zeros(frames, 2, height, width, device=noisy.device)
    to_next = torch.zeros_like(to_previous)
    if frames > 1:
        to_previous[1:] = estimator(noisy[1:], noisy[:-1], sigma)
        to_next[:-1] = estimator(noisy[:-1], noisy[1:], sigma)
    return to_previous, to_next
