"""How strong is all of a clip's noise, whatever neighbours share of it? Levels of luma, chroma and RGB by brightness.

High frequencies show white noise alone. Noise that demosaicing, smoothing, film or a coder spread lies at low
frequencies, where pictures do: there it differs from texture in being everywhere. So the statistics of blocks in bands
of frequency, at several scales and of several frames, are put beside each other: how low each band goes, how its
values scatter, what is left in the flattest blocks, and, of several frames, in aligned differences. Brightness is
divided out first, by a curve through low percentiles of blocks of equal brightness. Small networks, which learned from
known noise over clean pictures (benchmarks/levels.py), turn the statistics into levels, with the error to expect.
Knows nothing of video files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from stbn_cli.noise.bars import picture_area
from stbn_cli.noise.dct import dct_matrix
from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.noise.fit import fit_points, knot_weights
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE

# Side of a block in pixels of its scale, and the blocks taken of a frame at most, and of all frames.
BLOCK = 16
FRAME_BLOCKS, MOST_BLOCKS = 2600, 5200
SMALLEST_STEP = 4
# Frames looked at, spread evenly over the clip.
MOST_FRAMES = 3
# Edges of the bands in steps of 1 / (2 BLOCK) cycles per pixel, and how many of them are looked at per scale: pixels,
# means of 2x2 and of 4x4.
BANDS = (0.5, 1.2, 2.3, 3.5, 5.0, 7.0, 10.0, 14.0, 22.0)
BANDS_AT_SCALE = (8, 5, 4)
# The mean of a block and its gradients are left out of what blocks are ranked and grouped by.
FIRST_RANKED_BAND = 1
QUANTILES = (0.01, 0.03, 0.08, 0.2, 0.4, 0.7)
# Of small blocks, quarters of the large ones: a textured scene's flat places are small.
SMALL_QUANTILES = (0.003, 0.01, 0.03, 0.1, 0.3)
# Edges of the octaves in which three directions are distinguished: texture has one, noise has none.
OCTAVES = (2.3, 5.0, 10.0, 22.0)
DIRECTION_QUANTILES = (0.02, 0.08, 0.3)
FLATTEST_PARTS = (0.015, 0.05, 0.15)
FEWEST_FLATTEST = 6
# Groups of equal brightness, and the percentile of their blocks that the curve goes through.
GROUPS = 8
FEWEST_IN_GROUP = 40
GROUP_QUANTILE = 0.1
KNOTS = 5  # of the noise of all frequencies, evenly spaced in brightness
SMOOTHNESS = 0.3
TEXTURE_SCALE = 0.5
ROUNDS = 15  # not always enough, but what the networks learned from
# A block with more than this part of its pixels at 0 or 1 says little; if fewer than a part are better, the best count.
CLIPPED_PART = 0.04
SMALLEST_PART = 0.04
# Blocks without any variance (drawn, or emptied by a coder) are left out while they are no more than this part.
EMPTY_PART = 0.3
FLOOR = 0.03 / 255  # standard deviation that counts as none
# Where full noise is more than so many times what is left at high frequencies, neighbours share it.
SHARED_RATIO = 1.3
# Noise is at least this part of what is left where pictures are flattest; less is likely texture taken for noise.
LEAST_OF_FLAT = 0.4
LAGS = 8
# Added to levels (squares) in what the networks learn, so that none at all has a logarithm.
NONE = 0.25 / BYTE_SCALE
# The networks' file; how many standard deviations off the usual a feature counts; from the mean absolute error, which
# they predict, to a standard deviation, as of a Laplace distribution; the error at which texture is in the way.
WEIGHTS = "levels.safetensors"
FARTHEST = 4.0
LAPLACE = math.sqrt(2.0)
UNSURE = 0.25


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """All of a clip's noise; standard deviations on the [0, 1] scale, root mean squares over the picture."""

    luma: float
    chroma: float  # of R - Y and B - Y, pooled
    rgb: float  # of R, G and B, pooled
    luma_by_brightness: NoiseLevelFunction  # one row, of KNOTS values of luma
    chroma_by_brightness: NoiseLevelFunction
    flat: (
        float  # luma's where the picture is flattest: texture may be in it, and cameras leave more elsewhere
    )
    high: float  # what the luma's high frequencies alone would make of white noise
    luma_lags: tuple[float, ...]  # autocorrelation at 0 to LAGS pixels, mean of both directions
    chroma_lags: tuple[float, ...]
    error: float  # standard deviation of the logarithm of `luma` to expect: 0.1 is about 10 %
    limit: str  # what limited the measurement, or ""

    @property
    def ratio(self) -> float:
        """Full level of luma over that of high frequencies: 1 for white noise."""
        return self.luma / max(self.high, FLOOR)

    @property
    def neighbours_share(self) -> bool:
        """Whether neighbouring pixels share noise, by luma alone: high frequencies of texture can hide it."""
        return self.luma > FLOOR and self.ratio > SHARED_RATIO

    def surely_shared(self, independent: float) -> bool:
        """Whether neighbours share noise whatever texture adds to high frequencies.

        `independent`: what these show in the flattest places, [0, 1]. Even a level lower by the error to expect is
        more than that.
        """
        visible = self.luma > max(LEAST_OF_FLAT * self.flat, FLOOR)
        return visible and self.rgb * math.exp(-self.error) > SHARED_RATIO * independent


