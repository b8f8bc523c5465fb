"""Raw sequences made of clips for the eye: tone curve, white balance and colour mixing undone, a mosaic, its noise."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.luma import luma_of
from stbn_cli.raw.bayer import pack
from stbn_cli.raw.noise import CRVD_NOISE, PoissonGaussian
from stbn_cli.raw.pattern import PATTERNS, BayerFormat
from stbn_cli.synthesis.isp import GAMMA

# What is drawn: sensitivities below and above the calibrated ones, and sensors better and worse than that one.
ISO_RANGE = (300.0, 51200.0)
FLOOR_SPREAD, GAIN_SPREAD = 0.6, 0.4  # standard deviation of the logarithm
RED_GAINS, BLUE_GAINS = (1.3, 2.5), (1.2, 2.3)
DARKEST, BRIGHTEST = 0.15, 1.0  # exposure: what white becomes
# Sensors see less colour than pictures show.
GREATEST_MIXING = 0.45


@dataclass(frozen=True, slots=True)
class RawCamera:
    """What a sensor makes of a scene; the defaults are a plain one."""

    gains: tuple[float, float] = (2.0, 1.7)  # white balance of red and blue
    exposure: float = 1.0  # the value of white
    mixing: float = 0.0  # part of each colour that is grey
    pattern: str = "RGGB"

    def unprocess(self, clean: Tensor) -> Tensor:
        """Clean planes `(T, 4, ceil(H / 2), ceil(W / 2))` float32, black 0, of a clip `(T, 3, H, W)` on [0, 1]."""
        linear = clean.float().clamp(0.0, 1.0) ** GAMMA
        linear = torch.lerp(linear, luma_of(linear).expand_as(linear), self.mixing)
        balance = linear.new_tensor((1.0 / self.gains[0], 1.0, 1.0 / self.gains[1])).view(3, 1, 1)
        colours = linear * balance * self.exposure
        bayer = BayerFormat(self.pattern, 0.0, 1.0)
        # Each pixel's own colour: red, one of two greens, blue.
        mosaic = torch.empty_like(colours[:, 0])
        for (row, column), colour in zip(bayer.places, (0, 1, 1, 2), strict=True):
            mosaic[:, row::2, column::2] = colours[:, colour, row::2, column::2]
        return torch.from_numpy(pack(mosaic.cpu().numpy(), bayer)).to(clean.device)


def noise_at(iso: float) -> PoissonGaussian:
    """The noise of CRVD's sensor at any sensitivity: straight lines between and beyond its logarithms."""
    isos = np.log([*CRVD_NOISE])
    place = int(np.clip(np.searchsorted(isos, np.log(iso)), 1, len(isos) - 1))
    share = (np.log(iso) - isos[place - 1]) / (isos[place] - isos[place - 1])
    below, above = [*CRVD_NOISE.values()][place - 1 : place + 1]
    pairs = ((below.gain, above.gain), (below.floor, above.floor))
    gain, floor = (float(low * (high / low) ** share) for low, high in pairs)
    return PoissonGaussian(gain, floor)


def draw_camera(random: np.random.Generator) -> tuple[RawCamera, PoissonGaussian]:
    """A random sensor, and its noise."""
    noise = noise_at(float(np.exp(random.uniform(*np.log(ISO_RANGE)))))
    worse = np.exp(random.normal(0.0, (GAIN_SPREAD, FLOOR_SPREAD)))
    camera = RawCamera(
        gains=(float(random.uniform(*RED_GAINS)), float(random.uniform(*BLUE_GAINS))),
        exposure=float(np.exp(random.uniform(np.log(DARKEST), np.log(BRIGHTEST)))),
        mixing=float(random.uniform(0.0, GREATEST_MIXING)),
        pattern=PATTERNS[int(random.integers(len(PATTERNS)))],
    )
    return camera, PoissonGaussian(noise.gain * float(worse[0]), noise.floor * float(worse[1]))
