"""Frames that a network does not see, so that they can tell how well it denoises their neighbours.

Of a run every third frame is left out: each of the others then lies beside one that the network knows nothing of.
Which third that is, is the phase. The frames of one phase are for judging alone and never learned from.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator

PERIOD = 3
JUDGED_PHASE = PERIOD - 1
LEARNING_PHASES = tuple(range(JUDGED_PHASE))
FEWEST_FRAMES = 6  # of a run: with fewer there is hardly a sequence to learn from


@dataclass(frozen=True, slots=True)
class GappedRun:
    """What a network sees of a run of which the frames of one phase are left out."""

    kept: tuple[int, ...]  # numbers of the frames
    to_previous: Tensor  # (K, 2, h, w) float16 pixels at the size of a hidden state, to the kept frame before
    to_next: Tensor


def kept_frames(count: int, phase: int) -> tuple[int, ...]:
    """The numbers of `count` frames but those of the phase."""
    return tuple(number for number in range(count) if number % PERIOD != phase)


def leave_out(
    noisy: Tensor, phase: int, flow: FlowEstimator, scale: int, sigma: float | None = None
) -> GappedRun:
    """`noisy (T, 3, H, W)` without the frames of a phase, and the flow between those that are left.

    `scale`: pixels of the frame, along each axis, for one of a hidden state; `sigma` ([0, 1]) is told to the flow.
    """
    kept = kept_frames(len(noisy), phase)
    small = F.avg_pool2d(noisy[list(kept)], scale)
    level = None if sigma is None else sigma / scale
    to_previous, to_next = estimate_clip_flows(flow, small, level)
    return GappedRun(kept, to_previous.to(torch.float16), to_next.to(torch.float16))
