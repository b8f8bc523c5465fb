"""What the device itself can do: the rate of a large matrix product and of a large copy. Benchmarks compare with it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
SMALL_SIDE = 256
LONGEST_PRODUCT = 2.0  # seconds
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}

Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Floating-point operations a second of a large matrix product: the best of `repeats` times four.

    On a CPU by MKL or by oneDNN, whichever is faster: on processors of other makers MKL reached half of oneDNN's rate.
    """
    best = 0.0
    for product in _products(device, dtype):
        side = _side(product, device, dtype)
        one, other = _matrices(side, device, dtype)
        for _ in range(repeats):
            seconds = _seconds(_several(product, one, other), device)
            best = max(best, 4 * 2.0 * side**3 / seconds)
    return best


def copy_rate(device: torch.device, repeats: int = 10) -> float:
    """Bytes a second, read and written together, of a copy too large for the caches: the best of `repeats`."""
    source = torch.ones(COPY_BYTES.get(device.type, 1 << 28), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)  # the first touch of new memory is slow
    return max(2.0 * source.numel() / _seconds(lambda: target.copy_(source), device) for _ in range(repeats))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _matrices(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return one, other


def _several(product: Product, one: Tensor, other: Tensor) -> Callable[[], None]:
    def call() -> None:
        for _ in range(4):
            product(one, other)

    return call


def _products(device: torch.device, dtype: torch.dtype) -> list[Product]:
    """The matrix products that work here, each called once so that its library is loaded."""
    one, other = _matrices(SMALL_SIDE, device, dtype)
    torch.matmul(one, other)
    products: list[Product] = [torch.matmul]
    # As torch's compiler calls it; not public, so it may be missing.
    linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and linear is not None:

        def onednn(one: Tensor, other: Tensor) -> Tensor:
            return linear(one, other, None, "none", [], "")

        with contextlib.suppress(RuntimeError):
            onednn(one, other)
            products.append(onednn)
    return products


def _side(product: Product, device: torch.device, dtype: torch.dtype) -> int:
    """Of matrices that take no minutes: many CPUs have nothing to multiply fp16 with."""
    side = MATRIX_SIDE.get(device.type, 2048)
    small = _matrices(SMALL_SIDE, device, dtype)
    seconds = _seconds(lambda: product(*small), device)
    while side > SMALL_SIDE and seconds * (side / SMALL_SIDE) ** 3 > LONGEST_PRODUCT:
        side //= 2
    return side


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    begun = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begun
