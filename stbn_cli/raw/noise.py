"""Noise of raw values: Poisson-Gaussian, and the transform after which it is white.

Values are as packed (`raw.bayer.pack`): black 0, white 1. Photons make the variance grow with the value, reading makes
a part that does not: `gain x + floor`.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from stbn_cli.raw.crvd import CRVD_FORMAT

Values = TypeVar("Values", np.ndarray, Tensor)

# Least gain, in units of the standard deviation at black: where there is next to none, the transform is a line.
LEAST_GAIN = 1e-6
# Of float32 values that a camera with a linear response can tell apart: less noise than this is none.
LEAST_FLOOR = 1e-12

# Above, nothing can be seen.
LARGEST_GAIN, LARGEST_FLOOR = 0.5, 0.25

# Gain and floor of CRVD's sensor in its 12-bit values, black 240, by ISO (Yue et al., CVPR 2020, section 3.1).
CRVD_VALUES = {
    1600: (3.513262, 11.917691),
    3200: (6.955588, 38.117816),
    6400: (13.486051, 130.818508),
    12800: (26.585953, 484.539790),
    25600: (52.032536, 1819.818657),
}
CRVD_RANGE = CRVD_FORMAT.white - CRVD_FORMAT.blacks[0]


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """Variance `gain x + floor` of a value x. Raises `ValueError` for what no sensor has."""

    gain: float
    floor: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.gain <= LARGEST_GAIN and 0.0 <= self.floor <= LARGEST_FLOOR):
            raise ValueError(
                f"expected noise with a gain of 0 to {LARGEST_GAIN} and a floor of 0 to {LARGEST_FLOOR} where white is "
                f"1, got {self.gain:.3g} and {self.floor:.3g}"
            )

    @classmethod
    def of_values(cls, gain: float, floor: float, span: float) -> "PoissonGaussian":
        """From the variance in a camera's own values; `span`: white minus black."""
        return cls(gain / span, floor / span**2)

    def in_values(self, span: float) -> tuple[float, float]:
        """Gain and floor of the variance in a camera's own values."""
        return self.gain * span, self.floor * span**2

    def deviation(self, values: Values) -> Values:
        """Standard deviation of the noise of clean values of any shape; below black it is that of black."""
        if isinstance(values, Tensor):
            return (self.gain * values.clamp_min(0.0) + self.floor).sqrt()
        return np.sqrt(self.gain * np.maximum(values, 0.0) + self.floor)

    @property
    def stabiliser(self) -> "Stabiliser":
        """The transform that makes this noise white."""
        return Stabiliser(self)


class Stabiliser:
    """The generalised Anscombe transform, scaled so that 0 stays 0 and 1 stays 1 (Starck, Murtagh and Bijaoui, 1998).

    After it, noise has the standard deviation `sigma` at every value, and tones are spread much as in a picture for
    the eye. Below black it goes on in a straight line, so that noise there comes back as it was. Written without
    differences of large numbers: it becomes the identity as the gain goes to 0.
    """

    def __init__(self, noise: PoissonGaussian) -> None:
        floor = max(noise.floor, LEAST_FLOOR)
        self._gain = gain = max(noise.gain, LEAST_GAIN * math.sqrt(floor))
        self._offset = 0.375 * gain + floor / gain
        self._low, self._high = math.sqrt(self._offset), math.sqrt(self._offset + 1.0)
        self._shot = floor / gain**2
        self.sigma = 0.5 * math.sqrt(gain) * (self._low + self._high)

    def forward(self, values: Values) -> Values:
        """Values as they are after the transform, same shape and type."""
        if isinstance(values, Tensor):
            root = (values.clamp_min(0.0) + self._offset).sqrt()
        else:
            root = np.sqrt(np.maximum(values, 0.0) + self._offset)
        return values * ((self._high + self._low) / (root + self._low))

    def inverse(self, values: Values) -> Values:
        """The values that `forward` takes to these: right for estimates of transformed clean values."""
        distance = values / (self._high + self._low)
        above = distance.clamp_min(0.0) if isinstance(distance, Tensor) else np.maximum(distance, 0.0)
        return distance * (above + 2.0 * self._low)

    def unbiased_inverse(self, values: Values) -> Values:
        """The clean values whose noisy ones have these means after the transform: right for estimates of such means.

        In closed form, after Mäkitalo and Foi, IEEE Transactions on Image Processing 22(1), 2013, equation 10.
        """
        step = 2.0 / math.sqrt(self._gain)
        root = step * (self._low + values / (self._high + self._low))  # the transform without its scale
        root = root.clamp_min(1.0) if isinstance(root, Tensor) else np.maximum(root, 1.0)
        ratio = math.sqrt(1.5)
        photons = (
            root**2 / 4.0
            + 0.25 * ratio / root
            - 1.375 / root**2
            + 0.625 * ratio / root**3
            - 0.125
            - self._shot
        )
        return photons * self._gain


CRVD_NOISE = {iso: PoissonGaussian.of_values(*values, CRVD_RANGE) for iso, values in CRVD_VALUES.items()}


def gain_for(floor: float) -> float:
    """The gain of CRVD's sensor at the sensitivity where its floor is this; between and beyond by the logarithms."""
    known = sorted((noise.floor, noise.gain) for noise in CRVD_NOISE.values())
    floors, gains = (np.log(column) for column in zip(*known, strict=True))
    slope, offset = np.polyfit(floors, gains, 1)
    return float(np.exp(slope * np.log(max(floor, LEAST_FLOOR)) + offset))


def add_noise(clean: Tensor, noise: PoissonGaussian, generator: torch.Generator) -> Tensor:
    """`clean`, float32 of any shape, with this noise: photons counted, then read."""
    read = torch.randn(clean.shape, generator=generator) * math.sqrt(noise.floor)
    if noise.gain <= 0.0:
        return clean + read
    photons = torch.poisson((clean / noise.gain).clamp_min(0.0), generator=generator)
    return photons * noise.gain + clean.clamp_max(0.0) + read
