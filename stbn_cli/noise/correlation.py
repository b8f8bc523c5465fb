"""Is the noise of neighbouring pixels independent? Measured on the noisy clip alone.

A blind-spot network trained on a noisy clip learns to predict the noise where its neighbours are correlated with it:
blurred, demosaiced, upscaled or smoothed by a codec. So the clip is examined first. Noise is new in every frame: in the
difference of two frames, aligned by whole pixels (interpolation would correlate the noise), the picture cancels and
the noise remains. Its power spectrum, by the DCT of 16x16 blocks, gives the correlation.

Where frames are not aligned perfectly, some picture remains too, and pictures are smooth: it looks like correlated
noise. Therefore only the flattest blocks count, without their lowest frequencies. Flat is judged by the sum of both
frames: sum and difference of independent Gaussian noise are independent, so the choice does not bias the result.
Knows nothing of video files or networks.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from stbn_cli.flow.dis import DisFlow, DisOptions
from stbn_cli.noise.dct import dct_matrix
from stbn_cli.noise.estimate import LUMA_WEIGHTS

# Rounded to whole pixels, the flow of this preset serves as well as that of "fine", in a third of the time.
FLOW_PRESET = "medium"
# Frame pairs measured, spread evenly over the clip, and the largest side of the central part that is measured.
MAXIMUM_PAIRS = 6
LARGEST_SIDE = 1024
# Side of a block in pixels.
BLOCK = 16
# DCT coefficients (i, j) with i + j < 4 are left out. The mean power of those with 4 <= i + j < 6 stands for them.
LOW_FREQUENCY = 4
FILL_FREQUENCY = 6
# Blocks are grouped by brightness (otherwise the darkest would be taken, where a camera's noise is weak and a
# residual of the picture counts most); of each group this part, at least so many blocks, is measured. More when
# there are few pairs, so that about WANTED_BLOCKS are measured in all.
BRIGHTNESS_GROUPS = 4
FLATTEST_PART = 0.01
FEWEST_IN_GROUP = 4
WANTED_BLOCKS = 96
# A residual of the picture adds variance and correlation. So this quantile over the pairs counts, and of the brightness
# groups the one with the least correlation: in some clips only the sky, or only the shadows, are flat enough.
QUANTILE = 0.3
# Blocks with more than this part of their values at 0 or 1 are left out, unless nearly all are like that.
CLIPPED_PART = 0.1
SMALLEST_PART = 0.2
MOST_CLIPPED_PART = 0.5
# Blocks with less noise than this are borders or repeated by a codec, and planes with less carry none.
EMPTY_SIGMA = 0.25 / 255
# A pair with less than this part of the noise of most others repeats a frame, though coded anew.
REPEATED_PART = 0.5
USUAL_QUANTILE = 0.75
# Fewer blocks than this, or less noise (rounding to 8 bits alone makes 0.29/255), and the result is not reliable.
FEWEST_BLOCKS = 32
SMALLEST_SIGMA = 0.5 / 255
# The noise counts as white up to this correlation (either sign: sharpened noise has a negative one). On 58 real clips
# white noise of std 5/255 and more gave -0.06 to 0.07 in luma (0.13 in one clip with fast grass everywhere and 5/255)
# and -0.04 to 0.01 in colour; white noise blurred by a Gaussian of std 0.5 pixels (true 0.26) 0.11 to 0.28 and 0.22
# to 0.26.
WHITE_LUMA = 0.1
WHITE_CHROMA = 0.1
# Distances at which the autocorrelation is given, pixels, and what it has fallen to at the correlation length.
LAGS = 8
RELATED = 1.0 / math.e
LAG_MARGIN = 0.05
# Noise of all brightness over that of where it is least. A camera's (eight clips): 1.05 to 1.35; what is left of the
# picture in clean clips: 1.2 to 3.7.
MOST_UNEVEN = 1.25
# Coefficients with i + j from LOW_FREQUENCY to below this show how the spectrum goes on; see `_extended`.
EXTENDED_FREQUENCY = 9
MOST_RISE = 3.0

# BT.601: luma and both colour differences from R, G, B.
_CB_SCALE, _CR_SCALE = 0.5 / (1 - LUMA_WEIGHTS[2]), 0.5 / (1 - LUMA_WEIGHTS[0])
_TO_YCC = np.array(
    [
        LUMA_WEIGHTS,
        [-_CB_SCALE * LUMA_WEIGHTS[0], -_CB_SCALE * LUMA_WEIGHTS[1], 0.5],
        [0.5, -_CR_SCALE * LUMA_WEIGHTS[1], -_CR_SCALE * LUMA_WEIGHTS[2]],
    ]
)
# The same for OpenCV, with room for a fourth plane.
_TO_PLANES = np.vstack([_TO_YCC, np.zeros((1, 3))]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class NoiseCorrelation:
    """How much the noise of neighbouring pixels is alike: 0 for white noise, 2/3 after a 3x3 mean.

    All numbers are 0 where nothing could be measured; look at `reliable` first.
    """

    # Pearson's correlation of the noise of neighbours (mean of one to the right and one down): luma, and the mean of
    # both colour differences (BT.601). 4:2:0 video has correlated colour differences by construction.
    luma: float
    chroma: float
    # [0, 1]: standard deviation of the noise, correlated or not; root of the mean square of R, G and B.
    sigma: float
    # Blocks that were measured, over all pairs of frames.
    blocks: int
    # False: too few blocks, no two different frames, or hardly any noise.
    reliable: bool
    # Autocorrelation of the luma's noise at distances of 0 to LAGS pixels, mean of both directions. () if unknown.
    lags: tuple[float, ...] = ()
    # The same of the colour differences, mean of both.
    colour_lags: tuple[float, ...] = ()
    # As `sigma`, but of the brightness where it is least: what is left of the picture is not everywhere.
    least: float = 0.0

    @property
    def level(self) -> float:
        """`sigma`, but no more than the noise of where it is least can explain: the rest would be picture; [0, 1]."""
        return min(self.sigma, MOST_UNEVEN * self.least)

    @property
    def length(self) -> float:
        """Correlation length in pixels: where the autocorrelation, linear between whole pixels, falls to 1 / e.

        0.6 for white noise, 0 where nothing is known.
        """
        for lag, (near, far) in enumerate(pairwise(self.lags)):
            if far < RELATED:
                return lag + (near - RELATED) / (near - far)
        return float(len(self.lags))

    @property
    def luma_is_white(self) -> bool:
        """Whether the luma's noise is white, as far as this can tell."""
        return abs(self.luma) <= WHITE_LUMA

    @property
    def is_white(self) -> bool:
        """Whether the noise of luma and colour is white, as far as this can tell."""
        return self.luma_is_white and abs(self.chroma) <= WHITE_CHROMA


