"""Many files on a cluster: hands the steps of `jobs/parts.py` to workers. The only module that knows Ray.

Ray places the workers (actors, one GPU or some processor cores each) and says when one has died. What is here starts
others in their place, repeats what they were at, and keeps the steps in order: what frees storage first, and nothing
before what it needs.
"""

import heapq
import logging
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from stbn_cli import __version__
from stbn_cli.errors import OptionError, StbnError
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.jobs.finished import Finished
from stbn_cli.jobs.parts import SHORTEST_PART, ArchiveWorker, Opened, PartDone, Report, Split, Tell, cut
from stbn_cli.machine import available_cores, share_memory

AUTO = "auto"
ADDRESS_VARIABLE = "RAY_ADDRESS"
ADDRESS = re.compile(
    r"(?:ray://)?(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/@\[\]]+)):(?P<port>[0-9]{1,5})"
)
LARGEST_PORT = 65535
# Seconds until something must answer at an address, then until that has proved to be a cluster; and until Ray has
# started on this machine, which takes long where others keep it busy.
ANSWER_SECONDS = 10.0
JOIN_SECONDS = 120.0
START_SECONDS = 600
# Processor cores of a worker where there are no GPUs: from there on more of them add little to a network this small.
WORKER_CORES = 4
# How often a step is repeated whose worker died; each time it goes on after the chunk that was finished last. As many
# workers in a row may die as they start and be replaced at once.
RETRIES = 3
# Seconds until another worker is tried after that, beside those that are at work.
START_PAUSE = 60.0
# Seconds between two looks at what the workers have done, and until a worker that has nothing to do gives back its
# place, which one that was lost with its machine may wait for.
LOOK_SECONDS = 0.5
IDLE_SECONDS = 20.0
REPORT_SECONDS = 0.5
# Results are small and frames go through files: Ray's own store needs no more than it insists on.
STORE_BYTES = 100 << 20

OPEN, CUT, WHOLE, PART, JOIN = "open", "cut", "whole", "part", "join"
# First what frees storage, last what takes more of it.
ORDER = {JOIN: 0, PART: 1, WHOLE: 1, CUT: 2, OPEN: 3}


class ClusterError(StbnError):
    """The cluster cannot be used, or lost a step too often."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where and how to work.

    address: of a Ray cluster; "auto": the one that RAY_ADDRESS names, else this machine alone.
    workers: how many; None: as many as have room now. cores: of a worker where there are no GPUs.
    shortest: frames; files of fewer than two such parts are not cut. gpus: use them where there are some.
    verbose: let Ray and its workers print.
    """

    address: str = AUTO
    workers: int | None = None
    cores: int | None = None
    shortest: int = SHORTEST_PART
    gpus: bool = True
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class FileDone:
    """What became of a file. Of `finished` and `error` one is there."""

    index: int  # among the jobs
    finished: Finished | None = None
    error: BaseException | None = None
    parts: int = 1
    kept_parts: int = 0  # that an earlier run had finished


@dataclass(frozen=True, slots=True)
class Standing:
    """How far all is."""

    frames: float  # that are done
    total: float | None  # of all files, an estimate by their bytes; None: nothing is known
    workers: int  # that are ready


@dataclass(slots=True)
class _File:
    job: DenoiseJob
    size: int  # bytes
    frames: int | None = None
    opened: Opened | None = None
    split: Split | None = None
    left: set[int] = field(default_factory=set)  # parts
    kept: int = 0
    over: bool = False


@dataclass(frozen=True, slots=True, order=True)
class _Step:
    rank: int
    place: int  # of its file, the largest first
    number: int  # of the part
    kind: str
    index: int  # of its file among the jobs

    @property
    def name(self) -> str:
        return f"{self.index}/{self.kind}/{self.number}"


def address_of(named: str) -> str | None:
    """The cluster's address for `--cluster NAMED`; None: this machine alone. Raises OptionError for what is none."""
    option, address = f"--cluster {named}", named
    if named == AUTO:
        address = os.environ.get(ADDRESS_VARIABLE, "")
        option = f"{ADDRESS_VARIABLE}={address}"
        if address in ("", "local"):
            return None
        if address == AUTO:
            return address  # what Ray takes for it: whatever cluster this machine is part of
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) <= LARGEST_PORT:
        raise OptionError(f"{option} is no address of a cluster. Give auto, HOST:PORT or ray://HOST:PORT.")
    return address


