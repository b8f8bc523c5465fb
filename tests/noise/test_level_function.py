"""The noise-level function of noisy frames, against the one that made them."""

import numpy as np
import pytest
import torch

from stbn_cli.noise.level_function import NoiseEstimate, estimate_noise
from stbn_cli.synthesis.codec import sampled
from stbn_cli.synthesis.sensor import SensorNoise, poisson_gaussian

HEIGHT, WIDTH, FRAMES = 192, 320, 4


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """Frames (T, 3, H, W): ramps, waves and edges that move, from dark to bright."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    frames = []
    for t in range(FRAMES):
        x = columns + 3 * t
        waves = np.sin(0.3 * x - 0.2 * rows) * (rows > HEIGHT / 2)
        picture = 0.08 + 0.8 * x / (WIDTH + 3 * FRAMES) + 0.06 * waves + 0.04 * ((x // 40 + rows // 30) % 2)
        frames.append(np.stack([picture, 0.9 * picture + 0.02, 0.97 - picture]))
    return torch.from_numpy(np.clip(np.stack(frames), 0, 1).astype(np.float32))


def measured(clean: torch.Tensor, noise: SensorNoise) -> NoiseEstimate:
    noisy = noise.add_to(clean, torch.Generator().manual_seed(1))
    return estimate_noise(noisy.permute(0, 2, 3, 1))


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(
    ("shot", "read"),
    [
        (0.0, 10 / 255),
        (0.0, 40 / 255),
        (0.01, 5 / 255),
        (0.02, 3 / 255),
        ((0.01, 0.004, 0.02), (5 / 255, 3 / 255, 8 / 255)),
    ],
)
def test_the_function_is_right_where_there_is_picture(
    clean: torch.Tensor, shot: float, read: float, clipped: bool
) -> None:
    noise = poisson_gaussian(shot, read, clipped=clipped)
    found = measured(clean, noise)
    shown = np.linspace(0.25, 0.75, 9) if clipped else np.linspace(0.15, 0.85, 9)
    truth = np.sqrt(noise.model.variances_at(shown))
    np.testing.assert_allclose(np.sqrt(found.model.variances_at(shown)), truth, rtol=0.12)
    assert found.luma_factor == 1.0
    assert found.temporal_correlation < 0.15


@pytest.mark.parametrize("sigma", [5, 20, 50])
def test_white_noise_stays_one_number(clean: torch.Tensor, sigma: float) -> None:
    found = measured(clean, poisson_gaussian(0.0, sigma / 255))
    assert found.model.is_white
    assert found.level * 255 == pytest.approx(sigma, rel=0.06)
    assert found.scene_noise.level == found.level


def test_luma_tells_the_level_of_420_video(clean: torch.Tensor) -> None:
    noisy = poisson_gaussian(0.0, 20 / 255).add_to(clean, torch.Generator().manual_seed(2))
    found = estimate_noise(sampled(noisy).permute(0, 2, 3, 1))
    assert found.luma_factor > 1.2
    assert found.level * 255 < 16
    assert found.scene_noise.level * 255 == pytest.approx(20, rel=0.15)


def test_noise_that_stays_from_frame_to_frame_is_held(clean: torch.Tensor) -> None:
    still = torch.randn((1, *clean.shape[1:]), generator=torch.Generator().manual_seed(3)) * (20 / 255)
    frozen = clean[:1].expand_as(clean) + still
    fresh = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4)) * (5 / 255)
    assert estimate_noise((frozen + fresh).permute(0, 2, 3, 1)).temporal_correlation > 0.7


def test_a_frame_of_one_colour_says_nothing() -> None:
    found = estimate_noise(np.full((2, 32, 32, 3), 0.5, np.float32))
    assert not found.reliable and found.level == 0.0 and found.model.is_white


@pytest.mark.parametrize("dark", [(0.05, 1.0, 1.0), (0.05, 0.05, 0.05)])
def test_channels_that_are_clipped_everywhere_are_no_obstacle(
    clean: torch.Tensor, dark: tuple[float, float, float]
) -> None:
    picture = clean * torch.tensor(dark).view(3, 1, 1)
    found = measured(picture, poisson_gaussian(0.0, 60 / 255, clipped=True))
    assert 0.5 * 60 < found.level * 255 < 1.5 * 60
