"""Optical flow that does not give away the pixels to predict.

Flow found in the noisy frames themselves aligns their noise a little: the neighbour that a pixel is compared with was
chosen with the help of the pixel's own noise, which can then be read off that neighbour. A network that is trained on
such flow learns to keep noise (bus, sigma 50, 100 steps: 0.04 dB gained instead of 0.86), and pixels predicted with it
seem better predicted than they are. So the pixels that are to be predicted are painted over, by the mean of their
neighbours, before flow is found: the two halves of a checkerboard in turn for training, the pixels that are
held out for judging.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator

# Flows are kept in whole pixels: the warp rounds them anyway.
STORED = torch.int16
LARGEST = 30_000
PAIRS_AT_ONCE = 8  # a flow network keeps the features of all frames that it is given


@dataclass(frozen=True, slots=True)
class BlindFlows:
    """Flow of a run's frames, from frames in which `hidden` pixels were painted over.

    `to_previous`, `to_next (T, 2, H, W)` int16 pixels; `hidden (T or 1, 1, H, W)` bool.
    """

    to_previous: Tensor
    to_next: Tensor
    hidden: Tensor


def find_blind_flows(run: NoisyRun, hidden: Tensor, flow: FlowEstimator, sigma: float) -> BlindFlows:
    """Flow of a run from its frames without the `hidden (T or 1, 1, H, W)` pixels; `sigma` ([0, 1]) of the noise."""
    frames, _, height, width = run.noisy.shape
    to_previous = torch.zeros((frames, 2, height, width), dtype=STORED, device=run.noisy.device)
    to_next = torch.zeros_like(to_previous)
    for first in range(0, max(frames - 1, 1), PAIRS_AT_ONCE):
        # One frame more than pairs; it is the next part's first.
        part = slice(first, min(first + PAIRS_AT_ONCE + 1, frames))
        painted = paint_over(run.noisy[part], hidden if len(hidden) == 1 else hidden[part])
        back, forth = estimate_clip_flows(flow, painted, sigma)
        to_previous[first + 1 : part.stop], to_next[first : part.stop - 1] = (
            _stored(back[1:]),
            _stored(forth[:-1]),
        )
    return BlindFlows(to_previous, to_next, hidden)


def checkerboards(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Two masks `(1, 1, H, W)` bool for `frames (T, C, H, W)`, each the other's complement."""
    rows, columns = (torch.arange(side, device=frames.device) for side in frames.shape[-2:])
    white = ((rows[:, None] + columns) % 2 == 0)[None, None]
    return white, ~white


def paint_over(frames: Tensor, hidden: Tensor) -> Tensor:
    """`frames (T, 3, H, W)` with every hidden pixel replaced by the mean of those around it that are not hidden.

    `hidden (T or 1, 1, H, W)` bool. A pixel whose eight neighbours are all hidden becomes grey.
    """
    seen = (~hidden).to(frames.dtype)
    kernel = frames.new_ones(1, 1, 3, 3)
    channels = frames.shape[1]
    sums = F.conv2d(frames * seen, kernel.expand(channels, -1, -1, -1), padding=1, groups=channels)
    counts = F.conv2d(seen, kernel, padding=1)
    means = torch.where(counts > 0, sums / counts.clamp_min(1.0), 0.5)
    return torch.where(hidden, means, frames)


def _stored(flow: Tensor) -> Tensor:
    return flow.round().nan_to_num(0.0).clamp(-LARGEST, LARGEST).to(STORED)
