"""Speed of training: share of the device's own matrix rate, and share of the time spent on waiting for data.

    python benchmarks/training.py [--model stbn] [--device cuda] [--batch-size 24] [--patch-size 96]
        [--train-length 8] [--flow light] [--compile] [--steps 30]

Footage is made on the fly, so no data is needed. The matrix rate is that of a large product in the same precision,
measured in the same run just before; the network's operations are counted by torch in one step, forward and backward.
Prints one JSON document.
"""

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matrix import matrix_rate, synchronise
from torch.utils.flop_counter import FlopCounterMode

from stbn_cli.inference.device import resolve_device
from stbn_cli.training.optimisation import Optimisation
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.trainer import Trainer

WARM_UP = 5  # steps that are not counted


def make_footage(folder: Path, size: int) -> None:
    """Photographs of smooth random texture, large enough for the crops."""
    random = np.random.default_rng(0)
    for index in range(8):
        coarse = random.random((size // 8, size // 8, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (4 * size, 4 * size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), np.clip(255 * picture, 0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="stbn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--patch-size", type=int, default=96)
    parser.add_argument("--train-length", type=int, default=8)
    parser.add_argument("--flow", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        make_footage(Path(folder), arguments.patch_size)
        options = TrainOptions(
            log_dir=Path(folder) / "run",
            still_dirs=(Path(folder),),
            model=arguments.model,
            device=str(device),
            precision=arguments.precision,
            batch_size=arguments.batch_size,
            patch_size=arguments.patch_size,
            train_length=arguments.train_length,
            flow=arguments.flow,
            compile=arguments.compile,
            epochs=1,
            patches_per_epoch=arguments.batch_size * (arguments.steps + WARM_UP),
            log_every=1,
        )
        result = _measure(options)
    print(json.dumps({**vars(arguments), "torch": torch.__version__, "cpu": platform.processor(), **result}))


def _measure(options: TrainOptions) -> dict[str, Any]:
    trainer = Trainer(options)
    device = trainer.device
    rate = matrix_rate(device, trainer.precision)
    operations: list[int] = []
    gradients, descend = Optimisation.gradients, Optimisation.descend

    def counted(self: Optimisation, *arguments: Any) -> Any:
        if operations:
            return gradients(self, *arguments)
        with FlopCounterMode(display=False) as counter:
            result = gradients(self, *arguments)
        operations.append(counter.get_total_flops())
        torch._dynamo.reset()  # the counter keeps what it saw from being compiled
        return result

    def waited_for(self: Optimisation, learning_rate: float) -> Any:
        result = descend(self, learning_rate)
        synchronise(device)
        return result

    Optimisation.gradients = counted  # type: ignore[method-assign]
    Optimisation.descend = waited_for  # type: ignore[method-assign]
    rows: list[dict[str, Any]] = []
    trainer.run(rows.append)
    steady = [row for row in rows if "steps_per_second" in row][WARM_UP:]
    seconds = statistics.median(1.0 / row["steps_per_second"] for row in steady)
    achieved = operations[0] / seconds
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device_name": name,
        "seconds_per_step": seconds,
        "tera_operations_per_step": operations[0] / 1e12,
        "tera_operations_per_second": achieved / 1e12,
        "matrix_rate": rate / 1e12,
        "share_of_matrix_rate": achieved / rate,
        "waiting": statistics.median(row["waiting"] for row in steady),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


if __name__ == "__main__":
    main()
