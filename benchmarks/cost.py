"""What the whole command costs, `stbn denoise` of a file to a file, beside that of another checkout of this project.

    python benchmarks/cost.py --against FOLDER [--their-model stbn-xs ...] [--model real real-fast ...]
        [--size 960x540 ...] [--precision fp32 bf16 ...] [--frames 24] [--repeat 1] [--threads 1] [--json FILE]

FOLDER is the other source tree, such as one made by `git worktree add FOLDER COMMIT`; its command runs in the same
Python with that tree in front. Both get the same H.264 file (a moving texture with noise), take their model's own flow
and measure the noise themselves. Models are names or files; those without weights get random ones, which cost as much.
All in turn, medians. Seconds of processor time (of all threads) and of the clock; ratios are of processor time, which
suffers less from what else runs. Last line: one JSON document.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from speed import environment, model_file, parse_size, write_clip

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Command:
    """One command line to measure, in the source tree it belongs to."""

    tree: Path
    model: str  # as the table shows it
    file: str  # as the command gets it
    size: tuple[int, int]  # width, height
    precision: str


@dataclass
class Timing:
    """Seconds a frame of each run."""

    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)


def run(command: Command, clip: Path, frames: int, threads: int) -> tuple[float, float]:
    """Seconds of processor time and of the clock for a frame. Raises `RuntimeError` where the command fails."""
    target = clip.with_suffix(".denoised.mp4")
    words = [sys.executable, "-m", "stbn_cli", "denoise", str(clip), "-o", str(target), "--overwrite"]
    words += ["--model", command.file, "--device", "cpu", "--precision", command.precision, "--quiet"]
    own = {"PYTHONPATH": str(command.tree), "OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            words, cwd=clip.parent, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(words)}: code {process.returncode}: {errors.read()[-500:]}")
    clock = time.perf_counter() - begun
    target.unlink(missing_ok=True)
    return (used.ru_utime + used.ru_stime) / frames, clock / frames


def rows_of(timings: Mapping[Command, Timing], theirs: str) -> list[dict[str, object]]:
    """A row for each command; its ratios are to the first model of the other tree at the same size and precision."""
    seconds = {command: statistics.median(timing.processor) for command, timing in timings.items()}
    rows = []
    for command, timing in timings.items():
        base = next(
            value
            for other, value in seconds.items()
            if other.tree != HERE
            and other.model == theirs
            and (other.size, other.precision) == (command.size, command.precision)
        )
        rows.append(
            {
                "tree": "this" if command.tree == HERE else "other",
                "model": command.model,
                "size": "{}x{}".format(*command.size),
                "precision": command.precision,
                "processor_seconds": round(seconds[command], 3),
                "clock_seconds": round(statistics.median(timing.clock), 3),
                "times_as_fast": round(base / seconds[command], 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="the other source tree")
    parser.add_argument("--their-model", nargs="+", default=["stbn-xs"])
    parser.add_argument("--model", nargs="+", default=["real", "real-fast"])
    parser.add_argument("--size", nargs="+", type=parse_size, default=[(960, 540), (1920, 1080)])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the document there, too")
    arguments = parser.parse_args()
    other = arguments.against.resolve()
    if other == HERE or not (other / "stbn_cli").is_dir():
        parser.error("--against has to be another source tree of this project")
    console = Console(stderr=True)
    timings: dict[Command, Timing] = defaultdict(Timing)
    with tempfile.TemporaryDirectory(prefix="stbn-cost-") as name:
        folder = Path(name)
        for size, precision in itertools.product(arguments.size, arguments.precision):
            clip = folder / "{}x{}.mp4".format(*size)
            if not clip.exists():
                write_clip(clip, size, arguments.frames)
            commands = [Command(other, model, model, size, precision) for model in arguments.their_model]
            commands += [
                Command(HERE, model, str(model_file(model, folder)), size, precision)
                for model in arguments.model
            ]
            for command in commands * arguments.repeat:
                processor, clock = run(command, clip, arguments.frames, arguments.threads)
                timings[command].processor.append(processor)
                timings[command].clock.append(clock)
                where = "this tree" if command.tree == HERE else "other tree"
                words = f"{where} {command.model} {size[0]}x{size[1]} {precision}"
                console.print(f"{words}: {processor:.3f} s of processor time a frame, {clock:.3f} s")
    rows = rows_of(timings, arguments.their_model[0])
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    document = json.dumps({**environment(torch.device("cpu")), "frames": arguments.frames, "rows": rows})
    if arguments.json is not None:
        arguments.json.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
