"""Gaussian blind-spot head: its likelihood, its posterior and their algebra, always in float32.

The network gives each pixel a Gaussian prior on the clean colour: a mean `mu` and a factor `A` of the
covariance `S = A^T A` (STBN paper, equations 4 to 6; after Laine et al., NeurIPS 2019). With noise variance
`v` per channel the noisy colour is distributed as `N(mu, S + diag(v))`. A colour has C channels: 3 of RGB, or the 4
planes of a Bayer mosaic.

Such a small symmetric positive definite matrix is factored entry by entry (LDL^T, without pivoting, which needs none),
so no general inverse, no batch of little matrices and no half precision is involved.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from stbn_cli.models.config import gaussian_channels

CHANNEL_AXIS = -3

# Added to the noise variance in the likelihood and the posterior, and to the prior's diagonal in the posterior:
# the constant of the reference implementation, on the [0, 1] scale squared.
VARIANCE_FLOOR = 1e-5


class SymmetricMatrix(NamedTuple):
    """The different entries of symmetric C x C matrices, one tensor each: row i from the diagonal on."""

    rows: tuple[tuple[Tensor, ...], ...]

    def at(self, row: int, column: int) -> Tensor:
        """One entry."""
        first, second = sorted((row, column))
        return self.rows[first][second - first]

    @property
    def diagonal(self) -> tuple[Tensor, ...]:
        """The diagonal's entries."""
        return tuple(row[0] for row in self.rows)


class _Factored(NamedTuple):
    """`M = L diag(d) L^T` with unit lower triangular L; `lower[i][j]` is L's entry at row i, column j < i."""

    pivots: tuple[Tensor, ...]
    lower: tuple[tuple[Tensor, ...], ...]

    def solve(self, rhs: Tensor) -> Tensor:
        """`M^-1 rhs`; `rhs` and the result have the channels on `CHANNEL_AXIS`."""
        parts: list[Tensor] = []
        for row, part in zip(self.lower, rhs.unbind(CHANNEL_AXIS), strict=True):
            for factor, before in zip(row, parts, strict=True):
                part = part - factor * before
            parts.append(part)
        for row in reversed(range(len(parts))):
            part = parts[row] / self.pivots[row]
            for below in range(row + 1, len(parts)):
                part = part - self.lower[below][row] * parts[below]
            parts[row] = part
        return torch.stack(parts, CHANNEL_AXIS)

    def log_determinant(self) -> Tensor:
        total = self.pivots[0].log()
        for pivot in self.pivots[1:]:
            total = total + pivot.log()
        return total


def colours_of(outputs: Tensor) -> int:
    """The channels C of a colour from head outputs `(..., C (C + 3) / 2, H, W)`. Raises `ValueError` for others."""
    count = outputs.shape[CHANNEL_AXIS]
    colours = (math.isqrt(9 + 8 * count) - 3) // 2
    if colours < 1 or gaussian_channels(colours) != count:
        raise ValueError(f"expected C (C + 3) / 2 output channels, such as 9 for RGB, got {count}")
    return colours


