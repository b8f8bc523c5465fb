"""Raw pictures out: files of the source's kind, or a rendering of them for looking."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stbn_cli.errors import OptionError
from stbn_cli.raw.bayer import unpack
from stbn_cli.raw.mosaicfile import MosaicFile
from stbn_cli.raw.reader import DNG, KINDS, RawReader
from stbn_cli.raw.rendering import Rendering
from stbn_cli.video.adapted_reader import AdaptedReader
from stbn_cli.video.frames import Frame, FrameReader, FrameWriter, VideoMetadata, Warnings
from stbn_cli.video.images import ImageWriter
from stbn_cli.video.output import OutputTarget, image_pattern


def rendered_note(reader: FrameReader) -> str:
    """What is said of an output that is rendered."""
    balance = (
        "the camera's white balance" if reader.metadata.container == DNG else "grey as its average colour"
    )
    return (
        f"The output is a rendering of {reader.name} for looking: 8-bit sRGB with {balance}. Name a folder (ends with "
        "/) to keep the raw values."
    )


def keeps_mosaic(metadata: VideoMetadata, target: OutputTarget) -> bool:
    """Whether an output of raw pictures is raw again: a folder, or files of the source's kind."""
    if target.kind in ("video", "pipe"):
        return False
    return target.pattern is None or KINDS.get(Path(target.pattern).suffix.lower()) == metadata.container


def refuse_foreign_dng(metadata: VideoMetadata, target: OutputTarget) -> None:
    """Raise OptionError for an output of DNG files whose source is of another kind: their tags would be missing."""
    wanted = target.pattern is not None and KINDS.get(Path(target.pattern).suffix.lower()) == DNG
    if wanted and metadata.container != DNG:
        raise OptionError(
            f"{target.pattern}: only DNG input can be written as DNG. Name another output, such as a folder (ends with "
            "/)."
        )


class RawWriter(ImageWriter):
    """Writes each mosaic into a copy of its source file; see `images.ImageWriter`."""

    def __init__(
        self,
        target: OutputTarget,
        reader: RawReader,
        names: tuple[str, ...] | None,
        hidden: Path | None,
        notes: Warnings,
    ) -> None:
        pattern = image_pattern(target, names)
        super().__init__(target.path, pattern, reader.metadata, names, hidden, dither=False, notes=notes)
        self._reader = reader
        self._open: tuple[int, MosaicFile] | None = None

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        file = self._file()
        return [file.rounded(unpack(np.moveaxis(rgb, -1, 0), file.bayer, file.size))]

    def _file(self) -> MosaicFile:
        """The source's file of the frame that is written next."""
        index = len(self._written)
        if self._open is None or self._open[0] != index:
            self._open = (index, self._reader.mosaic(index))
        return self._open[1]

    def _encoded(self, name: str, planes: list[np.ndarray]) -> bytes:
        return self._file().encoded(planes[0], Path(name).suffix)

    def _name(self, index: int) -> str:
        # With its own suffix, in its own capitals.
        return self._names[index] if self._names is not None else super()._name(index)


class RenderingWriter(FrameWriter):
    """Writes raw pictures, rendered, to a writer of ordinary pictures."""

    def __init__(
        self, reader: RawReader, make: Callable[[FrameReader], FrameWriter], rendering: Rendering
    ) -> None:
        """make: the other writer, for a reader of the rendered pictures."""
        super().__init__()
        self._reader, self._rendering = reader, rendering
        self._next = 0
        self._writer = make(AdaptedReader(reader, rendering.metadata, None))
        self.layout, self.color = self._writer.layout, self._writer.color

    @property
    def warnings(self) -> list[str]:
        return [*self._notes.messages, *self._writer.warnings, rendered_note(self._reader)]

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        file = self._reader.mosaic(self._next)
        values = unpack(np.moveaxis(rgb, -1, 0), file.bayer, file.size)
        return self._writer.to_planes(self._rendering.render(file, values))

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        self._next += 1
        self._writer.write_planes(planes, frame)

    def _complete(self) -> None:
        self._writer.finish()

    def _discard(self) -> None:
        self._writer.__exit__()
