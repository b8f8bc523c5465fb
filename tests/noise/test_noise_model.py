"""The noise as a function of brightness: what it gives, what it refuses, and how it is found from predictions."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.noise.fit import FEWEST_PIXELS, fit_level_function
from stbn_cli.noise.model import LearnedNoise, NoiseLevelFunction

BENT = NoiseLevelFunction(((0.001, 0.004, 0.002), (0.003, 0.0, 0.001), (0.0, 0.0, 0.01)))
START = NoiseLevelFunction.white(0.05)


def poisson_gaussian(constant: float, slope: float) -> NoiseLevelFunction:
    """Variance `constant + slope * brightness`, the same for every channel."""
    return NoiseLevelFunction(((constant, constant + slope),))


def predictions(
    noise: NoiseLevelFunction, darkest: float = 0.0, brightest: float = 1.0, count: int = 100_000
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, uncertainty and noisy values, `(count, 3)` each, of a network that knows how uncertain it is."""
    generator = torch.Generator().manual_seed(1)
    mean = darkest + (brightest - darkest) * torch.rand(count, 3, generator=generator)
    uncertainty = 0.01 * torch.rand(count, 3, generator=generator) ** 2
    clean = mean + uncertainty.sqrt() * torch.randn(count, 3, generator=generator)
    sigma = noise.sigma_at(mean.T[..., None])[..., 0].T
    return mean, uncertainty, clean + sigma * torch.randn(count, 3, generator=generator)


def sigmas(noise: NoiseLevelFunction, brightness: list[float]) -> Tensor:
    """(3, len(brightness))."""
    values = torch.tensor(brightness).view(1, -1, 1).expand(3, -1, 1)
    return noise.sigma_at(values).expand(3, len(brightness), 1)[..., 0]


def test_white_noise_is_the_same_everywhere() -> None:
    noise = NoiseLevelFunction.white(0.1)
    brightness = torch.linspace(-1, 2, 24).view(2, 3, 2, 2)
    assert noise.is_white
    torch.testing.assert_close(noise.sigma_at(brightness).expand(2, 3, 2, 2), torch.full((2, 3, 2, 2), 0.1))
    torch.testing.assert_close(noise.variance_at(brightness), noise.sigma_at(brightness).square())


