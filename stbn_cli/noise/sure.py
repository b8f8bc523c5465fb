"""How far a blind-spot denoiser is from the truth, found without it.

The prior at a pixel does not depend on the pixel's own noise. Given prior and noise variance, the posterior mean
`x' = y - K (y - mu)`, `K = V (S' + V)^-1`, is an affine function of the noisy value `y`, so that for any zero-mean
noise of covariance `V`

    E |x' - x|^2 = E |K (y - mu)|^2 - tr V + 2 tr((I - K) V)

(Stein's unbiased risk estimate, Annals of Statistics 1981, which for affine estimators needs no normal noise). Results
are shown clipped to [0, 1]: where that happens, a small change of `y` changes nothing, and the last term is 0.
It holds on pixels that were never a target of training, and as long as neighbouring pixels' noise is independent.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stbn_cli.devices import with_float64
from stbn_cli.noise.fit import SUREST_PART, fit_level_function
from stbn_cli.noise.luma import luma_of, weights_like
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.posterior import (
    CHANNEL_AXIS,
    VARIANCE_FLOOR,
    posterior_mean,
    posterior_response,
    posterior_variance,
    split_head,
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a network predicted of pixels that were never its target, and what was there.

    `outputs (9, n, 1)` float32, as the Gaussian head gives them, `noisy (3, n, 1)` float32, [0, 1] scale, and
    `group (n,)` int64: pixels whose errors may depend on each other (of one place) share a group.
    """

    outputs: Tensor
    noisy: Tensor
    group: Tensor

    @property
    def mean(self) -> Tensor:
        """Of the priors, (3, n, 1)."""
        return split_head(self.outputs)[0]

    def blind_error(self, *, luma: bool = False) -> float:
        """Root mean square of `noisy - mean`: the noise, and what the network mispredicts; `luma`: of that alone."""
        errors = self.noisy - self.mean
        return float((luma_of(errors) if luma else errors).square().mean().sqrt())

    def noise_level(self, noise: NoiseLevelFunction) -> float:
        """Root mean square of the noise's standard deviation over these pixels, [0, 1]."""
        return float(noise.variance_at(self.mean).expand_as(self.mean).mean().sqrt())

    def luma_variance(self, noise: NoiseLevelFunction) -> Tensor:
        """Variance (1, n, 1) of the luma's noise where all channels' noise is independent and as `noise` says."""
        return luma_of(noise.variance_at(self.mean).expand_as(self.mean) * weights_like(self.mean))

    def fit_noise(self, start: NoiseLevelFunction) -> NoiseLevelFunction:
        """The noise that these predictions were most likely missed by; see `fit_level_function`."""
        mean, covariance = split_head(self.outputs)
        uncertainty = torch.stack(covariance.diagonal)
        where = with_float64(mean.device)
        mean, uncertainty, noisy = (part[..., 0].T.to(where) for part in (mean, uncertainty, self.noisy))
        return fit_level_function(mean, uncertainty, noisy, start)

    @property
    def channel_correlation(self) -> float:
        """Of the noise in different channels, mean of the three pairs: 0 if it is independent, 1 if they share it.

        Read off `noisy - mean` where the network is surest, so that the noise is nearly all that is in it.
        """
        _, covariance = split_head(self.outputs)
        uncertainty = torch.stack(covariance.diagonal).sum(0)[:, 0]
        surest = uncertainty.topk(max(2, round(SUREST_PART * len(uncertainty))), largest=False).indices
        errors = (self.noisy - self.mean)[:, surest, 0]
        channels = len(errors)
        return float((torch.corrcoef(errors).sum() - channels) / (channels * (channels - 1)))

    def risk(self, assumed: NoiseLevelFunction, actual: NoiseLevelFunction) -> Tensor:
        """Unbiased estimates (n,) of each pixel's squared error, mean of the channels, [0, 1] scale squared.

        Of the posterior mean under `assumed` noise, clipped to [0, 1], where the noise is `actual`. Single values may
        be negative.
        """
        sigma = assumed.sigma_at(self.mean)
        estimate = posterior_mean(self.outputs, self.noisy, sigma)
        # The diagonal of I - K: posterior covariance divided by the noise's, as `posterior_mean` has it.
        kept = posterior_variance(self.outputs, self.noisy, sigma) / (sigma.square() + VARIANCE_FLOOR)
        kept = torch.where(_inside(estimate), kept, 0.0)
        removed = self.noisy - estimate.clamp(0.0, 1.0)
        variance = actual.variance_at(self.mean)
        return (removed.square() - variance + 2.0 * kept * variance).mean(CHANNEL_AXIS)[..., 0]

    def luma_risk(self, assumed: NoiseLevelFunction, actual: NoiseLevelFunction) -> Tensor:
        """As `risk`, but of the luma, where all channels share its noise; of `actual` only the luma's share counts."""
        sigma = assumed.sigma_at(self.mean)
        estimate = posterior_mean(self.outputs, self.noisy, sigma)
        variance = self.luma_variance(actual)
        response = posterior_response(self.outputs, sigma, variance.expand_as(estimate))
        kept = luma_of(torch.where(_inside(estimate), response, 0.0))
        removed = luma_of(self.noisy - estimate.clamp(0.0, 1.0))
        return (removed.square() - variance + 2.0 * kept)[0, :, 0]

    def expected_error(self, assumed: NoiseLevelFunction) -> float:
        """Mean squared error of the posterior mean as the network itself expects it, [0, 1] scale squared."""
        return float(posterior_variance(self.outputs, self.noisy, assumed.sigma_at(self.mean)).mean())

    def expected_luma_error(self, assumed: NoiseLevelFunction) -> float:
        """The same of the luma."""
        sigma = assumed.sigma_at(self.mean)
        column = (sigma.square() * weights_like(self.mean)).expand_as(self.mean)
        return float(luma_of(posterior_response(self.outputs, sigma, column)).mean())


