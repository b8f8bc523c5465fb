"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose models see the pixel that they predict: what neighbours share strongly a blind spot cannot hide.
SEEING_KINDS: frozenset[NoiseKind] = frozenset({"camera"})
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})
# A coder makes noise coarser, and less of it where little can be measured. The level that a blind-spot network needs to
# remove what is left, over what is measured in aligned differences (eight clips, 2 to 8 Mbit/s for 960x540: 2 to 8).
CODED_GAIN = 2.2