class _Blocks(NamedTuple):
    """Power of the DCT coefficients of blocks at one scale, per coefficient as white noise would have it."""

    power: np.ndarray  # (n, 3, 256): luma, R - Y, B - Y
    mixed: np.ndarray  # (n, 3): mean power of R, G, B in the ranked bands
    brightness: np.ndarray  # (n,): mean luma
    clipped: np.ndarray  # (n,): part of the pixels at 0 or 1
    small: np.ndarray  # (n, 4, 2): variance of luma and of chroma in its quarters, without mean and gradient

    def take(self, index: np.ndarray) -> "_Blocks":
        return _Blocks(*(values[index] for values in self))


class Statistics(NamedTuple):
    """What is known of some frames before a network has looked at it."""

    vector: np.ndarray  # the features, float32
    luma: NoiseLevelFunction  # up to a factor
    chroma: NoiseLevelFunction
    luma_base: float  # their root mean squares over the picture, [0, 1]
    chroma_base: float
    high: float
    luma_spectrum: np.ndarray  # (16, 16): mean power in the flattest blocks, [0, 1] scale squared
    chroma_spectrum: np.ndarray
    limit: str


@lru_cache(maxsize=1)
def _transform() -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal DCT-II of blocks as a matrix (256, 256), and the mean over each band as another (256, bands)."""
    index = np.arange(BLOCK)
    radius = np.hypot(index[:, None], index).ravel()
    inside = (radius[:, None] >= BANDS[:-1]) & (radius[:, None] < np.array(BANDS[1:]))
    return dct_matrix(BLOCK).T, (inside / inside.sum(axis=0)).astype(np.float32)


@lru_cache(maxsize=1)
def _directions() -> np.ndarray:
    """Means (256, octaves, 3) over the coefficients of each octave and direction."""
    index = np.arange(BLOCK)
    radius = np.hypot(index[:, None], index).ravel()
    angle = np.arctan2(index[:, None], index).ravel()
    third = np.minimum(angle / (np.pi / 6), 2).astype(int)
    inside = np.stack(
        [
            (radius >= low) & (radius < high) & (third == direction)
            for low, high in pairwise(OCTAVES)
            for direction in range(3)
        ],
        axis=1,
    )
    return (inside / inside.sum(axis=0)).astype(np.float32)


@lru_cache(maxsize=1)
def _ranked() -> np.ndarray:
    """Weights (256,) of the mean over the coefficients that blocks are ranked by."""
    index = np.arange(BLOCK)
    mask = (np.hypot(index[:, None], index) >= BANDS[FIRST_RANKED_BAND]).ravel()
    return (mask / mask.sum()).astype(np.float32)


_TO_LUMA_CHROMA = np.array(
    [
        LUMA_WEIGHTS,
        [1 - LUMA_WEIGHTS[0], -LUMA_WEIGHTS[1], -LUMA_WEIGHTS[2]],
        [-LUMA_WEIGHTS[0], -LUMA_WEIGHTS[1], 1 - LUMA_WEIGHTS[2]],
    ],
    dtype=np.float32,
)
# The same for OpenCV, with room for a fourth plane.
_TO_PLANES = np.vstack([_TO_LUMA_CHROMA, np.zeros((1, 3), np.float32)])
_TO_RGB = np.linalg.inv(_TO_LUMA_CHROMA).astype(np.float32)


def _blocks_of(pixels: np.ndarray, clipped: np.ndarray, scale: int) -> _Blocks:
    """From luma and chroma of blocks (n, 3, 256), with the part of each that is clipped."""
    matrix, _ = _transform()
    coefficients = pixels.reshape(-1, BLOCK * BLOCK) @ matrix
    coefficients = coefficients.reshape(-1, 3, BLOCK * BLOCK) * np.float32(scale)
    mixed = np.square(_TO_RGB @ coefficients) @ _ranked() if scale == 1 else None
    mean = pixels[:, 0].mean(axis=1)
    if mixed is None:
        nothing = np.zeros((len(mean), 4, 3), np.float32)
        return _Blocks(np.square(coefficients), nothing[:, 0], mean, clipped, nothing[..., :2])
    return _Blocks(np.square(coefficients), mixed, mean, clipped, _quarters(pixels))


def _quarters(pixels: np.ndarray) -> np.ndarray:
    """See `_Blocks.small`."""
    half = BLOCK // 2
    parts = pixels.reshape(-1, 3, 2, half, 2, half).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4, 3, half * half)
    slope = (np.arange(half) - (half - 1) / 2) / math.sqrt(half * float(np.var(np.arange(half))) * half)
    flat = np.stack([np.full((half, half), 1 / half), np.tile(slope, (half, 1)), np.tile(slope, (half, 1)).T])
    removed = np.square(parts @ flat.reshape(3, -1).T.astype(np.float32)).sum(axis=-1)
    variance = (np.square(parts).sum(axis=-1) - removed) / (half * half - 3)
    return np.stack([variance[..., 0], variance[..., 1:].mean(axis=-1)], axis=-1).clip(0.0)


def _planes(frame: np.ndarray) -> np.ndarray:
    """Luma, both chromas and whether a value is clipped (H, W, 4) float32, of a frame (H, W, 3)."""
    planes = cv2.transform(frame, _TO_PLANES)
    least, most = frame.min(), frame.max()
    if least >= 0 and most <= 1 and (least == 0 or most == 1):
        clipped = (frame <= 0) | (frame >= 1)
        planes[..., 3] = clipped[..., 0] | clipped[..., 1] | clipped[..., 2]
    return planes


def _cut(planes: np.ndarray, scale: int, most: int) -> _Blocks:
    """Blocks of the `_planes` of one frame, no more than about `most`."""
    if scale > 1:
        size = (planes.shape[1] // scale, planes.shape[0] // scale)
        planes = cv2.resize(planes[: size[1] * scale, : size[0] * scale], size, interpolation=cv2.INTER_AREA)
    height, width = int(np.size(planes, 0)), int(np.size(planes, 1))
    room = max(height - BLOCK + 1, 1) * max(width - BLOCK + 1, 1)
    step = max(SMALLEST_STEP, math.ceil(math.sqrt(room / most)))
    windows = np.lib.stride_tricks.sliding_window_view(planes, (BLOCK, BLOCK), axis=(0, 1))[::step, ::step]
    blocks = windows.reshape(-1, 4, BLOCK * BLOCK)
    return _blocks_of(blocks[:, :3], blocks[:, 3].mean(axis=1), scale)


def _joined(parts: Sequence[_Blocks]) -> _Blocks:
    return _Blocks(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _usable(blocks: _Blocks) -> tuple[np.ndarray, bool, float]:
    """Indices of the blocks that show noise, whether even the best are clipped, and the share of empty ones."""
    limit = max(CLIPPED_PART, float(np.quantile(blocks.clipped, SMALLEST_PART)))
    index = np.flatnonzero(blocks.clipped <= limit)
    alive = (blocks.power @ _ranked())[index].max(axis=1) > FLOOR**2
    empty = 1.0 - float(alive.mean())
    if 0.0 < empty <= EMPTY_PART:
        index = index[alive]
    return index, limit > CLIPPED_PART, empty


def _curve(brightness: np.ndarray, energy: np.ndarray) -> tuple[NoiseLevelFunction, np.ndarray]:
    """A smooth curve below which few blocks are, and (GROUPS, 2) logarithms of two percentiles around it."""
    order = np.argsort(brightness)
    count = int(np.clip(len(order) // FEWEST_IN_GROUP, 1, GROUPS))
    groups = np.array_split(order, count)
    logs = np.log(energy + FLOOR**2)
    centre = np.array([brightness[group].mean() for group in groups])
    low = np.array([np.quantile(logs[group], GROUP_QUANTILE) for group in groups])
    lower = np.array([np.quantile(logs[group], GROUP_QUANTILE / 4) for group in groups])
    knots = np.linspace(0.0, 1.0, KNOTS)
    slope = np.diff(np.eye(KNOTS), axis=0)
    row = fit_points(
        knot_weights(np.clip(centre, 0.0, 1.0), KNOTS),
        low,
        lambda residual: np.where(residual > 0, 1.0 / (1.0 + np.square(residual / TEXTURE_SCALE)), 1.0),
        SMOOTHNESS * slope.T @ slope,
        linear_variance=False,
        rounds=ROUNDS,
    )
    # No further than what was seen: there the nearest brightness stands for the rest.
    inner = np.clip(knots, centre.min(), centre.max())
    variances = np.exp(np.interp(inner, knots, row))
    places = np.linspace(0, 1, count) if count > 1 else [0.5]
    curve = np.interp(centre, knots, row)
    around = [np.interp(np.linspace(0, 1, GROUPS), places, values - curve) for values in (low, lower)]
    return NoiseLevelFunction((tuple(variances.tolist()),)), np.concatenate(around)


def _variance(function: NoiseLevelFunction, blocks: _Blocks) -> np.ndarray:
    """Of the noise in each block (n,)."""
    return function.variances_at(blocks.brightness)[0]


def _over_picture(function: NoiseLevelFunction, blocks: _Blocks, variance: np.ndarray) -> float:
    """Root mean square over all blocks; clipped ones hold no more than they show."""
    expected = _variance(function, blocks)
    shown = np.where(blocks.clipped > CLIPPED_PART, np.minimum(expected, variance), expected)
    return math.sqrt(float(shown.mean()))


def _flattest(energy: np.ndarray, part: float) -> np.ndarray:
    count = min(max(round(part * len(energy)), FEWEST_FLATTEST), len(energy))
    return np.argpartition(energy, count - 1)[:count]


def _logs(values: np.ndarray) -> np.ndarray:
    return np.log(values + 1e-5)


def gather(frames: np.ndarray | Tensor) -> Statistics | None:
    """Statistics of frames (T, H, W, 3) RGB, nominal [0, 1]; None where there is no picture."""
    pictures = _chosen(frames)
    if not pictures:
        return None
    most = min(FRAME_BLOCKS, MOST_BLOCKS // len(pictures))
    planes = [_planes(picture) for picture in pictures]
    scales = []
    for level, bands in enumerate(BANDS_AT_SCALE):
        scale = 2**level
        fits = [picture for picture in planes if min(picture.shape[:2]) >= BLOCK * scale]
        scales.append((_joined([_cut(picture, scale, most) for picture in fits]) if fits else None, bands))
    everything = scales[0][0]
    assert everything is not None
    index, is_clipped, empty = _usable(everything)
    blocks = everything.take(index)
    energies = blocks.power @ _ranked()  # (n, 3)
    chroma_energy = energies[:, 1:].mean(axis=1)
    luma, luma_around = _curve(blocks.brightness, energies[:, 0])
    chroma, chroma_around = _curve(blocks.brightness, chroma_energy)
    shown = everything.power @ _ranked()
    luma_base = _over_picture(luma, everything, shown[:, 0])
    chroma_base = _over_picture(chroma, everything, shown[:, 1:].mean(axis=1))
    _, bands = _transform()
    features: list[np.ndarray] = []
    current = blocks
    for part, count in scales:
        if part is not None:  # else the scale before stands for it
            current = blocks if part is everything else part.take(_usable(part)[0])
        features.append(_quantiles(current, luma, chroma, count))
    own_luma, own_chroma = (_variance(function, blocks)[:, None] for function in (luma, chroma))
    by_band = blocks.power @ bands  # (n, 3, bands)
    luma_bands, chroma_bands = by_band[:, 0] / own_luma, by_band[:, 1:].mean(axis=1) / own_chroma
    luma_rank, chroma_rank = energies[:, 0] / own_luma[:, 0], chroma_energy / own_chroma[:, 0]
    for part in FLATTEST_PARTS:
        chosen, chosen_chroma = _flattest(luma_rank, part), _flattest(chroma_rank, part)
        features += [_logs(luma_bands[chosen].mean(axis=0)), _logs(chroma_bands[chosen_chroma].mean(axis=0))]
    chosen, chosen_chroma = _flattest(luma_rank, FLATTEST_PARTS[1]), _flattest(chroma_rank, FLATTEST_PARTS[1])
    features.append(_logs(chroma_bands[chosen].mean(axis=0)))
    features.append(_logs((blocks.mixed[chosen] / own_luma[chosen]).mean(axis=0)))
    features.append(_logs((blocks.mixed[chosen_chroma] / own_luma[chosen_chroma]).mean(axis=0)))
    smooth = _flattest(luma_bands[:, :4].mean(axis=1), FLATTEST_PARTS[1])
    high = float(np.median(luma_bands[smooth, -2:].mean(axis=1)))
    features += [_logs(luma_bands[smooth].mean(axis=0)), _logs(chroma_bands[smooth].mean(axis=0))]
    directions = (blocks.power[:, 0] @ _directions()).reshape(len(own_luma), -1, 3)
    features.append(
        _logs(np.quantile(directions.min(axis=2) / own_luma, DIRECTION_QUANTILES, axis=0)).ravel()
    )
    for plane, own in enumerate((own_luma, own_chroma)):
        features.append(_logs(np.quantile(blocks.small[..., plane] / own, SMALL_QUANTILES)))
    sigmas = [0.5 * np.log(function.variances[0]) for function in (luma, chroma)]
    brightness = np.quantile(everything.brightness, (0.05, 0.25, 0.5, 0.75, 0.95))
    features += [row - row.mean() for row in sigmas]
    features += [luma_around, chroma_around, brightness]
    features.append(
        np.array(
            [
                math.log(luma_base * BYTE_SCALE + 0.05),
                math.log(chroma_base * BYTE_SCALE + 0.05),
                math.log((luma_base + FLOOR) / (chroma_base + FLOOR)),
                float((everything.clipped > CLIPPED_PART).mean()),
                empty,
                math.log(len(blocks.brightness)),
                0.1 * math.log(math.prod(pictures[0].shape[:2])),
            ]
        )
    )
    limit = "Most of the picture is clipped" if is_clipped else ""
    spectra = [
        blocks.power[chosen, 0].mean(axis=0),
        blocks.power[chosen_chroma, 1:].mean(axis=(0, 1)),
    ]
    return Statistics(
        np.concatenate(features).astype(np.float32),
        luma,
        chroma,
        luma_base,
        chroma_base,
        luma_base * math.sqrt(high),
        spectra[0].reshape(BLOCK, BLOCK),
        spectra[1].reshape(BLOCK, BLOCK),
        limit,
    )


def _quantiles(
    blocks: _Blocks, luma: NoiseLevelFunction, chroma: NoiseLevelFunction, count: int
) -> np.ndarray:
    """Quantiles of the first `count` bands of luma and of chroma, brightness divided out, as logarithms."""
    _, bands = _transform()
    by_band = blocks.power @ bands[:, :count]
    parts = (
        by_band[:, 0] / _variance(luma, blocks)[:, None],
        by_band[:, 1:].mean(axis=1) / _variance(chroma, blocks)[:, None],
    )
    return np.concatenate([_logs(np.quantile(part, QUANTILES, axis=0)).ravel() for part in parts])


def _chosen(frames: np.ndarray | Tensor) -> list[np.ndarray]:
    """Up to MOST_FRAMES successive frames (H, W, 3) float32 that differ, of the clip's middle, without borders.

    Extended to the size of a block where they are smaller.
    """
    start = max(len(frames) - MOST_FRAMES, 0) // 2
    pictures: list[np.ndarray] = []
    for frame in frames[start:]:
        if isinstance(frame, Tensor):
            frame = frame.detach().float().cpu().numpy()
        frame = np.asarray(frame, dtype=np.float32)
        if not pictures or not np.array_equal(frame, pictures[-1]):
            pictures.append(frame)
        if len(pictures) == MOST_FRAMES:
            break
    rows, columns = picture_area(pictures[0].transpose(2, 0, 1)[None])
    pictures = [picture[rows, columns] for picture in pictures]
    height, width = pictures[0].shape[:2]
    if min(height, width) < 2:
        return []
    missing = ((0, max(0, BLOCK - height)), (0, max(0, BLOCK - width)), (0, 0))
    return [np.pad(picture, missing, mode="symmetric") for picture in pictures]


def measure_levels(frames: np.ndarray | Tensor) -> NoiseLevels:
    """All of the noise in frames `(T, H, W, 3)` float RGB, nominal range [0, 1], of one scene.

    Up to MOST_FRAMES successive frames of the middle are looked at; one is enough, more make it surer. Bars at the
    edges do not count. Levels are 0 where there is no picture.

    Raises:
        ValueError: the shape is not (T, H, W, 3) or T is 0.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise ValueError(f"expected frames of shape (T, H, W, 3), got {tuple(frames.shape)}")
    found = gather(frames)
    if found is None:
        nothing, lags = NoiseLevelFunction.white(0.0), (1.0,) + LAGS * (0.0,)
        return NoiseLevels(
            0.0, 0.0, 0.0, nothing, nothing, 0.0, 0.0, lags, lags, math.inf, "There is no picture"
        )
    correction, error = _networks()(found.vector)
    base = np.array([found.luma_base, found.chroma_base, found.luma_base])
    squares = (np.square(base) + NONE**2) * np.exp(2.0 * correction) - NONE**2
    luma, chroma, rgb = np.sqrt(squares.clip(0.0)).tolist()
    limit = found.limit
    if not limit and error > UNSURE:
        limit = "Noise and texture look alike"
    return NoiseLevels(
        luma,
        chroma,
        rgb,
        found.luma.scaled(luma / max(found.luma_base, FLOOR)),
        found.chroma.scaled(chroma / max(found.chroma_base, FLOOR)),
        found.luma_base,
        min(found.high, luma),
        _lags(found.luma_spectrum, luma),
        _lags(found.chroma_spectrum, chroma),
        error,
        limit,
    )


