"""Bayer mosaics as four planes, and back: the one place that knows where the colours lie. Knows no files.

The planes are red, the green beside red, the green beside blue, blue, whatever the pattern: the order in which the
published raw network takes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stbn_cli.raw.options import PATTERNS, PLANES

if TYPE_CHECKING:
    from torch import Tensor

CELL = 2  # pixels of the pattern's cell along each axis


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


def pack(mosaic: np.ndarray, bayer: BayerFormat, *, clamp: bool = False) -> np.ndarray:
    """Mosaics `(..., H, W)` as planes `(..., 4, ceil(H / 2), ceil(W / 2))` float32, black 0 and white 1.

    clamp: values below black become 0, as the published network was trained; otherwise noise keeps its mean. What an
    odd side lacks of its last cell is taken from the cell before, colour by colour. Raises `ValueError` for less than a
    cell.
    """
    height, width = mosaic.shape[-2:]
    if min(height, width) < CELL:
        raise ValueError(f"expected at least {CELL}x{CELL} pixels, got {width}x{height}")
    if height % CELL or width % CELL:
        missing = [(0, 0)] * (mosaic.ndim - 2) + [(0, height % CELL), (0, width % CELL)]
        # Reflected about the last row, the new one is the second last: of the right colours.
        mosaic = np.pad(mosaic, missing, mode="reflect")
    planes = np.empty((*mosaic.shape[:-2], PLANES, mosaic.shape[-2] // 2, mosaic.shape[-1] // 2), np.float32)
    for plane, (row, column) in enumerate(bayer.places):
        black = bayer.black_of(plane)
        values = mosaic[..., row::CELL, column::CELL].astype(np.float32) - np.float32(black)
        planes[..., plane, :, :] = values / np.float32(bayer.white - black)
    return np.maximum(planes, 0.0, out=planes) if clamp else planes


def unpack(planes: np.ndarray, bayer: BayerFormat, size: tuple[int, int]) -> np.ndarray:
    """The mosaics `(..., H, W)` float32, in the camera's values, of planes `(..., 4, h, w)`; `size`: (H, W)."""
    height, width = planes.shape[-2] * CELL, planes.shape[-1] * CELL
    mosaic = np.empty((*planes.shape[:-3], height, width), np.float32)
    for plane, (row, column) in enumerate(bayer.places):
        black = bayer.black_of(plane)
        values = planes[..., plane, :, :] * np.float32(bayer.white - black) + np.float32(black)
        mosaic[..., row::CELL, column::CELL] = values
    return mosaic[..., : size[0], : size[1]]


def pseudo_rgb(planes: "Tensor") -> "Tensor":
    """Planes `(..., 4, h, w)` as `(..., 3, h, w)`: red, the mean of both greens, blue; motion is found on it."""
    import torch  # files need no more than numpy

    red, green, other, blue = planes.unbind(-3)
    return torch.stack((red, (green + other) / 2, blue), -3)


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
