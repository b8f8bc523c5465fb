"""Reads YUV4MPEG2 (y4m) from standard input, and what its headers say of files too.

A pipe can be read once. So the first picture is read when the reader is made and handed out by the one iteration there
can be. FFmpeg's demuxer does the work. The format holds pictures at a constant rate, their pixel aspect, their range
and, at 8 bits, where 4:2:0 chroma lies; it knows no colour matrix, so `pixels.resolve_color`'s rule for untagged video
holds at both ends.
"""

import os
import re
import select
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from stbn_cli.errors import InputError, OptionError
from stbn_cli.video.fields import AUTO, with_fields
from stbn_cli.video.formats import FALLBACK_RATE, STANDARD_STREAM, Y4M
from stbn_cli.video.frames import Frame, FrameReader, VideoMetadata
from stbn_cli.video.output import is_terminal
from stbn_cli.video.pixels import describe_format, frame_to_rgb, to_fraction
from stbn_cli.video.probe import describe, error_reason

INPUT_NAME = "standard input"
# How long a wait for data goes on before it looks whether it is still wanted.
WAIT_SECONDS = 0.5
# A y4m header is one line; FFmpeg gives up on longer ones much earlier.
LONGEST_HEADER = 4096
# FFmpeg's AVChromaLocation numbers by y4m's names of 8-bit formats.
CHROMA_TAGS = {"420mpeg2": 1, "420jpeg": 2, "420": 2, "420paldv": 3}


class _Tap:
    """A stream as `av.open` reads it, which keeps the header line and counts the bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._start = b""
        self.count = 0
        self.interrupted = False  # by Ctrl-C
        self.stopped = False  # set by another thread: the data ends here

    def read(self, size: int) -> bytes:
        """What is there, at most `size` bytes; empty at the end."""
        try:
            # Not a buffered pipe's read(), which would wait until all of `size` has come.
            data = getattr(self._stream, "raw", self._stream).read(size) if self._wait() else None
        except KeyboardInterrupt:
            self.interrupted = True  # PyAV would print it and go on
            return b""
        if not data:
            return b""
        self.count += len(data)
        if len(self._start) < LONGEST_HEADER and self._start.count(b"\n") < 2:
            self._start += data[:LONGEST_HEADER]
        return data

    def _wait(self) -> bool:
        """Wait for data or the end; False if `stopped` comes before. Where files cannot be waited for, do not."""
        try:
            number = self._stream.fileno() if os.name == "posix" else None
        except (OSError, AttributeError):
            number = None
        while number is not None and not self.stopped:
            if select.select([number], [], [], WAIT_SECONDS)[0]:
                return True
        return not self.stopped

    @property
    def header(self) -> bytes:
        """The first line, with its end."""
        return self._start.partition(b"\n")[0] + b"\n"

    @property
    def mark(self) -> bytes:
        """The line before the first frame, with its end."""
        return self._start[len(self.header) :].partition(b"\n")[0] + b"\n"


class PipeReader(FrameReader):
    """Frames of y4m that comes from a pipe; they can be read once. See `reader.open_video`."""

    from_pipe = True

    def __init__(
        self,
        stream: BinaryIO,
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        field: str = AUTO,
    ) -> None:
        """start, end: half-open range in seconds; the first picture in it is read here.

        field: see `reader.open_video`. Raises InputError where nothing comes, or no y4m, and OptionError for fields
        where there cannot be any.
        """
        super().__init__(Path(STANDARD_STREAM))
        self.name = INPUT_NAME
        self.stream = stream
        self._start, self._end = start, end
        self._tap = _Tap(stream)
        self._used = False
        self._container = self._open()
        self._pictures = self._decode(self._container)
        try:
            first = next(self._pictures, None)
            if first is None:
                raise self._no_frame()
            metadata = describe(self._container, self._container.streams.video[0], first)
            layout = describe_format(metadata.pixel_format)
            metadata = with_fields(metadata, layout, field, INPUT_NAME.capitalize(), self._notes)
            self.metadata = with_chroma_location(metadata, self._tap.header)
            self._shift: int = first.pts or 0
            self._first: av.VideoFrame | None = first
            if self.metadata.has_alpha:
                self._notes.lose(f"The alpha channel of {INPUT_NAME} is dropped: only colour is denoised.")
            frame_to_rgb(first, self.metadata.color)  # an unsupported format fails here, before any work
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Let go of the pipe.

        A thread that waits for the next frame learns that there is none, and can be joined then.
        """
        self._tap.stopped = True
        try:
            self._pictures.close()
        except ValueError:  # it runs in that thread, which still uses the container
            return
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        if self._used:
            raise read_twice()
        self._used = True
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        picture, self._first = self._first, None
        depth = self.metadata.bit_depth
        while picture is not None:
            rgb = frame_to_rgb(picture, self.metadata.color, depth, by_fields=self.metadata.by_fields)
            pts, duration = picture.pts or 0, picture.duration or 1
            if self._end is not None:  # a picture that is shown when the range ends is shown until then
                duration = min(duration, max(1, round(self._end / self.metadata.time_base) - pts))
            yield Frame(rgb, pts - self._shift, self.metadata.time_base, duration)
            picture = next(self._pictures, None)

    def _open(self) -> InputContainer:
        try:
            return av.open(self._tap, "r", format=Y4M)
        except (FFmpegError, OSError) as error:
            if self._tap.interrupted:
                raise KeyboardInterrupt from None
            if not self._tap.count:
                raise InputError(
                    "Nothing came from standard input. Check that the command before the pipe works, or name a file."
                ) from error
            raise InputError(
                f"What comes from standard input is not y4m ({error_reason(error)}). Write it with ffmpeg's "
                "-f yuv4mpegpipe -strict -1, or name a file."
            ) from error

    def _decode(self, container: InputContainer) -> Generator[av.VideoFrame, None, None]:
        """Pictures of the range; says so if the last one is not whole."""
        stream = container.streams.video[0]
        base = to_fraction(stream.time_base) or 1 / FALLBACK_RATE
        count, size = 0, 0
        try:
            for packet in container.demux(stream):
                for picture in packet.decode():
                    assert isinstance(picture, av.VideoFrame)
                    count, size = count + 1, packet.size or size
                    time = (picture.pts or 0) * base
                    if self._start is not None and time < self._start:
                        continue
                    if self._end is not None and time >= self._end:
                        return
                    yield picture
        except FFmpegError as error:
            self._notes.add(
                f"Reading standard input stopped after frame {count} ({error_reason(error)}): the data is damaged "
                "there. The frames before were used."
            )
            return
        if self._tap.interrupted:
            raise KeyboardInterrupt
        if is_torn(self._tap.count - len(self._tap.header), count, len(self._tap.mark) + size):
            self._notes.add(torn_note(INPUT_NAME.capitalize()))

    def _no_frame(self) -> InputError:
        if self._start is None and self._end is None:
            return InputError(
                "Standard input holds a y4m header but no whole frame. Check the command before the pipe."
            )
        until = "its end" if self._end is None else f"{float(self._end):g} s"
        return InputError(
            f"Standard input has no frame between {float(self._start or 0):g} s and {until}. Choose another range."
        )


