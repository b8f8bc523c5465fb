"""How fast it denoises: the network, the engine, the whole command, and the plain form of the same network beside them.

    python benchmarks/speed.py [--device auto|cpu|cuda] [--model stbn stbn-s stbn-xs] [--size 960x540 ...]
        [--precision auto|fp32|fp16|bf16 ...] [--frames N] [--flow dis|light|none]
        [--parts network engine command plain pipeline] [--repeat 3] [--limit SECONDS] [--json FILE]

Needs nothing but the package: footage (a moving texture with noise) is made on the fly, and models without weights get
random ones. What is measured, each in a process of its own, all in turn (A B C A B C), medians with least and most:

network        `STBN.forward` of a short clip with given flows
engine         `Denoiser.stream`, flow, noise level and posterior included, warmed up
command        `python -m stbn_cli denoise` of an H.264 file to an H.264 file, start included
plain network  benchmarks/plain.py in float32 (on CUDA as torch sets it: convolutions may use TF32), same clip and flows
plain whole    the same with flow and posterior, the whole clip at once
matrix         benchmarks/matrix.py

The part `pipeline` sets the whole command against decoding, engine and encoding alone on the same clip, and measures
its memory on a clip ten times as long. Operations are those of the plain form, counted by torch: work that the engine
does twice (its overlaps) or saves is not counted. Runs that would take longer than --limit by the matrix rate are left
out and named. Last line: one JSON document.
"""

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matrix import matrix_rate, synchronise
from plain import PlainSTBN, plain_denoise, plain_flows
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from stbn_cli import __version__
from stbn_cli.api import load_denoiser
from stbn_cli.checkpoints.flow import load_flow_checkpoint
from stbn_cli.checkpoints.registry import load_registry
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from stbn_cli.checkpoints.store import find_flow, find_local
from stbn_cli.errors import MemoryExhaustedError
from stbn_cli.flow.estimator import FlowEstimator, create_flow_estimator
from stbn_cli.inference.device import PRECISIONS, is_out_of_memory, resolve_device, resolve_precision
from stbn_cli.machine import peak_memory, reset_peak_memory
from stbn_cli.models.config import MODEL_SIZES, RECURRENT_SIZES, TRAINED_FLOW, STBNConfig
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.models.stbn import STBN

SIGMA = 25 / 255  # of the footage's noise, [0, 1]
RATE = 25  # frames per second of the video files
DISTINCT_FRAMES = 8  # played forth and back: long clips in little memory
PAN = (4, 2)  # pixels that the texture moves in a frame, right and down
MODELS = ("stbn", "stbn-s", "stbn-xs")
SIZES = {"cpu": ("240x136", "480x272", "960x540"), "cuda": ("960x540", "1920x1080", "3840x2160")}
FRAMES = {"cpu": 2, "cuda": 48}
LONGEST_CLIP = 8  # frames of what keeps the whole clip in memory
PIPELINE_SIZE = {"cpu": "320x180", "cuda": "1920x1080"}
PIPELINE_FRAMES = 48
LONGER = 10  # times, of the clip that shows whether memory grows
LIMIT = {"cpu": 15.0, "cuda": 60.0}  # seconds that a run may take
USUAL_SHARE = 0.5  # of the matrix rate; from it the length of a run is foreseen
# The engine's first chunk and its overlap: after so many frames everything has been loaded and chosen.
WARM_FRAMES = 24
SMALL = (64, 64)  # picture of a warm-up where whole ones take long
SHORTEST_TIMING = 0.3  # seconds; shorter runs are repeated
TOLERANCE = 1e-4  # of the plain form against the network, float32
PARTS = ("network", "engine", "command", "plain", "pipeline")
OUT_OF_MEMORY = "out of memory"
NO_VIDEO = "PyAV is not installed"
RANGE_PREFIX = "stbn."  # of the profiler ranges that the engine sets


