"""Ctrl-C in two steps: the first asks to stop at the next good place, the second stops at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """A context manager that catches the first Ctrl-C; calling it tells whether there was one.

    `on_request` is called in the signal handler. Outside the main thread, where Python takes no signal handlers, and
    where the process ignores SIGINT, nothing changes.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request
        self._requested = False
        self._before: Any = None
        self._installed = False

    def __call__(self) -> bool:
        return self._requested

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._request)
                self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        self._restore()  # the next one raises KeyboardInterrupt
        self._on_request()

    def _restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            self._installed = False
