"""Decode the pictures of a stream from any moment on, and give each its time. Knows nothing of what is in them."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from stbn_cli.video.formats import FALLBACK_RATE
from stbn_cli.video.frames import Damage, Warnings
from stbn_cli.video.hardware import open_on_device
from stbn_cli.video.limits import MAX_PIXELS
from stbn_cli.video.pixels import to_fraction
from stbn_cli.video.probe import (
    DECODING_TIMES_ONLY,
    codec_options,
    error_reason,
    frame_rate,
    is_bare,
    open_container,
    origin,
    until_damaged,
)
from stbn_cli.video.seeking import seek, steps_back

# A recording cut out of a broadcast may begin with a wrong time; no picture is shown for so long (seconds), and MP4
# cannot hold it at a clock of 90 kHz.
FIRST_LEAP = 6 * 3600


@dataclass(frozen=True, slots=True)
class Timing:
    """What a file says about the times of a stream's pictures."""

    base: Fraction  # seconds of a tick
    rate: Fraction | None  # frames per second
    bare: bool  # nothing says when a picture is shown, and no place can be found by its time
    decoding_only: bool  # only the times of decoding are true

    @property
    def counted(self) -> bool:
        """Whether times follow from the order of the pictures, so that the first one is the beginning."""
        return self.bare or self.decoding_only

    @property
    def step(self) -> int:
        """Ticks from one picture to the next, as far as the rate is true."""
        return max(1, round(1 / ((self.rate or FALLBACK_RATE) * self.base)))

    def ticks(self, item: av.VideoFrame | Packet) -> int | None:
        """The own time of a picture, or of what it is decoded from."""
        if self.decoding_only or item.pts is None:
            return item.dts
        return item.pts

    def seconds(self, item: av.VideoFrame | Packet) -> Fraction | None:
        """As `ticks`, in seconds."""
        ticks = self.ticks(item)
        return None if ticks is None else ticks * self.base


def timing_of(container: InputContainer, stream: VideoStream) -> Timing:
    """What `container` says about the times of `stream`."""
    return Timing(
        base=to_fraction(stream.time_base) or Fraction(1, 1000),
        rate=frame_rate(container, stream),
        bare=is_bare(container),
        decoding_only=container.format.name in DECODING_TIMES_ONLY,
    )


class Timed(NamedTuple):
    """A picture, its time, and that of the next one where there is one; in ticks."""

    picture: av.VideoFrame
    pts: int
    following: int | None


class Clock:
    """Gives each picture a strictly increasing pts, its own wherever it has one."""

    def __init__(self, timing: Timing, notes: Warnings) -> None:
        self.step = timing.step
        self._timing = timing
        self._leap = FIRST_LEAP / timing.base
        self._last: int | None = None
        self._notes = notes

    def stamp(self, pictures: Iterable[av.VideoFrame]) -> Iterator[Timed]:
        """Pictures with their pts. A time later than the next picture's is damaged and replaced: one wrong time must
        not move all that follow."""
        held: av.VideoFrame | None = None
        for picture in pictures:
            if held is not None:
                following = self._timing.ticks(picture)
                yield Timed(held, self._tick(held, following), following)
            held = picture
        if held is not None:
            yield Timed(held, self._tick(held), None)

    def _tick(self, picture: av.VideoFrame, following: int | None = None) -> int:
        """The pts of the next picture, in stream ticks; `following`: that of the one after it, where known."""
        pts = self._timing.ticks(picture)
        if pts is None:
            if not self._timing.counted:
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
class Tally:
    """Counts what a decoder is given and gives."""

    packets: int = 0  # that hold something to be shown
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