class Networks(NamedTuple):
    """Some small networks of the same shape whose mean counts; leading axis: the networks."""

    mean: np.ndarray  # (features,): of what they learned from
    scale: np.ndarray  # (features,)
    first: np.ndarray  # (n, features + 1, hidden): the last row is the offset
    second: np.ndarray  # (n, hidden + 1, hidden)
    last: np.ndarray  # (n, hidden + 1, 6)

    def __call__(self, vector: np.ndarray) -> tuple[np.ndarray, float]:
        """Logarithms (3,) of luma, chroma and RGB level over their bases, and the standard deviation of the first."""
        values = np.clip((vector - self.mean) / self.scale, -FARTHEST, FARTHEST)
        hidden = np.broadcast_to(values, (len(self.first), 1, len(values)))
        for weights in (self.first, self.second):
            hidden = np.maximum(hidden @ weights[:, :-1] + weights[:, -1:], 0.0)
        outputs = (hidden @ self.last[:, :-1] + self.last[:, -1:])[:, 0]
        return outputs[:, :3].mean(axis=0), float(np.exp(outputs[:, 3].mean())) * LAPLACE


@lru_cache(maxsize=1)
def _networks() -> Networks:
    from safetensors.numpy import load

    tensors = load(files("stbn_cli.noise").joinpath(WEIGHTS).read_bytes())
    return Networks(*(tensors[part].astype(np.float32) for part in Networks._fields))


def _lags(spectrum: np.ndarray, level: float) -> tuple[float, ...]:
    """Autocorrelation at 0 to LAGS pixels from the power of the coefficients (16, 16) in the flattest blocks.

    What `level` has more than they show lies below the lowest frequencies, and is alike in all of a block.
    """
    angles = np.pi * np.arange(LAGS + 1)[:, None] * np.arange(BLOCK) / BLOCK
    power = spectrum.astype(np.float64)
    power[0, 0] = 0.5 * (power[0, 1] + power[1, 0])
    values = []
    for axis in (0, 1):
        profile = power.mean(axis=axis)
        # The mean coefficient stands for half a step of frequency, the others for a whole one.
        values.append(np.cos(angles) @ profile - 0.5 * profile[0])
    mean = np.mean(values, axis=0) / BLOCK
    mean += max(level**2 - mean[0], 0.0)
    return tuple((mean / max(mean[0], FLOOR**2)).tolist())
