"""Every method in a process of its own: its memory can be measured, and its crash ends nothing else."""

import multiprocessing
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from stbn_cli.bench.methods import Method, Run
from stbn_cli.devices import KINDS
from stbn_cli.errors import StbnError
from stbn_cli.machine import peak_memory, reset_peak_memory

# Frames and pixels of the picture on which a method is run once before it is timed: libraries load, threads start.
WARM_UP_FRAMES, WARM_UP_SIDE = 3, 64
STOP_SECONDS = 2.0


class MethodFailedError(StbnError):
    """A method could not be loaded, failed on a clip, or took its process down."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a method made of a clip."""

    denoised: np.ndarray  # float32, of the shape of the noisy frames
    seconds: float  # frames in memory to frames in memory; without loading and warm-up
    peak_bytes: (
        int | None
    )  # of resident memory of its process, libraries and the clip included; None: not known here
    device_bytes: int | None  # peak of what torch held on a GPU; None without one
    details: dict[str, Any]


class IsolatedMethod:
    """Runs a method in a process that lives until `close`, which the context manager calls."""

    def __init__(self, method: Method) -> None:
        self.name = method.name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, method), name=f"stbn-bench-{method.name}", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is noticed

    def __call__(self, noisy: np.ndarray, level: float) -> Measurement:
        """Denoise `noisy`, float32; frames and level as `Run` has them. Raises `MethodFailedError`."""
        try:
            self._pipe.send((noisy, level))
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(STOP_SECONDS)
            raise MethodFailedError(
                f"{self.name} took its process down (exit code {self._process.exitcode}); memory may have run out."
            ) from None
        if isinstance(answer, str):
            raise MethodFailedError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class IsolatedMethods:
    """The processes of several methods. Each begins at the method's first clip: loading one waits for no other."""

    def __init__(self) -> None:
        self._running: dict[str, IsolatedMethod] = {}

    def __call__(self, method: Method, noisy: np.ndarray, level: float) -> Measurement:
        """As `IsolatedMethod`; after a failure the method's next clip gets a new process."""
        if method.name not in self._running:
            self._running[method.name] = IsolatedMethod(method)
        try:
            return self._running[method.name](noisy, level)
        except MethodFailedError:
            self._running.pop(method.name).close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for method in self._running.values():
            method.close()


def _serve(pipe: Connection, method: Method) -> None:
    """The other process: one clip after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    run: Run | None = None
    while True:
        try:
            noisy, level = pipe.recv()
        except EOFError:
            return
        try:
            if run is None:
                run = method.open()
            run(np.ascontiguousarray(noisy[:WARM_UP_FRAMES, :WARM_UP_SIDE, :WARM_UP_SIDE]), level)
            pipe.send(_measure(run, noisy, level))
        except StbnError as error:
            pipe.send(str(error))
        except Exception as error:
            pipe.send(f"{method.name} failed ({type(error).__name__}: {error}).")


def _measure(run: Run, noisy: np.ndarray, level: float) -> Measurement:
    reset_peak_memory()
    for api in _used_devices():
        api.reset_peak_memory_stats()
    begin = time.perf_counter()
    denoised, details = run(noisy, level)  # returns frames in host memory: nothing is left to wait for
    seconds = time.perf_counter() - begin
    if denoised.shape != noisy.shape:
        raise ValueError(f"returned {denoised.shape} for {noisy.shape}")
    return Measurement(
        denoised.astype(np.float32, copy=False), seconds, peak_memory(), _device_bytes(), details
    )


def _used_devices() -> list[Any]:
    """torch's modules of the GPUs that a method has used, if it has brought torch along."""
    torch = sys.modules.get("torch")
    names = {kind.name for kind in KINDS if kind.memory != "host" and hasattr(torch, kind.name)}
    return [api for api in (getattr(torch, name) for name in sorted(names)) if api.is_initialized()]


def _device_bytes() -> int | None:
    used = [int(api.max_memory_allocated()) for api in _used_devices()]
    return sum(used) if used else None
