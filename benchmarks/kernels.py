"""The Triton kernels against PyTorch on one GPU, and which tiles would be faster than the table's.

    python benchmarks/kernels.py [--sizes 540x960,1080x1920] [--dtype float16] [--repeats 20] [--no-search]

Times every kernel at the shapes of the three models: milliseconds, share of the rate that a large matrix product
reaches in the same run, and GB/s of what must be read and written at least. For the residual blocks it also tries other
tiles than `stbn_cli/models/kernels/tiles.py` has. Last line: one JSON document with the fastest tile of each shape.
Needs a GPU (exit code 2 without one): with `--interpret`, or on a CPU, times would mean nothing.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.kernels import available
from stbn_cli.models.kernels.tiles import BlockTile, block_tile, capability_of
from stbn_cli.models.phases import to_phases
from stbn_cli.models.warp import warp_nearest
from stbn_cli.noise.posterior import posterior_mean

NEEDS_A_GPU = "This benchmark needs a CUDA GPU of capability 8.0 or newer and triton 3.6 or newer."
# (channels, groups, by what the phases' resolution is divided): branches, fusions and heads; then expansions.
BLOCKS = [(16, 1, 1), (32, 1, 1), (64, 1, 1), (128, 1, 1), (64, 1, 2), (128, 1, 2), (256, 2, 2)]
CHAINS = {  # channels of each layer, the first layer's inputs first
    "mix": (64, 64, 64),
    "tail": (64, 64, 32, 32, 64),
    "enter": (131, 128),
    "leave": (128, 64),
    "outputs": (64, 9),
}
MATRIX = 8192
WARM_UP = 3


def milliseconds(action: Callable[[], Any], repeats: int) -> float:
    """Median time of an action on the GPU."""
    for _ in range(WARM_UP):
        action()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        action()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def matrix_rate(dtype: torch.dtype, repeats: int) -> float:
    """FLOP/s of a large matrix product of random numbers."""
    a, b = torch.randn(2, MATRIX, MATRIX, device="cuda").to(dtype)
    return 2 * MATRIX**3 / (milliseconds(lambda: a @ b, repeats) / 1e3)


def alternatives(channels: int, groups: int) -> Iterator[BlockTile]:
    """Tiles worth trying; those that a GPU has no room for fail and are passed over."""
    inputs = channels // groups
    patches = [(8, 8), (4, 32), (8, 16), (16, 16)]
    depths = sorted({min(inputs, depth) for depth in (32, 64)})
    for (rows, columns), depth, warps in itertools.product(patches, depths, (4, 8)):
        if rows * columns < 16 * warps:
            continue
        for stages, cached, registers in itertools.product((1, 2, 3, 4), (True, False), (None, 128)):
            yield BlockTile(rows, columns, depth, min(inputs, 32), warps, stages, cached, registers)


class Report:
    """Prints a line for each measurement and keeps it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, eager: float, kernel: float, flop: float, size: float, **more: Any) -> None:
        row = {
            "name": name,
            "eager_ms": eager,
            "kernel_ms": kernel,
            "speedup": eager / kernel,
            "matrix_share": flop / (kernel / 1e3) / self.rate,
            "gigabytes_per_second": size / kernel / 1e6,
            **more,
        }
        self.rows.append(row)
        print(
            f"{name:34} eager {eager:8.3f} ms  kernel {kernel:8.3f} ms  x{eager / kernel:5.2f}  "
            f"{row['matrix_share']:6.1%} of the matrix rate  {row['gigabytes_per_second']:6.0f} GB/s",
            flush=True,
        )


def require_near(name: str, result: Tensor, expected: Tensor) -> None:
    """A fast wrong result is worth nothing."""
    error = (result.float() - expected.float()).abs().max() / expected.float().abs().max()
    if not error < 0.03:
        raise SystemExit(f"{name}: the kernel differs from PyTorch by {error:.3g} of the largest value")


