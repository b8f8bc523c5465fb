"""How the work is cut, by shape and GPU: a fixed table, since trying at run time would cost short clips dearly.

`benchmarks/kernels.py` measures the alternatives on a GPU and says what to write here.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch

from stbn_cli.devices import CUDA, kind_named, kind_of

MAXIMUM_PART = 128  # hidden channels that one accumulator holds


@dataclass(frozen=True, slots=True)
class BlockTile:
    """One program of `residual_block`."""

    rows: int
    columns: int
    depth: int  # input channels in one step of the 3x3 convolution
    outputs: int  # output channels in one step of the 1x1 convolution
    warps: int
    stages: int  # steps whose copies are under way at a time, plus one
    cached: bool = True  # the taps' copies use the first-level cache
    registers: int | None = None  # limit for a thread

    def options(self) -> dict[str, Any]:
        """Launch options of triton."""
        # Only NVIDIA's compiler knows the limit.
        limited = self.registers is not None and kind_named(CUDA.name) is CUDA
        limit = {"maxnreg": self.registers} if limited else {}
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True, **limit}


# Capability 9.x and 10.x: matrix products read shared memory, of which there are 227 KB a block. The limit of 128
# registers lets two or three programs share a multiprocessor, one's last part beside another's convolution.
_LARGE: dict[tuple[int, int], BlockTile] = {
    (16, 1): BlockTile(rows=8, columns=16, depth=16, outputs=16, warps=4, stages=3),
    (32, 1): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=4, stages=3),
    (32, 2): BlockTile(rows=8, columns=16, depth=16, outputs=16, warps=4, stages=3),
    (64, 1): BlockTile(rows=8, columns=16, depth=64, outputs=32, warps=4, stages=3, registers=168),
    (64, 2): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=4, stages=3),
    (128, 1): BlockTile(rows=8, columns=16, depth=64, outputs=32, warps=8, stages=3, registers=128),
    (128, 2): BlockTile(rows=8, columns=16, depth=64, outputs=32, warps=8, stages=3),
    (256, 1): BlockTile(rows=8, columns=16, depth=64, outputs=64, warps=8, stages=4),
    (256, 2): BlockTile(rows=8, columns=16, depth=64, outputs=64, warps=8, stages=4),
}

# The others: operands pass through registers, and some (8.6, 8.9, 12.0) have 99 KB of shared memory a block.
_SMALL: dict[tuple[int, int], BlockTile] = {
    **{shape: _LARGE[shape] for shape in ((16, 1), (32, 1), (32, 2))},
    (64, 1): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=4, stages=3),
    (64, 2): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=4, stages=3),
    (128, 1): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=8, stages=3, registers=128),
    (128, 2): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=8, stages=3),
    (256, 1): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=8, stages=3),
    (256, 2): BlockTile(rows=8, columns=16, depth=32, outputs=32, warps=8, stages=3),
}

BLOCK_SHAPES = frozenset(_LARGE)  # (channels, groups) that `residual_block` can do


def block_tile(channels: int, groups: int, capability: tuple[int, int]) -> BlockTile:
    """The table's choice for a compute capability."""
    table = _LARGE if capability[0] in (9, 10) else _SMALL
    return table[channels, groups]


def capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability; for AMD's, and the CPU, where kernels are interpreted, one whose tiles are small."""
    return _cuda_capability(device) if kind_of(device).capability else (8, 0)


@functools.cache
def _cuda_capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@dataclass(frozen=True, slots=True)
class PointwiseTile:
    """One program of `pointwise_chain`."""

    pixels: int
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """Launch options of triton."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def pointwise_tile(width: int, capability: tuple[int, int]) -> PointwiseTile:
    """For a chain whose widest layer has `width` channels."""
    return PointwiseTile(pixels=128, warps=8 if width > 64 else 4, stages=3)
