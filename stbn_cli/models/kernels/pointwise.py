"""Up to four 1x1 convolutions in a row in one kernel; what lies between them never leaves the registers.

At 64 channels PyTorch moves each pixel's features through memory two to four times per layer (convolution, ReLU,
mask); here it is one read of the input and one write of the output, `2 (inputs + outputs)` bytes a pixel, and the
kernel is bound by memory.
"""

# What `triton.jit` makes of a function no type checker knows, and its constants are upper case.
# pyright: reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from stbn_cli.models.kernels.layout import dense, dense_mask, half_precision, pixels_last
from stbn_cli.models.kernels.tiles import capability_of, pointwise_tile
from stbn_cli.models.phases import PHASES

MAXIMUM_LAYERS = 4
MAXIMUM_WIDTH = 128  # output channels of a layer; the first layer's inputs have no limit
MATRIX_SIDE = 16  # the smallest side of a matrix product


@dataclass(frozen=True, slots=True)
class PointwiseLayer:
    """One 1x1 convolution: `weight (outputs, inputs, 1, 1)`, `bias (outputs,)`, and whether a ReLU follows."""

    weight: Tensor
    bias: Tensor | None = None
    relu: bool = False


@dataclass(frozen=True, slots=True)
class PackedChain:
    """Weights of a chain, `(inputs, outputs)` and zero padded to sizes that matrix products have."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]  # float32
    relus: tuple[bool, ...]
    inputs: int
    outputs: int
    second: Tensor | None = None  # the first layer's weights for inputs from a second picture
    second_inputs: int = 0


def supports(layers: Sequence[PointwiseLayer], dtype: torch.dtype) -> bool:
    """Whether `pointwise_chain` can run these layers; PyTorch has to, otherwise."""
    widths = [layer.weight.shape[0] for layer in layers]
    return 0 < len(layers) <= MAXIMUM_LAYERS and max(widths) <= MAXIMUM_WIDTH and half_precision(dtype)


def pack_chain(layers: Sequence[PointwiseLayer], dtype: torch.dtype, second_inputs: int = 0) -> PackedChain:
    """Repack layers, on the device they are on. Once per model, not per frame.

    `second_inputs`: how many of the first layer's inputs, its last ones, come from a second tensor.
    """
    if not supports(layers, dtype):
        raise ValueError(
            f"expected 1 to {MAXIMUM_LAYERS} layers of at most {MAXIMUM_WIDTH} channels in 16 bits"
        )
    weights, biases = [], []
    second = None
    for number, layer in enumerate(layers):
        outputs, inputs = layer.weight.shape[:2]
        if number and inputs != layers[number - 1].weight.shape[0]:
            raise ValueError(f"layer {number} reads {inputs} channels but the one before has another number")
        rows = layer.weight.detach().flatten(1).t()
        width = _padded_width(outputs)
        if number == 0:
            first = inputs - second_inputs
            if second_inputs:
                second = _padded(rows[first:], _padded_depth(second_inputs), width, dtype)
            weights.append(_padded(rows[:first], _padded_depth(first), width, dtype))
        else:
            weights.append(_padded(rows, _padded_width(inputs), width, dtype))
        bias = layer.weight.new_zeros(width, dtype=torch.float32)
        if layer.bias is not None:
            bias[:outputs] = layer.bias.detach()
        biases.append(bias)
    relus = tuple(layer.relu for layer in layers)
    inputs, outputs = layers[0].weight.shape[1] - second_inputs, layers[-1].weight.shape[0]
    return PackedChain(tuple(weights), tuple(biases), relus, inputs, outputs, second, second_inputs)


def _padded(rows: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    weight = rows.new_zeros((height, width), dtype=dtype)
    weight[: rows.shape[0], : rows.shape[1]] = rows
    return weight


def pointwise_chain(
    features: Tensor,
    chain: PackedChain,
    mask: Tensor | None = None,
    *,
    second: Tensor | None = None,
    before: Tensor | None = None,
    picture: bool = False,
    into: Tensor | None = None,
) -> Tensor:
    """The chain's layers one after the other, times `mask`; each layer's sums in float32, its result in 16 bits.

    `features (N, inputs, h, w)` to `(N, outputs, h, w)`, channels last; `mask (N, 1, h, w)` of any type, or None.
    For phases, which are stacked as `models.phases.to_phases` does it:

    `picture`: `features (N, inputs, H, W)` are a picture, whose phases the chain works on; zeros beyond its border.
    `before (inputs,)` float32: bias that is added, with a ReLU, before the first layer.
    `second (N, C, H, W)`, channels last: the picture that the chain's second inputs are the first channels of.
    `into (N, C, H, W)`, channels last: the picture whose first channels are overwritten with the result, and returned.

    Raises `ValueError` for features that do not fit the chain.
    """
    batch, channels, height, width = features.shape
    if channels != chain.inputs or features.dtype != chain.weights[0].dtype:
        raise ValueError(
            f"expected {chain.inputs} channels of {chain.weights[0].dtype}, got {channels} of {features.dtype}"
        )
    features = dense(features)
    rows, columns = height, width
    if picture:
        batch, rows, columns = PHASES * batch, triton.cdiv(height, 2), triton.cdiv(width, 2)
    pictures = [other for other in (second, into) if other is not None]
    for other in pictures:
        _check_picture(other, batch, rows, columns, features.dtype)
    sizes = {tuple(other.shape[-2:]) for other in pictures} | ({(height, width)} if picture else set())
    if len(sizes) > 1:
        raise ValueError(f"expected pictures of one size, got {sorted(sizes)}")
    height, width = sizes.pop() if sizes else (height, width)
    if (second is None) == bool(chain.second_inputs):
        raise ValueError("a second picture goes with a chain that is packed for it")
    output = into
    if output is None:
        output = pixels_last(batch, chain.outputs, rows, columns, features)
    mask = None if mask is None else dense_mask(mask, batch, rows, columns)
    pixels = batch * rows * columns
    if not pixels:
        return output
    tile = pointwise_tile(chain_width(chain), capability_of(features.device))
    missing = (None,) * (MAXIMUM_LAYERS - len(chain.weights))
    with torch.cuda.device_of(features):
        _pointwise_chain[(triton.cdiv(pixels, tile.pixels),)](
            features,
            second,
            before,
            *chain.weights,
            *missing,
            chain.second,
            *chain.biases,
            *missing,
            mask,
            output,
            pixels,
            chain.weights[0].shape[0] // chain_depth(chain),
            0 if chain.second is None else chain.second.shape[0] // _depth(chain.second_inputs),
            rows,
            columns,
            height,
            width,
            **chain_constants(chain),
            SECOND_STRIDE=0 if second is None else second.shape[1],
            OUTPUT_STRIDE=output.shape[1],
            FROM_PICTURE=picture,
            TO_PICTURE=into is not None,
            PIXELS=tile.pixels,
            **tile.options(),
        )
    return output


def _check_picture(picture: Tensor, batch: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    """Raises `ValueError` for a picture that has not these phases, or is not channels last."""
    height, width = picture.shape[-2:]
    sizes = len(picture) * PHASES, triton.cdiv(height, 2), triton.cdiv(width, 2)
    if sizes != (batch, rows, columns) or picture.dtype != dtype:
        raise ValueError(
            f"expected a picture of {batch} phases of {rows}x{columns} in {dtype}, got {tuple(picture.shape)} of "
            f"{picture.dtype}"
        )
    if not picture.permute(0, 2, 3, 1).is_contiguous():
        raise ValueError("expected a picture with its channels last in memory")


def chain_width(chain: PackedChain) -> int:
    """Channels of the widest layer, padding included."""
    return max(bias.shape[0] for bias in chain.biases)


def chain_depth(chain: PackedChain) -> int:
    """Input channels in one step of the first product."""
    return _depth(chain.inputs)


def chain_constants(chain: PackedChain) -> dict[str, int | bool]:
    """What `_pointwise_chain` is compiled for, apart from the tile."""
    widths = [bias.shape[0] for bias in chain.biases] + [0] * (MAXIMUM_LAYERS - len(chain.biases))
    relus = chain.relus + (False,) * (MAXIMUM_LAYERS - len(chain.relus))
    return {
        "INPUTS": chain.inputs,
        "SECOND_INPUTS": chain.second_inputs,
        "OUTPUTS": chain.outputs,
        "DEPTH": chain_depth(chain),
        "SECOND_DEPTH": _depth(chain.second_inputs) if chain.second_inputs else 0,
        **{f"WIDTH{number}": width for number, width in enumerate(widths)},
        **{f"RELU{number}": relu for number, relu in enumerate(relus)},
    }


def _padded_width(channels: int) -> int:
    return max(MATRIX_SIDE, triton.next_power_of_2(channels))


def _depth(inputs: int) -> int:
    """The largest step that wastes no more than the smallest one would."""
    least = triton.cdiv(inputs, MATRIX_SIDE) * MATRIX_SIDE
    return next(step for step in (64, 32, MATRIX_SIDE) if least % step == 0)


def _padded_depth(inputs: int) -> int:
    return triton.cdiv(inputs, MATRIX_SIDE) * MATRIX_SIDE


@triton.jit
def _finish(total, bias, dtype: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr):
    """Bias, ReLU and rounding of one layer's sums."""
    total += tl.load(bias + tl.arange(0, WIDTH))[None, :]
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return total.to(dtype)


