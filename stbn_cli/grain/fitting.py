"""From statistics of what was removed to parameters with which a decoder draws grain alike."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stbn_cli.grain.drawing import GAUSSIAN_BITS, GAUSSIAN_SIGMA, draw_chroma, draw_luma, used
from stbn_cli.grain.parameters import (
    COEFFICIENT_RANGE,
    GRAIN_SHIFTS,
    LAG,
    MOST_CHROMA_POINTS,
    MOST_LUMA_POINTS,
    NEIGHBOURS,
    SCALING_SHIFTS,
    FilmGrain,
    Points,
)
from stbn_cli.grain.statistics import COLUMNS, Statistics

# Grain of less than this (root mean square, 0-255 scale) nobody sees, and 8 bits do not hold.
LEAST_STRENGTH = 0.35
# A point of brightness needs so many pixels, and this part of all.
FEWEST_PIXELS, FEWEST_PART = 2000, 1 / 40
# A point that the others are so near to, relative to the strongest, is left out, and one that they are so many of its
# standard errors near to. Neighbours share grain: of so many pixels, one counts.
POINT_TOLERANCE, POINT_ERRORS, SHARED = 0.015, 1.0, 4
# Added to the diagonal of the equations: the more, the less the grain runs away, and the less it is what was wanted.
LOADS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# Parts that coefficients are rounded to: the finer, unless they get too large for them. No correlation need be nearer
# than CLOSE; no load is tried that makes it WORSE times as wrong as another.
SHIFTS, CLOSE, WORSE = (7, 6), 0.03, 1.5
# The template's end must not be stronger than its beginning by more than this factor, and few of its values clipped.
MOST_GROWTH, MOST_CLIPPED = 1.25, 0.002
# A template of about this standard deviation (0-255 scale) has room for outliers.
LARGEST_TEMPLATE = 36.0
LARGEST_VALUE = 255  # of a strength
# Blocks without noise at one brightness, of all: from here on they keep none (bars of black).
CLEAN_PART = 0.02


@dataclass(frozen=True, slots=True)
class Fitted:
    """Parameters, and what was measured: see `GrainSegment`."""

    grain: FilmGrain
    strengths: tuple[float, float, float]
    correlation: tuple[tuple[float, ...], tuple[float, ...]]


def fit(statistics: Statistics, sub: tuple[int, int], depth: int, seed: int) -> Fitted | None:
    """Parameters for a picture of `depth` bits; sub: luma columns and rows of a chroma value.

    None where less than LEAST_STRENGTH was removed of every plane.
    """
    depth = min(depth, 12)
    planes = len(statistics.count)
    strengths = [_overall(statistics, plane) for plane in range(planes)] + [0.0] * (3 - planes)
    heard = [strength >= LEAST_STRENGTH for strength in strengths]
    if sub == (2, 2):
        # The format has chroma grain only with luma's there, and both chromas or none.
        heard[1:] = [heard[0] and any(heard[1:])] * 2
    if not any(heard):
        return None
    curves = [_curve(statistics, plane) for plane in range(planes)]
    # What rounding to code values adds, when the source was written and again when the grain is drawn, is not drawn.
    step = 2.0 ** (8 - depth)
    wanted = [
        [
            (place, float(np.sqrt(max(strength**2 - step**2 / 12, 0.0))), error)
            for place, strength, error in curve
        ]
        for curve in curves
    ]
    highest = [
        max(strength for _, strength, _ in curve) if is_heard else 0.0
        for curve, is_heard in zip(wanted, heard, strict=False)
    ]
    grains = _grains(statistics, _normalised(statistics), highest, sub, depth)
    largest = max(strength / sigma for strength, sigma in zip(highest, grains.sigmas, strict=True))
    shift = max(
        (shift for shift in SCALING_SHIFTS if round(largest * 2**shift) <= LARGEST_VALUE),
        default=SCALING_SHIFTS[0],
    )
    clean = _clean_tones(statistics)
    points = [
        _points(wanted[plane], 2**shift / grains.sigmas[plane], most, clean) if heard[plane] else ()
        for plane, most in zip(
            range(planes), (MOST_LUMA_POINTS, MOST_CHROMA_POINTS, MOST_CHROMA_POINTS), strict=False
        )
    ]
    points += [()] * (3 - planes)
    grain = FilmGrain(
        points[0],
        points[1],
        points[2],
        shift,
        tuple(map(int, grains.coefficients[0])),
        tuple(map(int, grains.coefficients[1])),
        tuple(map(int, grains.coefficients[2])),
        grains.shift,
        grains.grain_shift,
        seed,
    )
    luma = _normalised(statistics)[0]
    beside = tuple(round(float(luma[0, COLUMNS + lag]), 3) for lag in range(1, LAG + 1))
    below = tuple(round(float(luma[lag, COLUMNS]), 3) for lag in range(1, LAG + 1))
    return Fitted(grain, (strengths[0], strengths[1], strengths[2]), (beside, below))


def _overall(statistics: Statistics, plane: int) -> float:
    return float(np.sqrt(_variance(statistics, plane).sum() / max(statistics.count[plane].sum(), 1.0)))


def _variance(statistics: Statistics, plane: int) -> np.ndarray:
    """By bins, times the number of pixels."""
    count = np.maximum(statistics.count[plane], 1.0)
    return np.maximum(statistics.power[plane] - statistics.total[plane] ** 2 / count, 0.0)


def _curve(statistics: Statistics, plane: int) -> list[tuple[float, float, float]]:
    """(brightness, standard deviation, its error), on the 0-255 scale, of bins with pixels enough."""
    count, variance = statistics.count[plane], _variance(statistics, plane)
    fewest = min(max(FEWEST_PIXELS, FEWEST_PART * count.sum()), count.sum() / 2)
    found: list[tuple[float, float, float]] = []
    pixels = brightness = power = 0.0
    for place in range(len(count)):
        pixels += count[place]
        brightness += statistics.brightness[plane, place]
        power += variance[place]
        if pixels >= fewest:
            sigma = float(np.sqrt(power / pixels))
            found.append((brightness / pixels, sigma, sigma * float(np.sqrt(SHARED / (2 * pixels)))))
            pixels = brightness = power = 0.0
    return found


def _normalised(statistics: Statistics) -> np.ndarray:
    """Autocorrelations by plane."""
    found = statistics.covariance / np.maximum(statistics.pairs, 1.0)
    return found / np.maximum(found[:, :1, COLUMNS : COLUMNS + 1], 1e-6)


def _clean_tones(statistics: Statistics) -> list[int]:
    """Brightnesses of blocks that had no noise."""
    blocks = statistics.clean.sum() + statistics.count[0].sum() / 1024
    return [int(tone) for tone in np.flatnonzero(statistics.clean > CLEAN_PART * blocks)]


def _points(curve: list[tuple[float, float, float]], scale: float, most: int, clean: list[int]) -> Points:
    """Points of strengths times `scale`, as few as follow the curve."""
    values = {round(place): min(strength * scale, 255.0) for place, strength, _ in curve}
    least = POINT_TOLERANCE * max(max(values.values()), 1.0)
    tolerances = {round(place): max(least, POINT_ERRORS * error * scale) for place, _, error in curve}
    for tone in clean:
        nearest = min(values, key=lambda place: abs(place - tone))
        for beside in (tone - 1, tone + 1):
            if 0 <= beside <= 255:
                values.setdefault(beside, values[nearest])
    for tone in clean:
        values[tone] = 0.0
    places = sorted(values)
    while len(places) > 1:
        errors = {}
        for place in places:
            others = [other for other in places if other != place]
            between = np.interp(place, others, [values[other] for other in others])
            errors[place] = abs(between - values[place]) / tolerances.get(place, least)
        worst = min(errors, key=lambda place: errors[place])
        if errors[worst] > 1 and len(places) <= most:
            break
        places.remove(worst)
    return tuple((place, round(values[place])) for place in places)


@dataclass(frozen=True, slots=True)
class _Grains:
    """Coefficients of three planes, and the standard deviation of what a decoder draws, on the 0-255 scale."""

    coefficients: list[np.ndarray]
    shift: int
    grain_shift: int
    sigmas: list[float]


@dataclass(frozen=True, slots=True)
class _Plane:
    """Coefficients of one plane (integers), the share of the variance that is new, and what is drawn with them."""

    coefficients: np.ndarray
    new: float
    grain_shift: int
    template: np.ndarray
    error: float


def _grains(
    statistics: Statistics,
    covariances: np.ndarray,
    highest: list[float],
    sub: tuple[int, int],
    depth: int,
) -> _Grains:
    """Coefficients with which the grain of the planes is like the covariances say, and does not run away.

    highest: the largest strength of each plane, 0-255 scale; 0: no grain.
    """
    heard = [strength > 0 for strength in highest]
    best: list[_Plane] = []
    least, shift = np.inf, SHIFTS[0]
    for tried in SHIFTS:
        found = _planes(statistics, covariances, heard, sub, depth, tried)
        error = max(plane.error for plane in found)
        if error < least:
            best, least, shift = found, error, tried
        if error <= CLOSE:
            break
    rows = [plane.coefficients for plane in best]
    # One for all planes; less where it leaves one too little to be scaled to its strength, and others room enough.
    grain_shift = max(plane.grain_shift for plane in best)
    templates = _templates(rows, shift, grain_shift, sub, depth)
    sigmas = _sigmas(templates, depth)
    while grain_shift and any(strength > sigma for strength, sigma in zip(highest, sigmas, strict=True)):
        larger = _templates(rows, shift, grain_shift - 1, sub, depth)
        if not all(_is_calm(template, 2.0 ** (depth - 8)) for template in larger):
            break
        grain_shift, sigmas = grain_shift - 1, _sigmas(larger, depth)
    rows += [np.zeros(len(NEIGHBOURS) + 1, int)] * (3 - len(rows))
    return _Grains(rows, shift, grain_shift, sigmas)


def _templates(
    rows: list[np.ndarray], shift: int, grain_shift: int, sub: tuple[int, int], depth: int
) -> list[np.ndarray]:
    """What of the planes' templates gets into pictures, drawn by a decoder."""
    luma = draw_luma(rows[0], shift, grain_shift, depth)
    chroma = [
        used(draw_chroma(row, shift, grain_shift, depth, luma, sub, plane), sub)
        for plane, row in enumerate(rows[1:], 1)
    ]
    return [used(luma), *chroma]


