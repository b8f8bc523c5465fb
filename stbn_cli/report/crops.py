"""Which parts of a picture to show, and pictures as small lossless files for a page."""

import cv2
import numpy as np

from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.images import encode_image

LARGEST_SIDE = 16383  # pixels, WebP's limit


def encode_picture(rgb: np.ndarray) -> bytes:
    """A picture `(H, W, 3)` RGB as a lossless WebP file.

    uint8 is stored as it is; floating point on [0, 1] is clipped and rounded to 8 bits, NaN becomes 0. Raises
    `ValueError` for other shapes and types and for sides beyond 16383 pixels.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or not 0 < min(rgb.shape) <= max(rgb.shape) <= LARGEST_SIDE:
        raise ValueError(f"A picture is (H, W, 3) with sides of 1 to {LARGEST_SIDE} pixels, not {rgb.shape}.")
    if np.issubdtype(rgb.dtype, np.floating):
        levels = np.nan_to_num(rgb.clip(0.0, 1.0), nan=0.0)
        rgb = np.rint(BYTE_SCALE * levels).astype(np.uint8)
    elif rgb.dtype != np.uint8:
        raise ValueError(f"A picture is uint8 or floating point, not {rgb.dtype}.")
    return encode_image(".webp", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)).tobytes()


def square_sums(score: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sums of `score (H, W)` over every part of `rows` x `columns`, float64, by the part's first pixel."""
    total = cv2.integral(score, sdepth=cv2.CV_64F)
    return (
        total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    )


def strongest_part(score: np.ndarray, side: int) -> tuple[slice, slice]:
    """Rows and columns of the square of `side` pixels, or what fits of it, where `score (H, W)` is largest in sum."""
    rows, columns = (min(side, size) for size in score.shape)
    sums = square_sums(score, rows, columns)
    top, left = (int(index) for index in np.unravel_index(int(sums.argmax()), sums.shape))
    return slice(top, top + rows), slice(left, left + columns)
