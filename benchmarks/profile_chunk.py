"""Where the engine's time goes in one chunk of a running stream, and how far that is from what the device could do.

    python benchmarks/profile_chunk.py [--model stbn] [--size 960x540] [--device auto|cpu|cuda]
        [--precision auto|fp32|fp16|bf16] [--flow dis|light|none] [--chunk 8] [--chunk-overlap N] [--tile N]

Times are those of the operations (CPU) or of their kernels (CUDA), from torch.profiler over the frames of one chunk
after two that are not counted (of four on CUDA, where chunks run in the background), by family. The floor of the
network's families is the longer of two: their operations at the rate of a large matrix product, and their bytes at the
rate of a large copy, both measured just before. Bytes are the least that is needed layer by layer: each convolution
reads its input and weights once and writes its output once, a warp reads and writes a state once; what lies between
them is taken to be fused, and so is what lies inside a residual block. Both count what the chunk computes, its overlap
included. A kernel that does a whole residual block counts as a 3x3 convolution. Prints a Markdown table; last line:
one JSON document.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matrix import copy_rate, matrix_rate
from speed import (
    DISTINCT_FRAMES,
    RANGE_PREFIX,
    environment,
    model_file,
    moving_texture,
    parse_size,
    played,
    profiler,
    stage_of,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from stbn_cli import DenoiserOptions, load_denoiser
from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.inference.device import PRECISIONS, resolve_device, resolve_precision
from stbn_cli.inference.plan import Plan
from stbn_cli.inference.tiles import Tile
from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.stbn import STBN

WIDE, POINTWISE, ELEMENTWISE = "convolution 3x3", "pointwise 1x1", "elementwise"
COPIES, WARP, FLOW = "layout copies", "warp and gather", "flow"
POSTERIOR, TRANSFERS, OTHER = "posterior", "transfers", "other"
FAMILIES = (WIDE, POINTWISE, ELEMENTWISE, COPIES, WARP, FLOW, POSTERIOR, TRANSFERS, OTHER)
# Everything in these ranges of the engine is of one family.
RANGES = {"flow": FLOW, "posterior": POSTERIOR, "upload": TRANSFERS, "download": TRANSFERS}
# Words in the names of operations and kernels, asked for in this order.
WORDS = {
    TRANSFERS: ("htod", "dtoh", "pin_memory"),
    WIDE: ("residual_block", "fprop"),
    POINTWISE: ("pointwise_chain", "::mm", "addmm", "::bmm", "baddbmm", "linear", "matmul", "gemm"),
    POSTERIOR: ("posterior",),
    WARP: ("warp_nearest", "index", "gather", "grid_sampler", "take"),
    COPIES: ("copy", "clone", "contiguous", "::cat", "catarray", "pad", "shuffle", "memcpy", "nchwtonhwc"),
    ELEMENTWISE: (
        "::add",
        "::sub",
        "::mul",
        "::div",
        "relu",
        "clamp",
        "lerp",
        "where",
        "round",
        "isfinite",
        "elementwise",
        "triton",
        "memset",
        "fill",
        "zero",
        "arange",
        "::ge",
        "::le",
        "::lt",
        "::eq",
        "::ne",
        "::all",
        "::abs",
        "bitwise",
        "logical",
    ),
}
WARM_CHUNKS = 2
COUNTED_CHUNKS = {"cpu": 1, "cuda": 4}
FLOAT_BYTES = 4


@dataclass
class Work:
    """What layers have to do at least."""

    operations: int = 0  # floating point
    bytes: int = 0  # read and written

    def add(self, other: "Work", times: float = 1.0) -> None:
        self.operations += round(times * other.operations)
        self.bytes += round(times * other.bytes)


class Accountant(TorchDispatchMode):
    """Adds up the convolutions that run under it, by family; made for fake tensors, with which nothing is computed."""

    def __init__(self, value_bytes: int) -> None:
        super().__init__()
        self.work: dict[str, Work] = defaultdict(Work)
        self.in_block = False
        self._value_bytes = value_bytes

    def watch(self, network: STBN) -> None:
        """Know from now on when a residual block of the network runs."""

        def set_to(inside: bool) -> Any:
            def hook(*_: Any) -> None:
                self.in_block = inside

            return hook

        for module in network.modules():
            if isinstance(module, PhaseResidualBlock):
                module.register_forward_pre_hook(set_to(True))
                module.register_forward_hook(set_to(False))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            features, weight = args[0], args[1]
            # (outputs, inputs of a group, rows, columns): a multiplication and a sum for each, at every position.
            operations = 2 * (result.numel() // weight.shape[0]) * weight.numel()
            family = family_of_weight(weight.shape)
            values = weight.numel()
            # The map between a block's two convolutions need not leave the processor.
            if not (self.in_block and family == POINTWISE):
                values += features.numel()
            if not (self.in_block and family == WIDE):
                values += result.numel()
            self.work[family].add(Work(operations, self._value_bytes * values))
        return result


def family_of_weight(shape: Any) -> str:
    return POINTWISE if tuple(shape[-2:]) == (1, 1) else WIDE


def step_work(config: STBNConfig, plan: Plan) -> tuple[dict[str, Work], dict[str, Work]]:
    """Work of one step of the recurrence (either direction) and of one fusion with its posterior, tiles included."""
    value = plan.dtype.itemsize
    # With gradients: without, layers may be joined, and some only on some devices.
    with FakeTensorMode():
        network = STBN(config).eval()
        sigma = torch.empty(1, 1, 1, 1)
        accountant = Accountant(value)
        accountant.watch(network)

        def account(tiles: Iterable[Tile], fuse: bool) -> dict[str, Work]:
            accountant.work.clear()
            for tile in tiles:
                sides = [span.outer_stop - span.outer_start for span in (tile.rows, tile.columns)]
                state = torch.empty(1, config.state_channels, *sides)
                with accountant:
                    if fuse:
                        network.fuse(state, state)
                    else:
                        frame = torch.empty(1, config.image_channels, *sides)
                        network.advance("forward", network.see(frame, sigma), (state,))
            total: dict[str, Work] = defaultdict(Work)
            total.update(accountant.work)
            return total

        step = account(plan.propagation_tiles, fuse=False)
        fusion = account(plan.fusion_tiles, fuse=True)
    pixels = plan.height * plan.width
    flow_bytes = 2 * FLOAT_BYTES
    step[WARP].add(Work(0, pixels * (2 * config.state_channels * value + flow_bytes)))
    if config.head == "gaussian":
        fusion[POSTERIOR].add(Work(0, pixels * (config.output_channels * value + 6 * FLOAT_BYTES)))
    return step, fusion


def chunk_work(config: STBNConfig, plan: Plan) -> dict[str, Work]:
    """Work of a chunk for each of its frames: a step forward, a step back, its overlap's steps back, and a fusion."""
    step, fusion = step_work(config, plan)
    total: dict[str, Work] = defaultdict(Work)
    for family, work in step.items():
        total[family].add(work, 2 + plan.chunk_overlap / plan.chunk)
    for family, work in fusion.items():
        total[family].add(work)
    return total


