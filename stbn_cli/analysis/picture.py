"""What frames show beside their noise: clipping, a coder's grid, frames and blocks that repeat.

All of it on frames `(T, 3, H, W)` float32 of one scene, nominal [0, 1]. Knows nothing of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.luma import luma_of
from stbn_cli.scale import BYTE_SCALE

CLIPPED = 0.5 / BYTE_SCALE  # so near to 0 or 1 a value counts as clipped
GRID = 8  # pixels; H.264 transforms blocks of 4 or 8, HEVC and AV1 larger ones on multiples of 8
BLOCK = 16  # pixels of a macroblock
# A frame that changes less than this part of what frames mostly change, and hardly at all, repeats the one before.
REPEATED_PART = 0.2
MOST_CHANGE = 1.0 / BYTE_SCALE  # mean absolute
FLAT_RANGE = 2 / BYTE_SCALE  # blocks whose values span no more are left out: black, white, drawn
OUTLIERS = 1e-3  # share of values at either end that do not count as filling the range: hot pixels
SAMPLE_STEP = 3  # rows and columns of the values whose range is found


def clipped_shares(frames: Tensor) -> tuple[float, float]:
    """Shares of values at black and at white."""
    return float((frames <= CLIPPED).float().mean()), float((frames >= 1.0 - CLIPPED).float().mean())


@dataclass(frozen=True, slots=True)
class Filled:
    """The part of the range of values that a picture fills."""

    low: float
    high: float

    @property
    def share(self) -> float:
        """Of the range [0, 1]."""
        return max(self.high - self.low, 0.0)

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """What all parts fill."""
        return cls(min(part.low for part in parts), max(part.high for part in parts))


def filled_range(frames: Tensor) -> Filled:
    """What the values of frames fill, without a few outliers."""
    values = frames[..., ::SAMPLE_STEP, ::SAMPLE_STEP].numpy()
    return Filled(*np.quantile(values, (OUTLIERS, 1.0 - OUTLIERS)).tolist())


def grid_strength(frames: Tensor) -> float:
    """How much more neighbours differ across a grid of 8 pixels than elsewhere: 1 without a grid.

    Mean absolute differences of luma, the grid at the strongest of its positions relative to the mean of the others,
    the lesser of both directions.
    """
    luma = luma_of(frames)[:, 0]
    strengths = []
    for axis in (-1, -2):
        jumps = luma.diff(dim=axis).abs().mean(dim=(0, -1 if axis == -2 else -2)).double()
        # The difference number GRID k - 1 crosses the border between two blocks.
        count = len(jumps) // GRID * GRID
        if count < 2 * GRID:
            return 1.0
        phases = jumps[:count].view(-1, GRID).mean(0)
        others = (phases.sum() - phases[GRID - 1]) / (GRID - 1)
        strengths.append(float(phases[GRID - 1] / others.clamp_min(1e-9)))
    return min(strengths)


@dataclass(frozen=True, slots=True)
class Repeats:
    """What does not change from frame to frame although frames do."""

    pairs: int  # of neighbouring frames
    same: int  # pairs that are equal value for value
    near_duplicates: int  # other pairs that differ far less than most
    skipped: float  # share of the picture's 16x16 blocks that are equal value for value in the other pairs


def find_repeats(frames: Tensor) -> Repeats:
    """Repeated frames and blocks that a coder skipped."""
    changes = (frames[1:] - frames[:-1]).abs()
    mean = changes.mean(dim=(1, 2, 3)).numpy() if len(changes) else np.zeros(0)
    same = mean == 0
    usual = float(np.median(mean[~same])) if (~same).any() else 0.0
    alike = ~same & (mean < REPEATED_PART * usual) & (mean < MOST_CHANGE)
    return Repeats(len(mean), int(same.sum()), int(alike.sum()), _skipped(frames, changes, ~same & ~alike))


def _skipped(frames: Tensor, changes: Tensor, pairs: np.ndarray) -> float:
    rows, columns = (side // BLOCK for side in frames.shape[-2:])
    if not pairs.any() or not rows or not columns:
        return 0.0

    def blocks(values: Tensor) -> Tensor:
        values = values[..., : rows * BLOCK, : columns * BLOCK]
        return values.unflatten(-1, (columns, BLOCK)).unflatten(-3, (rows, BLOCK))

    chosen = torch.from_numpy(np.flatnonzero(pairs))
    still = blocks(changes[chosen]).amax(dim=(1, 3, 5)) == 0
    shown = blocks(frames[1:][chosen])
    flat = (shown.amax(dim=(3, 5)) - shown.amin(dim=(3, 5))).amax(1) <= FLAT_RANGE
    usable = (~flat).sum()
    return float((still & ~flat).sum() / usable) if int(usable) else 0.0
