"""Gaussian blind-spot head: its likelihood, its posterior and their 3x3 algebra, always in float32.

The network gives each pixel a Gaussian prior on the clean colour: a mean `mu` and a factor `A` of the
covariance `S = A^T A` (STBN paper, equations 4 to 6; after Laine et al., NeurIPS 2019). With noise variance
`v` per channel the noisy colour is distributed as `N(mu, S + diag(v))`.

A 3x3 symmetric positive definite matrix is factored in closed form (LDL^T, without pivoting, which needs none),
so no general inverse, no batch of little matrices and no half precision is involved.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stbn_cli.models.config import FACTOR_CHANNELS, GAUSSIAN_CHANNELS, MEAN_CHANNELS

CHANNEL_AXIS = -3

# Added to the noise variance in the likelihood and the posterior, and to the prior's diagonal in the posterior:
# the constant of the reference implementation, on the [0, 1] scale squared.
VARIANCE_FLOOR = 1e-5


class SymmetricMatrix(NamedTuple):
    """The six different entries of symmetric 3x3 matrices, one tensor each."""

    m00: Tensor
    m01: Tensor
    m02: Tensor
    m11: Tensor
    m12: Tensor
    m22: Tensor


class _Factored(NamedTuple):
    """`M = L diag(d) L^T` with unit lower triangular L."""

    d0: Tensor
    d1: Tensor
    d2: Tensor
    l10: Tensor
    l20: Tensor
    l21: Tensor

    def solve(self, rhs: Tensor) -> Tensor:
        """`M^-1 rhs`; `rhs` and the result have the three channels on `CHANNEL_AXIS`."""
        r0, r1, r2 = rhs.unbind(CHANNEL_AXIS)
        z1 = r1 - self.l10 * r0
        z2 = r2 - self.l20 * r0 - self.l21 * z1
        x2 = z2 / self.d2
        x1 = z1 / self.d1 - self.l21 * x2
        x0 = r0 / self.d0 - self.l10 * x1 - self.l20 * x2
        return torch.stack((x0, x1, x2), CHANNEL_AXIS)

    def log_determinant(self) -> Tensor:
        return self.d0.log() + self.d1.log() + self.d2.log()


def split_head(outputs: Tensor) -> tuple[Tensor, SymmetricMatrix]:
    """Mean `(..., 3, H, W)` and covariance `S = A^T A` of head outputs `(..., 9, H, W)`, in float32.

    `A` is filled by anti-diagonals: rows `(a0, a1, a2)`, `(a3, a4, 0)`, `(a5, 0, 0)`.
    """
    if outputs.shape[CHANNEL_AXIS] != GAUSSIAN_CHANNELS:
        raise ValueError(f"expected {GAUSSIAN_CHANNELS} output channels, got {outputs.shape[CHANNEL_AXIS]}")
    outputs = outputs.float()
    a0, a1, a2, a3, a4, a5 = outputs.narrow(CHANNEL_AXIS, MEAN_CHANNELS, FACTOR_CHANNELS).unbind(CHANNEL_AXIS)
    covariance = SymmetricMatrix(
        m00=a0 * a0 + a3 * a3 + a5 * a5,
        m01=a0 * a1 + a3 * a4,
        m02=a0 * a2,
        m11=a1 * a1 + a4 * a4,
        m12=a1 * a2,
        m22=a2 * a2,
    )
    return outputs.narrow(CHANNEL_AXIS, 0, MEAN_CHANNELS), covariance


def gaussian_nll(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Negative log likelihood of the noisy colours, without the constant `1.5 log(2 pi)`.

    `outputs (..., 9, H, W)`, `noisy (..., 3, H, W)`; `sigma` broadcasts to `noisy` (standard deviation, [0, 1]
    scale). Returns `(..., H, W)` float32; the training loss is its mean.
    """
    mean, covariance = split_head(outputs)
    variance = sigma.float().square() + VARIANCE_FLOOR
    factored = _factor(_add_diagonal(covariance, variance))
    error = noisy.float() - mean
    return 0.5 * (error * factored.solve(error)).sum(CHANNEL_AXIS) + 0.5 * factored.log_determinant()


