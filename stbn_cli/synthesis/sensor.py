"""Noise that is independent from pixel to pixel, its variance a function of brightness and channel.

Poisson-Gaussian noise: photons arrive at random, so that the variance of a sensor's values is linear in the light, over
a constant part from its electronics (Foi et al., IEEE Transactions on Image Processing 2008).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.model import CHANNELS, NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE

MIDDLE = 0.5  # the brightness at which a drawn level holds
ROUNDING_VARIANCE = 1 / 12  # of rounding to whole steps, in steps squared
# Of the drawn noise: every channel's share of shot noise, how much channels differ, how often there is a limit.
CHANNEL_SPREAD = 0.35  # standard deviation of the logarithm
EQUAL_CHANNELS_SHARE = 0.4
WHITE_SHARE = 0.25
CLIPPED_SHARE = 0.7  # of the draws, clipped to [0, 1] and rounded to 8 bits


@dataclass(frozen=True, slots=True)
class SensorNoise:
    """Gaussian noise of variance `model`; `clipped`: to [0, 1], and rounded to 8 bits."""

    model: NoiseLevelFunction
    clipped: bool = False

    def add_to(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """`clean (T, 3, H, W)`, nominal [0, 1], with noise; float32."""
        draw = torch.randn(clean.shape, generator=generator, device=generator.device).to(clean.device)
        noisy = clean.float() + draw * self.model.sigma_at(clean)
        return rounded(noisy) if self.clipped else noisy


def poisson_gaussian(
    shot: tuple[float, ...] | float, read: tuple[float, ...] | float, *, clipped: bool = False
) -> SensorNoise:
    """Noise of variance `shot * x + read ** 2` on the [0, 1] scale; one number for all channels, or three.

    `clipped` as in `SensorNoise`; the variance of rounding counts as part of the noise then.
    """
    shots, reads = (np.atleast_1d(np.asarray(part, dtype=float)) for part in (shot, read))
    rounding = ROUNDING_VARIANCE / BYTE_SCALE**2 if clipped else 0.0
    rows = np.broadcast_arrays(shots, reads)
    variances = tuple((b * b + rounding, a + b * b + rounding) for a, b in zip(*rows, strict=True))
    return SensorNoise(NoiseLevelFunction(variances), clipped)


def draw_sensor_noise(random: np.random.Generator, sigma: float) -> SensorNoise:
    """Random noise whose standard deviation is `sigma` ([0, 1] scale) at middle brightness, in channels on average."""
    equal = random.random() < EQUAL_CHANNELS_SHARE
    gains = np.exp(random.normal(0.0, CHANNEL_SPREAD, 1 if equal else CHANNELS))
    gains /= np.sqrt(np.square(gains).mean())
    share = 0.0 if random.random() < WHITE_SHARE else random.uniform(0.1, 1.0)
    variance = np.square(sigma * gains)
    return poisson_gaussian(
        tuple(share * variance / MIDDLE),
        tuple(np.sqrt((1.0 - share) * variance)),
        clipped=bool(random.random() < CLIPPED_SHARE),
    )


def rounded(frames: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to 8 bits."""
    return (frames * BYTE_SCALE).round().clamp(0.0, BYTE_SCALE) / BYTE_SCALE
