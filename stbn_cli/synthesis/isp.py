"""What a camera makes of a scene: a mosaic with noise, demosaicing, tone curve, sharpening, scaling.

Its noise is neither white nor independent of the picture: demosaicing spreads it over neighbours and channels, gamma
lifts it in the shadows, sharpening gives it an edge. Film grain, which is noise of some size, stands beside it.
Computed on the frames' device.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.sensor import rounded

GAMMA = 2.2
KERNEL_STDS = 3.0  # a Gaussian kernel's radius, in standard deviations
# Malvar, He and Cutler (ICASSP 2004), figure 2: gradient-corrected bilinear interpolation. Divided by 8.
_GREEN = ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0))
_ROW = ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0))
_COLUMN = tuple(zip(*_ROW, strict=True))
_CORNER = ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0))


@dataclass(frozen=True, slots=True)
class CameraPipeline:
    """A camera; all numbers are on the linear [0, 1] scale, or in pixels of what it delivers."""

    shot: float  # variance per unit of light
    read: float  # standard deviation
    gains: tuple[float, float] = (2.0, 1.7)  # white balance of red and blue, at least 1
    shift: tuple[int, int] = (0, 0)  # where red lies in the 2x2 cell
    corrected: bool = True  # demosaicing with gradient correction, or bilinear
    smoothing: float = 0.0  # standard deviation of a Gaussian before the tone curve
    sharpening: float = 0.0  # amount of an unsharp mask
    sharpening_radius: float = 1.0  # its standard deviation
    scale: float = 1.0  # pixels of the sensor for one of the picture

    def deliver(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        """`clean (T, 3, H, W)` as the camera shows it, rounded to 8 bits; None as generator: without noise."""
        size = clean.shape[-2:]
        frames = clean.float()
        if self.scale != 1.0:
            # Even, for the mosaic's cells.
            sensor = [max(round(side * self.scale / 2) * 2, 8) for side in size]
            frames = F.interpolate(frames, sensor, mode="bicubic", antialias=True, align_corners=False)
        linear = frames.clamp(0.0, 1.0) ** GAMMA
        balance = linear.new_tensor((self.gains[0], 1.0, self.gains[1])).view(3, 1, 1)
        mosaic = self._mosaic(linear / balance)
        if generator is not None:
            draw = torch.randn(mosaic.shape, generator=generator, device=generator.device).to(mosaic.device)
            mosaic = mosaic + draw * (self.shot * mosaic + self.read**2).sqrt()
        # Balanced before: the interpolation takes colours for alike.
        colours = self._demosaic((mosaic * self._masks(mosaic) * balance).sum(1, keepdim=True))
        if self.smoothing:
            colours = blurred(colours, self.smoothing)
        shown = colours.clamp(0.0, 1.0) ** (1.0 / GAMMA)
        if self.sharpening:
            shown = shown + self.sharpening * (shown - blurred(shown, self.sharpening_radius))
        if self.scale != 1.0:
            shown = F.interpolate(shown, size, mode="bicubic", antialias=True, align_corners=False)
        return rounded(shown)

    def _mosaic(self, linear: Tensor) -> Tensor:
        """`(T, 1, H, W)`: of every pixel the one colour that it sees."""
        masks = self._masks(linear)
        return (linear * masks).sum(1, keepdim=True)

    def _masks(self, like: Tensor) -> Tensor:
        """`(3, H, W)`: which pixels see red, green, blue."""
        height, width = like.shape[-2:]
        rows = (torch.arange(height, device=like.device) + self.shift[0]) % 2
        columns = (torch.arange(width, device=like.device) + self.shift[1]) % 2
        red = (rows[:, None] == 0) & (columns == 0)
        blue = (rows[:, None] == 1) & (columns == 1)
        return torch.stack((red, ~(red | blue), blue)).float()

    def _demosaic(self, mosaic: Tensor) -> Tensor:
        """`(T, 1, H, W)` to `(T, 3, H, W)`."""
        red, green, blue = self._masks(mosaic)
        if not self.corrected:
            kernel = mosaic.new_tensor(((0.25, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 0.25)))
            known = torch.stack((red, green, blue))
            sums = _filtered(mosaic * known, kernel[None].expand(3, -1, -1))
            return sums / _filtered(known[None], kernel[None].expand(3, -1, -1))
        kernels = mosaic.new_tensor((_GREEN, _ROW, _COLUMN, _CORNER)) / 8.0
        cross, row, column, corner = _filtered(mosaic.expand(-1, 4, -1, -1), kernels).unbind(1)
        there = mosaic[:, 0]
        # Greens between reds have them left and right; greens between blues above and below.
        red_rows = red.amax(1, keepdim=True)
        beside = green * red_rows
        over = green * (1.0 - red_rows)
        return torch.stack(
            (
                red * there + beside * row + over * column + blue * corner,
                green * there + (1.0 - green) * cross,
                blue * there + beside * column + over * row + red * corner,
            ),
            1,
        )


@dataclass(frozen=True, slots=True)
class Grain:
    """Noise of variance `model` whose grains have a size: white noise blurred by a Gaussian of `size` pixels.

    `shared`: part of the variance that all channels have in common, as black and white film has.
    """

    model: NoiseLevelFunction
    size: float
    shared: float = 0.0

    def add_to(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """`clean (T, 3, H, W)`, nominal [0, 1], with grain, rounded to 8 bits."""
        shape = list(clean.shape)
        own = torch.randn(shape, generator=generator, device=generator.device)
        shape[1] = 1
        common = torch.randn(shape, generator=generator, device=generator.device)
        draw = (self.shared**0.5 * common + (1.0 - self.shared) ** 0.5 * own).to(clean.device)
        if self.size > 0.0:
            kernel = gaussian(self.size, draw)
            draw = blurred(draw, self.size) / kernel.square().sum()  # of both directions
        return rounded(clean.float() + draw * self.model.sigma_at(clean))


def draw_pipeline(random: np.random.Generator, sigma: float) -> CameraPipeline:
    """A random camera whose noise has a standard deviation of about `sigma` ([0, 1] scale) in a picture's middle tones.

    Without smoothing and sharpening; demosaicing leaves about 0.8 of the standard deviation, gains add to it.
    """
    gains = float(random.uniform(1.2, 2.4)), float(random.uniform(1.2, 2.2))
    light = 0.5**GAMMA
    slope = GAMMA * light / 0.5  # of the inverse tone curve
    share = random.uniform(0.2, 1.0)
    variance = (sigma * slope / 1.3) ** 2
    pipeline = CameraPipeline(
        shot=share * variance / light,
        read=float(np.sqrt((1.0 - share) * variance)),
        gains=gains,
        shift=(int(random.integers(2)), int(random.integers(2))),
        corrected=bool(random.random() < 0.7),
    )
    if random.random() < 0.5:
        pipeline = replace(pipeline, smoothing=float(random.uniform(0.3, 0.8)))
    if random.random() < 0.6:
        radius = float(random.uniform(0.6, 1.5))
        pipeline = replace(pipeline, sharpening=float(random.uniform(0.2, 1.2)), sharpening_radius=radius)
    if random.random() < 0.35:
        pipeline = replace(pipeline, scale=float(np.exp(random.uniform(np.log(0.6), np.log(1.8)))))
    return pipeline


def draw_grain(random: np.random.Generator, model: NoiseLevelFunction) -> Grain:
    """Grain of a random size."""
    shared = float(random.random()) if random.random() < 0.6 else 1.0
    return Grain(model, float(random.uniform(0.3, 1.4)), shared)


def gaussian(std: float, like: Tensor) -> Tensor:
    """A Gaussian's weights, of sum 1."""
    radius = max(1, round(KERNEL_STDS * std))
    offsets = torch.arange(-radius, radius + 1, device=like.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / std).square())
    return weights / weights.sum()


def blurred(frames: Tensor, std: float) -> Tensor:
    """`frames (T, C, H, W)` blurred by a Gaussian; mirrored at the border."""
    kernel = gaussian(std, frames)
    channels, radius = frames.shape[1], len(kernel) // 2
    padded = F.pad(frames, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)


def _filtered(planes: Tensor, kernels: Tensor) -> Tensor:
    """Every plane of `(T, C, H, W)` by its own kernel `(C, k, k)`, mirrored at the border."""
    radius = kernels.shape[-1] // 2
    padded = F.pad(planes, (radius,) * 4, mode="reflect")
    return F.conv2d(padded, kernels[:, None], groups=planes.shape[1])
