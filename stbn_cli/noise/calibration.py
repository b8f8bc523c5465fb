"""What networks are conditioned on, given what was measured; and how wrong measurements are, for training.

Networks work best at other levels than the measured ones: cameras leave more noise in texture than where it can be
measured, coders leave other noise than differences of frames show. All of that is decided here.
"""

import math
from dataclasses import replace

from stbn_cli.noise.estimate import LUMA_GAIN
from stbn_cli.noise.flatness import FLOOR, KNOTS, SHARED_RATIO
from stbn_cli.noise.kinds import INDEPENDENT_KINDS, NoiseKind
from stbn_cli.noise.levels import independent_levels
from stbn_cli.noise.measurement import SceneMeasurement
from stbn_cli.noise.model import NoiseLevelFunction, SceneNoise

# The conditioning level of networks for a camera's noise for a single picture: this many times luma's level in flat
# places, since cameras leave more noise in texture (CC15 and PolyU: 1.2 to 2.6 times as much), but no less than is
# measured, and no more than if so much were hidden in texture beside it.
GAIN = 1.5
HIDDEN_LUMA = 4 / 255
# No less than this, but no more than MOST_GAIN times what is measured: the camera model never saw weaker noise. And
# luma alone for networks that take levels of luma and of colour.
SMALLEST_CAMERA_LEVEL, SMALLEST_LUMA_LEVEL = 4 / 255, 3 / 255
MOST_GAIN = 3.0
# Where several frames were compared, what is measured is right, and this part of it gave the best pictures: networks
# that take one level, and those that take levels of luma and colour.
COMPARED_SHARE, COMPARED_LEVELS_SHARE = 0.7, 0.85
# There only what is above this level is taken times MOST_GAIN: traces of clean pictures are as strong (up to 1.4 were
# measured).
CLEAN_LEVEL = 1 / 255
# For coded noise: this many times what aligned differences show, since much of it stays the same from frame to frame.
CODED_SHARE = 1.2
# Where a coder took most of the noise, most of what is wrong is not measured at all. No less than this is assumed, as
# long as it is no more than so many times what is measured: clean clips stay as they are.
SMALLEST_CODED_LEVEL = 8 / 255
MOST_HIDDEN = 3.0
# Colour's part of that (in 4:2:0 video 0.3 to 0.55 were measured) for networks that take luma and colour apart.
CODED_COLOUR = 0.5
# Standard deviation of the logarithm of a measured level over the true one, as networks that take levels of luma and of
# colour meet it in training.
LEVEL_ERROR = 0.3
# Of what clipped noise does to the mean, these networks undo a part by themselves, since they learned from clean
# frames. So much of it is left (flat frames of levels 2 to 20 at sigma 5 to 30: 0.77 to 0.9).
CLIPPING_LEFT = 0.9
# The conditioning level over the true one, mean and standard deviation of the logarithm: nearly all for
# independent noise; of a camera's something is missed (eight clips, three cameras each: 0.7 to 1.1 of it was found, in
# the median 0.94), of coded noise no measurement sees much.
MEASUREMENT_ERROR: dict[NoiseKind, tuple[float, float]] = {
    "white": (0.0, 0.03),
    "sensor": (0.0, 0.03),
    "camera": (-0.07, 0.2),
    "compressed": (0.0, 0.5),
}


def assumed_noise(measured: SceneMeasurement, kind: NoiseKind) -> SceneNoise:
    """The conditioning level of a network for this kind of noise that takes one level; its posterior uses it too.

    Here and in `assumed_levels` that is decided, nowhere else.
    """
    if kind in INDEPENDENT_KINDS:
        return replace(measured.independent.scene_noise, measured=measured.level)
    level = measured.level
    if kind == "compressed":
        # Coded noise is not everywhere alike: where it is least, the coder took it.
        if measured.correlation.reliable:
            level = max(level, measured.correlation.sigma)
        assumed = max(CODED_SHARE * level, min(SMALLEST_CODED_LEVEL, MOST_HIDDEN * level))
    elif measured.compared:
        assumed = max(COMPARED_SHARE * level, min(SMALLEST_CAMERA_LEVEL, MOST_GAIN * (level - CLEAN_LEVEL)))
    else:
        assumed = _cautious(level, measured.full.flat, HIDDEN_LUMA / LUMA_GAIN, SMALLEST_CAMERA_LEVEL)
    return SceneNoise(NoiseLevelFunction.white(assumed), assumed, measured.level)


def assumed_levels(measured: SceneMeasurement, kind: NoiseKind) -> SceneNoise:
    """The conditioning of networks that take levels of luma and colour by brightness, whatever neighbours share."""
    full = measured.full
    # A single picture's level is raised below, which is as much as is known of its error. Passes that allow for larger
    # errors than networks met in training lose where the level is far too low (0.1 dB on bus in H.264).
    error = min(MEASUREMENT_ERROR[kind][1], LEVEL_ERROR) if measured.compared else 0.0
    if kind == "compressed":
        luma = assumed_noise(measured, kind).level
        model, rows = NoiseLevelFunction.white(luma), ((luma,), (CODED_COLOUR * luma,))
        return SceneNoise(model, luma, full.level, rows, level_error=error)
    if full.levels is None:
        rows = independent_levels(full.model, KNOTS)
        if full.ratio <= SHARED_RATIO:
            error = 0.0  # of noise that is independent, hardly any
        return SceneNoise(full.model, full.level, full.level, rows, level_error=error)
    if measured.compared:
        factors = (COMPARED_LEVELS_SHARE, COMPARED_LEVELS_SHARE)
    else:
        luma = _cautious(full.luma, full.flat, HIDDEN_LUMA, SMALLEST_LUMA_LEVEL)
        colour = _cautious(full.colour, full.colour, HIDDEN_LUMA, 0.0)
        factors = (luma / max(full.luma, FLOOR), colour / max(full.colour, FLOOR))
    rows = tuple(
        tuple(factor * value for value in row) for factor, row in zip(factors, full.levels, strict=True)
    )
    return SceneNoise(
        full.model.scaled(factors[0]), factors[0] * full.level, full.level, rows, level_error=error
    )


def _cautious(level: float, flat: float, hidden: float, least: float) -> float:
    """A single picture's noise of this level as networks are conditioned on it, `flat` in flat places."""
    assumed = max(min(GAIN * flat, math.hypot(level, hidden)), least)
    return max(min(assumed, MOST_GAIN * level), level)
