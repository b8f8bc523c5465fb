"""Which files of an archive are finished: what a run that was killed and started again need not do once more.

A record for each output lies in a hidden folder of the output folder. It is begun before the work, with what the
output's place held then; it says which file is about to be renamed to the output, and is completed after that. Renaming
is one step, so that at any moment of a crash the record and the output together say whether that has happened.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from stbn_cli import __version__
from stbn_cli.errors import OutputError
from stbn_cli.files import partial_path, whole_file
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.video.output import resolve_output
from stbn_cli.video.workfolder import WorkFolder

FOLDER = ".stbn-cluster"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a file: a line for people, and the same as plain values."""

    summary: str
    document: dict[str, Any]
    warnings: tuple[str, ...] = ()


class ArchiveFolder:
    """The records of all runs into one output folder; a context manager that lets one run at a time have it.

    Raises OutputError where another one does. The folder stays at the end while there are records.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLDER
        self._lock = FileLock(self.path / LOCK, timeout=0)

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"Another run with --cluster writes to {self.path.parent} now. Wait for it, or name another folder."
            ) from error
        except OSError as error:
            raise OutputError(
                f"The folder {self.path} cannot be created ({error.strerror or error}). Choose another --output-dir."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if all(child.name == LOCK for child in self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()

    def forget(self) -> None:
        """Remove all records: everything is finished, or is to be done anew."""
        for child in self.path.iterdir():
            if child.name != LOCK:
                child.unlink()


def begin(job: DenoiseJob) -> None:
    """Note that a file is being worked on, unless that is noted already."""
    record = _read(job)
    if record is None or "before" not in record:
        _write(job, {"key": _key(job), "before": _signature(Path(job.output))})


def about_to_rename(job: DenoiseJob) -> None:
    """Note which file will be the output, so that no other one is taken for it."""
    if resolve_output(job.output).kind != "video":
        return  # a folder is known by being there
    written = _signature(partial_path(Path(job.output), WorkFolder(job.output).path))
    record = _read(job)
    if record is not None and written is not None:
        _write(job, record | {"written": written[0]})


def finish(job: DenoiseJob, finished: Finished) -> None:
    """Note what became of it."""
    _write(
        job,
        {
            "key": _key(job),
            "signature": _signature(Path(job.output)),
            "summary": finished.summary,
            "document": finished.document,
            "warnings": finished.warnings,
        },
    )


def is_finished(job: DenoiseJob) -> Finished | None:
    """What an earlier run with the same input and options noted, if its output is still there."""
    record = _read(job)
    now = _signature(Path(job.output))
    if record is None or now is None:
        return None
    if "signature" in record:
        if record["signature"] != now:
            return None
        return Finished(record["summary"], record["document"], tuple(record["warnings"]))
    # A folder that was not there is ours; a file is by its inode, which outlives renaming.
    if record["before"] == now or (len(now) > 1 and record.get("written") != now[0]):
        return None
    # Renamed, and killed before more could be noted.
    known = {"input": str(job.source.path), "output": str(job.output)}
    missing = job.grain_table is not None and not Path(job.grain_table).exists()
    warning = f"{job.grain_table} was not written. Denoise again with --overwrite if you need it."
    return Finished(f"{job.output}: finished by an earlier run", known, (warning,) if missing else ())


def _path(job: DenoiseJob) -> Path:
    output = Path(job.output)
    digest = hashlib.sha256(str(output.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    return output.parent / FOLDER / f"{digest[:32]}.json"


def _key(job: DenoiseJob) -> str:
    """Knows the input, all options and a model's file again."""
    options = replace(job, overwrite=False, resume=False, restart=False)
    text = f"{__version__} {_stamp(Path(job.source.path))} {options!r}"
    model = Path(job.options.model).expanduser()
    if model.is_file():
        text += f" {_stamp(model)}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _stamp(path: Path) -> str:
    """Changes when a file is written anew. Raises OSError."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _signature(path: Path) -> list[int] | None:
    """Tells a file from the one that takes its place; of a folder, whether it is there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return [0] if path.is_dir() else [status.st_ino, status.st_size, status.st_mtime_ns]


def _read(job: DenoiseJob) -> dict[str, Any] | None:
    """The record, if it is of this job."""
    try:
        record = json.loads(_path(job).read_text("utf-8"))
        return record if record["key"] == _key(job) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(job: DenoiseJob, record: dict[str, Any]) -> None:
    path = _path(job)
    path.parent.mkdir(exist_ok=True)
    with whole_file(path, durable=True) as partial:
        partial.write_text(json.dumps(record), "utf-8")
