"""Where frames come from: a file, a folder or pattern of images, or a pipe, and which part of it."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.video.formats import STANDARD_STREAM
from stbn_cli.video.limits import MAX_PIXELS

if TYPE_CHECKING:
    from stbn_cli.video.frames import FrameReader


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of videos to take, and how to read them.

    start, end: half-open range in seconds from the beginning.
    rate: frames per second of image sequences; None: 25.
    field: "on" takes the two fields of each picture apart, "off" does not, "auto" goes by the input's marks.
    max_pixels: of one picture; an input that states more is refused.
    hardware: "auto" or "cuda" decodes on the graphics card, or in software with a warning where it cannot.
    bayer: how mosaics are read; None: as DNG files say, and other pictures are none.
    """

    start: float | None = None
    end: float | None = None
    rate: Fraction | float | None = None
    field: str = "auto"
    max_pixels: int = MAX_PIXELS
    hardware: str | None = None
    bayer: BayerOptions | None = None


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
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        strict: bool = False,
        once: bool = False,
    ) -> "FrameReader":
        """A reader of its frames; `start` and `end` (seconds) take the place of its own. Raises as `open_video`.

        once: whatever needs the frames gets them from this reader; without it, a pipe is refused.
        """
        from stbn_cli.video.reader import open_video  # arrays need no PyAV

        if self.is_pipe and not once:
            from stbn_cli.video.y4m_reader import read_twice

            raise read_twice()
        span = self.span
        return open_video(
            self.path,
            start=span.start if start is None else start,
            end=span.end if end is None else end,
            rate=span.rate,
            hardware=span.hardware,
            max_pixels=span.max_pixels,
            field=span.field,
            bayer=span.bayer,
            strict=strict,
        )
