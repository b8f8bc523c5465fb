"""Files that appear whole or not at all: written under a hidden name, private until then, and renamed at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stbn_cli.errors import OutputError

# Bytes of a file's name, on every file system in common use.
LONGEST_NAME = 255


def partial_path(path: Path, folder: Path | None = None) -> Path:
    """The file that is written until it is verified, with the same suffix and on the same file system.

    In `folder`, if that is given, else hidden beside `path`.
    """
    if folder is not None:
        return folder / path.name
    stem, end = path.stem, f".{os.getpid()}.part{path.suffix}"
    while stem and len(os.fsencode(f".{stem}{end}")) > LONGEST_NAME:
        stem = stem[:-1]
    return path.with_name(f".{stem}{end}")


def create_private(path: Path) -> None:
    """Make an empty file that its owner alone can read, never through a link that somebody left there.

    Raises OSError.
    """
    path.unlink(missing_ok=True)  # of a process that had our number and was killed
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def put_in_place(partial: Path, path: Path, *, durable: bool = False) -> None:
    """Give a finished file its name and the permissions of any new file.

    What has the name is replaced; of a link that is the link, never the file it points to. durable: a power cut after
    this does not undo it. Raises OSError.
    """
    partial.chmod(0o666 & ~current_umask())
    if durable:
        sync(partial)
    os.replace(partial, path)
    if durable:
        sync(path.parent)


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file (a table, a report) that could not be written, before the work. Raises OutputError."""
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Create it or name another one.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already. Use --overwrite to replace it, or name another file.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {path.parent} is not writable. Name another one.")


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A hidden path beside `path` to write to; it gets the name at the end, or is removed if anything fails.

    durable: as in `put_in_place`. Raises OutputError where writing or renaming fails.
    """
    partial = partial_path(path)
    try:
        create_private(partial)
        yield partial
        put_in_place(partial, path, durable=durable)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}). Choose a folder that can be written to, or free "
            "some space."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk before going on: a power cut must not undo it."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_umask() -> int:
    """The permission bits that the user does not want new files to have."""
    mask = os.umask(0o077)  # it can be read only by setting it; what appears meanwhile is private
    os.umask(mask)
    return mask
