"""Groups of blocks of equal brightness, and the noise of each: what a noise-level function is fitted to.

Knows nothing of video files or networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stbn_cli.noise.correlation import BLOCK as PAIR_BLOCK
from stbn_cli.noise.correlation import AlignedPair
from stbn_cli.noise.dct import dct_matrix
from stbn_cli.noise.estimate import DARKEST_STEP, PlaneBlocks, clean_std
from stbn_cli.noise.model import CHANNELS

# Of a group, this part with the least energy at low frequencies is measured, and at least so many blocks.
FLATTEST_PART = 0.02
FEWEST_BLOCKS = 24
# The same of the blocks of a pair of frames, of which there are fewer.
FLATTEST_PAIR_PART = 0.15
FEWEST_PAIR_BLOCKS = 6
# Blocks with more than this part of their pixels at 0 or 1 are left out where values are clipped. What clipping does to
# mean and deviation is undone; to leave out more would choose those blocks whose noise happens to be weak.
CLIPPED_PART = 0.6
# Coefficients (i, j) of a 16x16 block with i + j of at least this are high frequencies: the same ones as of 8x8 blocks.
HIGH_PAIR_FREQUENCY = 18
LOW_PAIR_FREQUENCY = 18


@dataclass(frozen=True, slots=True)
class BlockSet:
    """Blocks of about one brightness in one channel of one frame, or pair of frames."""

    channel: int
    brightness: float  # mean, [0, 1]
    variance: float  # of the noise, [0, 1] scale squared


def flat_blocks(planes: Sequence[PlaneBlocks], groups: int) -> list[BlockSet]:
    """The flattest blocks of red, green and blue, the first of the `planes` of a picture; none where there are none."""
    colours = planes[:CHANNELS]
    limited = all(plane.limited for plane in colours)
    found = []
    for channel, plane in enumerate(colours):
        usable = plane.usable(plane.clipped <= CLIPPED_PART) if limited else plane.order
        for group in _in_groups(usable, groups):
            flattest = plane.flattest(group, FLATTEST_PART, FEWEST_BLOCKS)
            brightness = float(np.median(plane.mean[flattest]))
            found += _as_set(channel, brightness, plane.variance(flattest), limited)
    return found


def aligned_blocks(pair: AlignedPair, groups: int) -> list[BlockSet]:
    """The flattest blocks of the difference of two aligned frames."""
    matrix, low, high = _pair_transform()
    first, second = pair.colours()
    found = []
    for channel in range(CHANNELS):
        a, b = first[:, channel], second[:, channel]
        usable = np.arange(len(a))
        if pair.limited and pair.clipped:
            usable = np.flatnonzero(np.maximum(_clipped_part(a), _clipped_part(b)) <= CLIPPED_PART)
        total = a + b
        mean = total.mean(axis=1) / 2
        # Sum and difference of independent noise are independent: flat by the sum, measured in the difference.
        coefficients = total @ matrix[low].T
        flatness = np.einsum("nk,nk->n", coefficients, coefficients)
        for group in _by_brightness(usable, mean, groups):
            count = min(max(round(len(group) * FLATTEST_PAIR_PART), FEWEST_PAIR_BLOCKS), len(group))
            flattest = group[np.argpartition(flatness[group], count - 1)[:count]]
            squares = np.square((a[flattest] - b[flattest]) @ matrix[high].T).mean(axis=1) / 2
            if (squares > 0).any():
                variance = float(np.median(squares[squares > 0]))
                found += _as_set(channel, float(np.median(mean[flattest])), variance, pair.limited)
    return found


def _clipped_part(blocks: np.ndarray) -> np.ndarray:
    """Of the pixels of each of the blocks (n, 256)."""
    return np.count_nonzero((blocks <= 0) | (blocks >= 1), axis=1) / blocks.shape[1]


def _as_set(channel: int, brightness: float, variance: float, limited: bool) -> list[BlockSet]:
    sigma = math.sqrt(variance)
    if limited:
        if min(brightness, 1.0 - brightness) < max(DARKEST_STEP, 0.5 * sigma):
            return []
        sigma = clean_std(sigma, brightness)
    return [BlockSet(channel, brightness, sigma**2)] if sigma > 0 else []


def _by_brightness(usable: np.ndarray, mean: np.ndarray, groups: int) -> list[np.ndarray]:
    return _in_groups(usable[np.argsort(mean[usable])], groups)


def _in_groups(ordered: np.ndarray, groups: int) -> list[np.ndarray]:
    return [group for group in np.array_split(ordered, groups) if len(group) >= 2]


@lru_cache(maxsize=1)
def _pair_transform() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = np.arange(PAIR_BLOCK)
    order = (index[:, None] + index).ravel()
    return (
        dct_matrix(PAIR_BLOCK),
        (order > 0) & (order < LOW_PAIR_FREQUENCY),
        order >= HIGH_PAIR_FREQUENCY,
    )