def _sigmas(templates: list[np.ndarray], depth: int) -> list[float]:
    return [max(float(template.std()) / 2.0 ** (depth - 8), 1e-3) for template in templates]


def _planes(
    statistics: Statistics,
    covariances: np.ndarray,
    heard: list[bool],
    sub: tuple[int, int],
    depth: int,
    shift: int,
) -> list[_Plane]:
    """The best of each plane with coefficients in parts of 2**shift."""
    luma = _best(
        covariances[0], heard[0], depth, shift, lambda load: _solve(covariances[0], load), draw_luma, (1, 1)
    )
    found = [luma]
    for plane in range(1, len(covariances)):

        def solve(load: float, plane: int = plane) -> tuple[np.ndarray, float]:
            if not heard[0]:
                row, new = _solve(covariances[plane], load)
                return np.append(row, 0.0), new
            row, new = _solve_chroma(statistics, covariances[plane], plane, load)
            # A template's standard deviation is that of its white noise over the root of what is new in each pixel.
            row[-1] *= np.sqrt(luma.new / new)
            return row, new

        def draw(row: np.ndarray, shift: int, grain_shift: int, depth: int, plane: int = plane) -> np.ndarray:
            beside = luma.template * 2.0 ** (luma.grain_shift - grain_shift)
            return draw_chroma(row, shift, grain_shift, depth, beside, sub, plane)

        found.append(_best(covariances[plane], heard[plane], depth, shift, solve, draw, sub))
    return found


