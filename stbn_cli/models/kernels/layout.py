"""Memory layout that the kernels read: channels last, dense, 16-byte aligned."""

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; the widest load


def pixels_last(batch: int, channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """An uninitialised `(batch, channels, height, width)` tensor, channels last, of the type of `like`."""
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def dense(features: Tensor) -> Tensor:
    """`features (N, C, H, W)` as the kernels read them; a copy only where the layout differs."""
    pixels = features.permute(0, 2, 3, 1).contiguous()
    if pixels.data_ptr() % ALIGNMENT:
        pixels = pixels.clone()
    return pixels.permute(0, 3, 1, 2)


def dense_mask(mask: Tensor, batch: int, height: int, width: int) -> Tensor:
    """`mask (batch, 1, height, width)`, checked and dense."""
    if mask.shape != (batch, 1, height, width):
        raise ValueError(f"expected mask of shape {(batch, 1, height, width)}, got {tuple(mask.shape)}")
    return mask.contiguous()


def half_precision(dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16)
