"""Errors a user can cause or cure. Every one becomes one sentence and an exit code at the CLI boundary.

Knows nothing of the rest of the package; `cli/app.py` alone turns these into output.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class StbnError(Exception):
    """Something failed that the user should read about: what, why, and what to do next.

    The message is the whole sentence (or two) shown on stderr; `exit_code` is the process's exit status.
    """

    exit_code = 1


class BenchError(StbnError):
    """None of the methods under test could be measured."""


class OptionError(StbnError):
    """An option or argument is unusable (out of range, contradictory, unknown name)."""

    exit_code = 2


class InputError(StbnError):
    """The input is missing, empty, damaged beyond use, or holds no video."""

    exit_code = 3


class CheckpointError(StbnError):
    """A model is unknown, missing, damaged or not one of ours."""

    exit_code = 4


class MemoryExhaustedError(StbnError):
    """Memory ran out after the last fallback, or with sizes the user fixed."""

    exit_code = 5


class OutputError(StbnError):
    """The output cannot be written, or what was written failed verification."""

    exit_code = 6


class InterruptedByUserError(StbnError):
    """Ctrl-C, with a sentence on what that means for the output."""

    exit_code = 130  # 128 + SIGINT, as shells count


@contextmanager
def checked_options() -> Iterator[None]:
    """For building a dataclass of options: its `ValueError`, a sentence's end, becomes an `OptionError`."""
    try:
        yield
    except ValueError as error:
        raise OptionError(f"The options cannot be used: {error}.") from error
