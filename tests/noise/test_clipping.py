"""Noise cut off at black and white: found in the values, and undone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.noise.clipping import clipped_mean, find_clipping, lift, undo_clipping
from stbn_cli.noise.model import Clipping, NoiseLevelFunction

SIZE = 96


def noisy_frames(level: float, sigma: float, *, clipped: bool = True) -> Tensor:
    """Three flat frames (0-255 scale) under white noise, as 8-bit files hold them or as floats; [0, 1]."""
    values = level + np.random.default_rng(0).normal(0.0, sigma, (3, 3, SIZE, SIZE))
    return torch.from_numpy(np.clip(np.rint(values), 0, 255) if clipped else values).float() / 255


def test_lift_inverts_the_mean_of_clipped_noise() -> None:
    position = torch.linspace(0.0, 4.0, 200, dtype=torch.float64)
    mean = clipped_mean(position)
    assert torch.allclose(mean - lift(mean), position, atol=1e-3)


@pytest.mark.parametrize("sigma", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("level", [2.0, 5.0, 10.0, 20.0, 250.0])
def test_a_perfect_mean_becomes_the_clean_level(level: float, sigma: float) -> None:
    noisy = noisy_frames(level, sigma)
    found = find_clipping(noisy, NoiseLevelFunction.white(sigma / 255))
    mean = noisy.mean().expand_as(noisy)
    clean, _ = undo_clipping(mean, noisy, found)
    assert float(clean.mean()) * 255 == pytest.approx(level, abs=0.7)


@pytest.mark.parametrize("level", [2.0, 20.0, 128.0, 250.0])
def test_noise_that_was_not_cut_off_is_left_alone(level: float) -> None:
    assert not find_clipping(noisy_frames(level, 15.0, clipped=False), NoiseLevelFunction.white(15 / 255)).any


def test_where_no_noise_was_removed_nothing_changes() -> None:
    title = torch.full((1, 3, 32, 32), 3 / 255)
    clean, spread = undo_clipping(title, title, Clipping(low=(0.1, 0.1, 0.1)), torch.full_like(title, 0.01))
    assert spread is not None
    assert torch.allclose(clean, title, atol=1e-6)
    assert torch.allclose(spread, torch.full_like(title, 0.01))
