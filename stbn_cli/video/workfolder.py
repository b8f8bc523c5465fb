"""A hidden folder beside an output, for one run at a time: what is not finished lies there."""

import hashlib
import os
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from stbn_cli.errors import OutputError
from stbn_cli.video.output import OutputTarget, resolve_output

LOCK = "lock"
# Bytes of a file's name that every file system takes.
LONGEST_NAME = 240


class WorkFolder:
    """A context manager: locks the folder of one output, and removes it at the end unless `keep` was called.

    The lock is the operating system's: it ends with the process, however that ends. Raises OutputError where another
    run holds it or the folder cannot be made.
    """

    def __init__(self, output: str | Path, patience: float = 0.0) -> None:
        """output: a name that `resolve_output` understands. Raises OptionError for others.

        patience: seconds to wait for another run that holds the folder.
        """
        self.output = output
        self.path = _hidden_folder(resolve_output(output))
        self._patience = patience
        self._lock = FileLock(self.path / LOCK)
        self._kept = False

    def __enter__(self) -> Self:
        try:
            self._acquire()
        except Timeout as error:
            raise OutputError(
                f"Another run is writing {self.output} now. Wait for it, or name another output."
            ) from error
        except OSError as error:
            raise OutputError(
                f"The folder {self.path} cannot be created ({error.strerror or error}). Choose another place for the "
                "output."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            # Before the lock goes: another run could be in it otherwise. And at once, so that one that waits for the
            # lock makes a new folder, in which nothing is removed.
            leaving = self.path.with_name(f".{uuid.uuid4().hex}.stbn")
            with suppress(OSError):
                self.path.rename(leaving)
            shutil.rmtree(leaving if leaving.exists() else self.path, ignore_errors=True)
        self._lock.release()
        if not self._kept and os.name == "nt":
            shutil.rmtree(self.path, ignore_errors=True)  # an open file cannot be removed there

    def keep(self) -> None:
        """Leave the folder as it is at the end, for the run that goes on."""
        self._kept = True

    def clear(self) -> None:
        """Remove what an earlier run left. Raises OutputError where a worker is at work on a part of it."""
        with ExitStack() as stack:
            try:
                for lock in self.path.glob(f"*/**/{LOCK}"):
                    stack.enter_context(FileLock(lock, timeout=self._patience))
            except Timeout as error:
                self.keep()
                raise OutputError(
                    f"A worker of an earlier run is at work on a part of {self.output} now. Wait for it or end it, and "
                    "start again."
                ) from error
            for child in self.path.iterdir():
                if child.name != LOCK:
                    shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()

    def _acquire(self) -> None:
        """Make and lock the folder. Raises Timeout and OSError."""
        deadline = time.monotonic() + self._patience
        while True:
            self.path.mkdir(mode=0o700, exist_ok=True)  # nobody else's business before it is finished
            with suppress(FileNotFoundError):  # the run that held it has just removed it
                self._lock.acquire(timeout=max(deadline - time.monotonic(), 0))
                return


def _hidden_folder(target: OutputTarget) -> Path:
    path = target.path.absolute()
    if target.kind == "video":
        return path.with_name(_hidden_name(path.name))
    if target.kind == "image":
        return path / _hidden_name(str(target.pattern))
    # Inside a folder that exists, which may be another file system's root; else beside the new one.
    return path / _hidden_name("images") if path.is_dir() else path.with_name(_hidden_name(path.name))


def _hidden_name(name: str) -> str:
    hidden = f".{name}.stbn"
    if len(os.fsencode(hidden)) > LONGEST_NAME:
        return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.stbn"
    return hidden
