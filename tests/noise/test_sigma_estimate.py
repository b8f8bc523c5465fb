"""The noise estimator on made-up pictures: accuracy, clipping, borders, repeated frames, refusals."""

import numpy as np
import pytest
import torch

from stbn_cli.noise.estimate import estimate_sigma

HEIGHT, WIDTH, FRAMES = 144, 256, 3


@pytest.fixture(scope="module")
def clean():
    """Textured frames (T, H, W, 3) float32 in 0 .. 1: gradients, waves of many periods, edges; they move."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    frames = []
    for t in range(FRAMES):
        x = columns + 3 * t
        base = 0.15 + 0.7 * x / (WIDTH + 3 * FRAMES)
        waves = sum(np.sin(x * f + rows * g) for f, g in ((0.05, 0.1), (0.3, -0.2), (0.9, 0.7))) / 3
        # Texture over the right half only, as real pictures have calm parts too.
        picture = base + 0.12 * waves * (x > WIDTH / 2) + 0.1 * ((x // 40 + rows // 30) % 2)
        frames.append(np.stack([picture, 0.9 * picture, 0.8 * picture + 0.05], axis=-1))
    return np.clip(np.stack(frames), 0, 1).astype(np.float32)


def noisy(frames, sigma, seed=0):
    noise = np.random.default_rng(seed).standard_normal(frames.shape, dtype=np.float32)
    return frames + np.float32(sigma) * noise


def as_bytes(frames):
    """What an 8-bit file would keep."""
    return (np.clip(np.rint(frames * 255), 0, 255) / 255).astype(np.float32)


@pytest.mark.parametrize("sigma", [5, 15, 30, 55])
@pytest.mark.parametrize("clipped", [False, True])
def test_error_within_five_percent(clean, sigma, clipped):
    frames = noisy(clean, sigma / 255)
    estimate = estimate_sigma(as_bytes(frames) if clipped else frames)
    assert estimate.sigma * 255 == pytest.approx(sigma, rel=0.05)
    assert estimate.frames_used == FRAMES
    assert estimate.reliable


@pytest.mark.parametrize("sigma", [0, 1, 2, 4])
def test_error_of_low_noise(clean, sigma):
    assert estimate_sigma(noisy(clean, sigma / 255)).sigma * 255 == pytest.approx(sigma, abs=0.7)


def test_channels_are_told_apart(clean):
    levels = np.array([5, 10, 20], dtype=np.float32) / 255
    estimate = estimate_sigma(noisy(clean, 1.0) * levels + clean * (1 - levels))
    assert estimate.per_channel == pytest.approx(levels.tolist(), rel=0.06)
    assert estimate.sigma == pytest.approx(float(np.sqrt(np.mean(levels**2))), rel=0.06)


def test_tensor_gives_the_same(clean):
    frames = noisy(clean, 0.1)
    assert estimate_sigma(torch.from_numpy(frames)) == estimate_sigma(frames)


@pytest.mark.parametrize("border", [0.0, 16 / 255])
def test_borders_do_not_count(clean, border):
    frames = as_bytes(noisy(clean, 20 / 255))
    framed = np.full((FRAMES, HEIGHT + 100, WIDTH + 160, 3), border, dtype=np.float32)
    framed[:, 50:-50, 80:-80] = frames
    assert estimate_sigma(framed) == estimate_sigma(frames)


def test_clipped_areas_do_not_count(clean):
    scene = clean.copy()
    scene[:, :60] = -0.4
    scene[:, -40:] = 1.5
    estimate = estimate_sigma(as_bytes(noisy(scene, 20 / 255)))
    assert estimate.sigma * 255 == pytest.approx(20, rel=0.06)


def test_noise_in_the_dark_is_not_underestimated():
    scene = np.full((2, HEIGHT, WIDTH, 3), 0.06, dtype=np.float32)
    estimate = estimate_sigma(as_bytes(noisy(scene, 20 / 255)))
    assert estimate.sigma * 255 == pytest.approx(20, rel=0.1)


def test_repeated_and_empty_frames_do_not_count(clean):
    frames = noisy(clean, 20 / 255)
    black = np.zeros_like(frames[:1])
    repeated = np.concatenate([frames[:1], frames[:1], frames[1:2], black, black])
    estimate = estimate_sigma(repeated)
    assert estimate.frames_used == 2
    assert estimate.sigma * 255 == pytest.approx(20, rel=0.05)


def test_long_clips_are_sampled():
    frames = noisy(np.full((40, 32, 48, 3), 0.5, dtype=np.float32), 0.1)
    estimate = estimate_sigma(frames)
    assert estimate.frames_used == 8
    assert estimate.sigma == pytest.approx(0.1, rel=0.1)


def test_noise_that_follows_brightness_is_not_called_reliable(clean):
    noise = noisy(np.zeros_like(clean), 1.0)
    assert not estimate_sigma(clean + noise * (0.01 + 0.15 * clean**2)).reliable


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 4, 200, 3), (1, 1, 1, 3)])
def test_nothing_to_measure(shape):
    estimate = estimate_sigma(np.zeros(shape, dtype=np.float32))
    assert (estimate.sigma, estimate.frames_used, estimate.reliable) == (0.0, 0, False)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 8, 8, 1), (8, 8, 3)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected frames of shape"):
        estimate_sigma(np.zeros(shape, dtype=np.float32))


def test_noise_of_video_with_halved_chroma_is_measured_by_its_luma(clean):
    """4:2:0 leaves the luma's noise and smooths the rest: the level is that of the noise before."""
    frames = noisy(clean, 20 / 255)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma = frames @ weights
    difference = frames - luma[..., None]
    blocks = difference.reshape(FRAMES, HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(2, 4))
    subsampled = luma[..., None] + blocks.repeat(2, axis=1).repeat(2, axis=2)
    estimate = estimate_sigma(subsampled)
    assert estimate.sigma * 255 == pytest.approx(20, rel=0.06)
    assert max(estimate.per_channel) * 255 < 17
