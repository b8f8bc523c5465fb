"""Cost volume: how alike the features of two frames are at every small displacement.

Plain torch, differentiable, any device and dtype; knows nothing of the networks that use it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Largest displacement of PWC-Net's cost volume (Sun et al., CVPR 2018, section 3), in pixels of the level.
DEFAULT_RADIUS = 4
# Columns that one small matrix product handles. With radius 4 it forms 8 x 16 products of which 72 are used.
BAND_WIDTH = 8


def cost_volume(first: Tensor, second: Tensor, radius: int = DEFAULT_RADIUS) -> Tensor:
    """Mean over channels of the product of `first` and shifted `second`; zeros outside the frame.

    `out[:, (dy + radius) * (2 * radius + 1) + dx + radius, row, col]` is the mean over c of
    `first[:, c, row, col] * second[:, c, row + dy, col + dx]`.

    Args:
        first: (N, C, H, W) float features.
        second: (N, C, H, W), same dtype and device.
        radius: largest displacement in pixels, >= 1.

    Returns:
        (N, (2 * radius + 1) ** 2, H, W), channels-last in memory, dtype of the inputs.

    Raises:
        ValueError: shapes differ or are not four-dimensional.
    """
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(
            f"expected two (N, C, H, W) tensors, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return _CostVolume.apply(first, second, radius)  # type: ignore[no-any-return]


class _CostVolume(torch.autograd.Function):
    """A row's products with the row dy below are a band of the matrix `first_row @ second_row^T`.

    Cut into tiles of BAND_WIDTH columns, little of each product lies outside the band. The gradient is written out
    because autograd fills and copies whole tensors for every view: that was half the time of a training step.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, radius: int) -> Tensor:
        rows, windows = _rows(first), _windows(second, radius)
        ctx.save_for_backward(first, second)
        ctx.radius = radius
        height, width = first.shape[-2:]
        diameter = 2 * radius + 1
        volume = [
            _band(rows @ windows[:, dy : dy + height], diameter).flatten(2, 3)[:, :, :width]
            for dy in range(diameter)
        ]
        return torch.cat(volume, dim=-1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        first, second = ctx.saved_tensors
        rows, windows = _rows(first), _windows(second, ctx.radius)
        batch, channels, height, width = first.shape
        diameter, tiles = 2 * ctx.radius + 1, rows.shape[2]
        surplus = tiles * BAND_WIDTH - width
        volume = F.pad(gradients[0].permute(0, 2, 3, 1), (0, 0, 0, surplus))
        volume = volume.reshape(batch, height, tiles, BAND_WIDTH, diameter**2).to(rows.dtype)
        products = rows.new_zeros(batch, height, tiles, BAND_WIDTH, BAND_WIDTH + 2 * ctx.radius)
        # Half precision would lose the smaller terms of the sums.
        sums = torch.promote_types(rows.dtype, torch.float32)
        of_rows = rows.new_zeros(rows.shape, dtype=sums)
        of_windows = rows.new_zeros(windows.shape, dtype=sums)
        for dy in range(diameter):
            _band(products, diameter).copy_(volume[..., dy * diameter : (dy + 1) * diameter])
            of_rows += products @ windows[:, dy : dy + height].transpose(-1, -2)
            of_windows[:, dy : dy + height] += rows.transpose(-1, -2) @ products
        of_first = of_rows.flatten(2, 3)[:, :, :width].permute(0, 3, 1, 2) / channels
        # Neighbouring windows overlap: every column collects from all windows that hold it.
        offsets = torch.arange(tiles, device=first.device)[:, None] * BAND_WIDTH
        columns = (offsets + torch.arange(windows.shape[-1], device=first.device)).flatten()
        sides = (height + 2 * ctx.radius, width + surplus + 2 * ctx.radius)
        padded = rows.new_zeros(batch, *sides, channels, dtype=sums)
        padded.index_add_(2, columns, of_windows.transpose(-1, -2).flatten(2, 3))
        end = (height + ctx.radius, width + ctx.radius)
        of_second = padded[:, ctx.radius : end[0], ctx.radius : end[1]].permute(0, 3, 1, 2)
        return of_first.to(first.dtype), of_second.to(second.dtype), None


def _rows(first: Tensor) -> Tensor:
    """(N, H, tiles, BAND_WIDTH, C), divided by the number of channels."""
    batch, channels, height, width = first.shape
    surplus = -width % BAND_WIDTH
    rows = F.pad(first / channels, (0, surplus)).permute(0, 2, 3, 1)
    return rows.reshape(batch, height, -1, BAND_WIDTH, channels)


def _windows(second: Tensor, radius: int) -> Tensor:
    """(N, H + 2 radius, tiles, C, BAND_WIDTH + 2 radius), a view until a row is multiplied."""
    surplus = -second.shape[-1] % BAND_WIDTH
    padded = F.pad(second, (radius, radius + surplus, radius, radius)).permute(0, 2, 3, 1)
    return padded.contiguous().unfold(2, BAND_WIDTH + 2 * radius, BAND_WIDTH)


def _band(products: Tensor, diameter: int) -> Tensor:
    """Elements (i, i + d), 0 <= d < diameter, of the last two dimensions: (..., i, j) -> (..., i, d), a view."""
    *outer, row_stride, column_stride = products.stride()
    return products.as_strided(
        (*products.shape[:-1], diameter), (*outer, row_stride + column_stride, column_stride)
    )
