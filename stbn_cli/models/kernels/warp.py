"""The nearest-neighbour warp of `stbn_cli.models.warp` in one kernel, equal to it bit for bit on the same device.

It moves `2 C` values of the state and 8 bytes of flow per pixel and is bound by memory.
"""

# What `triton.jit` makes of a function no type checker knows, and its constants are upper case.
# pyright: reportCallIssue=false

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from stbn_cli.models.kernels.layout import dense, pixels_last
from stbn_cli.models.phases import PHASES

PIXELS = 32  # of one program
CHANNELS = 64  # that one program moves at a time, at most
WARPS = 4


def warp_nearest(features: Tensor, flow: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """As `stbn_cli.models.warp.warp_nearest`: same arguments, result, memory format and errors."""
    return _warp(features, flow, top, left, phases=False)


def warp_nearest_phases(features: Tensor, flow: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """`to_phases(warp_nearest(features, flow, top, left))`: `(4 N, C, ceil(h / 2), ceil(w / 2))`."""
    return _warp(features, flow, top, left, phases=True)


def _warp(features: Tensor, flow: Tensor, top: int, left: int, *, phases: bool) -> Tensor:
    batch, channels, height, width = features.shape
    part_height, part_width = flow.shape[-2:]
    if flow.shape[:2] != (batch, 2) or top + part_height > height or left + part_width > width:
        raise ValueError(
            f"expected flow of shape {(batch, 2, height, width)} or a part of it, got {tuple(flow.shape)}"
        )
    features, flow = dense(features), flow.float().contiguous()
    if phases:
        output = pixels_last(
            PHASES * batch, channels, triton.cdiv(part_height, 2), triton.cdiv(part_width, 2), features
        )
    else:
        output = pixels_last(batch, channels, part_height, part_width, features)
    images, _, rows, columns = output.shape
    if not output.numel():
        return output
    spans = [np.float32(max(size - 1, 1)) for size in (height, width)]
    # PyTorch divides by a number on the CPU and multiplies by its rounded inverse on the GPU. That decides, like any
    # other rounding here, where a position halfway between two pixels goes.
    inverses = [np.float32(1) / span for span in spans]
    with torch.cuda.device_of(features):
        _warp_nearest[(images * triton.cdiv(rows * columns, PIXELS),)](
            features,
            flow,
            output,
            height,
            width,
            part_height,
            part_width,
            rows,
            columns,
            top,
            left,
            *(float(value) for value in (*spans, *inverses)),
            SPLIT=phases,
            DIVIDE=not features.is_cuda,
            CHANNELS=channels,
            BLOCK=min(CHANNELS, triton.next_power_of_2(channels)),
            PIXELS=PIXELS,
            num_warps=WARPS,
            enable_fp_fusion=False,  # a fused multiply-add would round once where PyTorch rounds twice
        )
    return output


@triton.jit
def _sampled(position, span, inverse, DIVIDE: tl.constexpr):
    """`_round_as_grid_sample` of stbn_cli.models.warp, operation by operation."""
    if DIVIDE:
        normalised = tl.div_rn(2.0 * position, span) - 1.0
    else:
        normalised = 2.0 * position * inverse - 1.0
    back = (normalised + 1.0) / 2.0 * span
    # Adding 1.5 * 2^23 leaves no digit for a fraction, so the addition itself rounds, halves to even. True of positions
    # below 2^22; those beyond stay beyond any picture, and NaN stays NaN.
    return (back + 12582912.0) - 12582912.0


@triton.jit(
    do_not_specialize=[
        *("height", "width", "part_height", "part_width", "rows", "columns", "top", "left"),
        *("row_span", "column_span", "row_inverse", "column_inverse"),
    ]
)
def _warp_nearest(
    features,
    flow,
    output,
    height,
    width,
    part_height,
    part_width,
    rows,
    columns,
    top,
    left,
    row_span,
    column_span,
    row_inverse,
    column_inverse,
    SPLIT: tl.constexpr,
    DIVIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """`PIXELS` consecutive pixels of one output image, all channels."""
    blocks = tl.cdiv(rows * columns, PIXELS)
    image = tl.program_id(0) // blocks
    pixel = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    row = pixel // columns
    column = pixel % columns
    batch = image
    if SPLIT:
        batch = image // 4
        row = 2 * row + image // 2 % 2
        column = 2 * column + image % 2
    wanted = (pixel < rows * columns) & (row < part_height) & (column < part_width)
    area = part_height * part_width
    flow_pixels = flow + batch.to(tl.int64) * 2 * area + row * part_width + column
    across = tl.load(flow_pixels, mask=wanted, other=0.0)
    down = tl.load(flow_pixels + area, mask=wanted, other=0.0)
    source_row = _sampled((row + top).to(tl.float32) + down, row_span, row_inverse, DIVIDE)
    source_column = _sampled((column + left).to(tl.float32) + across, column_span, column_inverse, DIVIDE)
    # A broken flow, NaN, compares false and reads nothing.
    inside = (source_row >= 0) & (source_row < height) & (source_column >= 0) & (source_column < width)
    inside = inside & wanted
    source_row = tl.where(inside, source_row, 0.0).to(tl.int32)
    source_column = tl.where(inside, source_column, 0.0).to(tl.int32)
    source = (batch.to(tl.int64) * height + source_row) * width + source_column
    target = image.to(tl.int64) * rows * columns + pixel
    for first in range(0, CHANNELS, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        real = (channel < CHANNELS)[None, :]
        pointers = features + (source * CHANNELS)[:, None] + channel[None, :]
        values = tl.load(pointers, mask=inside[:, None] & real, other=0.0)
        pointers = output + (target * CHANNELS)[:, None] + channel[None, :]
        tl.store(pointers, values, mask=(pixel < rows * columns)[:, None] & real)


def warp_bilinear(features: Tensor, flow: Tensor) -> Tensor:
    """`features (N, C, H, W)` between their pixels, at `(column + flow_x, row + flow_y)`, edges repeated outside.

    `flow (N, 2, H, W)` float32 pixels. In float32 whatever the type of `features`, which the result has, channels last.
    Raises `ValueError` for flow of another size.
    """
    batch, channels, height, width = features.shape
    if flow.shape != (batch, 2, height, width):
        raise ValueError(f"expected flow of shape {(batch, 2, height, width)}, got {tuple(flow.shape)}")
    features, flow = dense(features), flow.float().contiguous()
    output = pixels_last(batch, channels, height, width, features)
    if not output.numel():
        return output
    with torch.cuda.device_of(features):
        _warp_bilinear[(batch * triton.cdiv(height * width, PIXELS),)](
            features,
            flow,
            output,
            height,
            width,
            CHANNELS=channels,
            BLOCK=min(CHANNELS, triton.next_power_of_2(channels)),
            PIXELS=PIXELS,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return output


@triton.jit
def _between(first, second, share):
    """As far from the first to the second as `share` says."""
    return first + (second - first) * share[:, None]


@triton.jit(do_not_specialize=["height", "width"])
def _warp_bilinear(
    features,
    flow,
    output,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """`PIXELS` consecutive pixels of one image, all channels."""
    area = height * width
    blocks = tl.cdiv(area, PIXELS)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    real = pixel < area
    across = tl.load(flow + image * 2 * area + pixel, mask=real, other=0.0)
    down = tl.load(flow + image * 2 * area + area + pixel, mask=real, other=0.0)
    # NaN goes to a border as well: a broken flow must not lead out of the picture.
    x = tl.minimum(tl.maximum((pixel % width).to(tl.float32) + across, 0.0), (width - 1).to(tl.float32))
    y = tl.minimum(tl.maximum((pixel // width).to(tl.float32) + down, 0.0), (height - 1).to(tl.float32))
    left, top = tl.floor(x), tl.floor(y)
    share_x, share_y = x - left, y - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    right = tl.minimum(column + 1, width - 1)
    upper = features + ((image * height + row) * width * CHANNELS)[:, None]
    lower = features + ((image * height + tl.minimum(row + 1, height - 1)) * width * CHANNELS)[:, None]
    for first in range(0, CHANNELS, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        wanted = real[:, None] & (channel < CHANNELS)[None, :]
        here, there = (
            (column * CHANNELS)[:, None] + channel[None, :],
            (right * CHANNELS)[:, None] + channel[None, :],
        )
        one = tl.load(upper + here, mask=wanted, other=0.0).to(tl.float32)
        two = tl.load(upper + there, mask=wanted, other=0.0).to(tl.float32)
        three = tl.load(lower + here, mask=wanted, other=0.0).to(tl.float32)
        four = tl.load(lower + there, mask=wanted, other=0.0).to(tl.float32)
        value = _between(_between(one, two, share_x), _between(three, four, share_x), share_y)
        target = output + ((image * area + pixel) * CHANNELS)[:, None] + channel[None, :]
        tl.store(target, value.to(output.dtype.element_ty), mask=wanted)