def _best(
    covariance: np.ndarray,
    is_heard: bool,
    depth: int,
    shift: int,
    solve: Callable[[float], tuple[np.ndarray, float]],
    draw: Callable[[np.ndarray, int, int, int], np.ndarray],
    sub: tuple[int, int],
) -> _Plane:
    """The load that draws what is nearest to `covariance`; white noise if none is calm."""
    white = np.zeros(len(NEIGHBOURS) + (draw is not draw_luma), int)
    best = _Plane(white, 1.0, 0, draw(white, shift, 0, depth), np.inf if is_heard else 0.0)
    if not is_heard:
        return best
    wanted = covariance[:, COLUMNS - LAG : COLUMNS + LAG + 1]
    best = replace(best, error=_error(best.template, wanted, sub))
    tried = np.inf
    lowest, highest = COEFFICIENT_RANGE
    for load in LOADS:
        row, new = solve(load)
        rounded = np.rint(row * 2**shift).astype(int)
        if rounded.min() < lowest or rounded.max() > highest:
            continue
        excess = GAUSSIAN_SIGMA / 2 ** (GAUSSIAN_BITS - 8) / np.sqrt(new) / LARGEST_TEMPLATE
        grain_shift = int(np.clip(np.ceil(np.log2(excess)), *GRAIN_SHIFTS))
        template = draw(rounded, shift, grain_shift, depth)
        if not _is_calm(used(template, sub), 2.0 ** (depth - 8)):
            continue
        error = _error(template, wanted, sub)
        if error < best.error:
            best = _Plane(rounded, new, grain_shift, template, error)
        if error <= CLOSE or error > WORSE * tried:
            break
        tried = min(tried, error)
    return best