def posterior_mean(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Final estimate: the prior of the head fused with the noisy pixel itself, `(..., 3, H, W)` float32.

    Minimises the expected squared error when the noise is Gaussian with standard deviation `sigma`, which
    broadcasts to `noisy`. Equal to `(S'^-1 + V^-1)^-1 (S'^-1 mu + V^-1 y)`, written without inverting S' as
    `y - V (S' + V)^-1 (y - mu)`, with `S' = S + 1e-5 I` and `V = diag(sigma^2 + 1e-5)`.
    """
    mean, covariance = split_head(outputs)
    noisy = noisy.float()
    variance = sigma.float().square() + VARIANCE_FLOOR
    factored = _factor(_add_diagonal(covariance, variance + VARIANCE_FLOOR))
    return noisy - variance * factored.solve(noisy - mean)


def posterior_response(outputs: Tensor, sigma: Tensor, change: Tensor) -> Tensor:
    """By how much `posterior_mean` changes if the noisy pixel changes by `change (..., 3, H, W)`; float32, likewise.

    It is linear: `(I - V (S' + V)^-1) change`. With a column of V for the change, a column of the posterior covariance.
    """
    _, covariance = split_head(outputs)
    variance = sigma.float().square() + VARIANCE_FLOOR
    factored = _factor(_add_diagonal(covariance, variance + VARIANCE_FLOOR))
    return change - variance * factored.solve(change)


def posterior_variance(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Diagonal of the posterior covariance `V - V (S' + V)^-1 V`, `(..., 3, H, W)` float32, [0, 1] scale squared.

    The expected squared error of `posterior_mean` per channel, as far as the model is right. `noisy` gives the
    shape alone: a Gaussian posterior's covariance does not depend on the value seen.
    """
    columns = _covariance_columns(outputs, sigma, noisy)
    return torch.stack([column[row] for row, column in enumerate(columns)], CHANNEL_AXIS).clamp_min(0.0)


def posterior_nll(outputs: Tensor, noisy: Tensor, sigma: Tensor, clean: Tensor) -> Tensor:
    """Negative log likelihood `(..., H, W)` of the clean colours under the posterior, without `1.5 log(2 pi)`.

    float32; shapes as in `gaussian_nll`, `clean` as `noisy`. For networks that learn from clean frames: whatever they
    predict, the estimate that is used is the one that is judged.
    """
    estimate = posterior_mean(outputs, noisy, sigma)
    (m00, m01, m02), (_, m11, m12), (_, _, m22) = _covariance_columns(outputs, sigma, estimate)
    # Rounding may leave a hair less than nothing where noise of thousands of floors meets a certain prior.
    covariance = _add_diagonal(
        SymmetricMatrix(m00, m01, m02, m11, m12, m22), torch.full_like(estimate, 0.1 * VARIANCE_FLOOR)
    )
    factored = _factor(covariance)
    error = clean.float() - estimate
    return 0.5 * (error * factored.solve(error)).sum(CHANNEL_AXIS) + 0.5 * factored.log_determinant()


def _covariance_columns(outputs: Tensor, sigma: Tensor, like: Tensor) -> list[tuple[Tensor, ...]]:
    """The posterior covariance of pixels of the shape of `like (..., 3, H, W)`: column by column, row by row."""
    variance = (sigma.float().square() + VARIANCE_FLOOR).expand_as(like)
    columns = []
    for channel in range(MEAN_CHANNELS):
        unit = torch.zeros_like(variance)
        unit.select(CHANNEL_AXIS, channel).copy_(variance.select(CHANNEL_AXIS, channel))
        columns.append(posterior_response(outputs, sigma, unit).unbind(CHANNEL_AXIS))
    return columns


def _add_diagonal(matrix: SymmetricMatrix, diagonal: Tensor) -> SymmetricMatrix:
    """`matrix + diag(diagonal)`; `diagonal` has one or three channels on `CHANNEL_AXIS`."""
    if diagonal.shape[CHANNEL_AXIS] == 1:
        d0 = d1 = d2 = diagonal.squeeze(CHANNEL_AXIS)
    else:
        d0, d1, d2 = diagonal.unbind(CHANNEL_AXIS)
    return matrix._replace(m00=matrix.m00 + d0, m11=matrix.m11 + d1, m22=matrix.m22 + d2)


def _factor(matrix: SymmetricMatrix) -> _Factored:
    d0 = matrix.m00
    l10 = matrix.m01 / d0
    l20 = matrix.m02 / d0
    d1 = matrix.m11 - l10 * matrix.m01
    l21 = (matrix.m12 - l20 * matrix.m01) / d1
    d2 = matrix.m22 - l20 * matrix.m02 - l21 * l21 * d1
    return _Factored(d0, d1, d2, l10, l20, l21)
