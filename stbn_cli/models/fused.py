"""Convolutions with their bias, ReLU and sum in one pass where nothing is to be learned from them.

Memory traffic, not arithmetic, is what the layers between convolutions cost. On a CPU oneDNN's post-operations save it,
on an NVIDIA GPU the project's own kernels, where they are chosen (`using_kernels`). In training (autograd or autocast)
the same functions are the plain layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.phases import apply_mask

if TYPE_CHECKING:
    from stbn_cli.models.kernels.pointwise import PackedChain

T = TypeVar("T")

# oneDNN's convolution with post-operations, as torch's compiler calls it.
_ONEDNN = "_convolution_pointwise"
# Data types that it is used for; few CPUs convolve fp16.
_ONEDNN_TYPES = (torch.float32, torch.bfloat16)


def convolution(
    features: Tensor, layer: nn.Conv2d, *, relu: bool = False, add: Tensor | None = None
) -> Tensor:
    """`add + layer(features)`, or `relu(layer(features))`; `(N, C, h, w)`, all of one dtype and device.

    `add` has the shape of the result. Raises `ValueError` for ReLU and sum at once.
    """
    return convolve(
        features,
        layer.weight,
        layer.bias,
        stride=int(layer.stride[0]),
        padding=int(layer.padding[0]),
        groups=layer.groups,
        relu=relu,
        add=add,
    )


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    relu: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """`convolution` with the weights given one by one."""
    if relu and add is not None:
        raise ValueError("ReLU and sum cannot both follow a convolution")
    if runs_onednn(features):
        return _onednn(features, weight, bias, stride, padding, groups, relu, add)
    result = F.conv2d(features, weight, bias, stride=stride, padding=padding, groups=groups)
    if relu:
        return F.relu(result, inplace=True)
    return result if add is None else add + result


class PointwiseChain:
    """1x1 convolutions one after the other, each with a ReLU or without."""

    def __init__(self, *layers: tuple[nn.Conv2d, bool]) -> None:
        self._layers = layers
        self._derived = Derived()

    def __call__(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(N, inputs, h, w)` to `(N, outputs, h, w)`; zero outside `mask (N, 1, h, w)`."""
        if runs_kernels(features):
            from stbn_cli.models.kernels import pointwise

            chain = self.packed(features.dtype)
            if chain is not None:
                return pointwise.pointwise_chain(features, chain, mask)
        for layer, relu in self._layers:
            features = convolution(features, layer, relu=relu)
        return apply_mask(features, mask)

    def packed(self, dtype: torch.dtype) -> "PackedChain | None":
        """The chain as the GPU's kernel reads it, or None if that cannot run it."""
        from stbn_cli.models.kernels import pointwise

        layers = [pointwise.PointwiseLayer(layer.weight, layer.bias, relu) for layer, relu in self._layers]
        if not pointwise.supports(layers, dtype):
            return None
        weights = [weight for layer, _ in self._layers for weight in layer.parameters()]
        return self._derived.get("chain", weights, lambda: pointwise.pack_chain(layers, dtype))


def residual_block(
    features: Tensor,
    spatial: nn.Conv2d,
    pointwise: nn.Conv2d,
    mask: Tensor | None,
    derived: "Derived",
    *,
    overwrite: bool = False,
) -> Tensor:
    """`features + pointwise(relu(spatial(features)))`, zero outside `mask`. `derived` belongs to the two layers.

    `overwrite`: nobody else needs `features`; where that is faster, they become the result.
    """
    if runs_kernels(features):
        from stbn_cli.models.kernels import residual_block as kernel

        if kernel.supports(spatial.out_channels, spatial.groups, features.dtype):
            weights = [*spatial.parameters(), *pointwise.parameters()]
            block = derived.get(
                "block", weights, lambda: kernel.pack_residual_block(spatial, pointwise, features.dtype)
            )
            return kernel.residual_block(features, block, mask)
    hidden = convolution(features, spatial, relu=True)
    if overwrite and runs_onednn(features):
        return apply_mask(_onednn_onto(features, hidden, pointwise), mask)
    return apply_mask(convolution(hidden, pointwise, add=features), mask)


