"""The one place where exceptions become a line on stderr and an exit code."""

import os
import sys
import traceback

from stbn_cli.cli.console import say
from stbn_cli.errors import InterruptedByUserError, MemoryExhaustedError, StbnError

DEBUG_VARIABLE = "STBN_DEBUG"
FAILED = 1


def report_error(error: BaseException) -> int:
    """Say what went wrong, with the traceback if STBN_DEBUG is set; the exit code."""
    if debugging():
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, InterruptedByUserError):
        say(str(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        say("Interrupted.")
        return InterruptedByUserError.exit_code
    say(f"Error: {sentence(error)}")
    if isinstance(error, StbnError):
        return error.exit_code
    return MemoryExhaustedError.exit_code if isinstance(error, MemoryError) else FAILED


def sentence(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, StbnError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Out of memory. Use smaller --tile and --chunk values, or close other programs."
    reason = (str(error).strip().splitlines() or [""])[0]
    hint = "" if debugging() else " Set STBN_DEBUG=1 to see where."
    return f"Unexpected error ({type(error).__name__}: {reason}). Please report it.{hint}"


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
