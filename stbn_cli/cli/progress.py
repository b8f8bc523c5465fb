"""How far the work is: a bar on a terminal, a line every few seconds elsewhere, on stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stbn_cli.cli.console import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stbn_cli.finetuning.result import FinetuneProgress

LINE_SECONDS = 5.0  # between lines where stderr is no terminal


class _Display:
    """A bar on a terminal, a line every LINE_SECONDS elsewhere, nothing if `quiet`."""

    def __init__(self, unit: str, total: int | None, status: str, *, quiet: bool) -> None:
        self._unit, self._total, self._opening = unit, total, status
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._begin = self._last_line = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            self._bar = _create_bar(self._unit)
            self._task = self._bar.add_task("", total=self._total, status=self._opening)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, count: int, total: int | None, status: str, now: float, *, at_once: bool = False) -> None:
        """`at_once`: a line even if the last one was a moment ago."""
        if self._quiet:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=count, total=total, status=status)
        elif at_once or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            of = f"/{total}" if total else ""
            say(f"{count}{of} {self._unit}, {status}" if count or not at_once else status)


class FrameProgress(_Display):
    """A context manager; call it with the number of frames done so far.

    `total` is an estimate, or None where the length is not known.
    """

    def __init__(self, total: int | None, *, quiet: bool = False) -> None:
        super().__init__("frames", total, "reading ahead", quiet=quiet)

    def __call__(self, count: int) -> None:
        """`count` frames are done."""
        now = time.monotonic()
        total = self._total
        if self._bar is not None and total is not None:
            total = max(total, count)  # the true number of frames may exceed the estimate
        self._show(count, total, self._status(count, now), now)

    def _status(self, count: int, now: float) -> str:
        """Speed and, where the length is known, the remaining time."""
        speed = count / max(now - self._begin, 1e-6)
        if not self._total:
            return f"{speed:.2f} fps"
        return f"{speed:.2f} fps, {clock(max(self._total - count, 0) / speed)} left"


class FinetuneDisplay(_Display):
    """A context manager; call it with how far a finetuning run is."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__("steps", None, "reading", quiet=quiet)
        self._phase = ""
        self._first = 0  # steps made when training began, more than 0 in a resumed run

    def __call__(self, progress: "FinetuneProgress") -> None:
        """The run is here."""
        now = time.monotonic()
        began = progress.phase != self._phase
        if began:
            self._phase, self._begin, self._first = progress.phase, now, progress.step
        words = [progress.phase]
        if progress.gain is not None:
            words.append(f"{progress.gain.decibel:+.2f} dB by its own estimate")
        if progress.step > self._first:
            left = (progress.steps - progress.step) * (now - self._begin) / (progress.step - self._first)
            if progress.seconds_left is not None:
                left = min(left, progress.seconds_left)
            words.append(f"{clock(left)} left")
        self._show(progress.step, progress.steps or None, ", ".join(words), now, at_once=began)


def clock(seconds: float) -> str:
    """H:MM:SS or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _create_bar(unit: str) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
    )