_KERNELS: ContextVar[bool] = ContextVar("kernels", default=False)


@contextmanager
def using_kernels(chosen: bool = True) -> Iterator[None]:
    """Inside, the project's GPU kernels compute what is in half precision, if so chosen; elsewhere PyTorch does.

    The caller has made sure of `kernels.available`, and keeps no gradient.
    """
    token = _KERNELS.set(chosen)
    try:
        yield
    finally:
        _KERNELS.reset(token)


def runs_kernels(features: Tensor) -> bool:
    """Whether the project's own GPU kernels take `features`."""
    return _KERNELS.get() and features.dtype != torch.float32


def is_inference(features: Tensor) -> bool:
    """Whether no gradient is kept and autocast does not choose the precision."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(features.device.type)


def runs_onednn(features: Tensor) -> bool:
    """Whether oneDNN can fuse what follows a convolution of `features`."""
    return (
        features.device.type == "cpu"
        and features.dtype in _ONEDNN_TYPES
        and is_inference(features)
        and _onednn_works(features.dtype)
    )


@cache
def _onednn_works(dtype: torch.dtype) -> bool:
    """Tries it: the operation is not public, and builds and processors differ in what it takes."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, _ONEDNN):
        return False
    with torch.inference_mode():
        ones = torch.ones(1, 8, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(8, 8, 1, 1, dtype=dtype)
        try:
            results = [
                _onednn(ones, sign * weight, None, 1, 0, 1, relu, add)
                for sign, relu, add in ((1, False, ones), (-1, True, None))
            ]
            layer = nn.Conv2d(8, 8, 1, bias=False, dtype=dtype)
            layer.weight.copy_(weight)
            results.append(_onednn_onto(ones.clone(), ones, layer))
        except (AttributeError, RuntimeError):
            return False
    return all(bool((result == value).all()) for result, value in zip(results, (9, 0, 9), strict=True))


def _onednn(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    groups: int,
    relu: bool,
    add: Tensor | None,
) -> Tensor:
    operation: Any = getattr(torch.ops.mkldnn, _ONEDNN)
    shape = [padding] * 2, [stride] * 2, [1, 1], groups
    if add is None:
        return operation(features, weight, bias, *shape, "relu" if relu else "none", [], "")
    return operation.binary(features, add, weight, bias, *shape, "add", 1.0, None, [], None)


def _onednn_onto(total: Tensor, features: Tensor, layer: nn.Conv2d) -> Tensor:
    """`total += layer(features)`, a 1x1 convolution: a quarter faster than a sum that is written elsewhere."""
    operation: Any = getattr(torch.ops.mkldnn, _ONEDNN + "_").binary
    shape = [0, 0], [1, 1], [1, 1], layer.groups
    return operation(total, features, layer.weight, layer.bias, *shape, "add", 1.0, None, [], None)


class Derived:
    """What is made of a layer's weights once and kept until they change. Not part of the state that is saved."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[list[object], list[Tensor], Any]] = {}

    def __deepcopy__(self, memo: object) -> "Derived":
        return Derived()

    def get(self, name: str, weights: Sequence[Tensor], make: Callable[[], T]) -> T:
        """`make()`, or what it gave when `weights` were last the same tensors with the same values."""
        state = [_identity(weight) for weight in weights]
        known = self._made.get(name)
        if known is None or known[0] != state:
            # The weights are held too: an address says something only while its tensor lives.
            known = self._made[name] = (state, [weight.detach() for weight in weights], make())
        return known[2]


def _identity(weight: Tensor) -> object:
    # Tensors made in inference mode count no versions, and are not changed in place.
    return weight.data_ptr(), weight.dtype, 0 if weight.is_inference() else weight._version
