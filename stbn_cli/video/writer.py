"""Encode frames with their own times, copy the other streams beside them, verify, and only then rename."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import create_private, partial_path, put_in_place
from stbn_cli.grain.parameters import GrainSegment
from stbn_cli.raw.reader import RawReader
from stbn_cli.raw.rendering import Rendering
from stbn_cli.raw.writer import RawWriter, RenderingWriter, keeps_mosaic, refuse_foreign_dng
from stbn_cli.video.alpha import ALPHA_TAG
from stbn_cli.video.av1 import StreamError, with_grain_flag
from stbn_cli.video.encoders import (
    EncodeOptions,
    EncoderPlan,
    check_alpha,
    plan_encoder,
    software_options,
)
from stbn_cli.video.formats import FALLBACK_RATE, MATROSKA, MP4_MUXERS, STANDARD_STREAM, Y4M
from stbn_cli.video.frames import Frame, FrameReader, FrameWriter, VideoMetadata, Warnings
from stbn_cli.video.graining import GrainedPackets
from stbn_cli.video.images import ImageWriter
from stbn_cli.video.losses import (
    check_known_losses,
    refuse_found_losses,
    report_jpeg_loss,
    report_left_out,
)
from stbn_cli.video.names import media_name
from stbn_cli.video.output import (
    OutputTarget,
    check_output,
    image_pattern,
    resolve_output,
)
from stbn_cli.video.picturewriter import PictureWriter
from stbn_cli.video.pixels import (
    FieldMarker,
    mark_field_order,
    planes_to_frame,
)
from stbn_cli.video.probe import error_reason
from stbn_cli.video.stereo import STEREO_TAG, report_stereo, written_mode
from stbn_cli.video.streams import STATISTICS_TAGS, StreamCopier, packet_seconds
from stbn_cli.video.times import Times
from stbn_cli.video.verify import Expected, verify_video
from stbn_cli.video.y4m_writer import Y4mWriter

__all__ = ["EncodeOptions", "VideoWriter", "check_output", "create_video"]

# The largest clock MP4 and MOV hold: 31 bits.
MAX_TIMESCALE = 2**31 - 1
MIN_MOVIE_CLOCK = 1000
# Of packets that wait for their film grain, behind the name of what is being written.
WAITING_SUFFIX = ".packets"
# Muxers that keep a display matrix; for the others a right-angled rotation is applied to the pixels.
ROTATING_MUXERS = (*MP4_MUXERS, MATROSKA, "webm")


def create_video(
    path: str | Path,
    source_reader: FrameReader,
    options: EncodeOptions,
    *,
    overwrite: bool = False,
    folder: Path | None = None,
) -> FrameWriter:
    """Prepare an output for the frames of `source_reader`, a context manager.

    The output's name decides: a video by its suffix; images for a folder (ends with /, exists as one, or has
    no suffix) or a pattern such as out/%05d.png; - is y4m to standard
    output, as the frames come. `write(frame)` in presentation order, then `finish()`
    verifies and puts the output in place; leaving the context without `finish()` removes what was written.
    folder: where the output lies until then, on its file system; None: hidden files beside it.

    Raises OptionError for impossible options and OutputError when nothing can be written there.
    """
    source = STANDARD_STREAM if source_reader.from_pipe else source_reader.path
    check_output(source, path, overwrite)
    check_alpha(source_reader.metadata, options)
    check_known_losses(source_reader, path, options)
    target = resolve_output(path)
    refuse_foreign_dng(source_reader.metadata, target)
    if isinstance(source_reader, RawReader) and not keeps_mosaic(source_reader.metadata, target):
        return RenderingWriter(
            source_reader,
            lambda reader: create_video(path, reader, options, overwrite=overwrite, folder=folder),
            Rendering(source_reader),
        )
    if target.kind == "pipe" or (target.kind == "video" and target.muxer == Y4M):
        turns = _baked_turns(source_reader.metadata, Y4M)
        return Y4mWriter(
            None if target.kind == "pipe" else target.path, source_reader, options, turns, folder
        )
    if target.kind == "video":
        return VideoWriter(target, source_reader, options, folder)
    names = source_reader.image_names
    if target.kind == "image":
        if source_reader.metadata.frame_count != 1:
            raise OptionError(
                f"{path} is one image but the input has many frames. Name a folder (ends with /)."
            )
        names = (str(target.pattern),)
    pattern = image_pattern(target, names)
    if target.pattern is not None and target.kind == "images":
        names = None
    notes = Warnings()
    if isinstance(source_reader, RawReader):
        return RawWriter(target, source_reader, names, folder, notes)
    report_jpeg_loss(source_reader, target, notes)
    report_left_out(source_reader, None, notes)
    return ImageWriter(
        target.path, pattern, source_reader.metadata, names, folder, dither=options.dither, notes=notes
    )


class VideoWriter(PictureWriter):
    """A video file being written; see `create_video`."""

    def __init__(
        self, target: OutputTarget, reader: FrameReader, options: EncodeOptions, folder: Path | None = None
    ) -> None:
        super().__init__(reader.metadata, _baked_turns(reader.metadata, target.muxer))
        self.path = target.path
        self._muxer = target.muxer
        self._follow(self._choose(options), options)
        report_stereo(reader.metadata, self._muxer, self._notes)
        order = None if self._turns else self._plan.field_order  # a turned picture has no fields in its rows
        self._marker = None if order is None else FieldMarker(order)
        self._options = options
        self._times = Times(reader.metadata.time_base)
        self._durations: dict[int, int] = {}
        self._muxed = 0
        self._copier: StreamCopier | None = None
        self._partial = partial_path(self.path, folder)
        self._output: OutputContainer | None = None
        self._waiting: GrainedPackets | None = None
        self._grain: tuple[GrainSegment, ...] = ()
        try:
            create_private(self._partial)
            if options.film_grain:
                path = self._partial.with_name(self._partial.name + WAITING_SUFFIX)
                self._waiting = GrainedPackets(path, self._plan, self.path)
            self._stream = self._open(reader)
        except (FFmpegError, OSError, ValueError) as error:
            self._discard()
            raise _cannot_open(self.path, self._plan, error) from error
        except BaseException:
            self._discard()
            raise

    def add_grain(self, segments: Sequence[GrainSegment]) -> None:
        """Say before `finish` what grain players are to draw, for a writer that was asked for film grain."""
        self._grain = tuple(segments)

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        picture = planes_to_frame(planes, frame, self._plan.pix_fmt, self._plan.color)
        if self._marker is not None:
            picture = self._marker.mark(picture, self._plan.color)
        self._times.add(frame.pts, frame.time_base)
        if frame.duration:
            self._durations[frame.pts] = frame.duration
        self._mux(picture)

    def _complete(self) -> None:
        if not self._times:
            raise OutputError(f"No frame was written to {self.path}; there is nothing to keep.")
        assert self._output is not None
        self._mux(None)
        try:
            if self._waiting is not None:
                for packet in self._waiting.with_grain(self._grain):
                    packet.stream = self._stream
                    self._put(packet)
                self._waiting.close()
            if self._copier is not None:
                self._copier.mux_until(None, self._output)
                self._copier.report_refused()
            # Some containers announce a stream with its first packet only.
            copier = self._copier
            kinds = ["video"] if copier is None else copier.kinds(self._output)
            self._output.close()
        except (FFmpegError, OSError) as error:
            raise _cannot_write(self.path, error) from error
        lost = verify_video(self._partial, self._expected(kinds))
        if self._copier is not None:
            lost += self._copier.found_losses(self._partial, self._stream_index)
        refuse_found_losses(self.path, lost, self._options)
        for sentence in lost:
            self._notes.lose(sentence)
        try:
            put_in_place(self._partial, self.path)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if self._copier is not None:
            self._copier.close()

    def _expected(self, kinds: list[str]) -> Expected:
        return Expected(
            video_index=self._stream_index,
            times=self._times,
            kinds=kinds,
            muxer=self._muxer,
            color=self._plan.color,
            aspect=self._aspect,
            rotation=0 if self._turns else self._metadata.rotation,
            field_order=self._plan.field_order,
        )

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._output is not None
        try:
            packets = self._stream.encode(picture)
            if picture is None and not self._muxed and self._plan.family == "hevc":
                _assign_dts(packets)
            for packet in packets:
                if packet.pts is not None:
                    # Some encoders lose it, and the last frame's is what the file's length is made of.
                    packet.duration = self._durations.pop(packet.pts, None) or packet.duration
                if self._waiting is not None:
                    self._waiting.add(packet)
                else:
                    self._put(packet)
        except (FFmpegError, OSError) as error:
            raise _cannot_write(self.path, error) from error

    def _put(self, packet: Packet) -> None:
        assert self._output is not None
        seconds = packet_seconds(packet)
        if self._copier is not None and seconds is not None:
            self._copier.mux_until(seconds, self._output)
        self._output.mux(packet)
        self._muxed += 1

    def _choose(self, options: EncodeOptions) -> EncoderPlan:
        """The plan for `options`, in software where they name an encoder that does not open on this machine."""
        notes = Warnings()
        plan = plan_encoder(self._metadata, self._muxer, options, notes)
        if plan.on_device:
            try:
                # Tried alone and with all its settings: once there is a file, its errors look the same.
                context = VideoCodecContext.create(plan.encoder, "w")
                assert isinstance(context, VideoCodecContext)
                self._configure(context, plan)
                context.options = plan.options
                context.open()
            except (FFmpegError, OSError, ValueError) as error:
                notes = Warnings()
                missing, reason = plan.encoder, error_reason(error)
                plan = plan_encoder(self._metadata, self._muxer, software_options(options), notes)
                self._notes.add(
                    f"The encoder {missing} cannot be opened ({reason}): {plan.encoder} writes the video instead. "
                    "Check that nvidia-smi shows a card that can encode this."
                )
        for sentence in notes.messages:
            self._notes.add(sentence)
        return plan

    def _configure(self, context: VideoCodecContext, plan: EncoderPlan) -> None:
        """Set all of an encoder but its options."""
        metadata = self._metadata
        context.width, context.height = self._size
        context.pix_fmt = plan.pix_fmt
        context.framerate = metadata.average_rate or FALLBACK_RATE
        context.time_base = metadata.time_base
        if ratio := self._aspect:
            context.sample_aspect_ratio = ratio
        context.colorspace = plan.color.matrix_tag
        context.color_range = plan.color.range_tag
        context.color_primaries = plan.color.primaries
        context.color_trc = plan.color.transfer
        mark_field_order(context, None if self._turns else plan.field_order)
        if plan.codec_tag:
            context.codec_tag = plan.codec_tag

    def _open(self, reader: FrameReader) -> VideoStream:
        """Open the container, add all streams in the source's order, and write the header."""
        source = reader.stream_source
        muxer_options = _time_options(self._muxer, reader.metadata.time_base)
        if source is not None:
            self._copier = StreamCopier(source, self._notes)
            muxer_options |= self._copier.muxer_options(self._muxer)
        output = av.open(media_name(self._partial), "w", format=self._muxer, container_options=muxer_options)
        self._output = output
        if self._copier is None or source is None:
            self._stream_index = 0
            stream = self._add_video(output, {})
        else:
            self._copier.plan(self._muxer)
            self._copier.copy_container_tags(output)
            stream = None
            for other in self._copier.source_streams():
                if other.index == source.video_index:
                    self._stream_index = len(output.streams)
                    stream = self._add_video(output, other.metadata)
                    stream.disposition = other.disposition.value  # type: ignore[assignment]
                else:
                    self._copier.add(other, output)
            assert stream is not None
        # SVT-AV1 prints its settings to stderr by itself; 1 = errors only.
        os.environ.setdefault("SVT_LOG", "1")
        if self._waiting is not None:
            self._announce_grain(stream.codec_context)
        output.start_encoding()
        if self._copier is not None:
            self._copier.start()
        return stream

    def _announce_grain(self, context: VideoCodecContext) -> None:
        """Open the encoder, and have the container say what the stream's packets will say."""
        context.open()
        if context.extradata:
            try:
                context.extradata = with_grain_flag(context.extradata)
            except StreamError as error:
                raise OptionError(
                    f"Film grain cannot be written behind {self._plan.encoder} ({error}). Use --grain-table alone."
                ) from error

    def _add_video(self, output: OutputContainer, tags: dict[str, str]) -> VideoStream:
        metadata, plan = self._metadata, self._plan
        rate = metadata.average_rate or FALLBACK_RATE
        stream = output.add_stream(plan.encoder, rate=rate, options=plan.options)
        assert isinstance(stream, VideoStream)
        self._configure(stream.codec_context, plan)
        stream.time_base = metadata.time_base
        if metadata.display_matrix and not self._turns and hasattr(stream, "set_display_matrix"):
            stream.set_display_matrix(
                metadata.display_matrix
            )  # where it is lost, the check at the end says so
        for key, value in tags.items():
            # Of an alpha layer nothing is left, so that the tag would be untrue.
            if not key.upper().startswith(STATISTICS_TAGS) and key.lower() not in (ALPHA_TAG, STEREO_TAG):
                stream.metadata[key] = value
        if mode := written_mode(metadata, self._muxer):
            stream.metadata[STEREO_TAG] = mode
        return stream

    def _discard(self) -> None:
        for part in (self._output, self._copier):
            try:
                if part is not None:
                    part.close()
            except (FFmpegError, OSError):
                pass  # the file is removed anyway, and the first error is the one to show
        if self._waiting is not None:
            self._waiting.close()
        self._partial.unlink(missing_ok=True)


