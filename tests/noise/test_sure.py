"""The error found without the truth is the error that the truth shows."""

import math

import pytest
import torch
from torch import Tensor

from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.posterior import posterior_mean
from stbn_cli.noise.sure import Predictions, compare_risks

COUNT = 60_000
SHOT = NoiseLevelFunction(((0.001, 0.02), (0.002, 0.01), (0.004, 0.004)))
WHITE = NoiseLevelFunction.white(0.1)


def made_predictions(
    actual: NoiseLevelFunction,
    *,
    darkest: float = 0.0,
    brightest: float = 1.0,
    normal: bool = True,
    seed: int = 0,
) -> tuple[Predictions, Tensor]:
    """Predictions that know nothing of their own pixels' noise, and the clean values `(3, COUNT, 1)`.

    The network is twice as far from the truth as it thinks.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = darkest + (brightest - darkest) * torch.rand(3, COUNT, 1, generator=generator)
    factors = 0.1 * torch.randn(6, COUNT, 1, generator=generator)
    a0, a1, a2, a3, a4, a5 = factors
    z0, z1, z2 = 2.0 * torch.randn(3, COUNT, 1, generator=generator)
    # A^T z has the covariance A^T A that the head states for z of variance 1.
    clean = mean + torch.stack((a0 * z0 + a3 * z1 + a5 * z2, a1 * z0 + a4 * z1, a2 * z0))
    if normal:
        noise = torch.randn(mean.shape, generator=generator)
    else:
        noise = math.sqrt(12.0) * (torch.rand(mean.shape, generator=generator) - 0.5)
    noisy = clean + actual.sigma_at(mean) * noise
    return Predictions(torch.cat((mean, factors)), noisy, torch.arange(COUNT)), clean


def estimate(predictions: Predictions, assumed: NoiseLevelFunction) -> Tensor:
    """The denoised values `(3, COUNT, 1)`, not clipped."""
    return posterior_mean(predictions.outputs, predictions.noisy, assumed.sigma_at(predictions.mean))


def assert_unbiased(
    predictions: Predictions, clean: Tensor, assumed: NoiseLevelFunction, actual: NoiseLevelFunction
) -> None:
    """That the mean risk is the mean squared error, as precisely as so many pixels allow."""
    error = (estimate(predictions, assumed).clamp(0, 1) - clean).square().mean(0)[:, 0]
    risk = predictions.risk(assumed, actual)
    assert risk.shape == error.shape
    difference = risk - error
    standard_error = float(difference.std()) / math.sqrt(COUNT)
    assert abs(float(difference.mean())) < 3.5 * standard_error
    assert standard_error < 0.015 * float(error.mean())


@pytest.mark.parametrize(
    ("assumed", "actual"),
    [
        (WHITE, WHITE),
        (NoiseLevelFunction.white(0.05), WHITE),
        (NoiseLevelFunction.white(0.2), WHITE),
        (SHOT, SHOT),
        (WHITE, SHOT),
        (SHOT, WHITE),
    ],
    ids=["right", "too little", "too much", "shot noise", "shot noise taken for white", "the reverse"],
)
def test_risk_is_unbiased_where_clipping_acts(
    assumed: NoiseLevelFunction, actual: NoiseLevelFunction
) -> None:
    predictions, clean = made_predictions(actual)
    clean = clean.clamp(0, 1)
    # Shown pictures have no values outside the scale: neither here. The noise stays as it was drawn.
    predictions = Predictions(
        predictions.outputs, clean + predictions.noisy - made_predictions(actual)[1], predictions.group
    )
    shown = estimate(predictions, assumed)
    assert ((shown < 0) | (shown > 1)).float().mean() > 0.04
    assert_unbiased(predictions, clean, assumed, actual)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_without_clipping_the_noise_need_not_be_normal(factor: float) -> None:
    actual = NoiseLevelFunction.white(0.01)
    predictions, clean = made_predictions(actual, normal=False)
    # The same around the middle, a tenth as wide: far from the bounds.
    outputs = 0.1 * predictions.outputs
    outputs[:3] += 0.45
    noisy = predictions.noisy + outputs[:3] - predictions.mean - 0.9 * (clean - predictions.mean)
    clean = outputs[:3] + 0.1 * (clean - predictions.mean)
    narrow = Predictions(outputs, noisy, predictions.group)
    assumed = NoiseLevelFunction.white(factor * 0.01)
    shown = estimate(narrow, assumed)
    assert shown.min() > 0 and shown.max() < 1
    assert_unbiased(narrow, clean, assumed, actual)


def test_a_prior_that_saw_its_own_noise_seems_better_than_it_is() -> None:
    predictions, clean = made_predictions(WHITE, darkest=0.3, brightest=0.7)
    outputs = predictions.outputs.clone()
    outputs[:3] += 0.3 * (predictions.noisy - clean)
    leaking = Predictions(outputs, predictions.noisy, predictions.group)
    error = float((estimate(leaking, WHITE).clamp(0, 1) - clean).square().mean())
    assert float(leaking.risk(WHITE, WHITE).mean()) < 0.9 * error


def test_the_expected_error_is_right_if_the_network_knows_itself() -> None:
    predictions, clean = made_predictions(SHOT, darkest=0.3, brightest=0.7)
    # Half as far from the truth as it was made: as far as the network thinks.
    closer = predictions.mean + 0.5 * (clean - predictions.mean)
    honest = Predictions(predictions.outputs, predictions.noisy - clean + closer, predictions.group)
    error = float((estimate(honest, SHOT) - closer).square().mean())
    assert honest.expected_error(SHOT) == pytest.approx(error, rel=0.02)
    overconfident = float((estimate(predictions, SHOT) - clean).square().mean())
    assert overconfident > 1.2 * predictions.expected_error(SHOT)


def test_predictions_show_their_noise() -> None:
    predictions, clean = made_predictions(SHOT)
    closer = predictions.mean + 0.5 * (clean - predictions.mean)
    honest = Predictions(predictions.outputs, predictions.noisy - clean + closer, predictions.group)
    found, brightness = (
        honest.fit_noise(WHITE),
        torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 1, 1),
    )
    torch.testing.assert_close(found.sigma_at(brightness), SHOT.sigma_at(brightness), rtol=0.06, atol=0)


def test_the_blind_error_holds_noise_and_misprediction() -> None:
    predictions, clean = made_predictions(WHITE)
    missed = float((clean - predictions.mean).square().mean())
    assert predictions.blind_error() == pytest.approx(math.sqrt(missed + 0.01), rel=0.01)


def test_a_gain_has_the_sign_of_the_improvement() -> None:
    before, group = torch.rand(1000, generator=torch.Generator().manual_seed(0)), torch.arange(1000) // 10
    level = float(before.mean()) / 2
    halved = compare_risks(before, before / 2, group, level)
    assert halved.decibel == pytest.approx(10 * math.log10(2), abs=1e-3) and halved.is_certain
    doubled = compare_risks(before / 2, before, group, 2 * level)
    assert doubled.decibel == pytest.approx(-10 * math.log10(2), abs=1e-3) and not doubled.is_certain
    same = compare_risks(before, before, group, level)
    assert same.decibel == 0 and same.error == 0 and not same.is_certain


def test_what_both_risks_share_does_not_blur_the_gain() -> None:
    generator = torch.Generator().manual_seed(0)
    shared, group = torch.randn(1000, generator=generator), torch.arange(1000)
    own = 0.001 * torch.randn(1000, generator=generator)
    gain = compare_risks(shared, shared - 0.001 + own, group, 0.01)
    assert gain.is_certain and gain.error < 0.03


def simulated(shared: float, groups: Tensor, gain: float = 0.0) -> tuple[Tensor, Tensor, float]:
    """Decibels and standard errors of 400 comparisons, and how often the gain was certain.

    `shared`: part of the variance that pixels of a group (50 of 20 pixels) have in common.
    """
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(400):
        together = torch.randn(50, generator=generator).repeat_interleave(20)
        alone = torch.randn(1000, generator=generator)
        difference = gain + 0.1 * (math.sqrt(shared) * together + math.sqrt(1 - shared) * alone)
        found.append(compare_risks(1.0 + difference, torch.ones(1000), groups, 1.0))
    decibels, errors = (
        torch.tensor(part) for part in zip(*((g.decibel, g.error) for g in found), strict=True)
    )
    return decibels, errors, sum(g.is_certain for g in found) / len(found)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_standard_errors_are_those_of_repetition(shared: float) -> None:
    decibels, errors, certain = simulated(shared, torch.arange(1000) // 20)
    assert float(errors.mean()) == pytest.approx(float(decibels.std()), rel=0.12)
    # Two standard errors on one side.
    assert certain < 0.05
    _, _, certain = simulated(shared, torch.arange(1000) // 20, gain=5 * float(decibels.std()) / 4.34)
    assert certain > 0.9


def test_errors_that_go_together_count_as_one() -> None:
    decibels, grouped, _ = simulated(0.5, torch.arange(1000) // 20)
    _, alone, certain = simulated(0.5, torch.arange(1000))
    assert float(grouped.mean()) > 2.5 * float(alone.mean())
    # Without groups chance would be believed.
    assert float(alone.mean()) < 0.4 * float(decibels.std()) and certain > 0.1


def test_a_loss_beyond_all_bounds_stays_a_number() -> None:
    gain = compare_risks(torch.zeros(100), torch.ones(100), torch.arange(100), 0.5)
    assert math.isfinite(gain.decibel) and gain.decibel < -100 and not gain.is_certain