@contextmanager
def connected(options: ClusterOptions) -> Iterator[ModuleType]:
    """Ray, connected to the cluster or to one of this machine alone, which ends with the context.

    Raises OptionError where Ray is not installed, and ClusterError where nothing answers at the address.
    """
    # Not what Ray takes for "auto": any cluster on this machine, which may be another run's and end with that.
    address = address_of(options.address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers on this machine are as urgent as the command would be without them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning of a coming default
    if address is None:
        # Where one is later than that, Ray waits for ever.
        os.environ.setdefault("RAY_worker_register_timeout_seconds", str(START_SECONDS))
    elif _has_token():
        # As `ray start` does, but not ray.init with an address.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise OptionError(
            "--cluster needs Ray, which is not installed. Install it: pip install 'stbn-cli[cluster]'"
        ) from None
    level = logging.INFO if options.verbose else logging.CRITICAL
    given: dict[str, Any] = {"log_to_driver": options.verbose, "logging_level": level}
    if address is None:
        cores = max(available_cores(), (options.workers or 1) * (options.cores or 1))
        given |= {"include_dashboard": False, "num_cpus": cores, "object_store_memory": STORE_BYTES}
    else:
        _expect_answer(address)
    connecting = _Connecting(lambda: ray.init(address=address or "local", **given))
    try:
        with nullcontext() if options.verbose else _nothing_on_stderr():
            connecting.wait(START_SECONDS if address is None else JOIN_SECONDS)
    except Exception as error:  # Ray's are of all kinds
        raise _no_cluster(address, error) from error
    # What Ray tells of workers that die goes there, and stdout is for results.
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stderr if options.verbose else nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()
            connecting.close()


def _has_token() -> bool:
    """Whether Ray would find a token for clusters that ask for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser().is_file()


def _expect_answer(address: str) -> None:
    """Raises ClusterError where nothing answers at the address: Ray itself would wait for minutes."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found["ipv6"] or found["host"], int(found["port"])), ANSWER_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> ClusterError:
    if isinstance(error, TimeoutError):
        reason = "nothing answers in time"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if address is None:
        return ClusterError(
            f"Ray cannot be started on this machine ({reason}). Try again when it has memory and time to spare, or "
            "leave out --cluster."
        )
    return ClusterError(
        f"No Ray cluster can be used at {address} ({reason}). Check the address, that ray status answers there, and "
        "that the cluster's token, where it has one, is in ~/.ray/auth_token or RAY_AUTH_TOKEN here."
    )


class _Connecting:
    """A call in a thread of its own, so that Ctrl-C and a limit end the waiting for it.

    Not where Ray waits for its first worker on this machine without letting Python run: there Ctrl-C alone helps, which
    a terminal sends to Ray's processes as well.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._ended: Future[Any] = Future()
        self._over = threading.Event()
        threading.Thread(target=self._work, args=(call,), name="stbn-connect", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Raises what the call raises, and TimeoutError."""
        self._ended.result(timeout=seconds)

    def close(self) -> None:
        """Let the thread end. What Ray has started on this machine ends with it."""
        self._over.set()

    def _work(self, call: Callable[[], Any]) -> None:
        try:
            self._ended.set_result(call())
        except BaseException as error:
            self._ended.set_exception(error)
        self._over.wait()


@contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """Ray's own libraries write there past Python, a line a second where nothing answers."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def denoise_archive(
    ray: ModuleType,
    jobs: Sequence[DenoiseJob],
    options: ClusterOptions,
    tell: Tell,
    look: Callable[[Standing], None],
) -> Generator[FileDone, None, None]:
    """Denoise all files, each result as it is there; closing the iterator ends the workers.

    look: called about twice a second. Raises ClusterError where no worker can be had.
    """
    archive = _Archive(ray, jobs, options, tell)
    try:
        while (done := archive.next(look)) is not None:
            yield done
    finally:
        archive.close()


class _Archive:
    def __init__(
        self, ray: ModuleType, jobs: Sequence[DenoiseJob], options: ClusterOptions, tell: Tell
    ) -> None:
        self._ray, self._options = ray, options
        self._files = [_File(job, _size(job)) for job in jobs]
        by_size = sorted(range(len(jobs)), key=lambda index: -self._files[index].size)
        self._places = {index: place for place, index in enumerate(by_size)}
        self._queue: list[_Step] = []
        for index in by_size:  # a long one that comes last would be worked on alone
            self._add(OPEN, index)
        self._results: list[FileDone] = []
        self._gpus = options.gpus and ray.cluster_resources().get("GPU", 0) >= 1
        self._cores, threads, sharers = self._worker_cores()
        name = f"stbn-{uuid.uuid4().hex}"
        # Known by its name: an actor that has others' handles among its arguments cannot always be started again.
        tally = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, name=name)(_Tally)
        self._tally, self._tally_name = tally.remote(), name
        self._counts: dict[str, int] = {}
        make = ray.remote(
            num_gpus=1 if self._gpus else 0,
            num_cpus=self._cores,
        )(_Worker)
        self._make = lambda: make.remote(tell, options.shortest, name, __version__, threads, sharers)
        self._deaths: dict[_Step, int] = {}  # of workers at a step
        self._failed = 0  # workers that have died as they started since the last one was ready
        self._next_start = 0.0  # when to try another one all the same
        # Looking for scenes needs no GPU; a worker with one has better things to do.
        cpus = ray.cluster_resources().get("CPU", 0)
        spare = self._gpus and cpus > ray.cluster_resources().get("GPU", 0)
        self._cut = ray.remote(num_cpus=1, max_retries=0)(_cut) if spare else None
        self._starting: dict[Any, Any] = {}  # worker by what says that it is ready
        self._idle: dict[Any, float] = {}  # since when, by worker
        self._busy: dict[Any, tuple[Any, _Step]] = {}  # worker (None: none of ours) and step by result

    def next(self, look: Callable[[Standing], None]) -> FileDone | None:
        """The next file that is done; None after the last one."""
        while not self._results:
            if all(file.over for file in self._files):
                return None
            self._hand_out()
            waited = [*self._busy, *self._starting]
            if not waited:
                time.sleep(LOOK_SECONDS)
                continue
            ready, _ = self._ray.wait(waited, num_returns=1, timeout=LOOK_SECONDS)
            for result in ready:
                self._take(result)
            look(self._standing())
        return self._results.pop(0)

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in [*self._idle, *self._starting.values(), *(worker for worker, _ in self._busy.values())]:
            if worker is not None:
                self._kill(worker)

    def _worker_cores(self) -> tuple[int, int, int]:
        """Cores that a worker asks for, threads that it computes with, and how many fit on the largest machine."""
        machines = [node["Resources"] for node in self._nodes()]
        largest = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        if self._gpus:
            # One core alone, so that some are left to those who look for scenes; they share them all.
            with_gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
            threads = min(int(machine.get("CPU", 1) // machine["GPU"]) for machine in with_gpus)
            return 1, max(threads, 1), max(int(machine["GPU"]) for machine in with_gpus)
        # As many workers as were asked for have to fit.
        sharing = -(-(self._options.workers or 1) // max(len(machines), 1))
        cores = self._options.cores or max(min(WORKER_CORES, largest // sharing), 1)
        if cores > largest:
            raise OptionError(
                f"--cluster-cpus {cores}: no machine of the cluster has more than {largest}. Give a smaller number."
            )
        return cores, cores, max(largest // cores, 1)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """How many workers the cluster has room for now."""
        if self._options.workers is not None:
            return self._options.workers
        what, each = ("GPU", 1) if self._gpus else ("CPU", self._cores)
        return max(sum(int(node["Resources"].get(what, 0)) // each for node in self._nodes()), 1)

    def _add(self, kind: str, index: int, number: int = 0) -> None:
        step = _Step(ORDER[kind], self._places[index], number, kind, index)
        if kind == CUT and self._cut is not None:
            shortest = self._options.shortest
            self._busy[self._cut.remote(self._tally_name, step.name, *self._arguments(step), shortest)] = (
                None,
                step,
            )
        else:
            heapq.heappush(self._queue, step)

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            step = heapq.heappop(self._queue)
            if self._files[step.index].over:
                continue
            worker, _ = self._idle.popitem()  # the one that was at work last
            self._busy[worker.do.remote(step.kind, step.name, *self._arguments(step))] = worker, step
        now = time.monotonic()
        if self._failed <= RETRIES or now >= self._next_start:
            for _ in range(min(len(self._queue) - len(self._starting), self._room() - self._workers())):
                worker = self._make()
                self._starting[worker.ready.remote()] = worker
                if self._failed > RETRIES:
                    self._next_start = now + START_PAUSE
                    break
        for worker, since in list(self._idle.items()):
            if not self._queue and now - since > IDLE_SECONDS:
                del self._idle[worker]
                self._kill(worker)

    def _workers(self) -> int:
        at_work = sum(worker is not None for worker, _ in self._busy.values())
        return len(self._starting) + len(self._idle) + at_work

    def _arguments(self, step: _Step) -> tuple[Any, ...]:
        file = self._files[step.index]
        measured = None if file.opened is None else file.opened.measured
        return {
            OPEN: (file.job,),
            CUT: (file.job, file.opened),
            WHOLE: (file.job, measured),
            PART: (file.job, file.split, step.number, measured),
            JOIN: (file.job, file.split, measured),
        }[step.kind]

    def _take(self, result: Any) -> None:
        """Take the result of a step, or a worker that is ready."""
        if result in self._starting:
            worker = self._starting.pop(result)
            try:
                self._ray.get(result)
            except self._ray.exceptions.RayError as error:
                self._start_failed(worker, error)
                return
            self._failed = 0
            self._idle[worker] = time.monotonic()
            return
        worker, step = self._busy.pop(result)
        try:
            value = self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            value = error.cause if isinstance(error.cause, Exception) else error
        except self._ray.exceptions.RayError as error:
            if worker is not None:
                self._kill(worker)  # another one takes its place
                worker = None
            self._deaths[step] = self._deaths.get(step, 0) + 1
            if self._deaths[step] <= RETRIES:
                if not self._files[step.index].over:
                    self._add(step.kind, step.index, step.number)
                return
            value = ClusterError(
                f"Its worker died {RETRIES + 1} times ({self._reason(error)}). Look for a lack of memory on that "
                "machine, or start the same command again to go on."
            )
        if worker is not None:
            self._idle[worker] = time.monotonic()
        if not self._files[step.index].over:
            self._follow(step, value)

    def _start_failed(self, worker: Any, error: Exception) -> None:
        """A worker did not become ready. Raises ClusterError where none will."""
        self._kill(worker)
        if getattr(error, "actor_init_failed", False):
            raise ClusterError(
                f"A worker cannot start ({self._reason(error)}). See that every machine of the cluster has Ray and "
                f"stbn {__version__} in the same Python."
            ) from error
        self._failed += 1
        self._next_start = time.monotonic() + START_PAUSE
        if self._failed > RETRIES and not self._workers():
            where = address_of(self._options.address) or "this machine"
            raise ClusterError(
                f"No worker stays alive on {where} ({self._reason(error)}). Look for a lack of memory there, or start "
                "with fewer --cluster-workers."
            ) from error

    def _kill(self, worker: Any) -> None:
        with suppress(Exception):  # it may be dead, and the cluster gone
            self._ray.kill(worker)

    def _reason(self, error: Exception) -> str:
        """Why a worker died, in some words."""
        known = self._ray.exceptions
        if isinstance(error, known.OutOfMemoryError):
            return "out of memory"
        if isinstance(error, known.WorkerCrashedError | known.RayActorError) and not getattr(
            error, "actor_init_failed", False
        ):
            return "its process was killed, or its machine lost"
        # The last line of what Ray says names the error itself.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (lines[-1] if lines else type(error).__name__).rstrip(".")

    def _follow(self, step: _Step, value: Any) -> None:
        """What comes after a step that gave this."""
        file = self._files[step.index]
        if isinstance(value, Exception):
            self._end(step.index, error=value)
        elif isinstance(value, Finished):
            self._end(step.index, finished=value)
        elif isinstance(value, Opened):
            file.opened, file.frames = value, value.frames
            if value.split is None:
                self._add(CUT, step.index)
            else:
                self._begin_parts(step.index, value.split, value.done)
        elif step.kind == CUT and value is None:
            self._add(WHOLE, step.index)
        elif isinstance(value, Split):
            self._begin_parts(step.index, value, ())
        elif isinstance(value, PartDone):
            file.left.discard(step.number)
            if not file.left:
                self._add(JOIN, step.index)

    def _begin_parts(self, index: int, split: Split, done: Sequence[int]) -> None:
        file = self._files[index]
        file.split, file.frames, file.kept = split, split.frames, len(done)
        file.left = set(range(len(split.parts))) - set(done)
        for number in done:
            self._counts[f"{index}/{PART}/{number}"] = split.parts[number].part.count
        for number in sorted(file.left):
            self._add(PART, index, number)
        if not file.left:
            self._add(JOIN, index)

    def _end(self, index: int, **what: Any) -> None:
        file = self._files[index]
        file.over = True
        if (finished := what.get("finished")) is not None:
            file.frames = finished.document.get("frames", file.frames)
        parts = 1 if file.split is None else len(file.split.parts)
        self._results.append(FileDone(index, parts=parts, kept_parts=file.kept, **what))

    def _standing(self) -> Standing:
        with suppress(self._ray.exceptions.RayError):  # it is only for show
            self._counts |= self._ray.get(self._tally.counts.remote(), timeout=LOOK_SECONDS)
        done = 0.0
        for name, count in self._counts.items():
            index, kind, _ = name.split("/")
            if kind in (OPEN, WHOLE, PART) and not self._files[int(index)].over:
                done += count
        done += sum(file.frames or 0 for file in self._files if file.over)
        known = [file for file in self._files if file.frames is not None]
        frames, size = sum(file.frames or 0 for file in known), sum(file.size for file in known)
        rest = sum(file.size for file in self._files if file.frames is None and not file.over)
        total = frames + rest * frames / size if size else None
        return Standing(done, None if total is None else max(total, done), len(self._busy) + len(self._idle))


class _Tally:
    """Collects how far the steps are. A Ray actor."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def put(self, name: str, count: int) -> None:
        """`count` frames of a step are done."""
        self._counts[name] = count

    def counts(self) -> dict[str, int]:
        """Frames by the name of the step."""
        return self._counts


