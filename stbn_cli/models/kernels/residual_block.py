"""`PhaseResidualBlock` in one kernel: 3x3 convolution, ReLU, 1x1 convolution, sum with the input, mask.

PyTorch takes four kernels for it and moves every feature map through memory nine times; here it is read once and
written once. Work per pixel: `2 (9 C^2 / groups + C^2)` floating-point operations and 4 C bytes, 82 kFLOP and 256 bytes
at C = 64. So it is bound by the matrix units, or by what feeds them, not by memory.
"""

# What `triton.jit` makes of a function no type checker knows, and its constants are upper case.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from stbn_cli.models.kernels.layout import dense, dense_mask, half_precision, pixels_last
from stbn_cli.models.kernels.tiles import BLOCK_SHAPES, MAXIMUM_PART, BlockTile, block_tile, capability_of

TAPS = 9


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The weights of a block as the kernel reads them: output channels are contiguous in memory."""

    weight3: Tensor  # (9, C / groups, C): tap, input channel, output channel
    bias3: Tensor  # (C,) float32
    weight1: Tensor  # (C, C): input channel, output channel
    bias1: Tensor  # (C,) float32
    groups: int

    @property
    def channels(self) -> int:
        return self.bias1.shape[0]


def supports(channels: int, groups: int, dtype: torch.dtype) -> bool:
    """Whether `residual_block` can run such a block; PyTorch has to, otherwise."""
    return (channels, groups) in BLOCK_SHAPES and half_precision(dtype)


def pack_residual_block(spatial: nn.Conv2d, pointwise: nn.Conv2d, dtype: torch.dtype) -> PackedBlock:
    """Repack the layers of a `PhaseResidualBlock`, on the device they are on. Once per model, not per frame."""
    channels = spatial.out_channels
    if not supports(channels, spatial.groups, dtype):
        raise ValueError(f"no kernel for {channels} channels in {spatial.groups} groups of {dtype}")
    assert spatial.bias is not None and pointwise.bias is not None
    weight3 = spatial.weight.detach().permute(2, 3, 1, 0).flatten(0, 1)
    return PackedBlock(
        weight3=weight3.to(dtype).contiguous(),
        bias3=spatial.bias.detach().float().contiguous(),
        weight1=pointwise.weight.detach().flatten(1).t().to(dtype).contiguous(),
        bias1=pointwise.bias.detach().float().contiguous(),
        groups=spatial.groups,
    )


def residual_block(
    features: Tensor, block: PackedBlock, mask: Tensor | None = None, tile: BlockTile | None = None
) -> Tensor:
    """`features + conv1x1(relu(conv3x3(features)))`, times `mask`; float16 or bfloat16, summed in float32.

    `features (N, C, h, w)`; `mask (N, 1, h, w)` of any type, or None. Returns the same shape, channels last. `tile`
    replaces the table's choice in benchmarks. Raises `ValueError` for features that do not fit the block.
    """
    batch, channels, height, width = features.shape
    if channels != block.channels or features.dtype != block.weight1.dtype:
        raise ValueError(
            f"expected {block.channels} channels of {block.weight1.dtype}, got {channels} of {features.dtype}"
        )
    features = dense(features)
    mask = None if mask is None else dense_mask(mask, batch, height, width)
    output = pixels_last(batch, channels, height, width, features)
    tile = tile or block_tile(channels, block.groups, capability_of(features.device))
    inputs = channels // block.groups
    grid = (batch * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns),)
    if not output.numel():
        return output
    with torch.cuda.device_of(features):
        _residual_block[grid](
            features,
            features,
            block.weight3,
            block.bias3,
            block.weight1,
            block.bias1,
            mask,
            output,
            height,
            width,
            TAPS * (inputs // tile.depth),
            **block_constants(channels, block.groups, tile),
            **tile.options(),
        )
    return output


def block_constants(channels: int, groups: int, tile: BlockTile) -> dict[str, int]:
    """What `_residual_block` is compiled for."""
    inputs = channels // groups
    return {
        "CHANNELS": channels,
        "INPUTS": inputs,
        "PART": min(inputs, MAXIMUM_PART),
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "OUTPUTS": tile.outputs,
        "CACHED": tile.cached,
    }


@triton.jit
def _hidden(
    tap_pixels,
    weight3,
    bias3,
    inside,
    width,
    steps,
    first_input: tl.constexpr,
    first_output: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
    PART: tl.constexpr,
    DEPTH: tl.constexpr,
    CACHED: tl.constexpr,
):
    """`PART` channels of relu(conv3x3) at the tile's pixels: a matrix product over taps and input channels."""
    channel = tl.arange(0, DEPTH)
    output = first_output + tl.arange(0, PART)
    total = tl.zeros((inside.shape[0], PART), tl.float32)
    weights = weight3 + channel[:, None] * CHANNELS + output[None, :]
    # Taps run inside channel chunks: the nine reads of a chunk follow each other and find it in the cache.
    for step in range(steps):
        tap = step % 9
        chunk = step // 9 * DEPTH
        shift = (tap // 3 - 1) * width + tap % 3 - 1
        pointers = tap_pixels + (shift * CHANNELS + first_input + chunk) + channel[None, :]
        if CACHED:
            pointers = tl.multiple_of(pointers, (8, 8))
        values = tl.load(pointers, mask=((inside >> tap) & 1 != 0)[:, None], other=0.0)
        total = tl.dot(values, tl.load(weights + (tap * INPUTS + chunk) * CHANNELS), total)
    total += tl.load(bias3 + output)[None, :]
    hidden = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return hidden.to(weight3.dtype.element_ty)


# `taps` and `features` are the same tensor. A 16-byte asynchronous copy goes past the first-level cache, an 8-byte one
# through it; knowing nothing of the alignment of `taps` but what `_hidden` says lets the compiler choose the latter.
# `steps` is no constant, since the compiler would unroll the loop and spill; sizes are not specialised, since every new
# one would mean compiling again.
@triton.jit(do_not_specialize=["height", "width", "steps"], do_not_specialize_on_alignment=["taps"])
def _residual_block(
    taps,
    features,
    weight3,
    bias3,
    weight1,
    bias1,
    mask,
    output,
    height,
    width,
    steps,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CACHED: tl.constexpr,
):
    """One patch of `ROWS x COLUMNS` pixels, all channels.

    Programs of one row of patches run at about the same time, and the halo is one pixel, so nearly every pixel that is
    read more than once is still in the second-level cache: device memory sees each about once. A 2-D patch keeps the
    part of its taps that no other tap shares small (180 pixels for 128 at 8 x 16).
    """
    program = tl.program_id(0)
    across = tl.cdiv(width, COLUMNS)
    down = tl.cdiv(height, ROWS)
    image = program // (across * down)
    top = program // across % down * ROWS
    left = program % across * COLUMNS
    index = tl.arange(0, ROWS * COLUMNS)
    rows = top + index // COLUMNS
    columns = left + index % COLUMNS
    real = (rows < height) & (columns < width)
    inside = tl.zeros((ROWS * COLUMNS,), tl.int32)  # bit t: tap t lies in the picture
    for tap in tl.static_range(9):
        row = rows + (tap // 3 - 1)
        column = columns + (tap % 3 - 1)
        tap_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside |= tap_inside.to(tl.int32) << tap

    # 64 bits for where the patch begins (frames of 8K exceed 2^31 elements), 32 within it.
    origin = (image.to(tl.int64) * height + top) * width + left
    offset = index // COLUMNS * width + index % COLUMNS
    pixels = (offset * CHANNELS)[:, None]
    feature_pixels = features + origin * CHANNELS + pixels
    output_pixels = output + origin * CHANNELS + pixels
    if CACHED:
        tap_pixels = taps + origin * CHANNELS + pixels
    else:
        tap_pixels = feature_pixels

    # More than 128 hidden channels, or two groups, are two parts; the 1x1 convolution mixes them.
    grouped: tl.constexpr = PART if INPUTS != CHANNELS else 0  # first input channel of the second part
    # fmt: off
    hidden = _hidden(
        tap_pixels, weight3, bias3, inside, width, steps, 0, 0, CHANNELS, INPUTS, PART, DEPTH, CACHED,
    )
    if CHANNELS != PART:
        hidden2 = _hidden(
            tap_pixels, weight3, bias3, inside, width, steps, grouped, PART, CHANNELS, INPUTS, PART, DEPTH, CACHED,
        )
    # fmt: on
    weights = weight1 + tl.arange(0, PART)[:, None] * CHANNELS
    # A few channels at a time: registers.
    for first in tl.range(0, CHANNELS, OUTPUTS, num_stages=1):
        channel = first + tl.arange(0, OUTPUTS)[None, :]
        total = tl.dot(hidden, tl.load(weights + channel))
        if CHANNELS != PART:
            total = tl.dot(hidden2, tl.load(weights + PART * CHANNELS + channel), total)
        total += tl.load(bias1 + channel)
        total += tl.load(feature_pixels + channel, mask=real[:, None], other=0.0).to(tl.float32)
        if mask is not None:
            total *= tl.load(mask + origin + offset, mask=real, other=0.0).to(tl.float32)[:, None]
        tl.store(output_pixels + channel, total.to(output.dtype.element_ty), mask=real[:, None])
