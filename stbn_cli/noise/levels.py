"""How a noise level may be given, and its one way to broadcast against a clip."""

from typing import TypeAlias

import torch
from torch import Tensor

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
