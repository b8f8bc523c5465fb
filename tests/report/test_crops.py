"""Pictures keep every value through their files."""

import cv2
import numpy as np
import pytest

from stbn_cli.report.crops import encode_picture


def decode(data: bytes) -> np.ndarray:
    """RGB uint8 of a picture file."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[:, :, ::-1]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 3), (64, 33, 3)])
def test_bytes_come_back_exactly(shape: tuple[int, int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode(encode_picture(rgb)), rgb)
    flipped = rgb[::-1, ::-1]  # not contiguous
    assert np.array_equal(decode(encode_picture(flipped)), flipped)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_clipped_and_rounded(dtype: type) -> None:
    levels = np.random.default_rng(0).uniform(-0.2, 1.2, (16, 16, 3)).astype(dtype)
    decoded = decode(encode_picture(levels))
    assert np.abs(decoded / 255.0 - levels.clip(0.0, 1.0)).max() < 0.51 / 255.0 + np.finfo(dtype).eps
    levels[0, 0] = np.nan, np.inf, -np.inf
    assert decode(encode_picture(levels))[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 16384, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
    ],
    ids=lambda rgb: f"{rgb.shape} {rgb.dtype}",
)
def test_other_arrays_are_refused(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match="picture is"):
        encode_picture(rgb)
