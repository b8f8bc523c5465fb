"""Variances at a few knots of brightness, fitted to measured points or to blind-spot predictions of noisy pixels.

Knows nothing of video files or networks.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.model import CHANNELS, SMALLEST_VARIANCE, NoiseLevelFunction

# What is tried for the noise's variance, the simplest first: (whether each channel has its own, knots of brightness).
SHAPES = ((False, 1), (True, 1), (True, 2), (True, 5))
# A richer shape is taken where Schwarz's criterion prefers it and it changes the standard deviation by at least this
# part (root mean square over the pixels): how wrong the network's uncertainties are depends on brightness too.
SMALLEST_CHANGE = 0.04
# Of the pixels of about one brightness, this part with the least uncertain predictions is used: there the noise is
# nearly all that is left, whatever the network thinks of its own errors.
SUREST_PART = 0.25
BRIGHTNESS_BINS = 20
FEWEST_PIXELS = 2000
# A knot's second difference, relative to the mean variance, costs as much as this part of the pixels would lose by an
# error of the same size: nothing where there are pixels, all where there are none, so that those go on straight.
SMOOTHNESS = 1e-3
ROUNDS = 60


def knot_weights(brightness: np.ndarray, knots: int) -> np.ndarray:
    """Shares (n, knots) that evenly spaced knots on [0, 1] have in linear interpolation at `brightness` (n,)."""
    position = brightness[:, None] * (knots - 1)
    return np.clip(1.0 - np.abs(position - np.arange(knots)), 0.0, None)


def fit_points(
    shares: np.ndarray,
    target: np.ndarray,
    weights: Callable[[np.ndarray], np.ndarray],
    roughness: np.ndarray,
    *,
    linear_variance: bool,
    rounds: int = 40,
) -> np.ndarray:
    """Logarithms (knots,) of the variance at the knots, by reweighted least squares (Gauss-Newton).

    Args:
        shares: (n, knots), the `knot_weights` of the points.
        target: (n,) logarithms of the variances measured there.
        weights: of points, from what is left of them (n,).
        roughness: (knots, knots), what it costs, as a quadratic form, not to be smooth.
        linear_variance: it is the variance that is linear between knots, not its logarithm.
        rounds: at most.
    """
    row = np.full(shares.shape[1], np.quantile(target, 0.3))
    solvable = 1e-6 * len(target) * np.eye(len(row))
    for _ in range(rounds):
        if linear_variance:
            variance = np.exp(row)
            total = shares @ variance
            residual, slope = target - np.log(total), shares * variance / total[:, None]
        else:
            residual, slope = target - shares @ row, shares
        weight = weights(residual)
        matrix = slope.T @ (weight[:, None] * slope) + roughness + solvable
        step = np.linalg.solve(matrix, slope.T @ (weight * residual) - roughness @ row)
        if linear_variance:
            step = np.clip(step, -1.0, 1.0)  # further off, the exponential is another one
        row = row + step
        if np.abs(step).max() < 1e-4:
            break
    return row


def fit_level_function(
    mean: Tensor, uncertainty: Tensor, noisy: Tensor, start: NoiseLevelFunction
) -> NoiseLevelFunction:
    """The noise under which blind-spot predictions were most likely to be missed as they were, as simple as possible.

    Maximises over the surest pixels the likelihood of `noisy ~ N(mean, uncertainty + v(mean))`, the blind-spot
    likelihood's marginals, for each of SHAPES.

    Args:
        mean: (n, 3) float, predictions that did not see their own pixel, [0, 1] scale.
        uncertainty: (n, 3) float, the variances that the network gives them.
        noisy: (n, 3) float, what was there.
        start: what is believed so far; the result where the pixels do not clearly contradict it, or are fewer than
            FEWEST_PIXELS.
    """
    if len(mean) < FEWEST_PIXELS:
        return start
    surest = [_surest(mean[:, channel], uncertainty[:, channel]) for channel in range(CHANNELS)]
    channels = [
        _Pixels(
            mean[chosen, channel].double(),
            uncertainty[chosen, channel].double(),
            (noisy - mean)[chosen, channel].double().square(),
        )
        for channel, chosen in enumerate(surest)
    ]
    best, cost = start, _cost(channels, start, parameters=0)
    for own, knots in SHAPES:
        parts = channels if own else [_joined(channels)]
        model = NoiseLevelFunction(tuple(_fit_row(part, knots, best) for part in parts))
        model_cost = _cost(channels, model, parameters=len(parts) * knots)
        if model_cost < cost and _change(channels, best, model) >= SMALLEST_CHANGE:
            best, cost = model, model_cost
    return best


class _Pixels(NamedTuple):
    """The surest pixels of one channel, or of all; each (n,) double."""

    mean: Tensor
    uncertainty: Tensor
    squares: Tensor  # of what the predictions missed

    def variance(self, model: NoiseLevelFunction, channel: int) -> Tensor:
        """Of the noise, (n,)."""
        values = self.mean.float().expand(CHANNELS, len(self.mean))[..., None]
        return model.variance_at(values).expand_as(values)[channel, :, 0].double()


def _joined(channels: list[_Pixels]) -> _Pixels:
    return _Pixels(*(torch.cat(parts) for parts in zip(*channels, strict=True)))


def _surest(mean: Tensor, uncertainty: Tensor) -> Tensor:
    """Indices of the surest predictions of each brightness."""
    order = torch.argsort(mean)
    chosen = []
    bounds = np.linspace(0, len(order), BRIGHTNESS_BINS + 1).round().astype(int)
    for first, last in pairwise(bounds.tolist()):
        group = order[first:last]
        count = max(1, round(len(group) * SUREST_PART))
        chosen.append(group[torch.topk(uncertainty[group], count, largest=False).indices])
    return torch.cat(chosen)


def _cost(channels: list[_Pixels], model: NoiseLevelFunction, *, parameters: int) -> float:
    """Schwarz's criterion (Annals of Statistics 1978): the smaller the better."""
    loss, count = 0.0, 0
    for channel, pixels in enumerate(channels):
        total = (pixels.uncertainty + pixels.variance(model, channel)).clamp_min(SMALLEST_VARIANCE)
        loss += float((total.log() + pixels.squares / total).sum())
        count += len(total)
    return loss + parameters * math.log(count)


