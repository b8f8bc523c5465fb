"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})
# The level that networks for a camera's noise are told of a single picture: this many times luma's level in flat
# places, since cameras leave more noise in texture (CC15 and PolyU: 1.2 to 2.6 times as much), but no less than is
# measured, and no more than if so much were hidden in texture beside it.
TOLD_SHARE = 1.5
HIDDEN_LUMA = 4 / 255
# No less than this, but no more than MOST_TOLD times what is measured: the camera model never saw weaker noise. And
# luma alone for networks that take levels of luma and of colour.
SMALLEST_CAMERA_LEVEL, SMALLEST_LUMA_LEVEL = 4 / 255, 3 / 255
MOST_TOLD = 3.0
# Where several frames were compared, what is measured is right, and this part of it gave the best pictures: networks
# that take one level, and those that take levels of luma and colour.
COMPARED_SHARE, COMPARED_LEVELS_SHARE = 0.7, 0.85
# There only what is above this level is taken times MOST_TOLD: traces of clean pictures are as strong (up to 1.4 were
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
