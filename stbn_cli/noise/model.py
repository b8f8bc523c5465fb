"""The noise of a clip: independent from pixel to pixel, its variance a function of brightness in each channel.

A camera's noise is the sum of a constant part and of shot noise, whose variance grows with the light; gamma curves bend
that. Here the variance is linear between a few knots of brightness, which holds white noise, Poisson-Gaussian noise and
what a tone curve makes of it. Knows nothing of video files, motion or networks.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

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
    # What was measured, which users are shown: networks may be conditioned on less or more. None: `level` itself.
    measured: float | None = None
    # Standard deviation of luma and of colour noise ([0, 1]) at evenly spaced brightness, for networks that take both.
    levels: tuple[tuple[float, ...], ...] | None = None
    clipping: Clipping = UNCLIPPED
    # Standard deviation of the logarithm of `levels` over the true ones; several passes allow for it.
    level_error: float = 0.0

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
    """The noise that a model was finetuned for: what its posterior uses, and what its network is conditioned on."""

    model: NoiseLevelFunction
    conditioning_sigma: float  # [0, 1]
    levels: tuple[tuple[float, ...], ...] | None = (
        None  # as those of `SceneNoise`; networks that take them get these
    )

    def describe(self) -> dict[str, Any]:
        """As plain values, for a checkpoint's header; `from_description` undoes it."""
        described = {**self.model.describe(), "conditioning_sigma": self.conditioning_sigma}
        return (
            described if self.levels is None else {**described, "levels": [list(row) for row in self.levels]}
        )

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """Raises `ValueError`, `KeyError` or `TypeError` if it is not what `describe` gives."""
        # The key's name in files of earlier versions.
        sigma = float(description["conditioning_sigma" if "conditioning_sigma" in description else "told"])
        if not 0.0 <= sigma <= 1.0:
            raise ValueError(f"expected a conditioning level within 0 to 1, got {sigma}")
        levels = None
        if description.get("levels") is not None:
            levels = tuple(tuple(float(value) for value in row) for row in description["levels"])
            if len(levels) != 2 or len({len(row) for row in levels}) != 1 or not levels[0]:
                raise ValueError(f"expected two rows of levels, got {levels}")
            if not all(0.0 <= value < math.inf for row in levels for value in row):
                raise ValueError(f"expected finite levels of at least 0, got {levels}")
        return cls(NoiseLevelFunction.from_description(description), sigma, levels)