def measure_correlation(frames: np.ndarray | Tensor) -> NoiseCorrelation:
    """Correlation of the noise of neighbouring pixels in a clip.

    Strong correlations come out a little low, as the lowest frequencies are not measured: after a 3x3 mean 0.59 (median
    of 17 real clips; 0.22 at the least, where much of the picture remained) instead of 0.67. Takes 0.7 s for eight
    frames of 960x540 on one core.

    Noise that stays the same from frame to frame (a sensor's fixed pattern) cancels and is not seen. Needs two
    different frames; a still picture and its noise cannot be distinguished.

    Args:
        frames: (T, H, W, 3) float RGB, nominal range [0, 1]; may exceed it (noise not clipped).

    Raises:
        ValueError: the shape is not (T, H, W, 3) or T is 0.
    """
    check_frames(frames)
    fewest = fewest_blocks(len(frames))
    return correlation_of([pair.groups(fewest) for pair in aligned_pairs(frames)])


def check_frames(frames: np.ndarray | Tensor) -> None:
    """Raises `ValueError` if the shape is not (T, H, W, 3) or T is 0."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise ValueError(f"expected frames of shape (T, H, W, 3), got {tuple(frames.shape)}")


def fewest_blocks(frames: int) -> int:
    """Blocks that a group needs, so that about WANTED_BLOCKS are measured in all of so many frames."""
    pairs = max(min(frames - 1, MAXIMUM_PAIRS), 1)
    return max(math.ceil(WANTED_BLOCKS / (pairs * BRIGHTNESS_GROUPS)), FEWEST_IN_GROUP)


def correlation_of(pairs: "Iterable[list[Group]]") -> NoiseCorrelation:
    """What the groups of each pair of frames say together."""
    measured = [groups for groups in pairs if groups]
    if not measured:
        return NoiseCorrelation(0.0, 0.0, 0.0, 0, reliable=False)
    variances = np.array([np.median([group.variance for group in groups]) for groups in measured])
    least = REPEATED_PART**2 * np.quantile(variances, USUAL_QUANTILE)
    kept = [groups for groups, variance in zip(measured, variances, strict=True) if variance >= least]
    used = [group for groups in kept for group in groups]
    by_brightness = [
        [group for group in used if group.brightness == brightness] for brightness in range(BRIGHTNESS_GROUPS)
    ]
    luma = _known(_lower(group.luma for group in groups) for groups in by_brightness)
    chroma = _known(_lower(group.chroma for group in groups) for groups in by_brightness)
    variances = _known(_lower(group.variance for group in groups) for groups in by_brightness)
    # Every brightness stands for as many blocks of the picture.
    sigma = math.sqrt(sum(variances) / len(variances))
    least = math.sqrt(min(variances))
    blocks = sum(group.blocks for group in used)
    reliable = blocks >= FEWEST_BLOCKS and sigma >= SMALLEST_SIGMA
    white = min(luma, default=0.0)
    coloured = min(chroma, default=0.0)
    # The groups that say the least correlation: what the others have more is the picture.
    plain = [group.spectrum for group in used if _at_most(group.luma, white)]
    colour = [
        group.colour_spectrum
        for group in used
        if _at_most(group.chroma, coloured) and group.colour_spectrum is not None
    ]
    lags, colour_lags = (_lags(np.mean(spectra, axis=0)) if spectra else () for spectra in (plain, colour))
    return NoiseCorrelation(white, coloured, sigma, blocks, reliable, lags, colour_lags, least)


def _at_most(correlation: float | None, least: float) -> bool:
    return correlation is not None and correlation <= least + LAG_MARGIN


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """Blocks of a frame, and what another frame shows of them.

    Each (n, 4, 256) float32: luma, both colour differences, clipped part of R, G, B. `limited`: values lie in [0, 1].
    """

    first: np.ndarray
    second: np.ndarray
    limited: bool

    def colours(self) -> tuple[np.ndarray, np.ndarray]:
        """R, G, B of both (n, 3, 256)."""
        to_rgb = np.linalg.inv(_TO_YCC).astype(np.float32)
        a, b = (to_rgb @ part[:, :3] for part in (self.first, self.second))
        return a, b

    @property
    def clipped(self) -> bool:
        """Whether any value is."""
        return bool(self.first[:, 3].any() or self.second[:, 3].any())

    def groups(self, fewest: int) -> "list[Group]":
        """What each brightness says, by `fewest` blocks or more where it has them.

        Groups without usable blocks are left out.
        """
        a, b = self.first, self.second
        difference, total = a[:, :3] - b[:, :3], a[:, :3] + b[:, :3]
        clipped = np.maximum(a[:, 3].mean(axis=1), b[:, 3].mean(axis=1))
        limit = min(max(CLIPPED_PART, float(np.quantile(clipped, SMALLEST_PART))), MOST_CLIPPED_PART)
        alive = _variances(difference).max(axis=1) > 2 * EMPTY_SIGMA**2
        usable = np.flatnonzero(alive & (clipped <= limit))
        by_brightness = usable[np.argsort(total[usable, 0].mean(axis=1))]
        unevenness = _variances(total).sum(axis=1)
        groups = []
        for brightness, group in enumerate(np.array_split(by_brightness, BRIGHTNESS_GROUPS)):
            count = min(max(round(len(group) * FLATTEST_PART), fewest), len(group))
            if count:
                flattest = group[np.argpartition(unevenness[group], count - 1)[:count]]
                groups.append(_measure_blocks(difference[flattest], brightness))
        return groups


def _variances(blocks: np.ndarray) -> np.ndarray:
    """Of each plane of blocks (n, 3, 256)."""
    mean = blocks @ np.full(blocks.shape[2], 1 / blocks.shape[2], np.float32)
    apart = blocks - mean[..., None]
    return np.einsum("ncp,ncp->nc", apart, apart) / blocks.shape[2]


def aligned_pairs(frames: np.ndarray | Tensor) -> Iterator[AlignedPair]:
    """Some pairs of neighbouring frames of `(T, H, W, 3)`, aligned block by block; none where no block fits."""
    if min(frames.shape[1:3]) < BLOCK:
        return
    flow = DisFlow(DisOptions(FLOW_PRESET))
    for first, second in _chosen_pairs(frames):
        pair = _align(first, second, flow)
        if pair is not None:
            yield pair


def _lower(values: Iterable[float | None]) -> float | None:
    """The lower quantile of what is known; None if nothing is."""
    known = _known(values)
    return float(np.quantile(known, QUANTILE)) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True, slots=True)
class Group:
    """What the blocks of one brightness in one pair of frames say."""

    brightness: int  # 0: darkest
    luma: float | None  # None: no noise
    chroma: float | None
    variance: float  # mean of R, G, B
    blocks: int
    spectrum: np.ndarray  # (16, 16): power of the luma's coefficients, mean 1
    colour_spectrum: np.ndarray | None  # of the colour differences, mean of both; None: no noise


def _chosen_pairs(frames: np.ndarray | Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to MAXIMUM_PAIRS pairs of consecutive frames (H, W, 3) float32 that differ, spread over the clip."""
    count = len(frames) - 1
    starts = np.unique(np.linspace(0, count - 1, min(count, MAXIMUM_PAIRS)).round().astype(int)).tolist()
    for start, end in zip(starts, [*starts[1:], count], strict=True) if count else ():
        # Repeated frames: look further, as far as the next pair.
        first = _prepared(frames[start])
        for index in range(start, end):
            second = _prepared(frames[index + 1])
            if not np.array_equal(first, second):
                yield first, second
                break


