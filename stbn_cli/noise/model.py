"""The noise of a clip: independent from pixel to pixel, its variance a function of brightness in each channel.

A camera's noise is the sum of a constant part and of shot noise, whose variance grows with the light; gamma curves bend
that. Here the variance is linear between a few knots of brightness, which holds white noise, Poisson-Gaussian noise and
what a tone curve makes of it. Knows nothing of video files, motion or networks.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

CHANNELS = 3
SMALLEST_VARIANCE = 1e-8  # [0, 1] scale squared: a fortieth of an 8-bit step
# Pixels that `level` looks at: every so many rows and columns are enough for a mean over a frame.
LEVEL_STEP = 4


@dataclass(frozen=True, slots=True)
class NoiseLevelFunction:
    """Variance of the noise on the [0, 1] scale squared, linear in brightness between evenly spaced knots.

    `variances`: one row for red, green and blue each, or one for all; a row holds the variance at brightness 0, ..., 1,
    or a single value for all. Beyond 0 and 1 the outermost value holds. Raises `ValueError` for other shapes, and for
    variances that are negative or not finite.
    """

    variances: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.variances}
        if len(self.variances) not in (1, CHANNELS) or len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"expected 1 or {CHANNELS} rows of equal length, got {self.variances}")
        if not all(0.0 <= value < math.inf for row in self.variances for value in row):
            raise ValueError(f"expected finite variances of at least 0, got {self.variances}")

    @classmethod
    def white(cls, sigma: float) -> Self:
        """Noise of one standard deviation ([0, 1] scale) everywhere."""
        return cls(((sigma**2,),))

    @property
    def is_white(self) -> bool:
        """Whether brightness and channel make no difference."""
        return len({value for row in self.variances for value in row}) == 1

    def variance_at(self, brightness: Tensor) -> Tensor:
        """Variance of the noise of pixels whose clean values are `brightness (..., 3, H, W)`, [0, 1] scale.

        float32; of the shape of `brightness`, or broadcastable to it where brightness does not matter.
        """
        table = torch.tensor(self.variances, dtype=torch.float32, device=brightness.device)
        knots = table.shape[1]
        if knots == 1:
            return table.view(-1, 1, 1)
        position = brightness.float().clamp(0.0, 1.0) * (knots - 1)
        total = torch.zeros_like(position)
        for index, column in enumerate(table.unbind(1)):
            # A hat function around each knot: no gather, and no index that half a bin of rounding could push out.
            total += (1.0 - (position - index).abs()).clamp_min(0.0) * column.view(-1, 1, 1)
        return total

    def variances_at(self, brightness: np.ndarray) -> np.ndarray:
        """Variance (3, n) of red, green and blue of the clean values `brightness` (n,), [0, 1] scale."""
        rows = [
            np.interp(
                brightness, np.linspace(0.0, 1.0, max(len(row), 2)), np.broadcast_to(row, max(len(row), 2))
            )
            for row in self.variances
        ]
        return np.broadcast_to(rows, (CHANNELS, len(brightness)))

    @property
    def strongest(self) -> Self:
        """White noise that is nowhere weaker."""
        return type(self)(((max(value for row in self.variances for value in row),),))

    def scaled(self, factor: float) -> Self:
        """The same noise with `factor` times the standard deviation."""
        return type(self)(tuple(tuple(factor**2 * value for value in row) for row in self.variances))

    def sigma_at(self, brightness: Tensor) -> Tensor:
        """Square root of `variance_at`."""
        return self.variance_at(brightness).sqrt()

    def level(self, frames: Tensor) -> float:
        """Root mean square of the noise's standard deviation over frames `(..., 3, H, W)`: one number for all of them.

        The noisy values stand for the clean ones: where the variance is linear that makes no difference to the mean.
        """
        return math.sqrt(float(self.variance_at(frames[..., ::LEVEL_STEP, ::LEVEL_STEP]).mean()))

    def describe(self) -> dict[str, Any]:
        """As plain values; `from_description` undoes it."""
        return {"variances": [list(row) for row in self.variances]}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """The model that `describe` described. Raises `ValueError`, `KeyError` or `TypeError` if it is none."""
        return cls(tuple(tuple(float(value) for value in row) for row in description["variances"]))


@dataclass(frozen=True, slots=True)
class Clipping:
    """Where noise was cut off because values end at black and white.

    Standard deviations ([0, 1] scale) of red, green and blue noise near black and near white, as it was before; 0 where
    it was not cut off.
    """

    low: tuple[float, ...] = (0.0,) * CHANNELS
    high: tuple[float, ...] = (0.0,) * CHANNELS

    @property
    def any(self) -> bool:
        """Whether some was cut off."""
        return any((*self.low, *self.high))


UNCLIPPED = Clipping()


@dataclass(frozen=True, slots=True)
class SceneNoise:
    """The noise that a denoiser assumes in one scene: the variance of every value, and one number for all of it."""

    model: NoiseLevelFunction
    level: float  # root mean square of the standard deviation over the scene's frames, [0, 1]
    # What was measured, which users are shown: networks may be told less or more. None: `level` itself.
    measured: float | None = None
    # Standard deviation of luma and of colour noise ([0, 1]) at evenly spaced brightness, for networks that take both.
    levels: tuple[tuple[float, ...], ...] | None = None
    clipping: Clipping = UNCLIPPED

    @property
    def shown(self) -> float:
        """The level to show, [0, 1]."""
        return self.level if self.measured is None else self.measured

    @classmethod
    def white(cls, sigma: float) -> Self:
        """Of one standard deviation ([0, 1] scale) everywhere."""
        return cls(NoiseLevelFunction.white(sigma), sigma)


@dataclass(frozen=True, slots=True)
class LearnedNoise:
    """The noise that a model was finetuned for: what its posterior uses, and what its network is told."""

    model: NoiseLevelFunction
    told: float  # [0, 1]

    def describe(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's header; `from_description` undoes it."""
        return {**self.model.describe(), "told": self.told}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """Raises `ValueError`, `KeyError` or `TypeError` if it is not what `describe` gives."""
        told = float(description["told"])
        if not 0.0 <= told <= 1.0:
            raise ValueError(f"expected told within 0 to 1, got {told}")
        return cls(NoiseLevelFunction.from_description(description), told)


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