def _inside(estimate: Tensor) -> Tensor:
    return (estimate >= 0.0) & (estimate <= 1.0)


@dataclass(frozen=True, slots=True)
class Gain:
    """One denoiser compared with another on the same pixels."""

    decibel: float  # by how much the mean squared error fell; negative: it rose
    error: float  # standard error of `decibel`

    @property
    def is_certain(self) -> bool:
        """Whether chance does not explain it (two standard errors)."""
        return self.decibel > 2.0 * self.error

    def and_then(self, other: "Gain") -> "Gain":
        """Both, one after the other."""
        return Gain(self.decibel + other.decibel, math.hypot(self.error, other.error))


def compare_risks(before: Tensor, after: Tensor, group: Tensor, level: float) -> Gain:
    """The gain from risks `before (n,)` to `after (n,)` of the same pixels, in groups `group (n,)`.

    `level`: mean squared error afterwards. The difference of two risks is hardly touched by a small error of the noise
    level, each of them is; so it comes from elsewhere.
    """
    where = with_float64(before.device)
    before, after, group = (values.to(where) for values in (before, after, group))
    _, number = torch.unique(group, return_inverse=True)
    count = int(number.max()) + 1
    difference = (before - after).double()
    mean = float(difference.mean())
    # Errors within a group may go together; groups are independent. Few groups can be alike by chance.
    sums = torch.zeros(count, dtype=torch.double, device=group.device)
    sums.index_add_(0, number, difference - mean)
    together = float(sums.square().sum().sqrt()) / len(group) * math.sqrt(count / max(count - 1, 1))
    alone = float((difference - mean).square().sum().sqrt()) / len(group)
    # One group alone says nothing of chance.
    standard_error = max(together, alone) if count > 1 else max(alone, abs(mean))
    floor = max(level, 0.0) + 1e-12
    decibel = 10.0 * math.log10(max(floor + mean, 1e-12) / floor)
    slope = 10.0 / math.log(10.0) / max(floor + mean, 1e-12)
    return Gain(decibel, slope * standard_error)
