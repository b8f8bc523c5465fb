"""What a cluster would make of an archive: stage times measured on one clip, and a simulation of many workers.

    python benchmarks/cluster.py CLIP [--model auto] [--files 200] [--frames 1500] [--films 2] [--film-frames 150000]
        [--scene 125] [--workers 1 2 4 8 16 32 64] [--start 20] [--storage 1000] [--stages open,cut,part,join]

Denoises CLIP (some hundred frames with scene cuts; without any, it is measured whole) in the steps that workers do, one
after the other in this process, and takes the seconds of each. Then it hands the steps of an archive (`--files` short
clips and `--films` long ones) to simulated workers by the rules of jobs/cluster.py, each of which takes `--start`
seconds to begin. `--storage`: MB a second that all workers share. `--stages`: measured before, `open` in seconds and
the others in milliseconds a frame, in place of measuring. Prints frames a second by the number of workers, and a JSON
document as the last line. Needs no Ray.
"""

import argparse
import heapq
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stbn_cli.jobs.cluster import CUT, JOIN, OPEN, ORDER, PART
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.parts import SHORTEST_PART, ArchiveWorker, Opened, cut, parts_folder
from stbn_cli.source import Source
from stbn_cli.video.encoders import EncodeOptions

MILLISECONDS = 1e3
MEGABYTE = 1e6


@dataclass(frozen=True)
class Stages:
    """What the steps take."""

    open: float  # seconds a file: measuring its noise; the model is loaded
    cut: float  # seconds a frame: decoding, and looking for scenes
    part: float  # decoding, denoising, keeping
    join: float  # decoding, reading what was kept, encoding, verifying
    source_bytes: float = 0.0  # a frame, read by the last three
    kept_bytes: float = 0.0  # a frame, written by parts and read by the last


def nothing(count: int) -> None:
    """For progress that is not shown."""


def measure(clip: Path, model: str, device: str) -> Stages:
    """The stages of one clip, cut as finely as its scenes allow."""
    with TemporaryDirectory() as folder:
        job = DenoiseJob(
            Source(clip),
            str(Path(folder) / "out.mp4"),
            DenoiserOptions(model=model, device=device),
            EncodeOptions(),
            keep_progress=True,
        )
        worker = ArchiveWorker(lambda prepared, result: ("", {"frames": result.summary.frames}), shortest=1)
        worker.open(job, nothing)  # loads the model
        start = time.perf_counter()
        opened = worker.open(job, nothing)
        begun = time.perf_counter()
        assert isinstance(opened, Opened)
        split = cut(job, opened, 1)
        looked = time.perf_counter()
        if split is None:
            raise SystemExit(f"{clip} has no scene cut. Take a clip that has one.")
        for number in range(len(split.parts)):
            worker.part(job, split, number, opened.measured, nothing)
        denoised = time.perf_counter()
        kept = sum(file.stat().st_size for file in parts_folder(job).rglob("frames-*"))
        worker.join(job, split, opened.measured, nothing)
        joined = time.perf_counter()
        frames = split.frames
        return Stages(
            begun - start,
            (looked - begun) / frames,
            (denoised - looked) / frames,
            (joined - denoised) / frames,
            clip.stat().st_size / frames,
            kept / frames,
        )


