"""What a denoiser took away, A - B: how strong it is, how white, and whether it follows the picture.

Sums are gathered frame by frame, so that a video of any length fits. Pure numpy and OpenCV.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.scale import BYTE_SCALE

# Standard deviations in pixels of the Gaussians that smooth the residual (coarse residual), and B (gradient, detail).
COARSE_STD = 1.5
GRADIENT_STD = 1.5
DETAIL_STDS = (1.0, 4.0)
# The gradient's Scharr kernel sums to this: levels per pixel.
SCHARR_SCALE = 32.0
# Parts of each frame, by gradient: strong edges above the first quantile, flat areas below the second.
EDGE_QUANTILE = 0.9
FLAT_QUANTILE = 0.5
# A gradient below this (levels of 255 per pixel) is no strong edge, however flat the rest of the frame.
WEAKEST_EDGE = 2.0
# Brightness groups of equal width. The outermost ones are left out: noise is clipped there.
GROUPS = 16
USED_GROUPS = slice(1, GROUPS - 1)
# A group counts with so many pixels at edges and as many in flat areas, over the whole video.
FEWEST_PIXELS = 500
# Variances below this (levels squared) are the arithmetic's, not the residual's.
SMALLEST_VARIANCE = 1e-6
# The gradient's quantiles are found on every so many rows and columns.
QUANTILE_STEP = 2


@dataclass(frozen=True, slots=True)
class FrameResidual:
    """The residual of one frame, by channel (R, G, B), on the 0-255 scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    largest: float  # absolute