def _time_options(muxer: str, time_base: Fraction) -> dict[str, str]:
    """Muxer options with which every pts stays what it is."""
    if muxer in (MATROSKA, "webm"):
        # AAC from MP4 starts before 0; the default would move all streams, the video too, until it does not.
        return {"avoid_negative_ts": "disabled"}
    if muxer not in MP4_MUXERS or time_base.denominator > MAX_TIMESCALE:
        return {}
    # The track's clock is the source's own. The movie's clock, in which a start other than 0 and chapters are
    # kept, is a multiple of it that is not coarser than a millisecond.
    clock = time_base.denominator
    movie = clock * -(-MIN_MOVIE_CLOCK // clock)
    return {"video_track_timescale": str(clock), "movie_timescale": str(movie)}


def _baked_turns(metadata: VideoMetadata, muxer: str) -> int:
    """Quarter turns (counter-clockwise) to apply to the pixels because the output cannot carry a matrix."""
    if metadata.display_matrix is None:
        return 0
    if muxer in ROTATING_MUXERS and hasattr(VideoStream, "set_display_matrix"):
        return 0
    a, b, _, c, d = metadata.display_matrix[:5]
    mirrored = a * d - b * c < 0
    return 0 if mirrored or metadata.rotation % 90 else metadata.rotation // 90 % 4


def _assign_dts(packets: list[Packet]) -> None:
    """Give all packets of a clip, in decoding order, increasing decoding times that are not after their pts.

    x265 takes them from uninitialised memory when a clip is shorter than its reordering.
    """
    times = [packet.pts for packet in packets if packet.pts is not None]
    if len(times) != len(packets) or not packets:
        return
    delay = max(due - pts for due, pts in zip(sorted(times), times, strict=True))
    for packet, due in zip(packets, sorted(times), strict=True):
        packet.dts = due - delay


def _cannot_open(path: Path, plan: EncoderPlan, error: Exception) -> OptionError | OutputError:
    reason = error_reason(error)
    if isinstance(error, OSError):
        return OutputError(f"The output {path} cannot be written: {reason}. Choose another place.")
    return OptionError(
        f"The encoder {plan.encoder} refuses the settings ({reason}) for {path.name}. Try another --codec, "
        "--preset or --pix-fmt."
    )


def _cannot_write(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"Writing {path} failed: {error_reason(error)}. The unfinished file is removed; check the free space."
    )