@triton.jit
def _next_layer(values, weight, bias, INPUTS: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr):
    """One further layer, from registers to registers."""
    rows = tl.arange(0, INPUTS)[:, None] * WIDTH
    weights = tl.load(weight + rows + tl.arange(0, WIDTH)[None, :])
    return _finish(tl.dot(values, weights), bias, weight.dtype.element_ty, WIDTH, RELU)


@triton.jit
def _in_picture(pixel, rows, columns, height, width):
    """Where in its picture a pixel of the stacked phases lies, and whether it lies there at all."""
    area = rows * columns
    image = pixel // area
    place = (pixel % area).to(tl.int32)
    phase = (image % 4).to(tl.int32)
    row = 2 * (place // columns) + phase // 2
    column = 2 * (place % columns) + phase % 2
    return (image // 4 * height + row) * width + column, (row < height) & (column < width)


@triton.jit(do_not_specialize=["pixels", "steps", "second_steps", "rows", "columns", "height", "width"])
def _pointwise_chain(
    features,
    second,
    before,
    weight0,
    weight1,
    weight2,
    weight3,
    second_weight,
    bias0,
    bias1,
    bias2,
    bias3,
    mask,
    output,
    pixels,
    steps,
    second_steps,
    rows,
    columns,
    height,
    width,
    INPUTS: tl.constexpr,
    SECOND_INPUTS: tl.constexpr,
    SECOND_STRIDE: tl.constexpr,
    OUTPUTS: tl.constexpr,
    OUTPUT_STRIDE: tl.constexpr,
    DEPTH: tl.constexpr,
    SECOND_DEPTH: tl.constexpr,
    WIDTH0: tl.constexpr,
    WIDTH1: tl.constexpr,
    WIDTH2: tl.constexpr,
    WIDTH3: tl.constexpr,
    RELU0: tl.constexpr,
    RELU1: tl.constexpr,
    RELU2: tl.constexpr,
    RELU3: tl.constexpr,
    FROM_PICTURE: tl.constexpr,
    TO_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """`PIXELS` consecutive pixels through all layers."""
    start = tl.program_id(0).to(tl.int64) * PIXELS
    offset = tl.arange(0, PIXELS)
    real = start + offset < pixels
    there = real
    place = start + offset
    if FROM_PICTURE or TO_PICTURE or SECOND_INPUTS:
        place, inside = _in_picture(start + offset, rows, columns, height, width)
        there = real & inside
    channel = tl.arange(0, DEPTH)
    if FROM_PICTURE:
        inputs = features + place[:, None] * INPUTS + channel[None, :]
        read = there
    else:
        inputs = features + start * INPUTS + offset[:, None] * INPUTS + channel[None, :]
        read = real
    weights = weight0 + channel[:, None] * WIDTH0 + tl.arange(0, WIDTH0)[None, :]
    total = tl.zeros((PIXELS, WIDTH0), tl.float32)
    for step in range(steps):
        first = step * DEPTH
        wanted = read[:, None]
        if INPUTS % DEPTH != 0:
            wanted = wanted & (first + channel < INPUTS)[None, :]
        part = tl.load(inputs + first, mask=wanted, other=0.0)
        if before is not None:
            added = tl.load(before + first + channel, mask=first + channel < INPUTS, other=0.0)
            active = tl.maximum(part.to(tl.float32) + added[None, :], 0.0, propagate_nan=tl.PropagateNan.ALL)
            # Where the picture ends there is no pixel, and so no bias.
            part = tl.where(wanted, active, 0.0).to(part.dtype)
        total = tl.dot(part, tl.load(weights + first * WIDTH0), total)
    if SECOND_INPUTS:
        channel = tl.arange(0, SECOND_DEPTH)
        inputs = second + place[:, None] * SECOND_STRIDE + channel[None, :]
        weights = second_weight + channel[:, None] * WIDTH0 + tl.arange(0, WIDTH0)[None, :]
        for step in range(second_steps):
            first = step * SECOND_DEPTH
            wanted = there[:, None] & (first + channel < SECOND_INPUTS)[None, :]
            part = tl.load(inputs + first, mask=wanted, other=0.0)
            total = tl.dot(part, tl.load(weights + first * WIDTH0), total)
    values = _finish(total, bias0, weight0.dtype.element_ty, WIDTH0, RELU0)
    breadth: tl.constexpr = WIDTH3 or WIDTH2 or WIDTH1 or WIDTH0
    if weight1 is not None:
        values1 = _next_layer(values, weight1, bias1, WIDTH0, WIDTH1, RELU1)
        if weight2 is not None:
            values2 = _next_layer(values1, weight2, bias2, WIDTH1, WIDTH2, RELU2)
            if weight3 is not None:
                result = _next_layer(values2, weight3, bias3, WIDTH2, WIDTH3, RELU3)
            else:
                result = values2
        else:
            result = values1
    else:
        result = values
    if mask is not None:
        factor = tl.load(mask + start + offset, mask=real, other=0.0).to(tl.float32)
        result = (result.to(tl.float32) * factor[:, None]).to(result.dtype)
    channel = tl.arange(0, breadth)
    if TO_PICTURE:
        pointers = output + place[:, None] * OUTPUT_STRIDE + channel[None, :]
        written = there
    else:
        pointers = output + start * OUTPUT_STRIDE + offset[:, None] * OUTPUT_STRIDE + channel[None, :]
        written = real
    tl.store(pointers, result, mask=written[:, None] & (channel < OUTPUTS)[None, :])
