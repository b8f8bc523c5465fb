"""Open a video file or an image sequence and hand out frames with exact times. Knows nothing of torch.

Every iteration opens the file anew: a reader can be read twice, and its frames in another thread.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from stbn_cli.errors import InputError, OptionError
from stbn_cli.raw.files import raw_files
from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.raw.reader import RawReader
from stbn_cli.video.alpha import has_alpha_layer
from stbn_cli.video.decoding import Clock, Decoder, timing_of
from stbn_cli.video.fields import AUTO, check_mode, with_fields
from stbn_cli.video.formats import FALLBACK_RATE, STANDARD_STREAM, Y4M
from stbn_cli.video.frames import (
    Damage,
    Frame,
    FrameReader,
    StreamSource,
    Warnings,
)
from stbn_cli.video.hardware import DEVICE, HARDWARE, HardwareError, check_layout
from stbn_cli.video.images import ImageReader, is_image_source, list_images
from stbn_cli.video.limits import MAX_PIXELS
from stbn_cli.video.pixels import describe_format, frame_to_rgb
from stbn_cli.video.probe import describe, find_video_stream, open_container, origin, stated_end
from stbn_cli.video.sidedata import side_data
from stbn_cli.video.stereo import stereo_mode
from stbn_cli.video.times import exact_seconds
from stbn_cli.video.y4m_reader import (
    LONGEST_HEADER,
    is_torn_file,
    open_standard_input,
    torn_note,
    with_chroma_location,
)
from stbn_cli.words import counted

# A file that ends this many frames before its stated end is reported as truncated.
TRUNCATION_FRAMES = 3
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Codecs whose every packet is a picture to be shown, fields excepted.
ONE_PICTURE_A_PACKET = ("h264", "hevc", "ffv1", "prores")
# Up to so many pixels in all, frames are counted by decoding them (seconds); of larger files, by their packets.
COUNTED_PIXELS = 2**30
# What PyAV cannot hand to an encoder (FFmpeg's frame side data names).
UNCARRIED_SIDE_DATA = {
    "MASTERING_DISPLAY_METADATA": "HDR mastering data",
    "CONTENT_LIGHT_LEVEL": "HDR light levels",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "DOVI_METADATA": "Dolby Vision data",
    "A53_CC": "closed captions",
    "SPHERICAL": "a 360-degree mark",
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
    bayer: BayerOptions | None = None,
    strict: bool = False,
) -> FrameReader:
    """Open a video file, a folder of images, a pattern such as `frame_%04d.png` or `*.png`, or "-": y4m, read once.

    Images may be DNG: the result is a `RawReader` then, as for other images whose pattern `bayer` states.

    start, end: half-open range in seconds from the beginning of the video; frames outside are left out and
    times shifted so that the first one kept is at 0. rate: frames per second of an image sequence (25 unless
    given; a video file keeps its own times). hardware: "cuda" decodes a video on an NVIDIA card, "auto" on
    whatever is there (cuda is all that is known yet), with software and a sentence in `.warnings` where that
    fails; the frames are the same. max_pixels: of one picture; headers that state more are refused before memory
    is taken. field: whether pictures are two fields (`metadata.by_fields`): "on", "off", or "auto", as they are
    marked. strict: what changes within a video file and no output can keep is an error. The result is a context
    manager; iterating yields `Frame`s in
    presentation order; `.metadata` and `.warnings` (sentences, growing while reading) describe it.

    Raises InputError for what is missing, empty, without video or without a decodable frame, and OptionError
    for an impossible range or limit, hardware of another name, or fields where there cannot be any. With `strict`,
    iterating raises OptionError.
    """
    if hardware not in (None, *HARDWARE):
        raise OptionError(f"Unknown hardware {hardware!r}. Choose one of {', '.join(HARDWARE)}.")
    check_mode(field)
    if max_pixels < 1:
        raise OptionError(
            f"A limit of {max_pixels} pixels allows no picture. Use a number such as {MAX_PIXELS}."
        )
    if start is not None and start < 0:
        raise OptionError(f"The start {start:g} s is negative. Give a time of 0 s or later.")
    if end is not None and end <= (start or 0):
        raise OptionError(f"The end {end:g} s is not after the start {start or 0:g} s. Give a later end.")
    if path == STANDARD_STREAM:
        if bayer is not None and not bayer.denies:
            raise _no_mosaics("Standard input")
        begin = None if start is None else exact_seconds(start)
        return open_standard_input(begin, None if end is None else exact_seconds(end), field)
    if URL.match(str(path)) and not Path(path).exists():
        raise InputError(
            f"{path} is a URL, and stbn reads files. Download it first, for example with yt-dlp or curl."
        )
    try:
        raw = raw_files(Path(path))
        images = not raw and is_image_source(path)
    except OSError as error:  # among others, a name that is too long for the file system
        raise InputError(f"{path} cannot be opened: {error.strerror}. Check the name.") from error
    named = bayer is not None and not bayer.denies
    if raw or (images and named):
        if not raw and bayer is not None and bayer.pattern is None:
            raise OptionError(f"--black and --white need --bayer PATTERN for {path}, which is no DNG.")
        return RawReader(
            Path(path),
            raw or list_images(Path(path)),
            bayer or BayerOptions(),
            start=start,
            end=end,
            rate=rate,
            max_pixels=max_pixels,
            field=field,
        )
    if images:
        return ImageReader(
            path, start=start, end=end, rate=rate, max_pixels=max_pixels, field=field, gray=bayer is not None
        )
    if named and Path(path).exists():
        raise _no_mosaics(str(path))
    return VideoReader(
        Path(path),
        start=start,
        end=end,
        hardware=hardware,
        max_pixels=max_pixels,
        field=field,
        strict=strict,
    )


def _no_mosaics(name: str) -> OptionError:
    return OptionError(
        f"{name} is no picture sequence, and --bayer, --black and --white are for raw pictures. Leave them out."
    )


class _Shown(NamedTuple):
    """A picture of the range, its time and how long it is shown (None: unknown), in ticks of the stream."""

    picture: av.VideoFrame
    pts: int
    duration: int | None


@dataclass(frozen=True, slots=True)
class FrameCount:
    """How many frames a reader will give."""

    frames: int | None  # None: unknown
    exact: bool  # else an estimate


class VideoReader(FrameReader):
    """Frames of a video file's first real video stream; see `open_video`."""

    def __init__(
        self,
        path: Path,
        *,
        start: float | None = None,
        end: float | None = None,
        hardware: str | None = None,
        max_pixels: int = MAX_PIXELS,
        field: str = AUTO,
        strict: bool = False,
    ) -> None:
        super().__init__(path)
        self._max_pixels = max_pixels
        self._on_device = hardware is not None
        self._start: Fraction | None = None
        self._end: Fraction | None = None
        self._strict = strict
        self._told_aspect = False  # that it changes
        self._shift = 0  # ticks
        self.damage = Damage()  # of the last iteration that came to its end
        with open_container(path, max_pixels) as container:
            stream = find_video_stream(container, path, self._notes, max_pixels)
            self._index = stream.index
            self._timing = timing_of(container, stream)
            self._stated_end = stated_end(container, stream)
            self._origin = origin(container, stream)
            if self._timing.counted:
                self._origin = self._first_time(self._origin)
            if start is not None or end is not None:
                self._start = self._origin + exact_seconds(start or 0)
                self._end = None if end is None else self._origin + exact_seconds(end)
            first = next(self._shown(self._decoder(), Clock(self._timing, Warnings())), None)
            if first is None:
                raise _no_frames(path, start, end, max_pixels)
            picture = first.picture
            self.metadata = describe(container, stream, picture, self._start, self._end, self._origin)
            self.metadata = replace(
                self.metadata,
                has_alpha=self.metadata.has_alpha or has_alpha_layer(path, stream, max_pixels),
                stereo_mode=stereo_mode(stream, picture),
            )
            layout = describe_format(self.metadata.pixel_format)
            self.metadata = with_fields(self.metadata, layout, field, path.name, self._notes)
            if self.metadata.container == Y4M:
                with path.open("rb") as file:
                    self.metadata = with_chroma_location(self.metadata, file.readline(LONGEST_HEADER))
        # No container shows what lies before time 0 (of a transport stream whose clock is about to begin again, say).
        if self._start is not None or first.pts < 0:
            self._shift = first.pts
        shift = self._shift * self.metadata.time_base
        start_kept = None if self._start is None else shift
        self.stream_source = StreamSource(path, self._index, start_kept, self._end, shift, self._origin)
        self._check(picture)

    def __iter__(self) -> Iterator[Frame]:
        clock = Clock(self._timing, self._notes)
        done = 0
        if self._on_device:
            try:
                for frame in self._frames(self._decoder(on_device=True), clock):
                    yield frame
                    done += 1
                return
            except HardwareError as failure:
                since = f" from frame {done} on" if done else ""
                self._notes.add(
                    f"{self.path.name} is decoded in software{since}: {DEVICE} cannot do it ({failure}). Check that "
                    "nvidia-smi shows a card with free memory, or decode in software on purpose."
                )
                clock = Clock(self._timing, self._notes)
        yield from self._frames(self._decoder(), clock, skip=done)

    def since(self, pts: int) -> Iterator[Frame]:
        """The frames from the one at `pts` on, as iterating gives them, without decoding all that lie before.

        Found by its time, so that a damaged or odd file may give others: check them. Decodes in software.
        """
        clock = Clock(self._timing, self._notes)
        yield from self._frames(self._decoder(), clock, since=pts + self._shift)

    def look_through(self) -> int:
        """Decode all frames of the range without looking at their values, and count them.

        Raises what iterating raises: with `strict`, for what changes within the file.
        """
        return sum(1 for _ in self._shown(self._decoder(), Clock(self._timing, self._notes)))

    def count(self) -> FrameCount:
        """How many frames there are in the range: exact if the file is small, or of a kind that states it."""
        metadata = self.metadata
        found, exact = self._count_packets(self._decoder())
        if found * metadata.width * metadata.height <= COUNTED_PIXELS:
            return FrameCount(self.look_through(), exact=True)
        return FrameCount(found, exact)

    def _count_packets(self, decoder: Decoder) -> tuple[int, bool]:
        """The number of packets in the range, and whether each is sure to be a picture."""
        timing = self._timing
        count = shown = 0
        first = earliest = None
        complete = self.metadata.codec in ONE_PICTURE_A_PACKET and not self.metadata.interlaced
        for packet in decoder.packets():
            ticks = shown * timing.step if timing.bare else timing.ticks(packet)
            if ticks is None:
                ticks, complete = earliest or 0, False
            if first is None:
                first, complete = ticks, complete and packet.is_keyframe
            if packet.is_discard:
                continue
            shown += 1
            earliest = ticks if earliest is None else min(earliest, ticks)
            if timing.counted:
                ticks += round(self._origin / timing.base) - first
            count += self._is_wanted(ticks * timing.base)
        # Pictures before the first key frame are not decoded.
        return count, complete and first is not None and earliest is not None and first <= earliest

    def _is_wanted(self, time: Fraction) -> bool:
        return (self._start is None or time >= self._start) and (self._end is None or time < self._end)

    def _decoder(self, *, on_device: bool = False) -> Decoder:
        decoder = Decoder(self.path, self._index, self._timing, self._notes, self._max_pixels, on_device)
        known = getattr(self, "metadata", None)  # not yet while the first picture is looked at
        strict = known is not None and not known.interlaced and known.codec in ONE_PICTURE_A_PACKET
        decoder.tally.strict = strict and self._start is None
        return decoder

    def _first_time(self, fallback: Fraction) -> Fraction:
        """When the first picture of the file is shown, in seconds of the stream's own clock."""
        clock = Clock(self._timing, Warnings())
        first = next(clock.stamp(self._whole(self._decoder())), None)
        return fallback if first is None else first.pts * self._timing.base

    def _frames(
        self, decoder: Decoder, clock: Clock, *, skip: int = 0, since: int | None = None
    ) -> Iterator[Frame]:
        """The frames after the first `skip` ones, of those from `since` (ticks of the stream) on.

        Raises HardwareError if anything is wrong on a device.
        """
        layout = describe_format(self.metadata.pixel_format)
        finish = None
        for picture, time, duration in islice(self._shown(decoder, clock, since), skip, None):
            pts = time - self._shift
            finish = (pts + (duration or clock.step)) * self.metadata.time_base
            yield Frame(self._rgb(picture, layout.depth), pts, self.metadata.time_base, duration)
        if decoder.on_device and finish is None:
            raise HardwareError("it gives no picture")
        self._report_truncation(finish)

    def _rgb(self, picture: av.VideoFrame, depth: int) -> np.ndarray:
        if (picture.width, picture.height) != (self.metadata.width, self.metadata.height):
            raise InputError(
                f"The picture size of {self.path} changes from {self.metadata.width}x{self.metadata.height} "
                f"to {picture.width}x{picture.height} at {picture.time or 0:.2f} s. Cut the video there with "
                "--start and --end and denoise the parts."
            )
        return frame_to_rgb(picture, self.metadata.color, depth, by_fields=self.metadata.by_fields)

    def _shown(self, decoder: Decoder, clock: Clock, since: int | None = None) -> Iterator[_Shown]:
        """Pictures of the range in presentation order; damaged packets are skipped and counted.

        since: the first one's ticks, where not all are wanted.
        """
        base = self._timing.base
        start = None if self._start is None or self._start <= self._origin else self._start
        if since is not None:
            start = since * base
        aspect = None
        for picture, pts, following in clock.stamp(self._whole(decoder, start)):
            if (since is not None and pts < since) or (self._start is not None and pts * base < self._start):
                continue
            if self._end is not None and pts * base >= self._end:
                break
            if decoder.on_device:
                check_layout(picture, describe_format(self.metadata.pixel_format))
            aspect = aspect or decoder.aspect
            if aspect and decoder.aspect not in (None, aspect) and not self._told_aspect:
                self._told_aspect = True
                self._tell_aspect(aspect, decoder.aspect or aspect, pts * base - self._origin)
            duration = getattr(picture, "duration", 0) or None
            if duration is None and following is not None and following > pts:
                duration = following - pts
            if self._end is not None:
                # A picture that is shown when the range ends is shown until then.
                left = max(1, round(self._end / base) - pts)
                duration = min(duration or clock.step, left)
            yield _Shown(picture, pts, duration)
        self.damage = decoder.tally.damage()
        if missing := self.damage.missing:
            self._notes.add(
                f"{self.path.name}: {counted(missing, 'damaged frame')} could not be decoded and will be missing; the "
                "others keep their times."
            )
        if concealed := self.damage.concealed:
            self._notes.add(
                f"{self.path.name}: {counted(concealed, 'frame')} damaged in part; the decoder filled the gaps."
            )

    def _whole(self, decoder: Decoder, start: Fraction | None = None) -> Iterator[av.VideoFrame]:
        """Pictures from about `start` on, without what did not decode.

        On a device, damage raises HardwareError: software may know more of it.
        """
        for picture in decoder.pictures(start):
            if picture is not None:
                if decoder.on_device and picture.is_corrupt:
                    raise HardwareError("the stream is damaged")
                yield picture
            elif decoder.on_device:
                raise HardwareError("it refuses the stream")

    def _tell_aspect(self, first: Fraction, other: Fraction, time: Fraction) -> None:
        """Say that the shape of the pixels changes. Raises OptionError with `strict`."""
        change = (
            f"The pixel aspect of {self.path.name} changes from {first.numerator}:{first.denominator} to "
            f"{other.numerator}:{other.denominator} at about {float(time):.2f} s"
        )
        if self._strict:
            raise OptionError(
                f"--strict: {change}, and the output can have only one. Cut the video there with --start and --end, or "
                "leave out --strict to keep the first."
            )
        self._notes.lose(
            f"{change}; the output keeps the first. Cut the video there with --start and --end to keep both."
        )

    def _check(self, first: av.VideoFrame) -> None:
        name = self.path.name
        if self.metadata.has_alpha:
            self._notes.lose(f"The alpha channel of {name} is dropped: only colour is denoised.")
        beside = side_data(first)
        lost = [what for key, what in UNCARRIED_SIDE_DATA.items() if key in beside]
        if lost:
            self._notes.lose(f"{name} carries {', '.join(lost)}, which the output will lack.")
        self.metadata = replace(self.metadata, losses=tuple(self._notes.losses))
        frame_to_rgb(first, self.metadata.color)  # an unsupported format fails here, before any work

    def _report_truncation(self, finish: Fraction | None) -> None:
        if self.metadata.container == Y4M and self._end is None and is_torn_file(self.path, self.metadata):
            self._notes.add(torn_note(self.path.name))
        stated = self._stated_end
        if self._start is not None or finish is None or stated is None:
            return
        step = 1 / (self.metadata.average_rate or FALLBACK_RATE)
        if finish + TRUNCATION_FRAMES * step < stated:
            self._notes.add(
                f"{self.path.name} ends at {float(finish):.2f} s although it states {float(stated):.2f} s: "
                "it is probably truncated. The frames that could be decoded were used."
            )


def count_frames(reader: FrameReader) -> FrameCount:
    """How many frames a reader will give, as far as that can be known before they are read."""
    if isinstance(reader, VideoReader):
        return reader.count()
    return FrameCount(reader.metadata.frame_count, exact=reader.image_names is not None)


def refuse_changes(reader: FrameReader) -> None:
    """Refuse, before the work, a video that changes within itself as no output can; opened with `strict`.

    Decodes the whole range. Raises OptionError. Pipes are not read ahead, and images do not change so.
    """
    if isinstance(reader, VideoReader):
        reader.look_through()


def _no_frames(path: Path, start: float | None, end: float | None, max_pixels: int) -> InputError:
    if start is None and end is None:
        return InputError(
            f"No frame of {path} can be decoded: it is empty or damaged, or its pictures have more than {max_pixels} "
            "pixels (--max-pixels). Check that a player shows it."
        )
    until = "its end" if end is None else f"{end:g} s"
    return InputError(f"{path} has no frame between {start or 0:g} s and {until}. Choose another range.")