def _prepared(frame: np.ndarray | Tensor) -> np.ndarray:
    """The central part (H, W, 3) float32 of a frame, LARGEST_SIDE at most."""
    height, width = frame.shape[:2]
    top, left = max(height - LARGEST_SIDE, 0) // 2, max(width - LARGEST_SIDE, 0) // 2
    frame = frame[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]
    if isinstance(frame, Tensor):
        frame = frame.detach().float().cpu().numpy()
    return frame.astype(np.float32, copy=False)


def _align(first: np.ndarray, second: np.ndarray, flow: DisFlow) -> AlignedPair | None:
    """None if all blocks leave the frame.

    Each block is moved by whole pixels and as one: where neighbours move differently, the correlation of their
    noise would be lost.
    """
    height, width = first.shape[:2]
    tensors = (
        torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None] for frame in (first, second)
    )
    motion = flow(*tensors)[0].numpy()
    rows, columns = height // BLOCK, width // BLOCK
    motion = motion[:, : rows * BLOCK, : columns * BLOCK].reshape(2, rows, BLOCK, columns, BLOCK)
    motion = motion.transpose(0, 1, 3, 2, 4).reshape(2, rows, columns, BLOCK * BLOCK)
    shift = np.rint(np.median(motion, axis=-1, overwrite_input=True)).astype(int)
    top, left = np.broadcast_arrays(np.arange(rows)[:, None] * BLOCK, np.arange(columns) * BLOCK)
    moved_top, moved_left = top + shift[1], left + shift[0]
    inside = (
        (moved_top >= 0) & (moved_top <= height - BLOCK) & (moved_left >= 0) & (moved_left <= width - BLOCK)
    )
    if not inside.any():
        return None
    ranges = [(frame.min(), frame.max()) for frame in (first, second)]
    limited = all(least >= 0 and most <= 1 for least, most in ranges)
    blocks = []
    places = ((top, left), (moved_top, moved_left))
    for frame, (least, most), (y, x) in zip((first, second), ranges, places, strict=True):
        planes = cv2.transform(frame, _TO_PLANES)
        if limited and (least <= 0 or most >= 1):
            clipped = ((frame <= 0) | (frame >= 1)).view(np.uint8)
            planes[..., 3] = cv2.transform(clipped, np.ones((1, 3), np.float32)) / np.float32(3)
        windows = np.lib.stride_tricks.sliding_window_view(planes, (BLOCK, BLOCK), axis=(0, 1))
        blocks.append(windows[y[inside], x[inside]].reshape(-1, 4, BLOCK * BLOCK))
    return AlignedPair(blocks[0], blocks[1], limited)


