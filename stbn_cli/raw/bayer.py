"""Bayer mosaics as four planes, and back: the one place that knows where the colours lie. Knows no files.

The planes are red, the green beside red, the green beside blue, blue, whatever the pattern: the order in which the
published raw network takes them.
"""

from typing import TYPE_CHECKING

import numpy as np

from stbn_cli.raw.pattern import CELL, PLANES, BayerFormat

if TYPE_CHECKING:
    from torch import Tensor


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