class _Worker:
    """An `ArchiveWorker` as a Ray actor."""

    def __init__(
        self, tell: Tell, shortest: int, tally: str, version: str, threads: int, sharers: int
    ) -> None:
        if version != __version__:
            raise RuntimeError(f"it has version {__version__} of stbn instead of {version}")
        import torch

        torch.set_num_threads(threads)
        share_memory(sharers)
        self._shortest, self._tally = shortest, tally
        self._worker = ArchiveWorker(tell, shortest)

    def ready(self) -> None:
        """Returns when the worker can be used."""

    def do(self, kind: str, name: str, *arguments: Any) -> Any:
        """One step; what it gives."""
        report = _reporter(self._tally, name)
        if kind == CUT:
            job, opened = arguments
            return cut(job, opened, self._shortest, report)
        return getattr(self._worker, kind)(*arguments, report)


def _cut(tally: str, name: str, job: DenoiseJob, opened: Opened, shortest: int) -> Split | None:
    return cut(job, opened, shortest, _reporter(tally, name))


def _reporter(tally: str, name: str) -> Report:
    """tally: its name."""
    import ray  # pyright: ignore[reportMissingImports] - an extra

    actor = None
    with suppress(Exception):  # where it is being started again or is lost, nothing is shown
        actor = ray.get_actor(tally)
    last = 0.0

    def report(count: int) -> None:
        nonlocal last
        if actor is not None and (now := time.monotonic()) - last >= REPORT_SECONDS:
            last = now
            with suppress(Exception):
                actor.put.remote(name, count)

    return report


def _size(job: DenoiseJob) -> int:
    try:
        return max(Path(job.source.path).stat().st_size, 1)
    except OSError:
        return 1  # its step will say what is wrong