def open_standard_input(start: Fraction | None, end: Fraction | None, field: str = AUTO) -> PipeReader:
    """The reader of standard input.

    Raises InputError where there is no y4m, and OptionError for a terminal.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise InputError("There is no standard input. Name a file, or pipe y4m in.")
    if is_terminal(stream):
        raise OptionError(
            "Standard input is a terminal. Pipe y4m in: ffmpeg -i in.mp4 -f yuv4mpegpipe -strict -1 - | stbn denoise -"
        )
    return PipeReader(stream, start=start, end=end, field=field)


def read_twice() -> InputError:
    """The error of whoever needs a pipe's frames again."""
    return InputError(
        "Standard input can be read only once, and this needs its frames again. Save them to a file first."
    )


def is_torn(size: int, count: int, whole: int) -> bool:
    """Whether `size` bytes behind a y4m header are not just `count` frames of `whole` bytes each, marks included."""
    return size != count * whole


def is_torn_file(path: Path, metadata: VideoMetadata) -> bool:
    """Whether a y4m file does not hold whole frames only."""
    layout = describe_format(metadata.pixel_format)
    if metadata.has_alpha:
        return False
    shapes = [layout.plane_shape(index, metadata.height, metadata.width) for index in range(layout.planes)]
    picture = sum(rows * columns for rows, columns in shapes) * np.dtype(layout.dtype).itemsize
    with path.open("rb") as file:
        size = path.stat().st_size - len(file.readline(LONGEST_HEADER))
        whole = len(file.readline(LONGEST_HEADER)) + picture  # FRAME, sometimes with fields of its own
    return is_torn(size, size // whole, whole)


def torn_note(name: str) -> str:
    """The sentence for y4m that ends within a frame."""
    return f"{name} ends in the middle of a frame: it is truncated. The whole frames before it were used."


def with_chroma_location(metadata: VideoMetadata, header: bytes) -> VideoMetadata:
    """Metadata with the chroma location that the y4m `header` names."""
    found = re.search(rb" C(\S+)", header)
    location = CHROMA_TAGS.get(found[1].decode("ascii", "replace")) if found else None
    return replace(metadata, color=replace(metadata.color, chroma_location=location))
