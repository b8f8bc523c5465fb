"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
NoiseKind = Literal["white", "sensor", "camera", "compressed"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor"})

# Of compressed noise the level cannot be measured: most of what is wrong stays the same from frame to frame, or is what
# the coder took away. So networks for it are always told this one, whatever there is, and find out for themselves.
CODED_LEVEL = 12 / 255
