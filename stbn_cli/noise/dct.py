"""The discrete cosine transform of square blocks."""

import math

import numpy as np


def dct_matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II of blocks of `size` x `size` pixels: float32 (coefficients, pixels), in row-major order."""
    index = np.arange(size)
    rows = np.sqrt(2 / size) * np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * size))
    rows[0] /= math.sqrt(2)
    return np.kron(rows, rows).astype(np.float32)
