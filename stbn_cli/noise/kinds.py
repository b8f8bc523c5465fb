"""The kinds of noise that there are models for."""

from typing import Literal, get_args

# white: the same everywhere. sensor: independent from pixel to pixel, but not the same for every brightness and colour.
# camera: spread over neighbours by demosaicing, sharpening, scaling, or film. compressed: what H.264 leaves of any.
# raw: as a sensor gives it, in mosaics that nothing was made of yet.
NoiseKind = Literal["white", "sensor", "camera", "compressed", "raw"]
ALL_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
KINDS = tuple(kind for kind in ALL_KINDS if kind != "raw")  # of video for the eye: those there is a choice of
# Those whose pixels know nothing of their neighbours' noise, so that a blind spot of one pixel sees none of it.
INDEPENDENT_KINDS: frozenset[NoiseKind] = frozenset({"white", "sensor", "raw"})
