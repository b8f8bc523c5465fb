"""How a noise level may be given, its one way to broadcast against a clip, and its map by brightness."""

import math
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.noise.luma import luma_of
from stbn_cli.noise.model import NoiseLevelFunction

# A standard deviation on the [0, 1] scale: one number; (N,) one per clip; (N, T) one per frame; or a map that
# broadcasts to the noisy clip (N, T, C, H, W).
Sigma: TypeAlias = float | Tensor


def broadcast_sigma(sigma: Sigma, noisy: Tensor) -> Tensor:
    """Sigma as a tensor with as many dimensions as `noisy (N, T, C, H, W)`, broadcastable to it, float32.

    Raises `ValueError` if the shape fits none of the allowed forms.
    """
    level = torch.as_tensor(sigma, dtype=torch.float32, device=noisy.device)
    batch, frames = noisy.shape[:2]
    if level.numel() == 1:
        return level.reshape((1,) * noisy.ndim)
    if level.shape == (batch,):
        return level.reshape(batch, 1, 1, 1, 1)
    if level.shape == (batch, frames):
        return level.reshape(batch, frames, 1, 1, 1)
    if level.ndim == noisy.ndim and all(
        size in (1, full) for size, full in zip(level.shape, noisy.shape, strict=True)
    ):
        return level
    raise ValueError(
        f"expected sigma as a number, ({batch},), ({batch}, {frames}) or broadcastable to "
        f"{tuple(noisy.shape)}, got {tuple(level.shape)}"
    )


BRIGHTNESS_WINDOW = 5  # pixels of the map over which brightness is averaged


def white_levels(sigma: float) -> Tensor:
    """`levels` of `level_map` for white noise of this standard deviation."""
    return torch.tensor(independent_levels(NoiseLevelFunction.white(sigma), 1))


def independent_levels(model: NoiseLevelFunction, knots: int) -> tuple[tuple[float, ...], ...]:
    """`levels` of `level_map` for noise that is independent in R, G and B, at this many knots of brightness."""
    variances = model.variances_at(np.linspace(0.0, 1.0, knots))
    mixed = np.stack([LUMA_WEIGHTS, [1, 0, 0], [0, 0, 1]])
    mixed[1:] -= LUMA_WEIGHTS
    luma, red, blue = np.square(mixed) @ variances
    return tuple(np.sqrt(luma).tolist()), tuple(np.sqrt((red + blue) / 2).tolist())


def uncertain_levels(levels: Tensor, error: float) -> Tensor:
    """`levels (2, K)` one standard deviation lower, for even passes, and higher, for odd ones: (4, K).

    `error`: standard deviation of the logarithm of measured levels over true ones; if 0, `levels` come back as they
    are. The two are the nodes of Gauss-Hermite quadrature: the mean over the passes is about that over all levels that
    the noise may have.
    """
    if error == 0.0:
        return levels
    return torch.cat([levels * math.exp(sign * error) for sign in (-1.0, 1.0)])


def level_map(noisy: Tensor, levels: Tensor, scale: int) -> Tensor:
    """Standard deviations `(N, R, H/scale, W/scale)` float32 of luma and colour noise in frames `noisy (N, 3, H, W)`.

    `levels (R, K)`: of luma and of colour differences (R - Y and B - Y), once or more than once, on the [0, 1] scale,
    at K evenly spaced values of brightness from 0 to 1. Brightness is that of the frames smoothed over
    `BRIGHTNESS_WINDOW` pixels of the map.
    """
    levels = levels.to(noisy.device)
    knots = levels.shape[1]
    brightness = luma_of(F.avg_pool2d(noisy.float(), scale))
    if knots == 1:
        return levels.view(1, -1, 1, 1).expand(len(noisy), -1, *brightness.shape[-2:])
    brightness = F.avg_pool2d(
        brightness, BRIGHTNESS_WINDOW, 1, BRIGHTNESS_WINDOW // 2, count_include_pad=False
    )
    position = brightness.clamp(0.0, 1.0) * (knots - 1)
    low = position.floor().clamp_max(knots - 2)
    share, index = position - low, low.long()[:, 0]
    below, above = (levels[:, at].transpose(0, 1) for at in (index, index + 1))
    return torch.lerp(below, above, share)
