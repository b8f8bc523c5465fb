"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose models see the pixel that they predict: what neighbours share a blind spot cannot hide.
SEEING_KINDS: frozenset[NoiseKind] = frozenset({"camera"})
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})
# The level that networks for correlated noise are told, over what is measured in aligned differences. A little less of a
# camera's, since fine texture looks like noise: that costs 0.1 dB at most where there is none and gains up to 0.5 dB
# where there is. More of coded noise, which is coarser than what a blind spot expects, and of which little is measured
# (eight clips, 2 to 8 Mbit/s for 960x540: the best level for the white-noise model is 2 to 8 times the measured one).
TOLD_SHARE: dict[NoiseKind, float] = {"camera": 0.85, "compressed": 2.2}
