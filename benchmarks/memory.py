"""Peak memory of the network's two steps, in the planner's unit: bytes per (pixel x state channel x byte of the type).

    python benchmarks/memory.py [--size 540x960] [--device cpu]

Each step of each model size runs in a process of its own; on a CPU the peak is the growth of resident memory. The
largest number, rounded up, is ACTIVATION_COST in stbn_cli/inference/plan.py.
"""

import argparse
import json
import multiprocessing
import resource
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.fused import using_kernels
from stbn_cli.models.kernels import available
from stbn_cli.models.stbn import STBN


def resident_bytes() -> int:
    """Memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run_step(name: str, step: str, size: tuple[int, int], device: str) -> float:
    """The cost of one step: peak bytes over pixels, channels and bytes of the type."""
    torch.set_num_threads(1)
    dtype = torch.float32 if device == "cpu" else torch.float16
    network = STBN(MODEL_SIZES[name]).eval().to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels = network.config.state_channels
    state = torch.zeros(1, channels, *size, device=device, dtype=dtype)
    frame = torch.zeros(1, network.config.image_channels, *size, device=device, dtype=dtype)
    sigma = torch.full((1, 1, 1, 1), 0.1, device=device)

    def compute() -> torch.Tensor:
        if step == "fusion":
            return network.fuse(state, state)
        return network.propagate_forward(frame, sigma, state, torch.zeros(1, 2, *size, device=device))

    with torch.inference_mode():
        if device == "cpu":
            small = state[..., :64, :64].contiguous()
            network.fuse(small, small)  # loads the libraries
            peak = _resident_peak(compute)
        else:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            with using_kernels(available(torch.device(device))):
                compute()
            peak = torch.cuda.max_memory_allocated() - before
    return peak / (size[0] * size[1] * network.config.channels * dtype.itemsize)


def _resident_peak(compute: object) -> int:
    """Growth of resident memory while `compute` runs, sampled every millisecond."""
    before, peak, running = resident_bytes(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, resident_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    compute()  # type: ignore[operator]
    running = False
    watcher.join()
    return peak - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="540x960", help="height x width")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    height, width = (int(part) for part in arguments.size.split("x"))
    costs: dict[str, float] = {}
    for name in MODEL_SIZES:
        for step in ("propagation", "fusion"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                cost = pool.submit(run_step, name, step, (height, width), arguments.device).result()
            costs[f"{name} {step}"] = round(cost, 1)
            print(f"{name:8} {step:12} {costs[f'{name} {step}']:6.1f}", flush=True)
    print(json.dumps({"size": arguments.size, "device": arguments.device, "costs": costs}))


if __name__ == "__main__":
    main()
