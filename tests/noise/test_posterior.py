"""The algebra of small matrices against general matrix routines in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from stbn_cli.models.config import gaussian_channels
from stbn_cli.noise.posterior import (
    VARIANCE_FLOOR,
    gaussian_nll,
    posterior_mean,
    posterior_variance,
    split_head,
)


@pytest.fixture(params=[3, 4])
def head(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, noisy colours and a sigma map with its own value for every pixel and channel; RGB and Bayer planes."""
    colours = request.param
    generator = torch.Generator().manual_seed(2)
    outputs = torch.rand(2, gaussian_channels(colours), 6, 5, generator=generator)
    outputs[:, colours:] = 0.3 * (outputs[:, colours:] - 0.5)
    noisy = torch.rand(2, colours, 6, 5, generator=generator)
    return outputs, noisy, 0.02 + 0.2 * torch.rand(2, colours, 6, 5, generator=generator)


def dense(outputs: Tensor) -> tuple[Tensor, Tensor]:
    mean, s = split_head(outputs)
    colours = range(mean.shape[-3])
    matrix = torch.stack([torch.stack([s.at(row, column) for column in colours], -1) for row in colours], -2)
    return mean.movedim(-3, -1).double(), matrix.double()


def test_likelihood_is_the_normal_distribution(head: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, noisy, sigma = head
    mean, covariance = dense(outputs)
    variance = sigma.double().square().movedim(-3, -1) + VARIANCE_FLOOR
    normal = MultivariateNormal(mean, covariance + torch.diag_embed(variance))
    expected = -normal.log_prob(noisy.movedim(-3, -1).double()) - 0.5 * mean.shape[-1] * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian_nll(outputs, noisy, sigma).double(), expected, atol=1e-4, rtol=1e-4)


def test_posterior_is_bayes_rule(head: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, noisy, sigma = head
    mean, covariance = dense(outputs)
    prior_precision = torch.linalg.inv(covariance + VARIANCE_FLOOR * torch.eye(mean.shape[-1]))
    variance = sigma.double().square().movedim(-3, -1) + VARIANCE_FLOOR
    posterior = torch.linalg.inv(prior_precision + torch.diag_embed(1 / variance))
    evidence = (prior_precision @ mean[..., None])[..., 0] + noisy.movedim(-3, -1) / variance
    expected = (posterior @ evidence[..., None])[..., 0].movedim(-1, -3)
    torch.testing.assert_close(posterior_mean(outputs, noisy, sigma).double(), expected, atol=1e-5, rtol=1e-4)
    diagonal = posterior.diagonal(dim1=-2, dim2=-1).movedim(-1, -3)
    actual = posterior_variance(outputs, noisy, sigma).double()
    torch.testing.assert_close(actual, diagonal, atol=1e-6, rtol=1e-3)


def test_posterior_goes_from_the_pixel_to_the_prior_as_noise_rises(
    head: tuple[Tensor, Tensor, Tensor],
) -> None:
    outputs, noisy, _ = head
    mean, _ = split_head(outputs)
    little, much = torch.full((1, 1, 1, 1), 1e-4), torch.full((1, 1, 1, 1), 50.0)
    assert (posterior_mean(outputs, noisy, little) - noisy).abs().median() < 0.01
    torch.testing.assert_close(posterior_mean(outputs, noisy, much), mean, atol=1e-3, rtol=0)


def test_half_precision_outputs_are_fused_in_float32(head: tuple[Tensor, Tensor, Tensor]) -> None:
    outputs, noisy, sigma = head
    half = posterior_mean(outputs.half(), noisy, sigma)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, posterior_mean(outputs, noisy, sigma), atol=2e-3, rtol=0)


def test_a_singular_prior_stays_finite() -> None:
    outputs = torch.zeros(1, 9, 2, 2, requires_grad=True)
    noisy, sigma = torch.rand(1, 3, 2, 2), torch.zeros(1, 1, 1, 1)
    loss = gaussian_nll(outputs, noisy, sigma).mean()
    loss.backward()
    assert torch.isfinite(loss) and outputs.grad is not None and torch.isfinite(outputs.grad).all()
    assert torch.isfinite(posterior_mean(outputs, noisy, sigma)).all()
