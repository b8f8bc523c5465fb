"""Mosaics that nobody named, and grey pictures that are none."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stbn_cli.raw.recognition import looks_like_mosaic

GENERATOR = np.random.default_rng(0)
SIZE = (160, 192)


def scene(channels: int = 1) -> np.ndarray:
    """A smooth picture with edges and fine detail, (H, W, C) in [0, 1]."""
    coarse = GENERATOR.uniform(0.1, 0.8, (7, 8, channels))
    picture = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC).reshape(*SIZE, channels)
    picture[40:90, 50:120] *= 0.6
    detail = GENERATOR.normal(0, 0.05, (*SIZE, 1)) * (np.indices(SIZE)[1] > 120)[..., None]
    return np.clip(picture + detail, 0, 1)


def codes(values: np.ndarray, depth: int = 16) -> np.ndarray:
    top = (1 << depth) - 1
    return np.rint(np.clip(values, 0, 1) * top).astype(np.uint8 if depth == 8 else np.uint16)


@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_mosaics_are_recognised(pattern: str, depth: int, noise: float) -> None:
    colours = scene(3) * (0.5, 1.0, 0.6)
    rows, columns = np.indices(SIZE)
    which = np.array(["RGB".index(colour) for colour in pattern]).reshape(2, 2)[rows % 2, columns % 2]
    mosaic = np.take_along_axis(colours, which[..., None], 2)[..., 0]
    assert looks_like_mosaic(codes(0.05 + 0.6 * mosaic + GENERATOR.normal(0, noise, SIZE), depth))


def others() -> dict[str, np.ndarray]:
    grey = scene()[..., 0]
    rows, columns = np.indices(SIZE)
    odd_row, odd_column = rows % 2, columns % 2
    interlaced = np.where(odd_row, np.roll(grey, 9, 1), grey)
    ordered = np.array([[0, 2], [3, 1]])[odd_row, odd_column] / 4
    return {
        "grey": grey,
        "strong noise": grey + GENERATOR.normal(0, 0.2, SIZE),
        "noise alone": GENERATOR.uniform(0, 1, SIZE),
        "flat": np.full(SIZE, 0.4),
        "black": np.zeros(SIZE),
        "ramp": columns / SIZE[1],
        "interlaced": interlaced,
        "interlaced, noisy": interlaced + GENERATOR.normal(0, 0.05, SIZE),
        "flicker of rows": grey * np.where(odd_row, 0.8, 1.0),
        "columns of two amplifiers": grey * np.where(odd_column, 0.9, 1.0),
        "stripes": np.where(odd_column, 0.2, 0.7),
        "checkerboard": np.where(odd_row ^ odd_column, 0.2, 0.7),
        "checkerboard over a picture": grey * np.where(odd_row ^ odd_column, 0.8, 1.0),
        "diagonal texture": 0.5 + 0.3 * np.sin((rows + 2 * columns) * 1.3),
        "dithered": np.floor(grey * 16 + ordered) / 16,
        "enlarged": cv2.resize(grey[:80, :96], SIZE[::-1], interpolation=cv2.INTER_LINEAR),
        "enlarged by repetition": np.kron(grey[:80, :96], np.ones((2, 2))),
    }


@pytest.mark.parametrize("name", others())
@pytest.mark.parametrize("depth", [8, 16])
def test_grey_pictures_are_not(name: str, depth: int) -> None:
    assert not looks_like_mosaic(codes(others()[name], depth))


def test_real_pictures_and_tiny_ones_are_not(bikes_clip: Path) -> None:
    with av.open(str(bikes_clip)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            grey = frame.to_ndarray(format="gray")
            noisy = np.clip(grey + GENERATOR.normal(0, 20, grey.shape), 0, 255).astype(np.uint8)
            assert not looks_like_mosaic(grey) and not looks_like_mosaic(noisy)
            if number == 3:
                break
    assert not looks_like_mosaic(np.arange(16, dtype=np.uint16).reshape(4, 4) * 999)
