"""Where frames come from: a file, a folder or pattern of images, or a pipe, and which part of it."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stbn_cli.video.formats import STANDARD_STREAM
from stbn_cli.video.limits import MAX_PIXELS

if TYPE_CHECKING:
    from stbn_cli.video.frames import FrameReader


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of videos to take, in seconds, and how to read them; see `open_video`."""

    start: float | None = None
    end: float | None = None
    rate: Fraction | float | None = None  # frames per second of image sequences
    field: str = "auto"
    max_pixels: int = MAX_PIXELS  # of one picture
    hardware: str | None = None  # that decodes


@dataclass(frozen=True, slots=True)
class Source:
    """An input and the part of it that is meant. The one place where inputs are opened."""

    path: str | Path
    span: Span = field(default_factory=Span)

    @property
    def is_pipe(self) -> bool:
        """Whether it passes once."""
        return self.path == STANDARD_STREAM

    def open(
        self, *, start: float | None = None, end: float | None = None, strict: bool = False
    ) -> "FrameReader":
        """A reader of its frames; `start` and `end` (seconds) take the place of its own. Raises as `open_video`."""
        from stbn_cli.video.reader import open_video  # arrays need no PyAV

        span = self.span
        return open_video(
            self.path,
            start=span.start if start is None else start,
            end=span.end if end is None else end,
            rate=span.rate,
            hardware=span.hardware,
            max_pixels=span.max_pixels,
            field=span.field,
            strict=strict,
        )
