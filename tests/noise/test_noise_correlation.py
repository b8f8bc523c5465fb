"""Whether the noise of neighbouring pixels is independent, measured on the noisy clip alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.noise.correlation import NoiseCorrelation, measure_correlation
from stbn_cli.video.reader import open_video

HEIGHT, WIDTH, FRAMES = 144, 192, 4
# Standard deviation of noise over 255, and what independent noise may seem to be correlated by.
SIGMA = 20
SMALL = 0.06


def moving_clip(speed: float = 1.3) -> np.ndarray:
    """(T, H, W, 3) float32 without noise: smooth coloured waves and a gradient that move by `speed` pixels a frame."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    frames = []
    for index in range(FRAMES):
        x, y = columns + speed * index, rows - 0.6 * speed * index
        wave = 0.15 * np.sin(x / 9) * np.cos(y / 11) + 0.1 * np.sin((x + y) / 31)
        frames.append(np.stack([0.5 + wave, 0.45 - 0.7 * wave, 0.4 + x / (4 * WIDTH)], axis=-1))
    return np.stack(frames)


def white(shape: tuple[int, ...], sigma: float = SIGMA, seed: int = 0) -> np.ndarray:
    """White Gaussian noise of std `sigma` / 255."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(sigma / 255)


def blurred(noise: np.ndarray, kernel: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    """Noise (T, H, W, 3) after the separable `kernel`."""
    weights = np.array(kernel, np.float32) / sum(kernel)
    return np.stack([cv2.sepFilter2D(frame, -1, weights, weights) for frame in noise])


@pytest.fixture(scope="module")
def bikes(bikes_clip: Path) -> np.ndarray:
    """Four frames (T, 256, 384, 3) of a real clip."""
    frames = []
    for frame in open_video(bikes_clip):
        frames.append(frame.rgb[:256, :384])
        if len(frames) == 4:
            break
    return np.stack(frames)


@pytest.mark.parametrize("sigma", [5, 10, 30, 75])
def test_white_noise_is_white(sigma: float):
    clip = moving_clip()
    found = measure_correlation(clip + white(clip.shape, sigma))
    assert found.reliable and found.is_white and found.luma_is_white
    assert abs(found.luma) < SMALL and abs(found.chroma) < SMALL
    assert found.sigma * 255 == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("name", ["signal-dependent", "Poisson", "uniform", "by channel", "8 bits"])
def test_other_independent_noise_is_white(name: str):
    clip = moving_clip()
    noise = white(clip.shape, 255)
    generator = np.random.default_rng(1)
    noisy = {
        "signal-dependent": clip + noise * np.sqrt(0.01 * clip + 0.0004),
        "Poisson": generator.poisson(clip * 80) / 80,
        "uniform": clip + generator.uniform(-0.2, 0.2, clip.shape),
        "by channel": clip + noise * np.array([10, 25, 45]) / 255,
        "8 bits": np.rint(np.clip(clip + noise * 50 / 255, 0, 1) * 255) / 255,
    }[name]
    found = measure_correlation(noisy)
    assert found.reliable and found.is_white
    assert abs(found.luma) < SMALL and abs(found.chroma) < SMALL


@pytest.mark.parametrize("sigma", [10, 50])
def test_noise_after_a_3x3_mean(sigma: float):
    clip = moving_clip()
    found = measure_correlation(clip + blurred(white(clip.shape, sigma)))
    assert found.reliable and not found.is_white and not found.luma_is_white
    assert found.luma == pytest.approx(2 / 3, abs=0.12)
    assert found.chroma == pytest.approx(2 / 3, abs=0.12)
    assert found.sigma * 255 == pytest.approx(sigma / 3, rel=0.15)


def test_sharpened_noise_is_not_white():
    clip = moving_clip()
    found = measure_correlation(clip + blurred(white(clip.shape), (-0.3, 1.6, -0.3)))
    assert found.luma < -0.2 and not found.is_white


def test_smooth_colour_noise_leaves_the_luma_white():
    clip = moving_clip()
    noise = white(clip.shape)
    luma = noise @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = blurred(noise - luma[..., None], (1, 2, 1))
    found = measure_correlation(clip + luma[..., None] + colour)
    assert found.luma_is_white and not found.is_white and found.chroma > 0.4


@pytest.mark.parametrize("speed", [0.0, 0.5, 4.0])
def test_motion_does_not_matter(speed: float):
    clip = moving_clip(speed)
    noise = white(clip.shape)
    assert abs(measure_correlation(clip + noise).luma) < SMALL
    assert measure_correlation(clip + blurred(noise)).luma == pytest.approx(2 / 3, abs=0.12)


def test_real_clip(bikes: np.ndarray):
    noise = white(bikes.shape)
    assert measure_correlation(bikes + noise).is_white
    found = measure_correlation(bikes + blurred(noise))
    assert found.reliable and not found.luma_is_white
    assert found.luma == pytest.approx(2 / 3, abs=0.12)


def test_repeated_frames_are_passed_over():
    clip = moving_clip()
    noisy = np.repeat(clip + white(clip.shape), 2, axis=0)
    found = measure_correlation(noisy)
    assert found.reliable and found.is_white
    assert found.sigma * 255 == pytest.approx(SIGMA, rel=0.05)


def test_repeated_frames_coded_anew_are_passed_over():
    clip = moving_clip()
    noisy = np.repeat(clip + blurred(white(clip.shape, 60)), 2, axis=0)
    noisy += white(noisy.shape, 3, seed=1)
    found = measure_correlation(noisy)
    assert not found.luma_is_white and found.sigma * 255 == pytest.approx(20, rel=0.15)


def test_borders_do_not_count():
    clip = moving_clip()
    noisy = clip + blurred(white(clip.shape))
    noisy[:, :48] = noisy[:, -48:] = 0
    assert measure_correlation(noisy).luma == pytest.approx(2 / 3, abs=0.12)


@pytest.mark.parametrize("frames", [1, 4])
def test_one_picture_cannot_be_measured(frames: int):
    clip = moving_clip()[:1] + white((1, HEIGHT, WIDTH, 3))
    found = measure_correlation(np.repeat(clip, frames, axis=0))
    assert found == NoiseCorrelation(0.0, 0.0, 0.0, 0, reliable=False)


@pytest.mark.parametrize("size", [(8, 200), (16, 16), (20, 40)])
def test_small_frames_are_not_reliable(size: tuple[int, int]):
    assert not measure_correlation(white((5, *size, 3)) + 0.5).reliable


def test_two_frames_are_enough():
    clip = moving_clip()[:2]
    found = measure_correlation(clip + white(clip.shape))
    assert found.reliable and found.is_white and found.blocks >= 32


def test_a_clip_without_noise_is_not_reliable():
    assert not measure_correlation(moving_clip(0.0)).reliable
    assert not measure_correlation(np.rint(moving_clip(1.0) * 255) / 255).reliable


def test_grey_noise_has_no_colour_correlation():
    clip = np.repeat(moving_clip()[..., :1], 3, axis=-1)
    noisy = clip + blurred(np.repeat(white((*clip.shape[:3], 1)), 3, axis=-1))
    found = measure_correlation(noisy)
    assert found.chroma == 0 and not found.luma_is_white


def test_tensors_and_doubles_give_the_same():
    clip = moving_clip()
    noisy = clip + white(clip.shape)
    expected = measure_correlation(noisy)
    assert measure_correlation(torch.from_numpy(noisy)) == expected
    assert measure_correlation(noisy.astype(np.float64)) == expected


def test_input_is_not_changed():
    noisy = moving_clip() + white((FRAMES, HEIGHT, WIDTH, 3))
    before = noisy.copy()
    measure_correlation(noisy)
    assert np.array_equal(noisy, before)


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 32, 32), (2, 32, 32, 4), (2, 3, 32, 32)])
def test_wrong_shapes(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="frames of shape"):
        measure_correlation(np.zeros(shape, np.float32))
