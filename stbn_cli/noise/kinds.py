"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})
# The level that networks for correlated noise are told, over what is measured in aligned differences. A bit less of a
# camera's, since fine texture looks like noise: that costs 0.1 dB at most where there is none and gains up to 0.5 dB
# where there is. More of coded noise, of which much stays the same from frame to frame and is not measured.
TOLD_SHARE: dict[NoiseKind, float] = {"camera": 0.85, "compressed": 1.2}
# Where a coder took most of the noise, most of what is wrong is not measured at all. No less than this is assumed, as
# long as it is no more than so many times what is measured: clean clips stay as they are.
SMALLEST_CODED_LEVEL = 8 / 255
MOST_HIDDEN = 3.0
