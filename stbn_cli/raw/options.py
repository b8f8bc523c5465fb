"""What the user says of a mosaic. Imports nothing heavy: the command line builds it."""

from dataclasses import dataclass

# As a pattern: the pictures are no mosaics, whatever they look like.
NO_MOSAIC = "none"


@dataclass(frozen=True, slots=True)
class BayerOptions:
    """How a clip's mosaics are to be read; what is None is taken from the files.

    pattern: one of `bayer.PATTERNS`, or `NO_MOSAIC`. black, white: as in `bayer.BayerFormat`.
    """

    pattern: str | None = None
    black: float | tuple[float, float, float, float] | None = None
    white: float | None = None

    @property
    def denies(self) -> bool:
        """Whether they say that there is no mosaic."""
        return self.pattern == NO_MOSAIC
