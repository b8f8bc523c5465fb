"""Ctrl-C in two steps: the first asks to stop at the next good place, the second stops at once."""

import signal
import threading
from collections.abc import Callable
from typing import Any, Self


class StopRequest:
    """A context manager that catches the first of `signals`; calling it returns whether there was one.

    `on_request` is called in the signal handler. Outside the main thread, where Python takes no signal handlers, and
    for signals that the process ignores, nothing changes.
    """

    def __init__(
        self, on_request: Callable[[], None] | None = None, signals: tuple[int, ...] = (signal.SIGINT,)
    ) -> None:
        self._on_request = on_request
        self._signals = signals
        self._requested = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._requested

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, *_: object) -> None:
        self._requested = True
        self._restore()  # the next one ends the program
        if self._on_request is not None:
            self._on_request()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def stop_of_learning() -> StopRequest:
    """For training and finetuning, which keep what they have when they are asked to end: Ctrl-C and SIGTERM."""
    return StopRequest(signals=(signal.SIGINT, signal.SIGTERM))
