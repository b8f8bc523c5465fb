"""Tests of Poisson-Gaussian noise and of the transform that makes it white."""

import numpy as np
import pytest
import torch

from stbn_cli.raw.noise import CRVD_NOISE, PoissonGaussian, add_noise

VALUES = (0.0, 0.01, 0.1, 0.5, 0.95)


def _noisy(noise: PoissonGaussian, value: float, count: int = 200_000) -> torch.Tensor:
    return add_noise(torch.full((count,), value), noise, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("iso", sorted(CRVD_NOISE))
def test_drawn_noise_has_the_mean_and_variance_it_states(iso: int) -> None:
    noise = CRVD_NOISE[iso]
    for value in VALUES:
        drawn = _noisy(noise, value)
        assert float(drawn.mean()) == pytest.approx(value, abs=0.02 * float(drawn.std()))
        assert float(drawn.std()) == pytest.approx(float(noise.deviation(torch.tensor(value))), rel=0.02)


@pytest.mark.parametrize("iso", sorted(CRVD_NOISE))
def test_noise_is_white_after_the_transform(iso: int) -> None:
    stabiliser = CRVD_NOISE[iso].stabiliser
    for value in VALUES:
        # The root bends most at black, where few photons are counted.
        deviation = float(stabiliser.forward(_noisy(CRVD_NOISE[iso], value)).std())
        assert deviation == pytest.approx(stabiliser.sigma, rel=0.02 if value >= 0.1 else 0.3)


def test_the_unbiased_inverse_undoes_the_mean() -> None:
    noise = CRVD_NOISE[6400]
    stabiliser = noise.stabiliser
    for value in VALUES:
        mean = stabiliser.forward(_noisy(noise, value)).double().mean()
        found = float(stabiliser.unbiased_inverse(mean))
        share = 0.03 if value else 0.15  # the closed form is an approximation
        assert found == pytest.approx(value, abs=share * float(noise.deviation(torch.tensor(value))))


@pytest.mark.parametrize(
    "noise", [CRVD_NOISE[1600], PoissonGaussian(0.0, 1e-4), PoissonGaussian(1e-3, 0.0), PoissonGaussian(0, 0)]
)
def test_transform_comes_back_and_keeps_black_and_white(noise: PoissonGaussian) -> None:
    stabiliser = noise.stabiliser
    values = np.linspace(-0.5 * np.sqrt(noise.floor), 1.5, 1000).astype(np.float32)
    changed = stabiliser.forward(values)
    assert changed.dtype == np.float32
    assert (np.diff(changed) > 0).all()
    assert stabiliser.inverse(changed) == pytest.approx(values, abs=2e-6)
    assert stabiliser.forward(np.array([0.0, 1.0])) == pytest.approx([0.0, 1.0])


def test_without_photons_the_transform_is_the_identity() -> None:
    stabiliser = PoissonGaussian(0.0, 1e-4).stabiliser
    assert stabiliser.sigma == pytest.approx(0.01, rel=1e-3)
    values = np.linspace(0, 1, 11)
    assert stabiliser.forward(values) == pytest.approx(values, abs=1e-4)
    with pytest.raises(ValueError, match="a gain of 0"):
        PoissonGaussian(-1.0, 0.0)


def test_units() -> None:
    assert PoissonGaussian.of_values(13.486051, 130.818508, 3855).in_values(3855) == pytest.approx(
        (13.486051, 130.818508)
    )