@dataclass(frozen=True, slots=True)
class Whiteness:
    """Pearson's correlation of the residual's luma with itself elsewhere; 0 for white noise, None if it is constant."""

    right: float | None  # one pixel
    down: float | None
    diagonal: float | None  # right and down
    two_right: float | None
    two_down: float | None
    next_frame: float | None  # the same pixel

    @property
    def coarsest(self) -> float | None:
        """The largest of the spatial ones: positive where neighbours are alike."""
        spatial = (self.right, self.down, self.diagonal, self.two_right, self.two_down)
        return max((value for value in spatial if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class ResidualSummary:
    """The residual A - B of a whole video, on the 0-255 scale.

    `level` is the root mean square of `std`: the definition of noise levels in `noise.measurement`, so that both can
    be compared.

    `detail_correlation` and `edge_ratio` look at the luma. Strong edges are the tenth of each frame's pixels with the
    largest gradient of B (Gaussian of std 1.5, then Scharr), as long as that is 2 levels per pixel or more; flat areas
    are the half with the smallest. Both are compared within 14 groups of equal brightness of B (16 levels each,
    without the darkest and the brightest): a camera's noise depends on brightness, and that is no structure.

    `detail_correlation`: Pearson's correlation at strong edges between the coarse residual (Gaussian of std 1.5) and
    the detail of B (Gaussian of std 1 minus that of std 4), with the covariance of both in flat areas taken off: noise
    that B has kept is correlated with noise that it has lost everywhere alike. 0: independent of the edges; positive:
    edges were weakened.

    `edge_ratio`: variance of the residual at strong edges divided by that in flat areas of the same brightness (the
    groups weighted by their edge pixels). 1: equally strong everywhere.

    Both are None where there is nothing to compare: no edges, or a constant residual.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    level: float
    largest: float
    whiteness: Whiteness
    detail_correlation: float | None
    edge_ratio: float | None


class ResidualStatistics:
    """Gathers the residual of a video frame by frame. Memory: a few frames."""

    def __init__(self) -> None:
        self._pixels = 0
        self._sum = np.zeros(4)  # of red, green, blue, luma
        self._squares = np.zeros(4)
        self._largest = 0.0
        self._shifted = {name: _PairSums() for name in Whiteness.__dataclass_fields__}
        self._areas = _AreaSums()
        self._previous: np.ndarray | None = None

    def add(self, a: np.ndarray, b: np.ndarray) -> FrameResidual:
        """Count one frame: `a` and `b (H, W, 3)` float32 RGB of equal size, nominal [0, 1], may exceed it."""
        residual = (a - b) * np.float32(BYTE_SCALE)
        weights = np.array(LUMA_WEIGHTS, np.float32)
        luma, picture = residual @ weights, (b @ weights) * np.float32(BYTE_SCALE)
        planes = (*cv2.split(residual), luma)
        sums = np.array([_total(plane) for plane in planes])
        squares = np.array([_total(plane * plane) for plane in planes])
        largest = float(np.abs(residual).max())
        self._pixels += luma.size
        self._sum += sums
        self._squares += squares
        self._largest = max(self._largest, largest)
        self._add_shifted(luma)
        self._areas.add(luma, picture)
        means = sums / luma.size
        stds = np.sqrt(np.maximum(squares / luma.size - means**2, 0.0))
        return FrameResidual(_rgb(means), _rgb(stds), largest)

    def _add_shifted(self, luma: np.ndarray) -> None:
        pairs = {
            "right": (luma[:, 1:], luma[:, :-1]),
            "down": (luma[1:], luma[:-1]),
            "diagonal": (luma[1:, 1:], luma[:-1, :-1]),
            "two_right": (luma[:, 2:], luma[:, :-2]),
            "two_down": (luma[2:], luma[:-2]),
        }
        if self._previous is not None:
            pairs["next_frame"] = (luma, self._previous)
        for name, pair in pairs.items():
            self._shifted[name].add(*pair)
        self._previous = luma

    def summary(self) -> ResidualSummary:
        """The statistics of all frames so far. Raises `ValueError` if there was none."""
        if not self._pixels:
            raise ValueError("no frame was counted")
        means = self._sum / self._pixels
        stds = np.sqrt(np.maximum(self._squares / self._pixels - means**2, 0.0))
        level = math.sqrt(float(np.square(stds[:3]).mean()))
        whiteness = Whiteness(**{name: sums.correlation() for name, sums in self._shifted.items()})
        correlation, ratio = self._areas.compare()
        return ResidualSummary(_rgb(means), _rgb(stds), level, self._largest, whiteness, correlation, ratio)


class _PairSums:
    """What Pearson's correlation of two series needs."""

    def __init__(self) -> None:
        self._sums = np.zeros(6)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count the values of two planes of one size, float32."""
        if x.size:
            self._sums += [x.size, *(_total(part) for part in (x, y, x * x, y * y, x * y))]

    def correlation(self) -> float | None:
        """None where one of both is constant or nothing was counted."""
        count, x, y, xx, yy, xy = self._sums
        if not count:
            return None
        variances = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2
        if min(variances) < SMALLEST_VARIANCE:
            return None
        return float((xy / count - x * y / count**2) / math.sqrt(variances[0] * variances[1]))


class _AreaSums:
    """Sums over the pixels of each brightness group, in flat areas and at strong edges."""

    def __init__(self) -> None:
        # (flat or edge, group, sum): pixels, residual r, r r, coarse residual c, c c, detail d, d d, c d.
        self._sums = np.zeros((2, GROUPS, 8))

    def add(self, luma: np.ndarray, picture: np.ndarray) -> None:
        """Count a frame: the residual's luma and that of B, both (H, W) float32 on the 0-255 scale."""
        smooth = _smoothed(picture, GRADIENT_STD)
        gradient = cv2.magnitude(
            cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
        ) / np.float32(SCHARR_SCALE)
        sample = gradient[::QUANTILE_STEP, ::QUANTILE_STEP]
        flattest, steepest = np.quantile(sample, (FLAT_QUANTILE, EDGE_QUANTILE)).tolist()
        edges = gradient >= max(steepest, WEAKEST_EDGE)
        # Where half of a frame is empty, as in a letterbox, all of it would count as flat and steep alike.
        flat = (gradient <= flattest) & ~edges
        chosen = flat | edges
        group = np.clip(picture[chosen] * np.float32(GROUPS / (BYTE_SCALE + 1)), 0, GROUPS - 1).astype(
            np.intp
        )
        index = group + GROUPS * edges[chosen]
        residual = luma[chosen]
        coarse = _smoothed(luma, COARSE_STD)[chosen]
        detail = (_smoothed(picture, DETAIL_STDS[0]) - _smoothed(picture, DETAIL_STDS[1]))[chosen]
        moments = (
            *(residual, residual * residual, coarse, coarse * coarse),
            *(detail, detail * detail, coarse * detail),
        )
        sums = [np.bincount(index, part, 2 * GROUPS) for part in (None, *moments)]
        self._sums += np.stack(sums, axis=-1).reshape(self._sums.shape)

    def compare(self) -> tuple[float | None, float | None]:
        """(detail correlation, edge ratio), as `ResidualSummary` defines them."""
        flat, edge = self._sums[:, USED_GROUPS]
        usable = np.minimum(flat[:, 0], edge[:, 0]) >= FEWEST_PIXELS
        if not usable.any():
            return None, None
        flat, edge = _Moments.of(flat[usable]), _Moments.of(edge[usable])
        weights = edge.pixels / edge.pixels.sum()
        edge_variance, flat_variance = weights @ edge.residual, weights @ flat.residual
        ratio = None if flat_variance < SMALLEST_VARIANCE else float(edge_variance / flat_variance)
        coarse, detail = float(weights @ edge.coarse), float(weights @ edge.detail)
        if min(coarse, detail) < SMALLEST_VARIANCE:
            return None, ratio
        return float(weights @ (edge.covariance - flat.covariance)) / math.sqrt(coarse * detail), ratio


@dataclass(frozen=True, slots=True)
class _Moments:
    """Central moments of every brightness group, each an array."""

    pixels: np.ndarray
    residual: np.ndarray
    coarse: np.ndarray
    detail: np.ndarray
    covariance: np.ndarray  # of coarse residual and detail

    @classmethod
    def of(cls, sums: np.ndarray) -> "_Moments":
        """From the sums of `_AreaSums`, (groups, 8)."""
        pixels = sums[:, 0]
        r, rr, c, cc, d, dd, cd = (sums[:, 1:] / pixels[:, None]).T
        return cls(pixels, rr - r * r, cc - c * c, dd - d * d, cd - c * d)


def _smoothed(plane: np.ndarray, std: float) -> np.ndarray:
    return cv2.GaussianBlur(plane, (0, 0), std)


def _total(plane: np.ndarray) -> float:
    """Sum in double precision; several times faster than numpy's of float32."""
    return cv2.sumElems(plane)[0]


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values[:3].tolist()
    return red, green, blue
