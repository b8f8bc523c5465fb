"""What chunks and tiles cost in quality and memory, against whole-clip, untiled inference.

    python benchmarks/streaming.py CLIP [--model stbn-xs] [--sigma 30] [--frames 32] [--chunk 8] [--tile 256]

Adds protocol noise to a clean clip, denoises it whole, in chunks, and in chunks and tiles (default overlaps); prints
PSNR, the squared error along chunk and tile borders over that elsewhere, and the peak memory of streams of 60 and 240
frames (the clip played forth and back, each in a process of its own). Last line: one JSON document.
"""

import argparse
import json
import multiprocessing
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from stbn_cli import DenoiserOptions, load_denoiser
from stbn_cli.metrics import psnr
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.protocol import protocol_noise
from stbn_cli.training.footage import load_clip

BORDER = 4  # pixels on either side of a tile's border that count as the border
LENGTHS = (60, 240)  # frames of the memory measurement


def load(arguments: argparse.Namespace) -> tuple[torch.Tensor, np.ndarray]:
    """Clean clip (T, 3, H, W) and noisy frames (T, H, W, 3), float32."""
    clean = (
        torch.from_numpy(load_clip(arguments.clip, arguments.frames)).permute(0, 3, 1, 2).float() / BYTE_SCALE
    )
    return clean, protocol_noise(clean, arguments.sigma / BYTE_SCALE).permute(0, 2, 3, 1).numpy()


def denoise(noisy: np.ndarray, arguments: argparse.Namespace, chunk: int, tile: int) -> torch.Tensor:
    options = DenoiserOptions(chunk=chunk, tile=tile, scene_cuts=False)
    denoiser = load_denoiser(arguments.model, sigma=arguments.sigma, options=options)
    return torch.from_numpy(denoiser(noisy)).permute(0, 3, 1, 2)


def border_ratio(error: torch.Tensor, chunk: int, tile: int) -> dict[str, float]:
    """Mean squared error (T, H, W) at borders over that elsewhere: last frames of chunks, edges of tiles."""
    frames, height, width = error.shape
    last = torch.tensor([(t + 1) % chunk == 0 and t + 1 < frames for t in range(frames)])
    edges = torch.zeros(height, width, dtype=torch.bool)
    for axis, size in ((0, height), (1, width)):
        count = -(-size // tile)
        for index in range(1, count):
            edge = 4 * round(size * index / count / 4)
            edges.index_fill_(axis, torch.arange(edge - BORDER, edge + BORDER), True)
    return {
        "chunk_borders": float(error[last].mean() / error[~last].mean()),
        "tile_borders": float(error[:, edges].mean() / error[:, ~edges].mean()),
    }


def stream_memory(arguments: argparse.Namespace, length: int, queue: "multiprocessing.Queue[int]") -> None:
    """Puts the peak resident memory (KiB) of denoising `length` frames."""
    _, noisy = load(arguments)

    def frames() -> Iterator[np.ndarray]:
        period = 2 * len(noisy) - 2
        for t in range(length):
            yield noisy[abs((t + len(noisy) - 1) % period - (len(noisy) - 1))]

    denoiser = load_denoiser(
        arguments.model, sigma=arguments.sigma, options=DenoiserOptions(scene_cuts=False)
    )
    for _ in denoiser.stream(frames()):
        pass
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_memory(arguments: argparse.Namespace, length: int) -> float:
    """Peak resident memory in MiB of a stream of `length` frames, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=stream_memory, args=(arguments, length, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--sigma", type=float, default=30.0)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory measurement")
    arguments = parser.parse_args()
    clean, noisy = load(arguments)
    results: dict[str, object] = {}
    for name, chunk, tile in (
        ("whole clip", len(noisy), 0),
        ("chunks", arguments.chunk, 0),
        ("chunks and tiles", arguments.chunk, arguments.tile),
    ):
        estimate = denoise(noisy, arguments, chunk, tile)
        score = float(psnr(estimate, clean).mean())
        error = (estimate.clamp(0, 1) - clean).square().mean(1)
        results[name] = {"psnr": score, **border_ratio(error, arguments.chunk, arguments.tile)}
        print(name, json.dumps(results[name]), flush=True)
    if not arguments.no_memory:
        peaks = {str(length): peak_memory(arguments, length) for length in LENGTHS}
        results["peak_mib"] = peaks
        print("peak memory in MiB by number of frames:", peaks)
    print(json.dumps({"model": arguments.model, "clip": arguments.clip.name, **results}))


if __name__ == "__main__":
    main()
