"""Where the output goes and everything that is refused before work begins."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import LONGEST_NAME
from stbn_cli.video.formats import MUXERS, PICTURE_SUFFIXES, STANDARD_STREAM, Y4M
from stbn_cli.video.names import DEFAULT_NAME, is_pattern


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """An output as understood from its name.

    kind "video": `path` is the file. kind "pipe": y4m to standard output. kind "images": `path` is the folder and
    `pattern` the name of each image with a `%d` field (None = named after the input's images, or frame_000001 on).
    kind "image": `path` is the folder and `pattern` the one file's name.
    """

    kind: Literal["video", "images", "image", "pipe"]
    path: Path
    pattern: str | None = None

    @property
    def muxer(self) -> str:
        """FFmpeg's muxer name of a video."""
        return Y4M if self.kind == "pipe" else MUXERS[self.path.suffix.lower()]


def resolve_output(output: str | Path) -> OutputTarget:
    """Understand an output name. Raises OptionError for a suffix or pattern that cannot be written."""
    path = Path(output)
    if output == STANDARD_STREAM:
        return OutputTarget("pipe", path)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OptionError(
            f"The name {path.name[:40]}... of the output is too long. Give a shorter one with -o."
        )
    if str(output).endswith(("/", os.sep)) or path.is_dir() or not path.suffix:
        return OutputTarget("images", path)
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        if "%" in path.name:
            if not re.fullmatch(r"[^%]*%0?\d*d[^%]*", path.name):
                raise OptionError(f"The pattern {path.name} needs exactly one field such as %05d.")
            return OutputTarget("images", path.parent, path.name)
        if is_pattern(path):
            raise OptionError(
                f"The pattern {path.name} does not number the images. Write a field such as %05d."
            )
        return OutputTarget("image", path.parent, path.name)
    if suffix not in MUXERS:
        known = ", ".join(MUXERS)
        raise OptionError(
            f"The output {path.name} has the suffix {suffix}, which cannot be written. Use {known}, "
            "or a folder (a name that ends with /) for images."
        )
    return OutputTarget("video", path)


def is_terminal(stream: IO[Any] | None) -> bool:
    """Whether a person would see what is written to a stream, or have to type what is read from it."""
    return stream is not None and stream.isatty()


def check_output(source: str | Path, output: str | Path, overwrite: bool) -> None:
    """Refuse an impossible output before any work is done.

    Raises OptionError for names that mean nothing, and OutputError when the output is the input, exists
    (unless `overwrite`), or its folder is missing or not writable.
    """
    target = resolve_output(output)
    if target.kind == "pipe":
        if is_terminal(sys.stdout):
            raise OptionError(
                "Standard output is a terminal. Pipe it on: stbn denoise in.mp4 -o - | ffmpeg -i - out.mp4"
            )
        return
    if source != STANDARD_STREAM and _same(Path(source), target):
        raise OutputError(
            f"The output {output} is the input itself. Name another file; the input is never replaced."
        )
    if os.path.lexists(output) and not (
        os.path.isfile(output) or os.path.isdir(output) or os.path.islink(output)
    ):
        raise OutputError(
            f"The output {output} is a device or a pipe. Name a file, or pipe on what -o - writes."
        )
    folder = target.path.parent if target.kind == "video" or not target.path.is_dir() else target.path
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist. Create it or name another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {folder} is not writable. Change its permissions or name another one.")
    existing = None if overwrite else _existing(target)
    if existing is not None:
        raise OutputError(
            f"{existing} exists already. Use --overwrite to replace it, or name another output."
        )


def _same(source: Path, target: OutputTarget) -> bool:
    if target.kind == "video":
        return _is_same_file(source, target.path)
    if target.kind == "image":
        return _is_same_file(source, target.path / str(target.pattern))
    folder = source if source.is_dir() else source.parent
    images_in = source.is_dir() or is_pattern(source) or source.suffix.lower() in PICTURE_SUFFIXES
    # Images keep their names, so writing into their own folder would replace them.
    return images_in and target.pattern in (None, source.name) and _is_same_file(folder, target.path)


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return first.absolute() == second.absolute()


def find_existing(output: str | Path) -> Path | None:
    """Something that a run for `output` would replace or mix with, if there is. Raises OptionError."""
    target = resolve_output(output)
    return None if target.kind == "pipe" else _existing(target)


def _existing(target: OutputTarget) -> Path | None:
    """Something that the output would replace or mix with."""
    if target.kind == "video":
        return target.path if os.path.lexists(target.path) else None  # a link to nowhere is there, too
    if not target.path.is_dir():
        return None
    if target.kind == "image":
        file = target.path / str(target.pattern)
        return file if os.path.lexists(file) else None
    if target.pattern is None:
        return target.path if any(not child.name.startswith(".") for child in target.path.iterdir()) else None
    wanted = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(target.pattern).replace(r"\%", "%")))
    return next((child for child in target.path.iterdir() if wanted.fullmatch(child.name)), None)


def image_pattern(target: OutputTarget, names: tuple[str, ...] | None) -> str:
    """The `%d` name with suffix for images of `target`; names: those of the input, whose suffix is kept."""
    if target.pattern is not None:
        return target.pattern
    suffix = Path(names[0]).suffix if names else ".png"
    return DEFAULT_NAME + suffix
