"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})
# The level that networks for correlated noise are told. For a camera's: this many times luma's level in flat places,
# between all that is measured and MOST_TOLD times that, since cameras leave more noise in texture than where it is flat
# (CC15 and PolyU: 1.2 to 2.6 times as much). For coded noise: this many times what aligned differences show, since
# much of it stays the same from frame to frame.
TOLD_SHARE: dict[NoiseKind, float] = {"camera": 1.5, "compressed": 1.2}
MOST_TOLD = 3.0
# No less than this, within that limit: the camera model never saw weaker noise.
SMALLEST_CAMERA_LEVEL = 4 / 255
# Where a coder took most of the noise, most of what is wrong is not measured at all. No less than this is assumed, as
# long as it is no more than so many times what is measured: clean clips stay as they are.
SMALLEST_CODED_LEVEL = 8 / 255
MOST_HIDDEN = 3.0