@pytest.mark.parametrize("rows", [1, 3])
def test_variance_is_linear_between_knots_and_constant_beyond(rows: int) -> None:
    noise = NoiseLevelFunction(BENT.variances[:rows])
    brightness = torch.rand(2, 3, 20, 10, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3
    brightness[0, :, 0, :5] = torch.tensor([-5.0, 0.0, 0.5, 1.0, 7.0])
    found = noise.variance_at(brightness)
    assert found.dtype == torch.float32 and found.shape == brightness.shape
    for channel in range(3):
        row = noise.variances[channel % rows]
        expected = np.interp(brightness[:, channel].numpy(), np.linspace(0, 1, len(row)), row)
        np.testing.assert_allclose(found[:, channel].numpy(), expected, rtol=1e-4, atol=1e-8)


def test_only_equal_variances_are_white() -> None:
    assert NoiseLevelFunction(((0.1, 0.1), (0.1, 0.1), (0.1, 0.1))).is_white
    assert not NoiseLevelFunction(((0.1,), (0.1,), (0.2,))).is_white
    assert not NoiseLevelFunction(((0.1, 0.2),)).is_white


def test_level_is_the_root_mean_square_over_the_frames() -> None:
    assert NoiseLevelFunction.white(0.2).level(torch.rand(5, 3, 9, 7)) == pytest.approx(0.2)
    assert NoiseLevelFunction(((0.01,), (0.02,), (0.06,))).level(torch.rand(3, 9, 7)) == pytest.approx(
        math.sqrt(0.03)
    )
    dark_and_bright = torch.stack((torch.zeros(3, 8, 8), torch.ones(3, 8, 8)))
    expected = math.sqrt((0.001 + 0.003 + 0.0 + 0.002 + 0.001 + 0.01) / 6)
    assert BENT.level(dark_and_bright) == pytest.approx(expected)


def test_noisy_frames_have_the_level_of_the_clean_ones_where_the_variance_is_linear() -> None:
    noise = poisson_gaussian(0.0005, 0.01)
    clean = 0.4 + 0.2 * torch.rand(4, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    noisy = clean + noise.sigma_at(clean) * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(1)
    )
    assert noise.level(noisy) == pytest.approx(noise.level(clean), rel=0.01)


@pytest.mark.parametrize("noise", [NoiseLevelFunction.white(0.1), BENT])
def test_descriptions_survive_json(noise: NoiseLevelFunction) -> None:
    assert NoiseLevelFunction.from_description(json.loads(json.dumps(noise.describe()))) == noise
    learned = LearnedNoise(noise, 0.25)
    assert LearnedNoise.from_description(json.loads(json.dumps(learned.describe()))) == learned


@pytest.mark.parametrize(
    "variances",
    [
        (),
        ((),),
        ((0.1,), (0.1,)),
        ((0.1,),) * 4,
        ((0.1, 0.2), (0.1, 0.2), (0.1,)),
        ((-0.1,),),
        ((0.1, math.nan),),
        ((math.inf,),),
    ],
)
def test_what_is_no_variance_is_refused(variances: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        NoiseLevelFunction(variances)
    with pytest.raises(ValueError, match="expected"):
        NoiseLevelFunction.from_description({"variances": [list(row) for row in variances]})


@pytest.mark.parametrize("sigma", [-0.1, 1.1, math.nan, "much"])
def test_a_level_outside_the_scale_is_refused(sigma: float | str) -> None:
    with pytest.raises(ValueError):
        LearnedNoise.from_description({**BENT.describe(), "conditioning_sigma": sigma})


@pytest.mark.parametrize(
    "noise",
    [
        NoiseLevelFunction.white(0.02),
        NoiseLevelFunction.white(0.2),
        NoiseLevelFunction(((0.001,), (0.004,), (0.0002,))),
        poisson_gaussian(0.0004, 0.01),
        NoiseLevelFunction(((0.002, 0.004, 0.006, 0.004, 0.002),)),
    ],
    ids=["weak", "strong", "channels", "shot noise", "bent"],
)
@pytest.mark.parametrize("start", [START, NoiseLevelFunction.white(0.01), NoiseLevelFunction.white(0.3)])
def test_the_noise_is_found_from_what_predictions_missed(
    noise: NoiseLevelFunction, start: NoiseLevelFunction
) -> None:
    found = fit_level_function(*predictions(noise), start)

    brightness = [0.1, 0.2, 0.4, 0.6, 0.8, 0.9]
    torch.testing.assert_close(sigmas(found, brightness), sigmas(noise, brightness), rtol=0.05, atol=0)


def test_where_there_is_nothing_to_see_the_variance_goes_on_straight() -> None:
    noise = poisson_gaussian(0.0004, 0.01)
    found = fit_level_function(*predictions(noise, darkest=0.1, brightest=0.55), START)
    torch.testing.assert_close(
        sigmas(found, [0.15, 0.3, 0.5]), sigmas(noise, [0.15, 0.3, 0.5]), rtol=0.04, atol=0
    )
    torch.testing.assert_close(sigmas(found, [0.75, 1.0]), sigmas(noise, [0.75, 1.0]), rtol=0.1, atol=0)


def test_uncertain_predictions_may_be_wrong_about_their_uncertainty() -> None:
    noise = poisson_gaussian(0.002, 0.004)
    mean, uncertainty, noisy = predictions(noise)
    uncertain = uncertainty > uncertainty.quantile(0.5)
    # They miss by far more than they say.
    noisy = torch.where(uncertain, mean + 2.0 * (noisy - mean), noisy)
    found = fit_level_function(mean, uncertainty, noisy, START)
    torch.testing.assert_close(
        sigmas(found, [0.1, 0.5, 0.9]), sigmas(noise, [0.1, 0.5, 0.9]), rtol=0.04, atol=0
    )


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_wrong_start_does_not_matter(factor: float) -> None:
    noise = poisson_gaussian(0.002, 0.004)
    found = fit_level_function(*predictions(noise), NoiseLevelFunction.white(factor * 0.06))
    torch.testing.assert_close(
        sigmas(found, [0.1, 0.5, 0.9]), sigmas(noise, [0.1, 0.5, 0.9]), rtol=0.04, atol=0
    )


def test_values_outside_the_scale_are_understood() -> None:
    noise = NoiseLevelFunction.white(0.1)
    found = fit_level_function(*predictions(noise, darkest=-0.2, brightest=1.2), START)
    torch.testing.assert_close(
        sigmas(found, [0.0, 0.5, 1.0]), sigmas(noise, [0.0, 0.5, 1.0]), rtol=0.04, atol=0
    )


def test_without_noise_next_to_none_is_found() -> None:
    mean, uncertainty, _ = predictions(START, count=FEWEST_PIXELS)
    found = fit_level_function(mean, 0 * uncertainty, mean.clone(), START)
    assert sigmas(found, [0.0, 0.5, 1.0]).max() < 0.001


@pytest.mark.parametrize("start", [START, BENT])
def test_too_few_pixels_leave_the_start(start: NoiseLevelFunction) -> None:
    mean, uncertainty, noisy = predictions(NoiseLevelFunction.white(0.2), count=FEWEST_PIXELS)
    assert fit_level_function(mean[1:], uncertainty[1:], noisy[1:], start) is start
    assert fit_level_function(mean, uncertainty, noisy, start) != start
