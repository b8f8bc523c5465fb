"""The noise of one scene, measured once for all that shows it or goes by it: its level, its kind, what networks assume.

The level, the one number that users see, is the root mean square of the noise's standard deviation over all pixels and
R, G and B, whatever neighbours share of it. Knows nothing of video files or networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.bars import find_bars, without_bars
from stbn_cli.noise.correlation import (
    WHITE_CHROMA,
    WHITE_LUMA,
    NoiseCorrelation,
    aligned_pairs,
    check_frames,
    correlation_of,
    fewest_blocks,
)
from stbn_cli.noise.flatness import FLOOR, SHARED_RATIO, measure_levels
from stbn_cli.noise.level_function import NoiseEstimate, estimate_with, pair_sets
from stbn_cli.noise.model import NoiseLevelFunction

# Less noise than this is hardly any: denoising would change little.
FAINT = 0.5 / 255
# Aligned differences of clean clips show traces of the picture: up to 1.6 where they show least, and 2.1 behind a
# coder, which keeps noise here more than there, but at least a quarter of it everywhere. Less is not taken for noise.
LEAST_SEEN, LEAST_SEEN_CODED, MOST_UNEVEN_CODED = 2.0 / 255, 2.5 / 255, 4.0
# Noise changes from frame to frame, so aligned differences show most of it (0.75 of a camera's noise were measured):
# the full level is about so many times what they show, with this error (of its logarithm), at most so many times, and
# where single frames show far more, it is texture. What single frames show has at least this error.
USUAL_UNSEEN, UNSEEN_ERROR, MOST_UNSEEN, CONTRADICTED = 1.15, 0.12, 1.5, 2.5
SMALLEST_ERROR = 0.05
SMALLEST_PICTURE = 64 * 64  # pixels; in smaller ones texture and noise that neighbours share look the same
# What a residual of the picture adds to the correlation of neighbours, times the square of the level (0-255 scale).
PICTURE_SHARE = 4.0 / 255**2


@dataclass(frozen=True, slots=True)
class FullNoise:
    """All of the noise, whether neighbours share it or not."""

    level: float  # root mean square of the standard deviation over pixels and R, G, B, [0, 1]
    model: NoiseLevelFunction  # the same as a function of brightness
    flat: float  # in luma, of where the picture is flattest
    ratio: float  # over what high frequencies alone show: 1 for white noise, and where nothing is known
    # Standard deviation of luma and of colour noise ([0, 1]) at evenly spaced brightness, where neighbours share it;
    # None: what `model` says. And both over the picture, as root mean squares.
    levels: tuple[tuple[float, ...], ...] | None = None
    luma: float = 0.0
    colour: float = 0.0


@dataclass(frozen=True, slots=True)
class SceneMeasurement:
    """What was measured in some frames of a scene."""

    independent: (
        NoiseEstimate  # by high frequencies: all of the noise if it is independent from pixel to pixel
    )
    correlation: NoiseCorrelation
    full: FullNoise

    @property
    def level(self) -> float:
        """The number to show, [0, 1]."""
        return self.full.level

    @property
    def found(self) -> bool:
        """Whether there was anything to measure: not where pictures are empty, clipped or tiny."""
        return bool(self.independent.points) or self.correlation.blocks > 0

    @property
    def compared(self) -> bool:
        """Whether there were frames to be aligned with each other: not in a single picture."""
        return self.correlation.blocks > 0

    @property
    def reliable(self) -> bool:
        """Whether brightness levels and frames agree, and whether noise and picture could be separated."""
        return self.independent.reliable and self.correlation.reliable


def measure_scene(frames: np.ndarray | Tensor) -> SceneMeasurement:
    """Measure frames `(T, H, W, 3)` float RGB of one scene, nominal [0, 1], successive ones best; bars do not count.

    Raises `ValueError` for other shapes, or if T is 0.
    """
    check_frames(frames)
    pictures = torch.as_tensor(frames).detach().float().cpu().permute(0, 3, 1, 2)
    pictures = without_bars(pictures, find_bars(pictures)).permute(0, 2, 3, 1)
    fewest = fewest_blocks(len(pictures))
    groups, sets = [], []
    for pair in aligned_pairs(pictures):
        groups.append(pair.groups(fewest))
        sets += pair_sets(pair)
    independent, correlation = estimate_with(pictures, sets), correlation_of(groups)
    return SceneMeasurement(independent, correlation, full_noise(pictures, independent, correlation))


def full_noise(frames: Tensor, independent: NoiseEstimate, correlation: NoiseCorrelation) -> FullNoise:
    """All of the noise in frames `(T, H, W, 3)` float32 without bars, of which the other measurements are known.

    The one place where that is measured.
    """
    levels = measure_levels(frames)
    level = independent.level
    coded = min(correlation.sigma, MOST_UNEVEN_CODED * correlation.least)
    if correlation.reliable and (correlation.level >= LEAST_SEEN or coded >= LEAST_SEEN_CODED):
        level = max(level, correlation.level)
    shared = levels.rgb if frames.shape[1] * frames.shape[2] >= SMALLEST_PICTURE else 0.0
    possible = not correlation.blocks or (correlation.reliable and not correlation.is_white)
    if len(frames) > 1:
        seen = max(correlation.level, independent.level)
        if shared > CONTRADICTED * seen or _differs_as_white(independent, correlation):
            shared = 0.0
        shared = min(_agreed(shared, levels.error, USUAL_UNSEEN * seen), MOST_UNSEEN * seen)
    # High frequencies of texture can hide what neighbours share.
    hidden = possible and levels.surely_shared(independent.level)
    if (levels.neighbours_share or hidden) and shared > SHARED_RATIO * independent.level:
        level = max(independent.level, shared)
        ratio = max(levels.ratio, level / max(independent.level, FLOOR))
        model = levels.luma_by_brightness.scaled(level / levels.luma)
        both = (levels.luma_by_brightness, levels.chroma_by_brightness)
        share = level / levels.rgb
        found = tuple(tuple(share * math.sqrt(value) for value in part.variances[0]) for part in both)
        parts = (share * levels.luma, share * levels.chroma)
        return FullNoise(level, model, levels.flat, ratio, found, *parts)
    # What is independent from pixel to pixel is measured most exactly by its high frequencies.
    if independent.level <= 0.0:
        smooth = level > 0.0 and bool(independent.points)
        return FullNoise(level, NoiseLevelFunction.white(level), levels.flat, math.inf if smooth else 1.0)
    ratio = level / independent.level
    return FullNoise(level, independent.model.scaled(ratio), levels.flat, ratio)


def _agreed(shared: float, error: float, expected: float) -> float:
    """A level of single frames that is above what differences let expect: the mean, by the errors of both."""
    if not shared > expected > 0.0:
        return shared
    weight = UNSEEN_ERROR**2 / (UNSEEN_ERROR**2 + max(error, SMALLEST_ERROR) ** 2)
    return expected * (shared / expected) ** weight


def _differs_as_white(independent: NoiseEstimate, correlation: NoiseCorrelation) -> bool:
    """Whether aligned frames differ by no more than high frequencies show, and neighbours do so independently."""
    alone = abs(correlation.luma) <= WHITE_LUMA and abs(correlation.chroma) <= WHITE_CHROMA
    return correlation.blocks > 0 and alone and correlation.level <= SHARED_RATIO * independent.level


def typical(measured: Sequence[SceneMeasurement]) -> SceneMeasurement:
    """The one of median level: its number stands for all of them."""
    return sorted(measured, key=lambda scene: scene.level)[(len(measured) - 1) // 2]


def neighbours_share(measured: Sequence[SceneMeasurement]) -> bool:
    """Whether neighbouring pixels share their noise in most of these scenes; if not, it is independent.

    Noise that neighbours share is one that a blind spot sees, and that cannot be learned from noisy clips.
    """
    if float(np.median([scene.full.ratio for scene in measured])) > SHARED_RATIO:
        return True
    luma, chroma = median_correlation(measured)
    # In weak noise what is left of the picture counts more.
    limit = WHITE_LUMA + PICTURE_SHARE / max(typical(measured).level, FAINT) ** 2
    return abs(luma) > limit or abs(chroma) > WHITE_CHROMA


def median_correlation(measured: Sequence[SceneMeasurement]) -> tuple[float, float]:
    """Correlation of neighbours in luma and in colour; 0 where nothing is known."""
    known = [scene.correlation for scene in measured if scene.correlation.reliable]
    if not known:
        return 0.0, 0.0
    return float(np.median([part.luma for part in known])), float(np.median([part.chroma for part in known]))
