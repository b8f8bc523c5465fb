"""Which DNG files a name stands for, in all its spellings. Imports nothing heavy."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

from stbn_cli.errors import InputError
from stbn_cli.video.formats import CAMERA_SUFFIXES, IMAGE_SUFFIXES, RAW_SUFFIXES
from stbn_cli.video.names import NUMBER_FIELD, is_pattern, natural_key, numbered


def raw_files(path: Path) -> list[Path]:
    """The DNG files that `path` names (a file, a folder, a pattern), in natural order; none: it names something else.

    Raises `InputError` for DNG among other pictures, for formats of camera makers, and for a name that ends as DNG do
    and stands for nothing.
    """
    found = _named(path)
    raw = [file for file in found if _is_raw(file)]
    others = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    if raw and others:
        raise InputError(
            f"{path} names DNG and other pictures, as {others[0].name}, which cannot be one clip. Name one kind with a "
            "pattern, such as '*.dng', or put them into folders of their own."
        )
    if not raw and not others and any(file.suffix.lower() in CAMERA_SUFFIXES for file in found):
        raise InputError(
            f"{path} is in a camera maker's raw format, which stbn cannot read. Convert it to DNG first, for "
            "example with Adobe DNG Converter."
        )
    if not raw and _is_raw(path) and not os.path.isdir(path):
        if is_pattern(path):
            raise InputError(f"No DNG file matches {path}. Check the folder and the pattern.")
        raise InputError(f"The DNG file {path} does not exist. Check the name.")
    return sorted(raw, key=natural_key)


def refuse_raw_pictures(path: Path) -> None:
    """Raise InputError if `path` names DNG pictures, for a command that takes none."""
    if raw_files(path):
        raise not_raw(path)


def not_raw(path: str | Path) -> InputError:
    """The refusal of raw pictures by a command that takes none."""
    return InputError(
        f"{path} names raw pictures (DNG or mosaics), which this command does not read. Make a video of them for "
        "looking with stbn denoise, or develop them to 16-bit TIFF."
    )


def _is_raw(path: Path) -> bool:
    return path.suffix.lower() in RAW_SUFFIXES


def _named(path: Path) -> list[Path]:
    # Not the methods of Path, which fail for a name that is too long.
    if os.path.isdir(path):
        if not os.access(path, os.R_OK | os.X_OK):
            return []  # who reads it as pictures says so
        return [child for child in path.iterdir() if not child.name.startswith(".")]
    if os.path.lexists(path):
        return [path]
    if not is_pattern(path) or not os.path.isdir(path.parent):
        return []
    children = [child for child in path.parent.iterdir() if not child.name.startswith(".")]
    if NUMBER_FIELD.search(path.name):
        wanted = numbered(path.name)
        return [child for child in children if wanted.fullmatch(_spelled_as(child.name, path.name))]
    return [child for child in children if fnmatchcase(_spelled_as(child.name, path.name), path.name)]


def _spelled_as(name: str, pattern: str) -> str:
    """A DNG's name with its suffix in the capitals of the pattern's: cameras write both."""
    suffix = os.path.splitext(pattern)[1]
    stem, own = os.path.splitext(name)
    return (
        stem + suffix
        if own.lower() == suffix.lower() and suffix.lower() in (*RAW_SUFFIXES, *CAMERA_SUFFIXES)
        else name
    )