def measure_blocks(
    report: Report, height: int, width: int, dtype: torch.dtype, repeats: int, search: bool
) -> None:
    from stbn_cli.models.kernels.residual_block import pack_residual_block, residual_block

    for channels, groups, scale in BLOCKS:
        h, w = -(-height // (2 * scale)), -(-width // (2 * scale))
        block = PhaseResidualBlock(channels, groups).to("cuda", dtype)
        features = torch.randn(4, channels, h, w, device="cuda").to(dtype)
        features = features.contiguous(memory_format=torch.channels_last)
        packed = pack_residual_block(block.spatial, block.pointwise, dtype)
        name = f"block {channels}/{groups} at {h}x{w}"
        require_near(name, residual_block(features, packed), block(features))
        eager = milliseconds(lambda b=block, x=features: b(x), repeats)
        chosen = block_tile(channels, groups, capability_of(features.device))
        times = {}
        for tile in [chosen, *(alternatives(channels, groups) if search else ())]:
            run = lambda x=features, packed=packed, tile=tile: residual_block(x, packed, tile=tile)  # noqa: E731
            try:
                times[tile] = milliseconds(run, repeats if tile == chosen else max(3, repeats // 4))
            except Exception as error:  # out of shared memory or registers
                if tile == chosen:
                    raise
                print(f"  {tile}: {type(error).__name__}")
        best = min(times, key=lambda tile: times[tile])
        pixels = features.numel() // channels
        flop = 2.0 * pixels * channels**2 * (9 / groups + 1)
        size = 2.0 * features.nbytes
        tile_text = {"best_tile": dataclasses.asdict(best), "best_ms": times[best]}
        report.add(name, eager, times[chosen], flop, size, table_is_best=best == chosen, **tile_text)
        if best != chosen:
            print(f"  {times[best]:.3f} ms with {best}")


def measure_chains(report: Report, height: int, width: int, dtype: torch.dtype, repeats: int) -> None:
    from stbn_cli.models.kernels.pointwise import PointwiseLayer, pack_chain, pointwise_chain

    h, w = -(-height // 2), -(-width // 2)
    for title, widths in CHAINS.items():
        pairs = list(itertools.pairwise(widths))
        layers = [
            PointwiseLayer(
                torch.randn(b, a, 1, 1, device="cuda").div(a**0.5).to(dtype),
                torch.randn(b, device="cuda").to(dtype),
                relu=number < len(pairs) - 1,
            )
            for number, (a, b) in enumerate(pairs)
        ]
        features = torch.randn(4, widths[0], h, w, device="cuda").to(dtype)
        features = features.contiguous(memory_format=torch.channels_last)
        chain = pack_chain(layers, dtype)

        def eager(x: Tensor, layers: list[PointwiseLayer] = layers) -> Tensor:
            for layer in layers:
                x = F.conv2d(x, layer.weight, layer.bias)
                x = x.relu_() if layer.relu else x
            return x

        name = f"{title} {'-'.join(map(str, widths))} at {h}x{w}"
        require_near(name, pointwise_chain(features, chain), eager(features))
        pixels = features.numel() // widths[0]
        report.add(
            name,
            milliseconds(lambda x=features, eager=eager: eager(x), repeats),
            milliseconds(lambda x=features, chain=chain: pointwise_chain(x, chain), repeats),
            2.0 * pixels * sum(a * b for a, b in pairs),
            2.0 * pixels * (widths[0] + widths[-1]),
        )


def measure_the_rest(report: Report, height: int, width: int, dtype: torch.dtype, repeats: int) -> None:
    from stbn_cli.models.kernels import posterior, warp

    for channels in (19, 35, 67):
        state = torch.randn(1, channels, height, width, device="cuda").to(dtype)
        state = state.contiguous(memory_format=torch.channels_last)
        flow = torch.randn(1, 2, height, width, device="cuda")
        eager = lambda x=state, flow=flow: to_phases(warp_nearest(x, flow))  # noqa: E731
        if not torch.equal(warp.warp_nearest_phases(state, flow), eager()):
            raise SystemExit("the warp differs from PyTorch")
        report.add(
            f"warp {channels} at {height}x{width}",
            milliseconds(eager, repeats),
            milliseconds(lambda x=state, flow=flow: warp.warp_nearest_phases(x, flow), repeats),
            0.0,
            2.0 * state.nbytes + flow.nbytes,
        )
    outputs = torch.randn(1, 9, height, width, device="cuda")
    noisy = torch.rand(1, 3, height, width, device="cuda")
    sigma = torch.tensor(0.1, device="cuda").expand_as(noisy)
    require_near(
        "posterior",
        posterior.posterior_mean(outputs, noisy, sigma),
        posterior_mean(outputs, noisy, sigma),
    )
    report.add(
        f"posterior at {height}x{width}",
        milliseconds(lambda: posterior_mean(outputs, noisy, sigma), repeats),
        milliseconds(lambda: posterior.posterior_mean(outputs, noisy, sigma), repeats),
        0.0,
        outputs.nbytes + 2.0 * noisy.nbytes,
    )


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="540x960,1080x1920")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-search", action="store_true", help="time only the table's tiles")
    parser.add_argument("--interpret", action="store_true", help="say that this needs a GPU")
    arguments = parser.parse_args()
    if arguments.interpret or not torch.cuda.is_available() or not available(torch.device("cuda")):
        print(NEEDS_A_GPU, file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    rate = matrix_rate(dtype, arguments.repeats)
    print(
        f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s in a {MATRIX} x {MATRIX} matrix product"
    )
    report = Report(rate)
    for size in arguments.sizes.split(","):
        height, width = (int(side) for side in size.split("x"))
        measure_blocks(report, height, width, dtype, arguments.repeats, not arguments.no_search)
        measure_chains(report, height, width, dtype, arguments.repeats)
        measure_the_rest(report, height, width, dtype, arguments.repeats)
    document = {"device": torch.cuda.get_device_name(), "dtype": arguments.dtype, "matrix_rate": rate}
    print(json.dumps({**document, "rows": report.rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