def steps_of(frames: int, scene: int) -> list[int]:
    """Frames of the parts of a file; one where it is not cut."""
    length = -(-SHORTEST_PART // scene) * scene
    if frames < 2 * SHORTEST_PART or frames < 2 * length:
        return [frames]
    count = frames // length
    return [length] * (count - 1) + [frames - length * (count - 1)]


def simulate(stages: Stages, files: list[int], scene: int, workers: int, start: float) -> float:
    """Seconds until all is done: the queue of jobs/cluster.py."""
    files = sorted(files, reverse=True)
    parts = [steps_of(frames, scene) for frames in files]
    left = [len(part) for part in parts]
    queue = [(ORDER[OPEN], index, 0, OPEN) for index in range(len(files))]
    free = [start] * workers  # when each worker has nothing to do
    busy: list[tuple[float, tuple[int, int, int, str]]] = []
    now = 0.0
    while queue or busy:
        heapq.heapify(free)
        while queue and free and free[0] <= now:
            heapq.heappop(free)
            step = heapq.heappop(queue)
            heapq.heappush(busy, (now + seconds(stages, step, files, parts), step))
        moments = [busy[0][0]] if busy else []
        if queue and free:
            moments.append(free[0])
        now = min(moments)
        while busy and busy[0][0] <= now:
            _, (_, index, _, kind) = heapq.heappop(busy)
            free.append(now)
            follow(queue, index, kind, parts, left)
    return now


def seconds(
    stages: Stages, step: tuple[int, int, int, str], files: list[int], parts: list[list[int]]
) -> float:
    """What a step takes."""
    _, index, number, kind = step
    if kind == OPEN:
        whole = len(parts[index]) == 1
        # A short file goes through once: what the join does beside decoding is encoding.
        return stages.open + (files[index] * (stages.part + stages.join) if whole else 0.0)
    if kind == PART:
        return parts[index][number] * stages.part
    return files[index] * (stages.cut if kind == CUT else stages.join)


def follow(queue: list, index: int, kind: str, parts: list[list[int]], left: list[int]) -> None:
    """Queue what a finished step makes possible."""
    if kind == OPEN and len(parts[index]) > 1:
        heapq.heappush(queue, (ORDER[CUT], index, 0, CUT))
    elif kind == CUT:
        for number in range(len(parts[index])):
            heapq.heappush(queue, (ORDER[PART], index, number, PART))
    elif kind == PART:
        left[index] -= 1
        if not left[index]:
            heapq.heappush(queue, (ORDER[JOIN], index, 0, JOIN))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--films", type=int, default=2)
    parser.add_argument("--film-frames", type=int, default=150_000)
    parser.add_argument("--scene", type=int, default=125)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--start", type=float, default=20.0)
    parser.add_argument("--storage", type=float, default=1000.0)
    parser.add_argument("--stages")
    arguments = parser.parse_args()
    if arguments.stages is not None:
        first, *others = map(float, arguments.stages.split(","))
        stages = Stages(first, *(value / MILLISECONDS for value in others))
    elif arguments.clip is not None:
        stages = measure(arguments.clip, arguments.model, arguments.device)
    else:
        parser.error("name a clip, or give --stages")
    print(
        f"open {stages.open:.2f} s a file; "
        + ", ".join(f"{name} {MILLISECONDS * getattr(stages, name):.1f}" for name in ("cut", "part", "join"))
        + f" ms a frame; {stages.source_bytes / 1e3:.0f} kB read, {stages.kept_bytes / 1e3:.0f} kB kept a frame"
    )
    files = [arguments.frames] * arguments.files + [arguments.film_frames] * arguments.films
    total = sum(files)
    moved = total * (3 * stages.source_bytes + 2 * stages.kept_bytes)
    rows = []
    print("workers  hours  frames/s  of ideal  storage MB/s")
    for workers in arguments.workers:
        needed = simulate(stages, files, arguments.scene, workers, arguments.start)
        needed = max(needed, moved / (arguments.storage * MEGABYTE))
        speed = total / needed
        rows.append({"workers": workers, "seconds": needed, "fps": speed, "bytes_per_second": moved / needed})
        ideal = rows[0]["fps"] / rows[0]["workers"] * workers
        print(
            f"{workers:7}  {needed / 3600:5.1f}  {speed:8.2f}  {100 * speed / ideal:7.0f}%  "
            f"{moved / needed / MEGABYTE:12.1f}"
        )
    print(json.dumps({"stages": asdict(stages), "frames": total, "rows": rows}))


if __name__ == "__main__":
    main()
