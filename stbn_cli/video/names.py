"""Names and permissions of files: any name that the file system holds works, unfinished files are private."""

import os
from pathlib import Path


def media_name(path: Path) -> str:
    """The name with which FFmpeg opens `path` and nothing else.

    A relative one such as `concat:a.mp4` would be understood as a protocol; an absolute one never is.
    """
    return str(path.absolute())


def current_umask() -> int:
    """The permission bits that the user does not want new files to have."""
    mask = os.umask(0o077)  # it can be read only by setting it; what appears meanwhile is private
    os.umask(mask)
    return mask