def _change(channels: list[_Pixels], before: NoiseLevelFunction, after: NoiseLevelFunction) -> float:
    """By which part the noise's standard deviation differs, root mean square over the pixels."""
    ratios = [
        (
            pixels.variance(after, channel) / pixels.variance(before, channel).clamp_min(SMALLEST_VARIANCE)
        ).sqrt()
        for channel, pixels in enumerate(channels)
    ]
    return float((torch.cat(ratios) - 1.0).square().mean().sqrt())


def _fit_row(pixels: _Pixels, knots: int, start: NoiseLevelFunction) -> tuple[float, ...]:
    """Variances at the knots by Fisher scoring."""
    mean, uncertainty, squares = pixels
    device = mean.device
    position = mean.clamp(0.0, 1.0) * (knots - 1)
    hats = (1.0 - (position[:, None] - torch.arange(knots, device=device)).abs()).clamp_min(0.0)
    bend = torch.diff(torch.eye(knots, dtype=torch.double, device=device), n=2, dim=0)
    # Of the data: a start that is far too small would make any bend cost too much.
    errors = float(squares.mean())
    scale = max(errors - float(uncertainty.mean()), 0.1 * errors, SMALLEST_VARIANCE)
    penalty = SMOOTHNESS * len(mean) / scale**2 * (bend.T @ bend)
    begin = max(float(pixels.variance(start, 0).mean()), SMALLEST_VARIANCE)
    row = torch.full((knots,), begin, dtype=torch.double, device=device)
    for _ in range(ROUNDS):
        total = (uncertainty + hats @ row).clamp_min(SMALLEST_VARIANCE)
        # Score and information of a normal variable's variance: (r^2 - t) / (2 t^2) and 1 / (2 t^2).
        weight = 0.5 / total.square()
        score = hats.T @ (weight * (squares - total)) - penalty @ row
        information = hats.T @ (weight[:, None] * hats)
        # Solvable also where knots have neither pixels nor neighbours that have.
        information += 1e-9 * information.trace() * torch.eye(knots, dtype=torch.double, device=device)
        step = torch.linalg.solve(information + penalty, score)
        row = (row + step).clamp_min(SMALLEST_VARIANCE)
        if float(step.abs().max()) < 1e-4 * scale:
            break
    return tuple(row.tolist())
