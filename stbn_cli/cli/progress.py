"""How far the work is: a bar on a terminal, a line every few seconds elsewhere, on stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stbn_cli.cli.console import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 5.0  # between lines where stderr is no terminal


class FrameProgress:
    """A context manager; call it with the number of frames done so far.

    `total` is an estimate, or None where the length is not known.
    """

    def __init__(self, total: int | None, *, quiet: bool = False) -> None:
        self._total = total
        self._quiet = quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._begin = self._last_line = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            self._bar = _create_bar()
            self._task = self._bar.add_task("", total=self._total, status="reading ahead")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, count: int) -> None:
        """`count` frames are done."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            # The true number of frames may exceed the estimate.
            total = None if self._total is None else max(self._total, count)
            status = self._status(count, now)
            self._bar.update(self._task, completed=count, total=total, status=status)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            of = f"/{self._total}" if self._total else ""
            say(f"{count}{of} frames, {self._status(count, now)}")

    def _status(self, count: int, now: float) -> str:
        """Speed and, where the length is known, the remaining time."""
        speed = count / max(now - self._begin, 1e-6)
        if not self._total:
            return f"{speed:.2f} fps"
        return f"{speed:.2f} fps, {clock(max(self._total - count, 0) / speed)} left"


def clock(seconds: float) -> str:
    """H:MM:SS or M:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _create_bar() -> "Progress":
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
        TextColumn("frames"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
    )
