"""Open a video file or an image sequence and hand out frames with exact times. Knows nothing of torch.

Every iteration opens the file anew: a reader can be read twice, and its frames in another thread.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from stbn_cli.errors import InputError, OptionError
from stbn_cli.video.fields import AUTO, check_mode, with_fields
from stbn_cli.video.frames import Damage, Frame, FrameReader, StreamSource, VideoMetadata, Warnings
from stbn_cli.video.hardware import DEVICE, HARDWARE, HardwareError, check_layout, open_on_device
from stbn_cli.video.images import ImageReader, exact_seconds, is_image_source
from stbn_cli.video.limits import MAX_PIXELS
from stbn_cli.video.output import STANDARD_STREAM, Y4M
from stbn_cli.video.pipe import (
    LONGEST_HEADER,
    is_torn_file,
    open_standard_input,
    torn_note,
    with_chroma_location,
)
from stbn_cli.video.pixels import describe_format, frame_to_rgb, to_fraction
from stbn_cli.video.probe import (
    codec_options,
    describe,
    error_reason,
    find_video_stream,
    open_container,
    origin,
    stated_end,
)

# Used only where neither the stream nor its frames have a rate.
FALLBACK_RATE = Fraction(25)
# A recording cut out of a broadcast may begin with a wrong time; no picture is shown for so long (seconds), and MP4
# cannot hold it at a clock of 90 kHz.
FIRST_LEAP = 6 * 3600
# A file that ends this many frames before its stated end is reported as truncated.
TRUNCATION_FRAMES = 3
# Codecs whose every packet is a picture to be shown, fields excepted.
ONE_PICTURE_A_PACKET = ("h264", "hevc", "ffv1", "prores")
# What PyAV cannot hand to an encoder (FFmpeg's frame side data names).
UNCARRIED_SIDE_DATA = {
    "MASTERING_DISPLAY_METADATA": "HDR mastering data",
    "CONTENT_LIGHT_LEVEL": "HDR light levels",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "DOVI_METADATA": "Dolby Vision data",
    "A53_CC": "closed captions",
}


def open_video(
    path: str | Path,
    *,
    start: float | None = None,
    end: float | None = None,
    rate: Fraction | float | None = None,
    hardware: str | None = None,
    max_pixels: int = MAX_PIXELS,
    field: str = AUTO,
) -> FrameReader:
    """Open a video file, a folder of images, a pattern such as `frame_%04d.png` or `*.png`, or "-": y4m, read once.

    start, end: half-open range in seconds from the beginning of the video; frames outside are left out and
    times shifted so that the first one kept is at 0. rate: frames per second of an image sequence (25 unless
    given; a video file keeps its own times). hardware: "cuda" decodes a video on an NVIDIA card, "auto" on
    whatever is there (cuda is all that is known yet), with software and a sentence in `.warnings` where that
    fails; the frames are the same. max_pixels: of one picture; headers that state more are refused before memory
    is taken. field: whether pictures are two fields (`metadata.by_fields`): "on", "off", or "auto", as they are
    marked. The result is a context manager; iterating yields `Frame`s in
    presentation order; `.metadata` and `.warnings` (sentences, growing while reading) describe it.

    Raises InputError for what is missing, empty, without video or without a decodable frame, and OptionError
    for an impossible range or limit, hardware of another name, or fields where there cannot be any.
    """
    if hardware not in (None, *HARDWARE):
        raise OptionError(f"Unknown hardware {hardware!r}. Choose one of {', '.join(HARDWARE)}.")
    check_mode(field)
    if max_pixels < 1:
        raise OptionError(
            f"A limit of {max_pixels} pixels leaves no picture. Give a number such as {MAX_PIXELS}."
        )
    if start is not None and start < 0:
        raise OptionError(f"The start {start:g} s is negative. Give a time of 0 s or later.")
    if end is not None and end <= (start or 0):
        raise OptionError(f"The end {end:g} s is not after the start {start or 0:g} s. Give a later end.")
    if path == STANDARD_STREAM:
        begin = None if start is None else exact_seconds(start)
        return open_standard_input(begin, None if end is None else exact_seconds(end), field)
    try:
        images = is_image_source(path)
    except OSError as error:  # among others, a name that is too long for the file system
        raise InputError(f"{path} cannot be opened: {error.strerror}. Check the name.") from error
    if images:
        return ImageReader(path, start=start, end=end, rate=rate, max_pixels=max_pixels, field=field)
    return VideoReader(
        Path(path), start=start, end=end, hardware=hardware, max_pixels=max_pixels, field=field
    )


class VideoReader:
    """Frames of a video file's first real video stream; see `open_video`."""

    image_names: tuple[str, ...] | None = None

    def __init__(
        self,
        path: Path,
        *,
        start: float | None = None,
        end: float | None = None,
        hardware: str | None = None,
        max_pixels: int = MAX_PIXELS,
        field: str = AUTO,
    ) -> None:
        self.path = path
        self._max_pixels = max_pixels
        self._on_device = hardware is not None
        self._notes = Warnings()
        self._start: Fraction | None = None
        self._end: Fraction | None = None
        self._shift = 0  # ticks
        self.damage = Damage()  # of the last iteration that came to its end
        with open_container(path, max_pixels) as container:
            stream = find_video_stream(container, path, self._notes, max_pixels)
            self._index = stream.index
            self._origin = origin(container, stream)
            if start is not None or end is not None:
                self._start = self._origin + exact_seconds(start or 0)
                self._end = None if end is None else self._origin + exact_seconds(end)
            first = next(self._decode(container, stream), None)
            if first is None:
                raise _no_frames(path, start, end, max_pixels)
            self.metadata = describe(container, stream, first, self._start, self._end)
            layout = describe_format(self.metadata.pixel_format)
            self.metadata = with_fields(self.metadata, layout, field, path.name, self._notes)
            if self.metadata.container == Y4M:
                with path.open("rb") as file:
                    self.metadata = with_chroma_location(self.metadata, file.readline(LONGEST_HEADER))
        begin = _Clock(self.metadata, Warnings()).tick(first)
        # No container shows what lies before time 0 (of a transport stream whose clock is about to begin again, say).
        if self._start is not None or -FIRST_LEAP < begin * self.metadata.time_base < 0:
            self._shift = begin
        self._check(first)

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user; more may come while frames are read."""
        return self._notes.messages

    @property
    def stream_source(self) -> StreamSource | None:
        """What the writer needs to copy audio, subtitles, chapters and metadata."""
        shift = self._shift * self.metadata.time_base
        start = None if self._start is None else shift
        return StreamSource(self.path, self._index, start, self._end, shift)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held between iterations; here so that a reader can be used like a file."""

    def __iter__(self) -> Iterator[Frame]:
        clock = _Clock(self.metadata, self._notes)
        done = 0
        if self._on_device:
            try:
                with open_on_device(self.path, self._index) as container:
                    for frame in self._frames(container, clock, on_device=True):
                        yield frame
                        done += 1
                return
            except HardwareError as failure:
                since = f" from frame {done} on" if done else ""
                self._notes.add(
                    f"{self.path.name} is decoded in software{since}: {DEVICE} cannot do it ({failure}). Check that "
                    "nvidia-smi shows a card with free memory, or decode in software on purpose."
                )
        with open_container(self.path, self._max_pixels) as container:
            yield from self._frames(container, clock, skip=done)

    def _frames(
        self, container: InputContainer, clock: "_Clock", *, skip: int = 0, on_device: bool = False
    ) -> Iterator[Frame]:
        """The frames after the first `skip` ones. Raises HardwareError if anything is wrong `on_device`."""
        stream = container.streams[self._index]
        assert isinstance(stream, VideoStream)
        layout = describe_format(self.metadata.pixel_format)
        finish = None
        for picture, time in clock.stamp(islice(self._decode(container, stream, on_device), skip, None)):
            pts = time - self._shift
            duration = getattr(picture, "duration", 0) or None
            finish = (pts + (duration or clock.step)) * self.metadata.time_base
            yield Frame(self._rgb(picture, layout.depth), pts, self.metadata.time_base, duration)
        if on_device and finish is None:
            raise HardwareError("it gives no picture")
        self._report_truncation(container, stream, finish)

    def _rgb(self, picture: av.VideoFrame, depth: int) -> np.ndarray:
        if (picture.width, picture.height) != (self.metadata.width, self.metadata.height):
            raise InputError(
                f"The picture size of {self.path} changes from {self.metadata.width}x{self.metadata.height} "
                f"to {picture.width}x{picture.height} at {picture.time or 0:.2f} s. Cut the video there with "
                "--start and --end and denoise the parts."
            )
        return frame_to_rgb(picture, self.metadata.color, depth, by_fields=self.metadata.by_fields)

    def _decode(
        self, container: InputContainer, stream: VideoStream, on_device: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Pictures of the chosen range in presentation order; damaged packets are skipped and counted.

        On a device, damage raises HardwareError: software may know more of it.
        """
        base = to_fraction(stream.time_base) or Fraction(1, 1000)
        known = getattr(self, "metadata", None)  # not yet while the first picture is looked at
        strict = known is not None and not known.interlaced and known.codec in ONE_PICTURE_A_PACKET
        tally = _Tally(strict=strict and self._start is None)
        for picture in self._from_start(container, stream, base, tally):
            if picture is None:
                if on_device:
                    raise HardwareError("it refuses the stream")
                continue
            time = None if picture.pts is None else picture.pts * base
            if time is not None and self._start is not None and time < self._start:
                continue
            if time is not None and self._end is not None and time >= self._end:
                break
            if on_device and picture.is_corrupt:
                raise HardwareError("the stream is damaged")
            if on_device:
                check_layout(picture, describe_format(self.metadata.pixel_format))
            yield picture
        self.damage = tally.damage()
        if missing := self.damage.missing:
            self._notes.add(
                f"{missing} frame(s) of {self.path.name} are damaged, could not be decoded and are missing; the others "
                "keep their times."
            )
        if concealed := self.damage.concealed:
            self._notes.add(f"{concealed} frame(s) of {self.path.name} are damaged in part (concealed).")

    def _from_start(
        self, container: InputContainer, stream: VideoStream, base: Fraction, tally: "_Tally"
    ) -> Iterator[av.VideoFrame | None]:
        """Every picture from the start of the range or a little before; None for a packet that fails."""
        # Also for a picture that becomes larger.
        stream.codec_context.options |= codec_options(self._max_pixels)
        stream.thread_type = "AUTO"  # type: ignore[assignment]  # frame threads where the codec has no slices
        pictures = _pictures(container, stream, self.path, self._notes, tally)
        if self._start is None or self._start <= self._origin:
            yield from pictures
            return
        # Backwards to a key frame; the caller drops what comes before the start.
        if not _seek(container, stream, int(self._start / base)):
            yield from pictures
            return
        first = next((picture for picture in pictures if picture is not None), None)
        if first is None or first.pts is None or first.pts * base > self._start:
            # A missing or wrong index landed behind the start: read from the beginning instead.
            pictures.close()
            _seek(container, stream, int(self._origin / base))
            tally.restart()
            first, pictures = None, _pictures(container, stream, self.path, self._notes, tally)
        if first is not None:
            yield first
        yield from pictures

    def _check(self, first: av.VideoFrame) -> None:
        name = self.path.name
        if self.metadata.has_alpha:
            self._notes.lose(f"The alpha channel of {name} is dropped: only colour is denoised.")
        lost = [what for key, what in UNCARRIED_SIDE_DATA.items() if key in first.side_data]
        if lost:
            self._notes.lose(f"{name} carries {', '.join(lost)}, which the output will lack.")
        self.metadata = replace(self.metadata, losses=tuple(self._notes.losses))
        frame_to_rgb(first, self.metadata.color)  # an unsupported format fails here, before any work

    def _report_truncation(
        self, container: InputContainer, stream: VideoStream, finish: Fraction | None
    ) -> None:
        if self.metadata.container == Y4M and self._end is None and is_torn_file(self.path, self.metadata):
            self._notes.add(torn_note(self.path.name))
        stated = stated_end(container, stream)
        if self._start is not None or finish is None or stated is None:
            return
        step = 1 / (self.metadata.average_rate or FALLBACK_RATE)
        if finish + TRUNCATION_FRAMES * step < stated:
            self._notes.add(
                f"{self.path.name} ends at {float(finish):.2f} s although it states {float(stated):.2f} s: "
                "it is probably truncated. The frames that could be decoded were used."
            )


class _Clock:
    """Gives each picture a strictly increasing pts, its own wherever it has one."""

    def __init__(self, metadata: VideoMetadata, notes: Warnings) -> None:
        rate = metadata.average_rate or FALLBACK_RATE
        self.step = max(1, round(1 / (rate * metadata.time_base)))
        self._leap = FIRST_LEAP / metadata.time_base
        self._last: int | None = None
        self._notes = notes

    def stamp(self, pictures: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        """Pictures with their pts. A time later than the next picture's is damaged and replaced: one wrong time must
        not move all that follow."""
        held: av.VideoFrame | None = None
        for picture in pictures:
            if held is not None:
                yield held, self.tick(held, picture.pts)
            held = picture
        if held is not None:
            yield held, self.tick(held)

    def tick(self, picture: av.VideoFrame, following: int | None = None) -> int:
        """The pts of the next picture, in stream ticks; `following`: that of the one after it, where known."""
        pts = picture.pts if picture.pts is not None else picture.dts
        if pts is None:
            self._notes.add("Some frames have no time stamp; theirs follow from the average frame rate.")
            pts = 0 if self._last is None else self._last + self.step
        if self._last is not None and following is not None and self._last + 1 < following <= pts:
            self._notes.add("Some time stamps lie behind the next frame's; they were moved before it.")
            pts = min(self._last + self.step, following - 1)
        if self._last is None and following is not None and following - pts > self._leap:
            self._notes.add(
                "The first frame's time stamp lies hours before the next one's; it was moved there."
            )
            pts = following - self.step
        if self._last is not None and pts <= self._last:
            self._notes.add("Some time stamps do not increase; they were moved just behind the frame before.")
            pts = self._last + 1
        self._last = pts
        return pts


@dataclass(slots=True)
class _Tally:
    """Counts what a decoder is given and gives."""

    packets: int = 0  # that hold something
    pictures: int = 0
    failures: int = 0
    corrupt: int = 0  # pictures
    strict: bool = False  # every packet must give a picture
    last: int | None = None  # time of the last picture, in ticks
    drained: bool = False  # the decoder has given all it had

    def restart(self) -> None:
        """Count anew."""
        self.packets = self.pictures = self.failures = self.corrupt = 0

    def damage(self) -> Damage:
        """A decoder can drop more than the packets it refuses: what refers to them, or, with threads, the last one
        without a word. But where nothing failed, packets without a picture need not be a loss (VP8 and fields have
        them)."""
        lost = self.failures
        if (lost or self.strict) and self.drained:
            lost = max(lost, self.packets - self.pictures)
        return Damage(lost, self.corrupt)


def _pictures(
    container: InputContainer, stream: VideoStream, path: Path, notes: Warnings, tally: _Tally
) -> Generator[av.VideoFrame | None, None, None]:
    """Pictures in presentation order, and None for each packet that does not decode."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (FFmpegError, OSError) as error:
            notes.add(f"Reading {path.name} stopped early ({error_reason(error)}): it is probably truncated.")
            # What the decoder still holds is good.
            packet = None
            yield from _decode_packet(stream, None, tally)
        if packet is None:
            tally.drained = True
            return
        failures = tally.failures
        yield from _decode_packet(stream, packet, tally)
        if not packet.size and tally.failures > failures:
            # The decoder's threads held more pictures than the one that failed, and PyAV dropped them with it.
            yield from _last_pictures(stream, path, tally)


def _last_pictures(stream: VideoStream, path: Path, tally: _Tally) -> Iterator[av.VideoFrame]:
    """What comes after the last picture given, decoded without threads so that a failure costs one picture."""
    base, last = to_fraction(stream.time_base), tally.last
    if last is None or base is None:
        return
    with open_container(path) as container:
        again = container.streams[stream.index]
        assert isinstance(again, VideoStream)
        again.codec_context.thread_count = 1
        again.codec_context.options |= stream.codec_context.options
        _seek(container, again, last)
        for packet in container.demux(again):
            try:
                pictures = again.decode(packet)
            except (FFmpegError, OSError):
                continue
            for picture in pictures:
                if picture.pts is not None and picture.pts > last:
                    tally.pictures += 1
                    tally.corrupt += picture.is_corrupt
                    yield picture


def _decode_packet(
    stream: VideoStream, packet: av.Packet | None, tally: _Tally
) -> Sequence[av.VideoFrame | None]:
    holds = packet is not None and packet.size > 0
    tally.packets += holds
    try:
        pictures = stream.decode(packet)
    except EOFError:
        return ()
    except FFmpegError:
        tally.failures += 1
        return (None,)
    tally.pictures += len(pictures)
    tally.last = pictures[-1].pts if pictures else tally.last
    tally.corrupt += sum(picture.is_corrupt for picture in pictures)
    return pictures


def _seek(container: InputContainer, stream: VideoStream, ticks: int) -> bool:
    """Go to the last key frame that is not after `ticks`; False where a damaged index forbids it."""
    try:
        container.seek(ticks, stream=stream)
    except (FFmpegError, OSError, OverflowError):
        return False
    return True


def _no_frames(path: Path, start: float | None, end: float | None, max_pixels: int) -> InputError:
    if start is None and end is None:
        return InputError(
            f"No frame of {path} can be decoded: it is empty or damaged, or its pictures have more than {max_pixels} "
            "pixels (--max-pixels). Check that a player shows it."
        )
    until = "its end" if end is None else f"{end:g} s"
    return InputError(f"{path} has no frame between {start or 0:g} s and {until}. Choose another range.")
