"""What is taken for noise that neighbours share, and what networks are conditioned on."""

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.noise.calibration import COMPARED_LEVELS_SHARE, HIDDEN_LUMA, assumed_levels
from stbn_cli.noise.levels import white_levels
from stbn_cli.noise.measurement import SceneMeasurement, measure_scene, neighbours_share
from tests.noise.test_flatness import LUMA, eight_bits, scene, spread


def textured() -> np.ndarray:
    """A scene with fine texture everywhere, more of it below; (1, H, W, 3)."""
    clean = scene()
    texture = np.random.default_rng(9).normal(size=(*clean.shape[:3], 1)).astype(np.float32)
    rows = np.linspace(0.25, 1.0, clean.shape[1], dtype=np.float32)[:, None, None]
    return (clean + 8 / 255 * rows * spread(texture, 0.5)).clip(0.05, 0.95)


def photographed(clean: np.ndarray, sigma: float) -> np.ndarray:
    """As JPEG, with noise as cameras leave it: spots of luma, larger ones of colour."""
    random = np.random.default_rng(3)
    fine = spread(random.normal(size=(*clean.shape[:3], 1)).astype(np.float32), 0.7)
    colour = spread(random.normal(size=clean.shape).astype(np.float32), 1.6)
    noisy = np.round(255 * (clean + sigma / 255 * (fine + 0.6 * colour)).clip(0, 1)).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, 92]
    coded = [cv2.imencode(".jpg", picture, options)[1] for picture in noisy]
    return np.stack([np.asarray(cv2.imdecode(data, 1), np.float32) / 255 for data in coded])


def white(clean: np.ndarray, sigma: float) -> np.ndarray:
    return eight_bits(clean + np.random.default_rng(4).normal(0, sigma / 255, clean.shape))


@pytest.mark.parametrize("sigma", [3, 8])
def test_texture_does_not_hide_that_neighbours_share_a_photographs_noise(sigma: int) -> None:
    found = measure_scene(photographed(textured(), sigma))

    assert neighbours_share([found])
    assert found.full.level > 1.3 * found.independent.level


@pytest.mark.parametrize("sigma", [0, 2, 10, 40])
def test_texture_is_not_taken_for_noise_that_neighbours_share(sigma: int) -> None:
    assert not neighbours_share([measure_scene(white(textured(), sigma))])


def assumed(found: SceneMeasurement) -> np.ndarray:
    """Mean level of luma and of colour, 0-255 scale."""
    levels = assumed_levels(found, "camera").levels
    assert levels is not None
    return 255 * np.mean(levels, axis=1)


def test_white_noise_is_told_as_it_is() -> None:
    found = measure_scene(white(textured(), 12))

    assert assumed(found) == pytest.approx(white_levels(12)[:, 0].numpy(), rel=0.08)


@pytest.mark.parametrize("sigma", [2, 24])
def test_a_photograph_is_told_a_little_more_than_is_measured(sigma: int) -> None:
    noisy = photographed(scene(), sigma)
    found = measure_scene(noisy)
    measured = 255 * np.array((found.full.luma, found.full.colour))
    luma, colour = assumed(found)

    assert (measured < (luma, colour)).all()
    assert luma < np.hypot(measured[0], 255 * HIDDEN_LUMA) + 0.5
    assert colour < 1.5 * measured[1] + 0.5
    true = 255 * float(((noisy - scene()) @ LUMA).std())
    assert luma == pytest.approx(true, rel=0.35, abs=1.5)


def test_several_frames_are_told_a_part_of_what_they_show() -> None:
    found = measure_scene(photographed(scene(3), 10))

    assert neighbours_share([found]) and found.compared
    shown = 255 * COMPARED_LEVELS_SHARE * np.array((found.full.luma, found.full.colour))
    assert assumed(found) == pytest.approx(shown, rel=0.1)


def test_levels_of_a_sensors_noise_follow_brightness() -> None:
    clean = scene(2)
    sigma = 3 / 255 + 20 / 255 * clean
    noisy = clean + sigma * np.random.default_rng(5).normal(size=clean.shape)
    found = measure_scene(torch.from_numpy(noisy).float())
    levels = assumed_levels(found, "camera").levels

    assert levels is not None
    for row, white_row in zip(levels, white_levels(1.0)[:, 0].tolist(), strict=True):
        dark, bright = np.interp((0.25, 0.75), np.linspace(0, 1, len(row)), row)
        assert dark == pytest.approx(white_row * 8 / 255, rel=0.2)
        assert bright == pytest.approx(white_row * 18 / 255, rel=0.2)
