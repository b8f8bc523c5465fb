"""Names of files: any that the file system holds works; patterns of images, and the order of names."""

import os
import re
from pathlib import Path

# The field of a pattern such as %05d.
NUMBER_FIELD = re.compile(r"%0?\d*d")
# For images that have no names of their own.
DEFAULT_NAME = "frame_%06d"


def media_name(path: Path) -> str:
    """The name with which FFmpeg opens `path` and nothing else.

    A relative one such as `concat:a.mp4` would be understood as a protocol; an absolute one never is.
    """
    return str(path.absolute())


def is_pattern(path: Path) -> bool:
    """Whether the last part of `path` stands for several images."""
    return bool(NUMBER_FIELD.search(path.name)) or any(mark in path.name for mark in "*?[")


def natural_key(path: str | Path) -> tuple[str, list[tuple[int, str]]]:
    """Sort key by folder, then by name so that frame2 comes before frame10."""
    folder, name = os.path.split(path)
    # Split so, every second part is a number; not isdigit, which is true of characters that int() refuses.
    parts = enumerate(re.split(r"(\d+)", name))
    return folder, [(int(part) if index % 2 else 0, part) for index, part in parts]


def numbered(name: str) -> re.Pattern[str]:
    """What the names look like that a pattern with a field such as %05d stands for."""
    field = NUMBER_FIELD.search(name)
    assert field is not None
    return re.compile(re.escape(name[: field.start()]) + r"\d+" + re.escape(name[field.end() :]))