def family_of(operation: str, shapes: Any, kernel: str = "") -> str:
    """The family of an operation outside the ranges that are one; `shapes` are those of its arguments."""
    name = operation.lower()
    if "conv" in name and "convert" not in name:
        # A summand may come before the weights: they are the smallest picture.
        weights = [shape for shape in (shapes or [])[1:] if len(shape) == 4]
        if weights:
            return family_of_weight(min(weights, key=lambda shape: shape[-1] * shape[-2]))
    if any(word in kernel.lower() for word in WORDS[TRANSFERS]):
        return TRANSFERS
    for text in (name, kernel.lower()):
        for family, words in WORDS.items():
            if any(word in text for word in words):
                return family
    return OTHER


def family_seconds(recorded: Any, cuda: bool) -> dict[str, float]:
    """Seconds of each family: of kernels on CUDA, of operations without those they call on a CPU."""
    seconds: dict[str, float] = defaultdict(float)
    stray: dict[str, float] = defaultdict(float)  # kernels that no operation of torch started
    for event in recorded.events() or []:
        if event.device_type.name != "CPU":
            # CUDA's own copies of the ranges are no kernels.
            if not event.name.startswith(RANGE_PREFIX) and not getattr(event, "is_user_annotation", False):
                stray[event.name] += event.time_range.elapsed_us() / 1e6
            continue
        whole = RANGES.get(stage_of(event))
        if cuda:
            for kernel in event.kernels:
                family = whole or family_of(event.name, event.input_shapes, kernel.name)
                seconds[family] += kernel.duration / 1e6
                stray[kernel.name] -= kernel.duration / 1e6
        elif whole or not event.name.startswith(RANGE_PREFIX):
            family = whole or family_of(event.name, event.input_shapes)
            seconds[family] += event.self_cpu_time_total / 1e6
    for name, left in stray.items():
        seconds[family_of("", None, name)] += max(0.0, left)
    return seconds


def take(stream: Iterator[np.ndarray], count: int) -> None:
    """Let the stream give so many frames."""
    for _ in range(count):
        next(stream)


