"""What is said of mosaics before any is read. Imports nothing heavy: the command line needs it."""

from dataclasses import dataclass

# The colours of a cell in reading order.
PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")
# Of packed mosaics, see `bayer`.
PLANES = 4
# As a pattern: the pictures are no mosaics, whatever they look like.
NO_MOSAIC = "none"


@dataclass(frozen=True, slots=True)
class BayerOptions:
    """How a clip's mosaics are to be read; what is None is taken from the files.

    pattern: one of `PATTERNS`, or `NO_MOSAIC`. black, white: as in `bayer.BayerFormat`.
    """

    pattern: str | None = None
    black: float | tuple[float, float, float, float] | None = None
    white: float | None = None

    @property
    def denies(self) -> bool:
        """Whether they say that there is no mosaic."""
        return self.pattern == NO_MOSAIC
