"""How a camera's mosaic is to be read: the pattern of its colours, its black and white level. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")
PLANES = 4
CELL = 2  # pixels of the pattern's cell along each axis
# As a pattern: the pictures are no mosaics, whatever they look like.
NO_MOSAIC = "none"


@dataclass(frozen=True, slots=True)
class BayerFormat:
    """How a camera's mosaic is to be read.

    pattern: colours of the 2x2 cell in reading order, one of `PATTERNS`. black: value without light, one for all or one
    for each place of the cell in reading order. white: value at which the sensor clips; above every black.

    Raises `ValueError` for anything else.
    """

    pattern: str
    black: float | tuple[float, float, float, float]
    white: float

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise ValueError(f"expected one of {', '.join(PATTERNS)}, got {self.pattern!r}")
        if not max(self.blacks) < self.white:
            raise ValueError(f"expected a black level below the white level {self.white:g}, got {self.black}")

    @property
    def blacks(self) -> tuple[float, ...]:
        """The black level at each place of the cell, in reading order."""
        return self.black if isinstance(self.black, tuple) else (self.black,) * PLANES

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column, within the cell, of each plane."""
        red, blue = (divmod(self.pattern.index(colour), CELL) for colour in "RB")
        return red, (red[0], 1 - red[1]), (blue[0], 1 - blue[1]), blue

    def black_of(self, plane: int) -> float:
        """The black level of a plane."""
        row, column = self.places[plane]
        return self.blacks[row * CELL + column]

    def moved(self, top: int, left: int) -> "BayerFormat":
        """The format of a mosaic cut out of one of this format at this row and column."""
        order = [
            (row + top) % CELL * CELL + (column + left) % CELL
            for row in range(CELL)
            for column in range(CELL)
        ]
        blacks = tuple(self.blacks[place] for place in order)
        black = blacks if isinstance(self.black, tuple) else self.black
        return BayerFormat("".join(self.pattern[place] for place in order), black, self.white)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class BayerOptions:
    """How a clip's mosaics are to be read; what is None is taken from the files.

    pattern: one of `PATTERNS`, or `NO_MOSAIC`. black, white: as in `BayerFormat`.
    """

    pattern: str | None = None
    black: float | tuple[float, float, float, float] | None = None
    white: float | None = None

    @property
    def denies(self) -> bool:
        """Whether they say that there is no mosaic."""
        return self.pattern == NO_MOSAIC


def parse_pattern(text: str) -> str:
    """A pattern as `BayerFormat` has it; capitals do not matter. Raises `ValueError`."""
    pattern = text.strip().upper()
    if pattern not in PATTERNS:
        raise ValueError(f"expected one of {', '.join(PATTERNS)}, got {text!r}")
    return pattern


def cell_pattern(colours: Sequence[int]) -> str | None:
    """The pattern of a DNG's CFAPattern (0 red, 1 green, 2 blue; a 2x2 cell); None for any other filter array."""
    pattern = "".join("RGB"[colour] if 0 <= colour < 3 else "?" for colour in colours)
    return pattern if pattern in PATTERNS else None