def measure(arguments: argparse.Namespace, file: Path, device: torch.device) -> dict[str, Any]:
    """Times, work and floors of one chunk, for each of its frames."""
    dtype = resolve_precision(arguments.precision, device)
    precision = next(name for name, known in PRECISIONS.items() if known == dtype)
    if device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")  # for the matrix rate: convolutions do so
    matrix, copy = matrix_rate(device, dtype, repeats=3), copy_rate(device, repeats=3)
    torch.set_float32_matmul_precision("highest")
    width, height = arguments.size
    options = DenoiserOptions(
        file,
        flow=arguments.flow,
        device=str(device),
        precision=precision,
        chunk=arguments.chunk,
        chunk_overlap=arguments.chunk_overlap,
        tile=arguments.tile,
        scene_cuts=False,
    )
    denoiser = load_denoiser(options=options)
    plan = denoiser.plan_for(height, width)
    chunk = plan.chunk
    frames = moving_texture(width, height, DISTINCT_FRAMES)
    # Enough that no counted chunk is cut short by the end of the stream.
    counted = COUNTED_CHUNKS["cuda" if device.type == "cuda" else "cpu"] * chunk
    length = (WARM_CHUNKS + 4) * chunk + 2 * counted + 2 * plan.chunk_overlap
    stream = denoiser.stream(played(frames, length))
    take(stream, WARM_CHUNKS * chunk)
    begun = time.perf_counter()
    take(stream, counted)
    seconds = time.perf_counter() - begun
    with profiler(device, record_shapes=True) as recorded:
        take(stream, counted)
    del stream  # with what it has in work
    found = family_seconds(recorded, device.type == "cuda")
    if device.type != "cuda":
        # What torch does not see: OpenCV, NumPy and Python.
        found[OTHER] += max(0.0, seconds - sum(found.values()))
    work = chunk_work(load_checkpoint(file).config, plan)
    rows = []
    for family in FAMILIES:
        least = work.get(family, Work())
        floors = {"operations": least.operations / matrix, "bytes": least.bytes / copy}
        rows.append(
            {
                "family": family,
                "ms": 1e3 * found.get(family, 0.0) / counted,
                "gflop": least.operations / 1e9,
                "mib": least.bytes / 2**20,
                "floor_ms_operations": 1e3 * floors["operations"],
                "floor_ms_bytes": 1e3 * floors["bytes"],
                "floor_ms": 1e3 * max(floors.values()),
            }
        )
    return {
        "precision": precision,
        "matrix_rate": matrix,
        "copy_rate": copy,
        "plan": plan.describe(),
        "replans": denoiser.report.replans,
        "ms_per_frame": 1e3 * seconds / counted,
        "busy_ms_per_frame": 1e3 * sum(found.values()) / counted,
        "families": rows,
    }


def print_table(result: dict[str, Any]) -> None:
    """A Markdown table of milliseconds, work and floors a frame."""
    print(
        "| family | ms | share | GFLOP | MiB | floor, FLOP (ms) | floor, bytes (ms) | above the floor (ms) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    total = sum(row["ms"] for row in result["families"])
    names = ("ms", "gflop", "mib", "floor_ms_operations", "floor_ms_bytes", "floor_ms")
    whole: dict[str, Any] = {name: sum(row[name] for row in result["families"]) for name in names}
    for row in [*result["families"], {"family": "**together**", **whole}]:
        cells = [
            row["family"],
            f"{row['ms']:.2f}",
            f"{100 * row['ms'] / total:.1f} %" if total else "",
            f"{row['gflop']:.1f}" if row["gflop"] else "",
            f"{row['mib']:.0f}" if row["mib"] else "",
            f"{row['floor_ms_operations']:.2f}" if row["gflop"] else "",
            f"{row['floor_ms_bytes']:.2f}" if row["mib"] else "",
            f"{row['ms'] - row['floor_ms']:.2f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print(
        f"\n{result['ms_per_frame']:.2f} ms a frame by the clock without the profiler; matrix rate "
        f"{result['matrix_rate'] / 1e12:.3g} TFLOP/s, copy rate {result['copy_rate'] / 1e9:.3g} GB/s; chunks of "
        f"{result['plan']['chunk']} frames, overlap {result['plan']['chunk_overlap']}, tiles {result['plan']['tiles']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="stbn")
    parser.add_argument("--size", type=parse_size, default=(960, 540))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--flow", default="dis", choices=["dis", "light", "none"])
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--chunk-overlap", type=int)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--json", type=Path, help="write the document there, too")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    with tempfile.TemporaryDirectory(prefix="stbn-profile-") as folder:
        result = measure(arguments, model_file(arguments.model, Path(folder)), device)
    size = f"{arguments.size[0]}x{arguments.size[1]}"
    print(f"{arguments.model}, {size}, {device}, {result['precision']}, flow {arguments.flow}; a frame:\n")
    print_table(result)
    document = {
        **environment(device),
        "model": arguments.model,
        "size": size,
        "flow": arguments.flow,
        **result,
    }
    text = json.dumps(document)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
