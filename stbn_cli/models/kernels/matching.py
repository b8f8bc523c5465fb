"""How alike two frames' features are at every small displacement, and where they are most, in one kernel.

PyTorch takes some forty kernels for it, most of them copies: about a fifth of an H200's time for denoising. Per pixel
it is `2 (2 radius + 1)^2 C` operations, 5 k at 32 channels, on features that the first-level cache holds; the 81
similarities are written once.
"""

# What `triton.jit` makes of a function no type checker knows, and its constants are upper case.
# pyright: reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from stbn_cli.models.kernels.layout import dense, pixels_last

PIXELS = 64  # of one row, of one program
WARPS = 4


def match(first: Tensor, second: Tensor, sharpness: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities, the displacement that they speak for, and how surely.

    `first` and `second (N, C, H, W)` in one 16-bit type; `sharpness`: a float32 tensor of one number on their device.
    Returns what `models.correlation.cost_volume` does; under `softmax(sharpness * volume)` over the displacements, the
    mean displacement `(N, 2, H, W)` (dx, dy) in pixels, and the largest probability `(N, 1, H, W)`, both float32.
    Raises `ValueError` for inputs that do not fit.
    """
    if first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"expected two alike tensors, got {tuple(first.shape)} of {first.dtype} and "
            f"{tuple(second.shape)} of {second.dtype}"
        )
    first, second = dense(first), dense(second)
    batch, channels, height, width = first.shape
    diameter = 2 * radius + 1
    volume = pixels_last(batch, diameter**2, height, width, first)
    displacement = first.new_empty((batch, 2, height, width), dtype=torch.float32)
    certainty = first.new_empty((batch, 1, height, width), dtype=torch.float32)
    if not volume.numel():
        return volume, displacement, certainty
    with torch.cuda.device_of(first):
        _match[(batch * height * triton.cdiv(width, PIXELS),)](
            first,
            second,
            sharpness,
            volume,
            displacement,
            certainty,
            height,
            width,
            CHANNELS=channels,
            BLOCK=triton.next_power_of_2(channels),
            RADIUS=radius,
            ACROSS=triton.next_power_of_2(diameter),
            PIXELS=PIXELS,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return volume, displacement, certainty


@triton.jit(do_not_specialize=["height", "width"])
def _match(
    first,
    second,
    sharpness,
    volume,
    displacement,
    certainty,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    RADIUS: tl.constexpr,
    ACROSS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """`PIXELS` pixels of one row. The softmax is kept up to date row of displacements by row (Milakov, Gimelshein)."""
    diameter: tl.constexpr = 2 * RADIUS + 1
    segments = tl.cdiv(width, PIXELS)
    line = tl.program_id(0) // segments  # of all images
    image = line // height
    row = line % height
    column = tl.program_id(0) % segments * PIXELS + tl.arange(0, PIXELS)
    rows = row + tl.zeros((PIXELS,), tl.int32)
    real = column < width
    channel = tl.arange(0, BLOCK)
    wanted = (channel < CHANNELS)[None, :]
    pixel = line.to(tl.int64) * width + column
    own = tl.load(
        first + (pixel * CHANNELS)[:, None] + channel[None, :], mask=real[:, None] & wanted, other=0.0
    ).to(tl.float32)
    sharp = tl.load(sharpness)
    index = tl.arange(0, ACROSS)
    used = (index < diameter)[None, :]
    highest = tl.full((PIXELS,), float("-inf"), tl.float32)
    total = tl.zeros((PIXELS,), tl.float32)
    sum_x = tl.zeros((PIXELS,), tl.float32)
    sum_y = tl.zeros((PIXELS,), tl.float32)
    for down in range(diameter):
        other_row = rows + (down - RADIUS)
        row_inside = real & (other_row >= 0) & (other_row < height)
        start = (image.to(tl.int64) * height + other_row) * width
        likeness = tl.zeros((PIXELS, ACROSS), tl.float32)
        for across in tl.static_range(diameter):
            other_column = column + (across - RADIUS)
            inside = row_inside & (other_column >= 0) & (other_column < width)
            pointers = second + ((start + other_column) * CHANNELS)[:, None] + channel[None, :]
            values = tl.load(pointers, mask=inside[:, None] & wanted, other=0.0).to(tl.float32)
            products = tl.sum(own * values, axis=1)
            likeness = tl.where(index[None, :] == across, products[:, None], likeness)
        likeness = likeness / CHANNELS
        target = volume + (pixel * (diameter * diameter))[:, None] + down * diameter + index[None, :]
        tl.store(target, likeness.to(volume.dtype.element_ty), mask=real[:, None] & used)
        scores = tl.where(used, likeness * sharp, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shares = tl.exp(scores - higher[:, None])
        kept = tl.exp(highest - higher)
        weight = tl.sum(shares, axis=1)
        total = total * kept + weight
        sum_x = sum_x * kept + tl.sum(shares * (index - RADIUS).to(tl.float32)[None, :], axis=1)
        sum_y = sum_y * kept + weight * (down - RADIUS)
        highest = higher
    area = height * width
    place = row * width + column
    target = displacement + image.to(tl.int64) * 2 * area + place
    tl.store(target, sum_x / total, mask=real)
    tl.store(target + area, sum_y / total, mask=real)
    tl.store(certainty + image.to(tl.int64) * area + place, 1.0 / total, mask=real)
