"""Writes YUV4MPEG2 (y4m; see `y4m_reader` for what it holds) to standard output, or to a `.y4m` file.

What goes into a pipe cannot be read back and checked; a file is. FFmpeg's muxer does the work.
"""

import contextlib
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from stbn_cli.errors import OutputError
from stbn_cli.files import create_private, partial_path, put_in_place
from stbn_cli.video.encoders import EncodeOptions, EncoderPlan, plan_encoder
from stbn_cli.video.formats import FALLBACK_RATE, Y4M
from stbn_cli.video.frames import UNSPECIFIED, Frame, FrameReader
from stbn_cli.video.losses import report_left_out, report_y4m_losses
from stbn_cli.video.picturewriter import PictureWriter
from stbn_cli.video.pixels import mark_field_order, planes_to_frame
from stbn_cli.video.probe import error_reason
from stbn_cli.video.verify import Expected, verify_video

OUTPUT_NAME = "standard output"
UNKNOWN_ASPECT = b" A0:0 "
# How far, in frames, a time may lie from a constant rate: clocks of milliseconds round that much at 240 a second.
EVEN_WITHIN = Fraction(1, 4)
# FFmpeg's names for its AVChromaLocation numbers.
CHROMA_NAMES = {1: "left", 2: "center", 3: "topleft"}
# Codecs whose 4:2:0 chroma lies left where nothing is stated.
LEFT_BY_DEFAULT = ("h264", "hevc", "mpeg2video", "mpeg4")


class _Sink:
    """A stream as FFmpeg writes to it: without positions, and each piece handed on at once.

    The muxer takes the pixel aspect from a field that PyAV does not let us set, so the header gets it here.
    """

    def __init__(self, stream: BinaryIO, aspect: Fraction | None) -> None:
        self._stream = stream
        self._aspect = aspect

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        size = len(data)
        if self._aspect is not None:
            stated = f" A{self._aspect.numerator}:{self._aspect.denominator} ".encode()
            data, self._aspect = data.replace(UNKNOWN_ASPECT, stated, 1), None
        self._stream.write(data)
        self._stream.flush()
        return size


def standard_output() -> BinaryIO:
    """Standard output for bytes. Raises OutputError where the process has none."""
    if sys.stdout is None:
        raise OutputError("There is no standard output. Name a file with -o.")
    return sys.stdout.buffer


class Y4mWriter(PictureWriter):
    """Writes frames as y4m: to standard output as they come, or to a file that is checked. See `create_video`."""

    def __init__(
        self,
        path: Path | None,
        reader: FrameReader,
        options: EncodeOptions,
        turns: int,
        folder: Path | None = None,
    ) -> None:
        """path: of a file; None: standard output. turns: quarter turns, counter-clockwise, of every picture.

        folder: where a file lies until it is checked; None: beside its final name.
        """
        super().__init__(reader.metadata, turns)
        self._path = path
        self._name = OUTPUT_NAME if path is None else str(path)
        self._follow(plan_encoder(reader.metadata, Y4M, options, self._notes), options)
        self._rate = reader.metadata.average_rate or FALLBACK_RATE
        self._source = reader.name
        self._begin: Fraction | None = None
        self._count = 0
        self._partial = None if path is None else partial_path(path, folder)
        if reader.metadata.average_rate is None:
            self._notes.add(
                f"{self._source} states no frame rate; y4m needs one, and {FALLBACK_RATE} is written."
            )
        report_y4m_losses(reader, self._plan, self._notes)
        report_left_out(reader, Y4M, self._notes)
        self._file: BinaryIO | None = None
        try:
            if self._partial is not None:
                create_private(self._partial)
            self._file = standard_output() if self._partial is None else self._partial.open("wb")
            self._output, self._stream = self._open(self._plan)
        except BrokenPipeError:
            raise
        except (FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise self._cannot_write(error) from error

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        time = frame.pts * frame.time_base
        self._begin = time if self._begin is None else self._begin
        if abs((time - self._begin) * self._rate - self._count) > EVEN_WITHIN:
            self._notes.lose(
                f"The frames of {self._source} are not evenly spaced, and y4m has only a constant rate: they are "
                f"written at {float(self._rate):g} frames per second. An .mkv output keeps their times."
            )
        even = Frame(frame.rgb, self._count, 1 / self._rate, 1)
        self._mux(planes_to_frame(planes, even, self._plan.pix_fmt, self._plan.color))
        self._count += 1

    def _complete(self) -> None:
        if not self._count:
            raise OutputError(f"No frame was written to {self._name}; there is nothing to keep.")
        self._mux(None)
        try:
            self._output.close()
            if self._path is not None and self._partial is not None:
                assert self._file is not None
                self._file.close()
                verify_video(self._partial, self._expected())
                put_in_place(self._partial, self._path)
        except BrokenPipeError:
            raise
        except (FFmpegError, OSError) as error:
            raise self._cannot_write(error) from error

    def _expected(self) -> Expected:
        times = [index / self._rate for index in range(self._count)]
        # What cannot be kept has been reported.
        color = replace(self._plan.color, matrix_tag=UNSPECIFIED, primaries=UNSPECIFIED, transfer=UNSPECIFIED)
        return Expected(0, times, ["video"], Y4M, color, self._aspect, 0, self._plan.field_order)

    def _open(self, plan: EncoderPlan) -> tuple[OutputContainer, VideoStream]:
        metadata = self._metadata
        assert self._file is not None
        # -1: FFmpeg calls more than 8 bits of a sample an extension of the format.
        output = av.open(
            _Sink(self._file, self._aspect),
            "w",
            format=Y4M,
            container_options={"strict": "-1", "flush_packets": "1"},
        )
        location = plan.color.chroma_location
        if location is None and metadata.codec in LEFT_BY_DEFAULT:
            location = 1
        options = {} if location not in CHROMA_NAMES else {"chroma_sample_location": CHROMA_NAMES[location]}
        stream = output.add_stream(plan.encoder, rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self._size
        context.pix_fmt = plan.pix_fmt
        context.time_base = stream.time_base = 1 / self._rate
        context.color_range = plan.color.range_tag
        mark_field_order(context, None if self._turns else plan.field_order)
        return output, stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            self._output.mux(self._stream.encode(picture))
        except BrokenPipeError:
            raise  # nobody reads any more: that is no failure to report
        except (FFmpegError, OSError) as error:
            raise self._cannot_write(error) from error

    def _discard(self) -> None:
        # The first error is the one to show.
        with contextlib.suppress(AttributeError, FFmpegError, OSError, ValueError):
            self._output.close()
        if self._partial is not None:
            with contextlib.suppress(OSError):
                if self._file is not None:
                    self._file.close()
            self._partial.unlink(missing_ok=True)

    def _cannot_write(self, error: Exception) -> OutputError:
        if self._path is None:
            return OutputError(f"Writing to standard output failed: {error_reason(error)}.")
        return OutputError(
            f"Writing {self._path} failed: {error_reason(error)}. The unfinished file is removed; check the free "
            "space and the folder's permissions."
        )
