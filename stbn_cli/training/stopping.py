"""Ctrl-C as a wish, not as an accident."""

import signal
import threading
from typing import Any


class GracefulStop:
    """While entered, the first Ctrl-C or SIGTERM sets `wanted` instead of ending the program; the second ends it."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._want) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _want(self, *_: object) -> None:
        self.wanted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