@dataclass(slots=True)
class Decoder:
    """Decodes one stream of a file, which it opens itself: each call of `pictures` begins anew."""

    path: Path
    index: int  # of the stream
    timing: Timing
    notes: Warnings
    max_pixels: int = MAX_PIXELS
    on_device: bool = False
    threads: bool = True
    tally: Tally = field(default_factory=Tally)
    _context: av.VideoCodecContext | None = None

    @property
    def aspect(self) -> Fraction | None:
        """Width : height of a pixel, as the codec states it about where it decodes now; None: not stated."""
        return None if self._context is None else to_fraction(self._context.sample_aspect_ratio)

    def pictures(self, start: Fraction | None = None) -> Iterator[av.VideoFrame | None]:
        """Pictures in presentation order, and None for each packet that does not decode.

        start: seconds of the stream's own clock. The first pictures may lie before it, but none behind it is left
        out: a search that ends too late is repeated from earlier, and in the end all is read. None: everything.
        Raises InputError, and HardwareError where there is no device.
        """
        if start is not None and not self.timing.bare:
            with self._open() as container:
                if (yield from self._from_key_frame(container, start)):
                    return
            self.tally.restart()
        # Opened anew: a search that failed may have taken packets, and one for the beginning can miss the first.
        with self._open() as container:
            yield from self._decode(container, self._prepared(container))

    def packets(self) -> Iterator[Packet]:
        """All packets that hold something, not decoded, in the order of the file; up to where it is damaged."""
        with open_container(self.path, self.max_pixels) as container:
            for packet in until_damaged(container.demux(container.streams[self.index])):
                if packet.size:
                    yield packet

    def _open(self) -> InputContainer:
        if self.on_device:
            return open_on_device(self.path, self.index)
        return open_container(self.path, self.max_pixels)

    def _prepared(self, container: InputContainer) -> VideoStream:
        stream = container.streams[self.index]
        assert isinstance(stream, VideoStream)
        self._context = stream.codec_context
        # Also for a picture that becomes larger.
        stream.codec_context.options |= codec_options(self.max_pixels)
        if self.threads:
            stream.thread_type = "AUTO"  # type: ignore[assignment]  # frame threads where the codec has no slices
        else:
            stream.codec_context.thread_count = 1
        return stream

    def _from_key_frame(
        self, container: InputContainer, start: Fraction
    ) -> Generator[av.VideoFrame | None, None, bool]:
        """As `pictures`, from a key frame at or before `start`. False, and nothing given, where none is found."""
        stream = self._prepared(container)
        for target in steps_back(start, origin(container, stream)):
            if not seek(container, target, stream):
                return False
            pictures = self._decode(container, stream)
            first = self._key_frame(pictures, start)
            if first is not None:
                yield first
                yield from pictures
                return True
            pictures.close()
        return False

    def _key_frame(self, pictures: Iterator[av.VideoFrame | None], start: Fraction) -> av.VideoFrame | None:
        """The first key frame if it is not behind `start`; what is shown before it may refer to what was not read."""
        for picture in pictures:
            if picture is None:
                continue
            time = self.timing.seconds(picture)
            if time is None or time > start:
                return None
            if picture.key_frame:
                self.tally.restart()  # what failed before it had no beginning
                return picture
        return None

    def _decode(
        self, container: InputContainer, stream: VideoStream
    ) -> Generator[av.VideoFrame | None, None, None]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                self.notes.add(
                    f"Reading {self.path.name} stopped early ({error_reason(error)}): it is probably truncated."
                )
                # What the decoder still holds is good.
                packet = None
                yield from self._decode_packet(stream, None)
            if packet is None:
                self.tally.drained = True
                return
            if not packet.size and self.timing.ticks(packet) is not None:
                continue  # the picture before is shown on; a decoder would take it for the end
            failures = self.tally.failures
            yield from self._decode_packet(stream, packet)
            if not packet.size and self.tally.failures > failures and self.threads:
                # The decoder's threads held more pictures than the one that failed, and PyAV dropped them with it.
                yield from self._last_pictures()

    def _decode_packet(self, stream: VideoStream, packet: Packet | None) -> Sequence[av.VideoFrame | None]:
        tally = self.tally
        # What an edit list hides is decoded for others' sake.
        hidden = packet is not None and packet.is_discard
        tally.packets += packet is not None and packet.size > 0 and not hidden
        try:
            pictures = stream.decode(packet)
        except EOFError:
            return ()
        except FFmpegError:
            tally.failures += not hidden
            return (None,)
        tally.pictures += len(pictures)
        tally.last = self.timing.ticks(pictures[-1]) if pictures else tally.last
        tally.corrupt += sum(picture.is_corrupt for picture in pictures)
        return pictures

    def _last_pictures(self) -> Iterator[av.VideoFrame]:
        """What comes after the last picture given, decoded without threads so that a failure costs one picture."""
        last = self.tally.last
        if last is None:
            return
        again = replace(self, notes=Warnings(), threads=False, tally=Tally())
        for picture in again.pictures(last * self.timing.base):
            time = None if picture is None else self.timing.ticks(picture)
            if picture is not None and time is not None and time > last:
                self.tally.pictures += 1
                self.tally.corrupt += picture.is_corrupt
                yield picture