def _offset(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Where the covariance of two places stands."""
    row, column = first[0] - second[0], first[1] - second[1]
    if row < 0:
        row, column = -row, -column
    return row, COLUMNS + column


def _solve(covariance: np.ndarray, load: float) -> tuple[np.ndarray, float]:
    """Coefficients (24,) by the Yule-Walker equations, and the share of the variance that is new in each pixel."""
    matrix = np.array([[covariance[_offset(a, b)] for b in NEIGHBOURS] for a in NEIGHBOURS])
    target = np.array([covariance[_offset((0, 0), place)] for place in NEIGHBOURS])
    return _solved(matrix, target, load)


def _solve_chroma(
    statistics: Statistics, covariance: np.ndarray, plane: int, load: float
) -> tuple[np.ndarray, float]:
    """As `_solve` with one more coefficient, for luma (all of unit variance)."""
    size = len(NEIGHBOURS)
    crossing = statistics.crossing[plane - 1] / np.maximum(statistics.crossing_pairs[plane - 1], 1.0)
    matrix = np.empty((size + 1, size + 1))
    matrix[:size, :size] = [[covariance[_offset(a, b)] for b in NEIGHBOURS] for a in NEIGHBOURS]
    matrix[:size, size] = matrix[size, :size] = crossing[:-1]
    matrix[size, size] = statistics.shared[0] / max(statistics.shared[1], 1.0)
    target = np.append([covariance[_offset((0, 0), place)] for place in NEIGHBOURS], crossing[-1])
    return _solved(matrix, target, load)


def _solved(matrix: np.ndarray, target: np.ndarray, load: float) -> tuple[np.ndarray, float]:
    row = np.linalg.solve(matrix + load * np.eye(len(matrix)), target)
    return row, float(np.clip(1.0 - 2 * row @ target + row @ matrix @ row, 1e-3, 1.0))


def _is_calm(template: np.ndarray, unit: float) -> bool:
    """Whether a template neither grows nor is clipped; unit: code values of a step of 8 bits."""
    half = len(template) // 2
    clipped = np.mean((template <= -128 * unit) | (template >= 128 * unit - 1))
    return bool(template[half:].std() <= MOST_GROWTH * template[:half].std() and clipped <= MOST_CLIPPED)


def _error(template: np.ndarray, wanted: np.ndarray, sub: tuple[int, int]) -> float:
    """How wrong the worst correlation is of neighbours in a row or a column; wanted: (ROWS, 2 * LAG + 1)."""
    shown = used(template, sub)
    power = max(float(np.mean(np.square(shown))), 1e-6)
    errors = []
    for lag in range(1, LAG + 1):
        errors.append(np.mean(shown[:, :-lag] * shown[:, lag:]) / power - wanted[0, LAG + lag])
        errors.append(np.mean(shown[:-lag] * shown[lag:]) / power - wanted[lag, LAG])
    return float(np.abs(errors).max())
