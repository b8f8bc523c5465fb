"""Backward warps: by nearest neighbour for networks with a blind spot, bilinear for all else.

Bilinear sampling would mix the noise of neighbouring pixels and break the independence that blind-spot training
needs (STBN paper, figures 4 and 7), so nearest neighbour is not a shortcut here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.models.fused import is_inference, runs_kernels

# From so many channels on, gathering whole pixels on a CPU is faster than `grid_sample`: eight times with 32.
GATHERED_CHANNELS = 8


def warp_nearest(features: Tensor, flow: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """Sample `features (N, C, H, W)` at `(column + flow_x, row + flow_y)`; zeros outside the picture.

    `flow` is `(N, 2, h, w)` in pixels, (dx, dy), float32: of the whole picture, or of the part of it whose first
    pixel is `(top, left)`. Halves round to even, and a position belongs to the picture while it rounds to a pixel in
    it: both as `torch.nn.functional.grid_sample` in nearest mode has it. Returns `(N, C, h, w)` in the dtype of
    `features`, channels last in memory.
    """
    batch, channels, height, width = features.shape
    part_height, part_width = flow.shape[-2:]
    if flow.shape[:2] != (batch, 2) or top + part_height > height or left + part_width > width:
        raise ValueError(
            f"expected flow of shape {(batch, 2, height, width)} or a part of it, got {tuple(flow.shape)}"
        )
    if runs_kernels(features):
        from stbn_cli.models.kernels import warp

        return warp.warp_nearest(features, flow, top, left)
    rows, columns = _sample_positions(flow, top, left, height, width)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    # NaN compares false everywhere, so a broken flow reads zeros instead of raising an index error.
    index = torch.where(inside, rows * width + columns, 0).long()  # (N, H, W)
    pixels = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    offsets = torch.arange(batch, device=flow.device).view(batch, 1, 1) * (height * width)
    gathered = pixels.reshape(-1, channels).index_select(0, (index + offsets).reshape(-1))
    if gathered.device.type == "cpu":
        # Few pixels come from outside: those alone are written.
        gathered.index_fill_(0, (~inside).reshape(-1).nonzero().reshape(-1), 0)
    else:
        gathered = gathered * inside.reshape(-1, 1).to(gathered.dtype)
    return gathered.reshape(batch, part_height, part_width, channels).permute(0, 3, 1, 2)


def warp_bilinear(x: Tensor, flow: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """`x (N, C, H, W)` read at each pixel's position plus `flow (N, 2, h, w)` (dx, dy in pixels), border repeated.

    The flow is that of the part of the picture whose first pixel is `(top, left)`. Returns `(N, C, h, w)` in the dtype
    of `x`.
    """
    if x.device.type == "cpu" and x.shape[1] >= GATHERED_CHANNELS and is_inference(x):
        return _gather_bilinear(x, flow, top, left)
    warped = F.grid_sample(
        x.float(), _grid(x, flow, top, left), mode="bilinear", padding_mode="border", align_corners=True
    )
    return warped.to(x.dtype)


def warp_bicubic(x: Tensor, flow: Tensor) -> Tensor:
    """As `warp_bilinear` of whole pictures, but sharper: between pixels it blurs less."""
    grid = _grid(x, flow.float(), 0, 0)
    warped = F.grid_sample(x.float(), grid, mode="bicubic", padding_mode="border", align_corners=True)
    return warped.to(x.dtype)


def _grid(x: Tensor, flow: Tensor, top: int, left: int) -> Tensor:
    """Where `grid_sample` is to read `x` for each pixel of `flow`, (N, h, w, 2)."""
    height, width = x.shape[-2:]
    rows = torch.arange(top, top + flow.shape[-2], device=x.device, dtype=torch.float32)[:, None]
    columns = torch.arange(left, left + flow.shape[-1], device=x.device, dtype=torch.float32)
    across, down = 2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)
    return torch.stack(
        (
            torch.add(columns * across - 1.0, flow[:, 0], alpha=across),
            torch.add(rows * down - 1.0, flow[:, 1], alpha=down),
        ),
        -1,
    )


def _gather_bilinear(x: Tensor, flow: Tensor, top: int, left: int) -> Tensor:
    """`warp_bilinear` as weighted sums of four whole pixels each, channels last in memory."""
    batch, channels, height, width = x.shape
    part_height, part_width = flow.shape[-2:]
    rows = torch.arange(top, top + part_height, dtype=torch.float32)[:, None]
    columns = torch.arange(left, left + part_width, dtype=torch.float32)
    # A flow that is no number has to read something.
    row = (flow[:, 1] + rows).nan_to_num_(0.0).clamp_(0, height - 1)
    column = (flow[:, 0] + columns).nan_to_num_(0.0).clamp_(0, width - 1)
    above, before = row.floor(), column.floor()
    down, across = row.sub_(above), column.sub_(before)
    first = above.long().mul_(width).add_(before.long())
    if batch > 1:
        first += torch.arange(batch).view(-1, 1, 1) * (height * width)
    # Where there is no pixel below or behind, its weight is zero.
    below = torch.where(above < height - 1, width, 0)
    behind = (before < width - 1).long()
    weights = torch.empty(*first.shape, 4)
    torch.mul(1.0 - down, 1.0 - across, out=weights[..., 0])
    torch.mul(1.0 - down, across, out=weights[..., 1])
    torch.mul(down, 1.0 - across, out=weights[..., 2])
    torch.mul(down, across, out=weights[..., 3])
    places = torch.empty(*first.shape, 4, dtype=torch.long)
    places[..., 0] = first
    torch.add(first, behind, out=places[..., 1])
    torch.add(first, below, out=places[..., 2])
    torch.add(places[..., 2], behind, out=places[..., 3])
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    sums = F.embedding_bag(
        places.view(-1, 4), pixels, per_sample_weights=weights.to(x.dtype).view(-1, 4), mode="sum"
    )
    return sums.view(batch, part_height, part_width, channels).permute(0, 3, 1, 2)


def _sample_positions(flow: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rounded sampling rows and columns, `(N, h, w)` each, still floating point."""
    flow = flow.float()
    part_height, part_width = flow.shape[-2:]
    columns = torch.arange(left, left + part_width, device=flow.device, dtype=torch.float32) + flow[:, 0]
    rows = torch.arange(top, top + part_height, device=flow.device, dtype=torch.float32)
    return (
        _round_as_grid_sample(rows.view(-1, 1) + flow[:, 1], height),
        _round_as_grid_sample(columns, width),
    )


def _round_as_grid_sample(position: Tensor, size: int) -> Tensor:
    """Round a position in pixels after the detour through [-1, 1] that `grid_sample` (align_corners=True) takes.

    The detour costs a few units in the last place, which decides where a position halfway between two pixels goes:
    equality with the reference for such flows needs the same detour.
    """
    span = max(size - 1, 1)
    normalised = 2.0 * position / span - 1.0
    return ((normalised + 1.0) / 2.0 * span).round()
