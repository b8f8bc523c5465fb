"""How far the work is: a bar on a terminal, a line every few seconds elsewhere, on stderr."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stbn_cli.cli.console import say
from stbn_cli.words import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from stbn_cli.finetuning.result import FinetuneProgress

LINE_SECONDS = 5.0  # between lines where stderr is no terminal
# A forecast needs so many seconds and frames of the work itself: loading and measuring come before and tell nothing.
FORECAST_SECONDS = 1.0
FORECAST_FRAMES = 1.0


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Which of several inputs is being worked on."""

    number: int  # from 1
    of: int


class Display:
    """A bar on a terminal, a line every LINE_SECONDS elsewhere, nothing if `quiet`. A context manager.

    place: in a batch, which gets a bar of its own.
    """

    def __init__(
        self, phase: str, unit: str, total: int | None, *, quiet: bool, place: BatchPlace | None = None
    ) -> None:
        self._phase, self._unit, self._total = phase, unit, total
        self._quiet, self._place = quiet, place
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._all: TaskID | None = None

    def __enter__(self) -> Self:
        self._begin = self._last_line = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            self._bar = _create_bar()
            if self._place is not None:
                self._all = self._bar.add_task("all inputs", total=self._place.of, words="")
            self._task = self._bar.add_task(self._phase, total=self._total, words="")
            self._show(0, self._total, "", self._begin)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def phase(self, name: str) -> None:
        """What is being done now."""
        self._phase = name
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=name)
        elif not self._quiet:
            self._last_line = time.monotonic()
            say(f"{self._prefix}{name.capitalize()}")

    def _show(self, count: int, total: int | None, status: str, now: float) -> None:
        if self._quiet:
            return
        if self._bar is not None and self._task is not None:
            words = self._words(count, total, status)
            self._bar.update(self._task, description=self._phase, completed=count, total=total, words=words)
            if self._place is not None and self._all is not None:
                share = min(count / total, 1.0) if total else 0.0
                done, of = self._place.number - 1, self._place.of
                self._bar.update(self._all, completed=done + share, words=f"{done}/{of} inputs")
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            say(f"{self._prefix}{self._phase.capitalize()}: {self._words(count, total, status)}")

    def _words(self, count: int, total: int | None, status: str) -> str:
        of = f"{count} of " if total else ""
        return f"{of}{counted(total or count, self._unit.removesuffix('s'))}{status and f', {status}'}"

    @property
    def _prefix(self) -> str:
        return "" if self._place is None else f"[{self._place.number}/{self._place.of}] "


class FrameProgress(Display):
    """A context manager; call it with the number of frames done so far.

    total: an estimate, or None where the length is not known. start: frames that an earlier run has done.
    """

    def __init__(
        self,
        total: int | None,
        *,
        phase: str = "denoising",
        quiet: bool = False,
        start: int = 0,
        place: BatchPlace | None = None,
    ) -> None:
        super().__init__(phase, "frames", total, quiet=quiet, place=place)
        self._start = start
        self._first: tuple[float, float] | None = (
            None  # when work was first seen, and how much there was by then
        )
        self._reached = 0.0

    def __call__(self, count: int) -> None:
        """`count` frames are done."""
        self.working(count)

    def working(self, done: float) -> None:
        """As much work is done as for so many frames, those within a chunk counted by their parts."""
        now = time.monotonic()
        self._reached = max(self._reached, done)  # whole chunks are given out after they were worked on
        if self._first is None and self._reached > self._start:
            self._first = now, self._reached
        count, total = int(self._reached), self._total
        if total is not None:
            total = max(total, count)  # the true number of frames may exceed the estimate
        self._show(count, total, self._status(now), now)

    def _status(self, now: float) -> str:
        """Speed and, where the length is known, the remaining time; "" where too little was seen of the work."""
        if self._first is None:
            return ""
        seconds, frames = now - self._first[0], self._reached - self._first[1]
        if seconds < FORECAST_SECONDS or frames < FORECAST_FRAMES:
            return ""
        speed = frames / seconds
        if not self._total:
            return f"{speed:.3g} fps"
        return f"{speed:.3g} fps, {clock(max(self._total - self._reached, 0) / speed)} left"


class StepProgress(Display):
    """A context manager for work in steps whose words the caller has."""

    def show(self, step: int, total: int | None, status: str) -> None:
        """`step` steps of `total` are done."""
        self._show(step, total, status, time.monotonic())

    @property
    def has_bar(self) -> bool:
        """Whether it is shown on a terminal."""
        return self._bar is not None

    def say_step(self, step: int, total: int, words: str) -> None:
        """`step` of `total` is done, as `words` say: in the bar on a terminal, elsewhere in a line of its own."""
        if self.has_bar:
            self.show(step, total, words)
        else:
            say(f"[{step}/{total}] {words}")


class FinetuneDisplay(Display):
    """A context manager; call it with how far a finetuning run is. purpose: what it is called: finetuning, adapting."""

    def __init__(
        self, *, purpose: str = "finetuning", quiet: bool = False, place: BatchPlace | None = None
    ) -> None:
        super().__init__(purpose, "steps", None, quiet=quiet, place=place)
        self._purpose, self._part = purpose, ""
        self._first = 0  # steps made when training began, more than 0 in a resumed run

    def __call__(self, progress: "FinetuneProgress") -> None:
        """The run is here."""
        now = time.monotonic()
        if progress.phase != self._part:
            self._part, self._begin, self._first = progress.phase, now, progress.step
            self.phase(f"{self._purpose}: {progress.phase}")
        words = []
        if progress.gain is not None and progress.gain.decibel > 0.0:
            words.append(f"{progress.gain.decibel:+.2f} dB (its own estimate)")
        if progress.step > self._first:
            left = (progress.steps - progress.step) * (now - self._begin) / (progress.step - self._first)
            if progress.seconds_left is not None:
                left = min(left, progress.seconds_left)
            words.append(f"{clock(left)} left")
        self._show(progress.step, progress.steps or None, ", ".join(words), now)


def clock(seconds: float) -> str:
    """H:MM:SS or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _create_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