@lru_cache(maxsize=1)
def _transform() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal 16x16 DCT-II as a matrix (256 coefficients, 256 pixels), masks of low and of filling ones."""
    index = np.arange(BLOCK)
    order = (index[:, None] + index).ravel()
    low = order < LOW_FREQUENCY
    return dct_matrix(BLOCK), low, ~low & (order < FILL_FREQUENCY)


def _measure_blocks(difference: np.ndarray, brightness: int) -> Group:
    """Correlation and variance of the noise in blocks (n, 3, 256) of differences of luma and colour differences."""
    matrix, low, fill = _transform()
    coefficients = difference @ matrix.T
    colours = np.einsum("ck,nkp->ncp", np.linalg.inv(_TO_YCC).astype(np.float32), coefficients)
    # (6, 256): luma, both colour differences, R, G, B. Half: a difference holds the noise of two frames.
    power = np.square(np.concatenate([coefficients, colours], axis=1)).mean(axis=0, dtype=np.float64) / 2
    spectra = [_extended(row) for row in power[:3]]
    power[:, low] = power[:, fill].mean(axis=1, keepdims=True)
    luma, *chroma = map(_correlation, power[:3])
    known = _known(chroma)
    colour = sum(known) / len(known) if known else None
    spectrum, *both = ((part / max(float(part.mean()), 1e-20)).reshape(BLOCK, BLOCK) for part in spectra)
    noisy = [part for part, value in zip(both, chroma, strict=True) if value is not None]
    colours_spectrum = np.mean(noisy, axis=0) if noisy else None
    variance = float(power[3:].mean())
    return Group(brightness, luma, colour, variance, len(difference), spectrum, colours_spectrum)


def _extended(power: np.ndarray) -> np.ndarray:
    """The power (256,) with its lowest frequencies continued from those above as a Gaussian spectrum would go on.

    Blurred noise is strongest where pictures are too, and nothing else shows it. Not above MOST_RISE times the
    level that is measured next to them.
    """
    _, low, fill = _transform()
    index = np.arange(BLOCK)
    square = (np.square(index[:, None]) + np.square(index)).ravel().astype(float)
    order = (index[:, None] + index).ravel()
    known = (order >= LOW_FREQUENCY) & (order < EXTENDED_FREQUENCY)
    level = float(power[fill].mean())
    slope, offset = np.polyfit(square[known], np.log(np.maximum(power[known], 1e-6 * level + 1e-20)), 1)
    result = power.copy()
    result[low] = np.clip(np.exp(offset + min(slope, 0.0) * square[low]), None, MOST_RISE * level)
    return result


def _lags(spectrum: np.ndarray) -> tuple[float, ...]:
    """Autocorrelation at 0 to LAGS pixels, mean of both directions, from the power (16, 16) of the coefficients.

    As in `_correlation`, coefficient k of N stands for the frequency k / 2 N: what their powers weigh are cosines. The
    blocks' ends are mirrored in them, which makes long distances a little too similar.
    """
    angles = np.pi * np.arange(LAGS + 1)[:, None] * np.arange(BLOCK) / BLOCK
    profiles = [spectrum.mean(axis=axis) for axis in (0, 1)]
    # The mean coefficient stands for half a step of frequency, the others for a whole one.
    values = [np.cos(angles) @ profile - 0.5 * profile[0] for profile in profiles]
    return tuple(np.mean([value / value[0] for value in values], axis=0).tolist())


def _correlation(power: np.ndarray) -> float | None:
    """Correlation of neighbours, mean of both directions, from the mean power (256,) of the coefficients.

    The sum of cos(pi k / N) times the squared DCT coefficients is that of the products of neighbours (each pair
    once) plus half the squares of the values at both ends. For stationary noise that is (N - 1) covariance + variance.
    """
    variance = float(power.mean())
    if variance < EMPTY_SIGMA**2:
        return None
    weights = np.cos(np.pi * np.arange(BLOCK) / BLOCK)
    spectrum = power.reshape(BLOCK, BLOCK)
    sums = [float(weights @ spectrum.mean(axis=axis)) for axis in (0, 1)]
    return sum((total / variance - 1) / (BLOCK - 1) for total in sums) / 2