@dataclass(frozen=True)
class Case:
    """Something to measure."""

    part: str
    precision: str
    device: str
    size: tuple[int, int] = (0, 0)  # width, height
    model: str = ""
    file: Path = Path()  # of the model
    flow: str = "none"
    frames: int = 0
    clip: Path = Path()  # video file, for the parts that read one
    small_warm_up: bool = False


@dataclass
class Job:
    """A case made ready in its process."""

    run: Callable[[], None]
    warm: Callable[[], None]
    measure: Callable[[], float] | None = None  # instead of the time of `run`
    profiled: tuple[Callable[[], None], int] | None = None  # a run with stages, and its frames
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """What came out of a case."""

    case: Case
    values: list[float] = field(default_factory=list)  # seconds a run, or operations a second
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else math.nan


# Footage and models


def moving_texture(width: int, height: int, count: int, sigma: float = SIGMA) -> list[np.ndarray]:
    """Frames `(height, width, 3)` float32 of a panned random texture with Gaussian noise, nominal [0, 1]."""
    random = np.random.default_rng(0)
    rows, columns = height + PAN[1] * count, width + PAN[0] * count
    coarse = random.random((max(4, rows // 8), max(4, columns // 8), 3), dtype=np.float32)
    canvas = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    frames = []
    for t in range(count):
        clean = canvas[PAN[1] * t : PAN[1] * t + height, PAN[0] * t : PAN[0] * t + width]
        noise = random.standard_normal((height, width, 3), dtype=np.float32)
        frames.append(np.ascontiguousarray(clean + np.float32(sigma) * noise))
    return frames


def played(frames: Sequence[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` frames: the given ones forth and back."""
    last = len(frames) - 1
    for t in range(count):
        yield frames[last - abs(last - t % max(1, 2 * last))]


def write_clip(path: Path, size: tuple[int, int], count: int) -> Path:
    """The footage as an H.264 file."""
    import av

    width, height = size
    even = width % 2 == 0 and height % 2 == 0
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if even else "yuv444p"
        frames = [
            np.clip(255 * frame, 0, 255).astype(np.uint8)
            for frame in moving_texture(width, height, min(count, DISTINCT_FRAMES))
        ]
        for frame in played(frames, count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def model_file(name: str, folder: Path) -> Path:
    """The model's file if it is on this machine, else one with random weights in `folder`."""
    if Path(name).suffix == ".safetensors":
        return Path(name)
    spec = load_registry().get(name)
    if spec is not None and (path := find_local(spec)) is not None:
        return path
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    if (recurrent := RECURRENT_SIZES.get(name)) is not None:
        info = ModelInfo(name, flow=TRAINED_FLOW[name], noise_kind="camera")
        save_checkpoint(path, Checkpoint(recurrent, info, Recurrent(recurrent).state_dict()))
    else:
        config = MODEL_SIZES[name]
        save_checkpoint(path, Checkpoint(config, ModelInfo(name), STBN(config).state_dict()))
    return path


def load_flow(name: str, device: torch.device) -> FlowEstimator:
    """The estimator that `--flow` names; the network is the one that comes with the package."""
    if name != "light":
        return create_flow_estimator(name)
    return create_flow_estimator(name, load_flow_checkpoint(find_flow()).build().to(device))


@cache
def counted_operations(config: STBNConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Floating-point operations of the plain network for a clip's first frame, and for every further one."""
    width, height = size
    with torch.device("meta"):
        network = PlainSTBN(STBN(config))
        totals = []
        for frames in (1, 2):
            noisy = torch.empty(1, frames, config.image_channels, height, width)
            flow = torch.empty(1, frames, 2, height, width)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(noisy, torch.empty(1, 1, 1, 1, 1), flow, flow)
            totals.append(counter.get_total_flops())
    return totals[0], totals[1] - totals[0]


def clip_operations(config: STBNConfig, size: tuple[int, int], frames: int) -> int:
    """Floating-point operations of the plain network for a whole clip."""
    first, further = counted_operations(config, size)
    return first + (frames - 1) * further


# In the process of a case


def prepare(case: Case) -> Job:
    """Load everything that a case needs; nothing is measured yet."""
    device = torch.device(case.device)
    if case.part == "matrix":
        return _prepare_matrix(device, PRECISIONS[case.precision])
    if case.part == "engine":
        return _prepare_engine(case)
    if case.part == "decode":
        return _prepare_decode(case)
    if case.part == "encode":
        return _prepare_encode(case)
    return _prepare_network(case, device)


def _prepare_matrix(device: torch.device, dtype: torch.dtype) -> Job:
    if device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        # The same arithmetic as that of the convolutions.
        torch.set_float32_matmul_precision("high")
    return Job(_nothing, _nothing, measure=lambda: matrix_rate(device, dtype, repeats=1))


def _prepare_network(case: Case, device: torch.device) -> Job:
    """`network` and both forms of `plain`."""
    network = load_checkpoint(case.file).build()
    dtype = PRECISIONS[case.precision]
    estimator = load_flow(case.flow, device)
    facts: dict[str, Any] = {}
    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    if case.part == "network":
        network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = lambda noisy, *flows: network(noisy, SIGMA, *flows)  # noqa: E731
    else:
        network = network.to(device)
        plain = PlainSTBN(network)
        facts["largest_difference"] = difference(network, plain, device)
        del network
        if case.part == "plain network":
            run = lambda noisy, *flows: plain(noisy, SIGMA, *flows)  # noqa: E731
        else:
            run = lambda noisy, *_: plain_denoise(plain, estimator, noisy, SIGMA)  # noqa: E731

    def inputs(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        frames = played(moving_texture(*size, min(case.frames, DISTINCT_FRAMES)), case.frames)
        clip = torch.from_numpy(np.stack(list(frames))).permute(0, 3, 1, 2)[None].to(device)
        return clip.contiguous().to(dtype), *plain_flows(estimator, clip, SIGMA)

    whole = inputs(case.size)
    first = inputs(SMALL) if case.small_warm_up else whole
    return Job(_inference(run, whole), _inference(run, first), facts=facts)


def _inference(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            run(*inputs)

    return call


def difference(network: STBN, plain: PlainSTBN, device: torch.device) -> float:
    """Largest difference of both forms' outputs in float32 without TF32, on a small clip of odd size."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    noisy = torch.rand(1, 3, network.config.image_channels, 37, 53, generator=generator).to(device)
    flows = 3 * torch.randn(2, 1, 3, 2, 37, 53, generator=generator).to(device)
    try:
        with torch.inference_mode():
            expected = network(noisy, SIGMA, *flows)
            return float((plain(noisy, SIGMA, *flows) - expected).abs().max())
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _prepare_engine(case: Case) -> Job:
    denoiser = load_denoiser(case.file, flow=case.flow, device=case.device, precision=case.precision)
    frames = moving_texture(*case.size, min(case.frames, DISTINCT_FRAMES))
    few = min(case.frames, WARM_FRAMES)
    first = moving_texture(*SMALL, min(few, DISTINCT_FRAMES)) if case.small_warm_up else frames
    facts: dict[str, Any] = {}

    def stream(clip: Sequence[np.ndarray], count: int) -> None:
        for _ in denoiser.stream(played(clip, count)):
            pass
        report = denoiser.report
        plan = report.plan
        facts.update(plan=None if plan is None else plan.describe(), replans=report.replans)
        facts.update(fp32_chunks=report.fp32_chunks)

    return Job(
        run=lambda: stream(frames, case.frames),
        warm=lambda: stream(first, few),
        profiled=(lambda: stream(frames, few), few),
        facts=facts,
    )


def _prepare_decode(case: Case) -> Job:
    from stbn_cli.video.reader import open_video

    def run() -> None:
        with open_video(case.clip) as reader:
            for _ in reader:
                pass

    return Job(run, run)


def _prepare_encode(case: Case) -> Job:
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.frames import Frame
    from stbn_cli.video.reader import open_video
    from stbn_cli.video.writer import create_video

    with open_video(case.clip) as reader:
        decoded = list(itertools.islice(reader, DISTINCT_FRAMES))
    pictures = [frame.rgb for frame in decoded]
    base, ticks = decoded[0].time_base, decoded[1].pts - decoded[0].pts if len(decoded) > 1 else 1
    target = case.clip.with_suffix(".encoded.mp4")

    def run() -> None:
        with (
            open_video(case.clip) as reader,
            create_video(target, reader, EncodeOptions(), overwrite=True) as writer,
        ):
            for t, rgb in enumerate(played(pictures, case.frames)):
                writer.write(Frame(rgb, t * ticks, base, ticks))
            writer.finish()

    return Job(run, run)


def _nothing() -> None:
    pass


def work(case: Case, connection: Connection) -> None:
    """A case's process: makes it ready, then obeys "time", "stages" and "end"."""
    try:
        job = prepare(case)
        device = torch.device(case.device)
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        reset_peak_memory()
        before = peak_memory()
        job.warm()
        connection.send(("ready", job.facts))
        while (order := connection.recv()) != "end":
            if order == "stages":
                connection.send(("done", stages(*job.profiled, device) if job.profiled else {}))
                continue
            if cuda:
                job.warm()  # the memory given back below is taken again before the clock runs
            connection.send(("done", job.measure() if job.measure else _seconds(job.run, device)))
            if cuda:
                torch.cuda.empty_cache()  # for the other processes
        after = peak_memory()
        memory = {
            "host_growth_mib": None if before is None or after is None else (after - before) / 2**20,
            "host_mib": None if after is None else after / 2**20,
            "device_mib": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        }
        connection.send(("done", {**job.facts, **memory}))
    except Exception as error:  # whatever it is, the other cases go on
        exhausted = isinstance(error, MemoryExhaustedError) or is_out_of_memory(error)
        with contextlib.suppress(OSError):  # the parent may be gone
            connection.send(("failed", OUT_OF_MEMORY if exhausted else _first_line(error)))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """Of one run; short ones are averaged."""
    runs, begun = 0, time.perf_counter()
    while True:
        run()
        synchronise(device)
        runs += 1
        taken = time.perf_counter() - begun
        if taken >= SHORTEST_TIMING:
            return taken / runs


def stages(run: Callable[[], None], frames: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Milliseconds a frame of each of the engine's stages on its thread, and on CUDA those of the device for it."""
    with profiler(device) as recorded:
        run()
        synchronise(device)
    clocks = ("host", "device") if device.type == "cuda" else ("host",)
    return {
        clock: {name: seconds * 1e3 / frames for name, seconds in stage_seconds(recorded, clock).items()}
        for clock in clocks
    }


def profiler(device: torch.device, record_shapes: bool = False) -> profile:
    """A torch profiler of the device and the CPU and, where torch can, of all threads."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    settings: dict[str, Any] = {}
    with contextlib.suppress(TypeError):
        settings["experimental_config"] = _ExperimentalConfig(profile_all_threads=True)
    return profile(activities=activities, record_shapes=record_shapes, **settings)


def stage_of(event: Any) -> str:
    """The innermost range of the engine that a profiled event is or lies in, without "stbn."; "" outside."""
    while event is not None and not event.name.startswith(RANGE_PREFIX):
        event = event.cpu_parent
    return "" if event is None else event.name.removeprefix(RANGE_PREFIX)


def stage_seconds(recorded: profile, clock: str) -> dict[str, float]:
    """Seconds in each of the engine's ranges: "host", in the thread that opened it and without the ranges within it;
    "device", from the first to the last of its kernels, by CUDA's own copy of the range.
    """
    seconds: dict[str, float] = defaultdict(float)
    for event in recorded.events() or []:
        if not event.name.startswith(RANGE_PREFIX):
            continue
        on_host = event.device_type.name == "CPU"
        if on_host != (clock == "host"):
            continue
        taken = event.time_range.elapsed_us() / 1e6
        seconds[event.name.removeprefix(RANGE_PREFIX)] += taken
        if on_host and (outer := stage_of(event.cpu_parent)):
            seconds[outer] -= taken
    return {name: taken for name, taken in seconds.items() if taken > 0}


# In the first process


class Worker:
    """A case and its process, seen from outside."""

    def __init__(self, case: Case) -> None:
        self.result = Result(case)
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(case, other), daemon=True)
        self._process.start()
        other.close()
        self._receive()

    def measure(self) -> None:
        """Add a value."""
        value = self._ask("time")
        if value is not None:
            self.result.values.append(value)

    def close(self) -> Result:
        """Stages and memory, and the end of the process."""
        if self.result.case.part == "engine" and (found := self._ask("stages")):
            self.result.facts["stages_ms"] = found
        self.result.facts.update(self._ask("end") or {})
        self._connection.close()
        self._process.join()
        return self.result

    def _ask(self, order: str) -> Any:
        if self.result.problem:
            return None
        with contextlib.suppress(OSError):
            self._connection.send(order)
        return self._receive()

    def _receive(self) -> Any:
        kind: str
        value: Any
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            kind, value = "failed", f"the process ended with code {self._process.exitcode}"
        if kind == "failed":
            self.result.problem = value
        elif kind == "ready":
            self.result.facts = value
        return None if kind == "failed" else value


class CommandWorker:
    """`stbn denoise` of a file, with the same face as `Worker`."""

    def __init__(self, case: Case) -> None:
        self.result = Result(case)
        self._peaks: list[int] = []
        self._inside: list[float] = []

    def measure(self) -> None:
        """Run the command once."""
        case = self.result.case
        if self.result.problem:
            return
        target = case.clip.with_suffix(".denoised.mp4")
        command = [sys.executable, "-m", "stbn_cli", "denoise", case.clip, "-o", target, "--overwrite"]
        command += ["--model", case.file, "--flow", case.flow, "--device", case.device]
        command += ["--precision", case.precision, "--quiet", "--json"]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with _watch_memory(process, self._peaks):
            out, error = process.communicate()
        seconds = time.perf_counter() - begun
        target.unlink(missing_ok=True)
        if process.returncode:
            last = (error.strip().splitlines() or [""])[-1]
            self.result.problem = f"code {process.returncode}: {last}"
            return
        self.result.values.append(seconds)
        self._inside.append(float(json.loads(out)["seconds"]))

    def close(self) -> Result:
        """The result with its memory."""
        if self._peaks:
            self.result.facts["host_mib"] = max(self._peaks) / 2**20
        if self._inside:
            self.result.facts["seconds_without_start"] = statistics.median(self._inside)
        return self.result


@contextlib.contextmanager
def _watch_memory(process: "subprocess.Popen[str]", peaks: list[int]) -> Iterator[None]:
    """Adds the largest resident memory (bytes) of another process while it runs; nothing where /proc is missing.

    Not `wait4`: its peak includes that of the process which started the other.
    """
    status = Path(f"/proc/{process.pid}/status")
    ended = threading.Event()

    def watch() -> None:
        peak = 0
        while not ended.wait(0.02):
            try:
                lines = status.read_text(encoding="ascii", errors="replace").splitlines()
            except OSError:
                break
            peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), peak)
        if peak:
            peaks.append(peak)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def interleave(
    workers: Sequence[Worker | CommandWorker], repeat: int, say: Callable[[str], None]
) -> list[Result]:
    """Every worker in turn, `repeat` times."""
    for turn in range(repeat):
        for worker in workers:
            worker.measure()
            if not worker.result.problem and worker.result.case.part != "matrix":
                value = f"{worker.result.values[-1]:.3f} s"
                say(
                    f"  {turn + 1}/{repeat} {worker.result.case.part} {worker.result.case.precision}: {value}"
                )
    return [worker.close() for worker in workers]


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@dataclass
class Benchmark:
    """The options, and where files lie meanwhile."""

    device: torch.device
    precisions: list[str]
    flow: str
    frames: int | None
    parts: tuple[str, ...]
    repeat: int
    limit: float
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=160))

    @property
    def kind(self) -> str:
        return "cuda" if self.device.type == "cuda" else "cpu"

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def compare(self, model: str, size: tuple[int, int]) -> None:
        """Network, engine, command and plain form of a model on pictures of a size, in turn."""
        self.say(f"{model} {size[0]}x{size[1]}")
        file = model_file(model, self.folder)
        config = load_checkpoint(file).config
        frames = self.frames or FRAMES[self.kind]
        few = min(frames, LONGEST_CLIP)
        plain = "plain" in self.parts
        matrices = {
            precision: Worker(Case("matrix", precision, str(self.device)))
            for precision in dict.fromkeys([*self.precisions, "fp32"] if plain else self.precisions)
        }
        for worker in matrices.values():
            worker.measure()
        cases = [
            (part, precision, count)
            for precision in self.precisions
            for part, count in (("network", few), ("engine", frames), ("command", frames))
            if part in self.parts
        ]
        if plain:
            cases += [("plain network", "fp32", few), ("plain whole", "fp32", few)]
        workers: list[Worker | CommandWorker] = []
        left_out: list[Result] = []
        for part, precision, count in cases:
            rate = matrices[precision].result.median
            foreseen = clip_operations(config, size, count) / (USUAL_SHARE * rate)
            # Pictures that take long warm up with small ones; CUDA chooses its algorithms by size.
            small = self.kind == "cpu" and foreseen > self.limit / 5
            case = Case(
                part,
                precision,
                str(self.device),
                size,
                model,
                file,
                self.flow,
                count,
                small_warm_up=small,
            )
            if foreseen > self.limit:
                why = f"left out: about {_number(foreseen, 2)} s a run, more than --limit"
                left_out.append(Result(case, problem=why))
            elif part != "command":
                workers.append(Worker(case))
            elif find_spec("av") is None:
                left_out.append(Result(case, problem=NO_VIDEO))
            else:
                workers.append(CommandWorker(replace(case, clip=self._clip(size, count))))
        if workers:
            everything = interleave([*matrices.values(), *workers], self.repeat, self.say)
        else:
            everything = [worker.close() for worker in matrices.values()]
        rates = {
            result.case.precision: result.median for result in everything if result.case.part == "matrix"
        }
        results = [result for result in everything if result.case.part != "matrix"] + left_out
        rows = [self._row(result, config, rates) for result in results]
        _add_ratios(rows)
        self._show(f"{model}, {size[0]}x{size[1]}, {self.device}, flow {self.flow}", rows, rates)
        self.rows += rows

    def pipeline(self, model: str, size: tuple[int, int]) -> dict[str, Any]:
        """The command against its stages alone, and its memory on short and long clips."""
        self.say(f"pipeline {model} {size[0]}x{size[1]}")
        file = model_file(model, self.folder)
        frames = self.frames or PIPELINE_FRAMES
        precision = self.precisions[0]

        def case(part: str, count: int) -> Case:
            clip = self._clip(size, count)
            return Case(part, precision, str(self.device), size, model, file, self.flow, count, clip)

        workers: list[Worker | CommandWorker] = [
            Worker(case(part, frames)) for part in ("decode", "engine", "encode")
        ]
        workers.append(CommandWorker(case("command", frames)))
        results = {result.case.part: result for result in interleave(workers, self.repeat, self.say)}
        longer = CommandWorker(case("command", LONGER * frames))
        longer.measure()
        results["command, long clip"] = longer.close()
        config = load_checkpoint(file).config
        rows = {name: {**self._row(result, config, {}), "part": name} for name, result in results.items()}
        alone = {name: results[name].median for name in ("decode", "engine", "encode")}
        slowest = max(alone, key=lambda name: alone[name])
        inside = results["command"].facts.get("seconds_without_start", math.nan)
        summary = {
            "model": model,
            "size": f"{size[0]}x{size[1]}",
            "frames": frames,
            "slowest_stage": slowest,
            "command_over_slowest": results["command"].median / alone[slowest],
            "command_without_start_over_slowest": inside / alone[slowest],
            "command_without_start_over_sum": inside / sum(alone.values()),
            "host_mib": {
                str(result.case.frames): result.facts.get("host_mib")
                for result in (results["command"], results["command, long clip"])
            },
            "rows": list(rows.values()),
        }
        self._show(
            f"pipeline, {model}, {summary['size']}, {self.device}, flow {self.flow}", list(rows.values()), {}
        )
        self.console.print(
            f"The command without its start takes {summary['command_without_start_over_slowest']:.2f} times the "
            f"slowest stage alone ({slowest}), with it {summary['command_over_slowest']:.2f} times.\n"
            f"Peak resident memory (MiB) by number of frames: "
            + ", ".join(f"{count}: {_number(mib, 0)}" for count, mib in summary["host_mib"].items())
        )
        return summary

    def _clip(self, size: tuple[int, int], frames: int) -> Path:
        path = self.folder / f"{size[0]}x{size[1]}_{frames}.mp4"
        return path if path.exists() else write_clip(path, size, frames)

    def _row(self, result: Result, config: STBNConfig, rates: dict[str, float]) -> dict[str, Any]:
        case, facts = result.case, dict(result.facts)
        row: dict[str, Any] = {
            "model": case.model,
            "size": f"{case.size[0]}x{case.size[1]}",
            "part": case.part,
            "precision": case.precision,
            "frames": case.frames,
        }
        if facts.get("largest_difference", 0.0) > TOLERANCE:
            result.problem = f"not equal to the network: {facts['largest_difference']:.1e}"
        if result.problem or not result.values:
            return {**row, **facts, "problem": result.problem or "nothing measured"}
        row["seconds"] = result.values
        row["ms_per_frame"] = 1e3 * result.median / case.frames
        row["ms_per_frame_range"] = [
            1e3 * value / case.frames for value in (min(result.values), max(result.values))
        ]
        row["fps"] = case.frames / result.median
        if case.part in ("decode", "encode"):
            return {**row, **facts}
        operations = clip_operations(config, case.size, case.frames)
        row["gflop_per_frame"] = operations / case.frames / 1e9
        row["tflop_per_second"] = operations / result.median / 1e12
        if case.precision in rates:
            row["share_of_matrix_rate"] = operations / result.median / rates[case.precision]
        return {**row, **facts}

    def _show(self, title: str, rows: list[dict[str, Any]], rates: dict[str, float]) -> None:
        table = Table(title=title, title_justify="left")
        for name in ("part", "precision", "frames", "fps", "ms a frame", "TFLOP/s", "share of matrix rate"):
            table.add_column(name, justify="left" if name in ("part", "precision") else "right")
        for name in ("device MiB", "host MiB (growth)", "times as fast as"):
            table.add_column(name, justify="right")
        for row in rows:
            start = [row["part"], row["precision"], str(row["frames"])]
            if "problem" in row:
                table.add_row(*start, "-")
                continue
            low, high = row["ms_per_frame_range"]
            share = row.get("share_of_matrix_rate")
            host, growth = _number(row.get("host_mib"), 0), row.get("host_growth_mib")
            table.add_row(
                *start,
                _number(row["fps"]),
                f"{_number(row['ms_per_frame'])} ({_number(low)}-{_number(high)})",
                _number(row.get("tflop_per_second")),
                "" if share is None else f"{100 * share:.1f} %",
                _number(row.get("device_mib"), 0),
                host if growth is None else f"{host} ({_number(growth, 0)})",
                f"{row['ratio']:.2f} x {row['ratio_of']}" if "ratio" in row else "",
            )
        self.console.print(table)
        for precision, rate in rates.items():
            self.console.print(f"matrix rate {precision}: {_number(rate / 1e12)} TFLOP/s")
        for row in rows:
            if "problem" in row:
                self.console.print(f"{row['part']} {row['precision']}: {row['problem']}")
            for clock, parts in row.get("stages_ms", {}).items():
                times = ", ".join(f"{name} {_number(ms)}" for name, ms in parts.items()) or "none known"
                self.console.print(f"ms a frame by stage ({clock}), {row['precision']}: {times}")


def _add_ratios(rows: Iterable[dict[str, Any]]) -> None:
    """How many times as fast each row is as the plain form of the same work, by the time a frame takes."""
    measured = [row for row in rows if "ms_per_frame" in row]
    plain = {row["part"]: row for row in measured if row["part"].startswith("plain")}
    against = {"network": "plain network", "engine": "plain whole", "command": "plain whole"}
    for row in measured:
        if (base := plain.get(against.get(row["part"], ""))) is not None:
            row["ratio"] = base["ms_per_frame"] / row["ms_per_frame"]
            row["ratio_of"] = f"{base['part']} {base['precision']}"


def _number(value: float | None, digits: int = 3) -> str:
    """`digits` significant ones, without an exponent; 0: whole numbers."""
    if value is None:
        return ""
    if not value or not math.isfinite(value) or digits == 0:
        return f"{value:.0f}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def processor_name() -> str:
    """The CPU's name as the system has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    cuda = device.type == "cuda"
    return {
        "stbn": __version__,
        "torch": torch.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if cuda else None,
        "cpu": processor_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "960x540"."""
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size such as 960x540, got {text!r}") from None
    return width, height


def _words(arguments: Sequence[str]) -> list[str]:
    """Lists may be given with commas."""
    return [word for argument in arguments for word in argument.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    for name in ("--model", "--size", "--precision", "--parts"):
        parser.add_argument(name, action="extend", nargs="+", default=[])
    parser.add_argument("--frames", type=int)
    parser.add_argument("--flow", default="dis", choices=["dis", "light", "none"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, help="seconds that a run may take; longer ones are left out")
    parser.add_argument("--json", type=Path, help="write the document there, too")
    arguments = parser.parse_args()
    parts = _words(arguments.parts) or list(PARTS[:-1])
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown parts {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if "pipeline" in parts and find_spec("av") is None:
        parser.error(NO_VIDEO)
    if arguments.frames is not None and arguments.frames < 1:
        parser.error("--frames has to be 1 or more")
    device = resolve_device(arguments.device)
    kind = "cuda" if device.type == "cuda" else "cpu"
    names = {str(dtype): name for name, dtype in PRECISIONS.items()}
    precisions = [
        names[str(resolve_precision(name, device))] for name in _words(arguments.precision) or ["auto"]
    ]
    sizes = [parse_size(text) for text in _words(arguments.size)]
    with tempfile.TemporaryDirectory(prefix="stbn-speed-") as folder:
        benchmark = Benchmark(
            device,
            list(dict.fromkeys(precisions)),
            arguments.flow,
            arguments.frames,
            tuple(parts),
            arguments.repeat,
            arguments.limit or LIMIT[kind],
            Path(folder),
        )
        models = _words(arguments.model)
        document: dict[str, Any] = {**environment(device), "flow": arguments.flow}
        if set(parts) - {"pipeline"}:
            for model, size in itertools.product(
                models or MODELS, sizes or [parse_size(text) for text in SIZES[kind]]
            ):
                benchmark.compare(model, size)
            document["rows"] = benchmark.rows
        if "pipeline" in parts:
            document["pipeline"] = [
                benchmark.pipeline(model, size)
                for model, size in itertools.product(
                    models or ["stbn-xs"], sizes or [parse_size(PIPELINE_SIZE[kind])]
                )
            ]
    text = json.dumps(document)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
