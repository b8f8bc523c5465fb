"""Neighbouring frames of a run, aligned: where each shows the same, and what the one tells of the other.

Motion is found between frames that were denoised, and rather too much (`steady`), and averaged over windows: what
the noise of the frame that is to be compared with looks like has hardly any say in it. Motion of single pixels would
align what is left of the noise, and keeping noise would look like a gain. Pixels do not count that

- come from outside the picture, or whose motion there and back does not end where it began (occlusion),
- are badly aligned: the steady frames differ there by more than a part of the noise,
- have the same noise in both frames, as blocks that a coder copied.

A warped estimate is blurred a little and never lies quite right. Learning from the noisy frame as it is would teach the
network to allow for that, by smoothing (the squared error on bus rose by a quarter within 25 steps). So the
difference that alignment makes in the steady frames is taken off the noisy frame first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.models.warp import warp_bicubic, warp_bilinear
from stbn_cli.noise.model import NoiseLevelFunction

# Motion there and back may miss by the root of so many square pixels, and of this part of both motions' squares.
MISSED_PIXELS, MISSED_SHARE = 0.5, 0.01
# Steady frames may differ by this part of the noise's variance and a grey level, on average over a window (pixels).
MISALIGNED_SHARE, MISALIGNED_FLOOR = 0.25, (1 / 255) ** 2
WINDOW = 7
MOTION_WINDOW = 25  # pixels
# Independent noise of two frames differs by twice its variance, a little less after interpolation. Blocks with less
# than this many times the variance share their noise.
COPIED_SHARE = 0.6
COPIED_BLOCK = 16  # pixels


@dataclass(frozen=True, slots=True)
class Pair:
    """What the estimate for frame `source` is compared with, in frame `target`, which is its neighbour."""

    target: int
    source: int
    flow: Tensor  # (2, H, W) float16 pixels: where each pixel of the target lies in the source
    weight: Tensor  # (1, H, W) bool: pixels that count
    # (3, H, W) float16 each: the noisy target without what alignment alone makes different, in each kind of steady
    # frames.
    goals: tuple[Tensor, ...]
    shown: Tensor  # (3, H, W) float16: the warped source, denoised rather too much: how bright each pixel is


def align(
    noisy: Tensor, steadies: Sequence[Tensor], noise: NoiseLevelFunction, flow: FlowEstimator
) -> list[Pair]:
    """Both directions' pairs of all neighbours in `noisy (T, 3, H, W)`.

    `steadies` are the same frames, denoised in one way or several; motion is found in the first.
    """
    pairs, steady = [], steadies[0]
    for earlier in range(len(noisy) - 1):
        later = earlier + 1
        one, other = steady[earlier : earlier + 1], steady[later : later + 1]
        ahead = _mean_around(flow(one, other, 0.0), MOTION_WINDOW)
        back = _mean_around(flow(other, one, 0.0), MOTION_WINDOW)
        pairs.append(_pair(noisy, steadies, noise, (earlier, later), ahead, back))
        pairs.append(_pair(noisy, steadies, noise, (later, earlier), back, ahead))
    return pairs


def _pair(
    noisy: Tensor,
    steadies: Sequence[Tensor],
    noise: NoiseLevelFunction,
    frames: tuple[int, int],
    motion: Tensor,
    returning: Tensor,
) -> Pair:
    target, source = frames
    moved = [warp_bicubic(steady[source : source + 1], motion) for steady in steadies]
    differences = [steady[target : target + 1] - one for steady, one in zip(steadies, moved, strict=True)]
    difference, steady = differences[0], steadies[0]
    variance = noise.variance_at(steady[target : target + 1]).expand_as(difference).mean(1, keepdim=True)
    seen = comes_from_inside(motion) & _returns(motion, returning)
    misaligned = _mean_around(difference.square().mean(1, keepdim=True), WINDOW)
    fits = misaligned < MISALIGNED_SHARE * variance + MISALIGNED_FLOOR
    change = noisy[target : target + 1] - warp_bicubic(noisy[source : source + 1], motion)
    new = ~_is_copied(change.square().mean(1, keepdim=True), variance)
    return Pair(
        target,
        source,
        motion[0].half(),
        (seen & fits & new)[0],
        tuple((noisy[target] - part[0]).half() for part in differences),
        moved[0][0].half(),
    )


def comes_from_inside(flow: Tensor, margin: float = 0.0) -> Tensor:
    """Whether pixels come from inside the picture, `margin` pixels from its border: (N, 1, H, W) for (N, 2, H, W)."""
    height, width = flow.shape[-2:]
    rows = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    columns = torch.arange(width, device=flow.device) + flow[:, 0]
    inside = (rows >= margin) & (rows <= height - 1 - margin)
    return (inside & (columns >= margin) & (columns <= width - 1 - margin))[:, None]


def _returns(motion: Tensor, returning: Tensor) -> Tensor:
    back = warp_bilinear(returning, motion)
    allowed = MISSED_SHARE * (motion.square().sum(1) + back.square().sum(1)) + MISSED_PIXELS
    return ((motion + back).square().sum(1) <= allowed)[:, None]


def _is_copied(change: Tensor, variance: Tensor) -> Tensor:
    """Whether a pixel lies in a block that changes too little for independent noise."""
    size = change.shape[-2:]
    block = min(COPIED_BLOCK, *size)
    sums = (F.avg_pool2d(part, block, ceil_mode=True, count_include_pad=False) for part in (change, variance))
    found, expected = sums
    copied = (found < COPIED_SHARE * expected).float()
    return F.interpolate(copied, scale_factor=block, mode="nearest")[..., : size[0], : size[1]] > 0.5


def _mean_around(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)