def factor_rows(outputs: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows of the factor `A` of head outputs, float32, without the zeros behind them.

    It is filled by anti-diagonals: for RGB rows `(a0, a1, a2)`, `(a3, a4, 0)`, `(a5, 0, 0)`.
    """
    colours = colours_of(outputs)
    entries = iter(outputs.float().unbind(CHANNEL_AXIS)[colours:])
    return [tuple(next(entries) for _ in range(colours - row)) for row in range(colours)]


def split_head(outputs: Tensor) -> tuple[Tensor, SymmetricMatrix]:
    """Mean `(..., C, H, W)` and covariance `S = A^T A` of head outputs `(..., C (C + 3) / 2, H, W)`, in float32."""
    factor = factor_rows(outputs)
    colours = len(factor)
    rows = []
    for first in range(colours):
        row = []
        for second in range(first, colours):
            products = [part[first] * part[second] for part in factor[: colours - second]]
            row.append(sum(products[1:], products[0]))
        rows.append(tuple(row))
    return outputs.narrow(CHANNEL_AXIS, 0, colours).float(), SymmetricMatrix(tuple(rows))


def gaussian_nll(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Negative log likelihood of the noisy colours, without the constant `C / 2 log(2 pi)`.

    `outputs (..., C (C + 3) / 2, H, W)`, `noisy (..., C, H, W)`; `sigma` broadcasts to `noisy` (standard deviation,
    [0, 1] scale). Returns `(..., H, W)` float32; the training loss is its mean.
    """
    mean, covariance = split_head(outputs)
    variance = sigma.float().square() + VARIANCE_FLOOR
    factored = _factor(_add_diagonal(covariance, variance))
    error = noisy.float() - mean
    return 0.5 * (error * factored.solve(error)).sum(CHANNEL_AXIS) + 0.5 * factored.log_determinant()


def posterior_mean(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Final estimate: the prior of the head fused with the noisy pixel itself, `(..., C, H, W)` float32.

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
    """By how much `posterior_mean` changes if the noisy pixel changes by `change (..., C, H, W)`; float32, likewise.

    It is linear: `(I - V (S' + V)^-1) change`. With a column of V for the change, a column of the posterior covariance.
    """
    _, covariance = split_head(outputs)
    variance = sigma.float().square() + VARIANCE_FLOOR
    factored = _factor(_add_diagonal(covariance, variance + VARIANCE_FLOOR))
    return change - variance * factored.solve(change)


def posterior_variance(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Diagonal of the posterior covariance `V - V (S' + V)^-1 V`, `(..., C, H, W)` float32, [0, 1] scale squared.

    The expected squared error of `posterior_mean` per channel, as far as the model is right. `noisy` gives the
    shape alone: a Gaussian posterior's covariance does not depend on the value seen.
    """
    columns = _covariance_columns(outputs, sigma, noisy)
    return torch.stack([column[row] for row, column in enumerate(columns)], CHANNEL_AXIS).clamp_min(0.0)


def posterior_nll(outputs: Tensor, noisy: Tensor, sigma: Tensor, clean: Tensor) -> Tensor:
    """Negative log likelihood `(..., H, W)` of the clean colours under the posterior, without `C / 2 log(2 pi)`.

    float32; shapes as in `gaussian_nll`, `clean` as `noisy`. For networks that learn from clean frames: whatever they
    predict, the estimate that is used is the one that is judged.
    """
    estimate = posterior_mean(outputs, noisy, sigma)
    columns = _covariance_columns(outputs, sigma, estimate)
    # Rounding may leave a hair less than nothing where noise of thousands of floors meets a certain prior.
    covariance = _add_diagonal(
        SymmetricMatrix(tuple(column[row:] for row, column in enumerate(columns))),
        torch.full_like(estimate, 0.1 * VARIANCE_FLOOR),
    )
    factored = _factor(covariance)
    error = clean.float() - estimate
    return 0.5 * (error * factored.solve(error)).sum(CHANNEL_AXIS) + 0.5 * factored.log_determinant()


def _covariance_columns(outputs: Tensor, sigma: Tensor, like: Tensor) -> list[tuple[Tensor, ...]]:
    """The posterior covariance of pixels of the shape of `like (..., C, H, W)`: column by column, row by row."""
    variance = (sigma.float().square() + VARIANCE_FLOOR).expand_as(like)
    columns = []
    for channel in range(like.shape[CHANNEL_AXIS]):
        unit = torch.zeros_like(variance)
        unit.select(CHANNEL_AXIS, channel).copy_(variance.select(CHANNEL_AXIS, channel))
        columns.append(posterior_response(outputs, sigma, unit).unbind(CHANNEL_AXIS))
    return columns


def _add_diagonal(matrix: SymmetricMatrix, diagonal: Tensor) -> SymmetricMatrix:
    """`matrix + diag(diagonal)`; `diagonal` has one channel or all on `CHANNEL_AXIS`."""
    parts = diagonal.expand(*diagonal.shape[:-3], len(matrix.rows), -1, -1).unbind(CHANNEL_AXIS)
    return SymmetricMatrix(
        tuple((row[0] + part, *row[1:]) for row, part in zip(matrix.rows, parts, strict=True))
    )


def _factor(matrix: SymmetricMatrix) -> _Factored:
    size = len(matrix.rows)
    pivots: list[Tensor] = []
    lower: list[list[Tensor]] = [[] for _ in range(size)]
    for column in range(size):
        # Of the part that the columns before have left: this column times its pivot.
        scaled = [lower[column][k] * pivots[k] for k in range(column)]
        for row in range(column, size):
            entry = matrix.at(row, column)
            for k in range(column):
                entry = entry - lower[row][k] * scaled[k]
            if row == column:
                pivots.append(entry)
            else:
                lower[row].append(entry / pivots[column])
    return _Factored(tuple(pivots), tuple(tuple(row) for row in lower))
