"""What a container says of its video stream before it is read: the stream itself, its metadata, its end."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from stbn_cli.errors import InputError
from stbn_cli.video.frames import UNSPECIFIED, VideoMetadata, Warnings
from stbn_cli.video.limits import MAX_PIXELS, check_pixels
from stbn_cli.video.names import media_name
from stbn_cli.video.pixels import describe_format, field_order, is_transparent, resolve_color, to_fraction
from stbn_cli.video.sidedata import side_data

# Demuxers that turn any text file into "video" (ANSI art); a text file must be refused instead.
TEXT_DEMUXERS = {"tty", "bin", "xbin", "adf", "idf"}
# How files begin that announce their streams as they come: MPEG program streams and FLV.
HEADERLESS_STARTS = (b"\x00\x00\x01\xba", b"FLV")
LONGEST_START = 4
# The first PyAV that can open them with options.
FIRST_WITH_OPTIONS = (17, 1)
# FFmpeg's ticks per second for times of a whole container.
CONTAINER_TICKS = 1_000_000
# FFmpeg's mark of demuxers of bare streams: the times and the rate they report are made up (AVFMT_NOTIMESTAMPS).
NO_TIMESTAMPS = 0x80
# Demuxers that know when a picture is decoded, not when it is shown.
DECODING_TIMES_ONLY = ("avi",)
# Frames per second, beyond which a stated rate is a clock or an accident.
SLOWEST, FASTEST = Fraction(1, 3600), Fraction(1000)
# Demuxers whose clock of milliseconds is at times reported as a rate.
MILLISECOND_CLOCKS = ("matroska,webm", "flv")
# An average above the rate at which all times differ, by more than this share, is wrong.
RATE_TOLERANCE = Fraction(1, 100)


def open_options() -> dict[str, Any]:
    """Arguments of `av.open` for any input.

    Tags in some other encoding must not stop a video; PyAV 19 sees to that by itself and has no such option.
    """
    return {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def codec_options(max_pixels: int) -> dict[str, str]:
    """Options of a decoder, and of opening a file, with which no larger picture is ever given memory."""
    return {"max_pixels": str(min(max_pixels, 2**31 - 1))}


def until_damaged(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Demuxed packets, up to where the file is damaged."""
    with suppress(FFmpegError, OSError):
        yield from packets


def open_container(path: Path, max_pixels: int = MAX_PIXELS) -> InputContainer:
    """Open a file for reading; pictures of more than `max_pixels` are not decoded to learn about it.

    Raises InputError for what is missing, empty, no regular file, not readable or no video.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(
            f"{path} is a link to {path.readlink()}, which does not exist. Name the file itself."
        )
    if not path.exists():
        raise InputError(f"The file {path} does not exist. Check the name and the folder.")
    if path.is_dir():
        raise InputError(
            f"The folder {path} holds no PNG, JPEG or TIFF images. Name a video file or another folder."
        )
    if not path.is_file():
        # Opening a FIFO would wait for a writer, and a device has no end.
        raise InputError(
            f"{path} is a pipe or a device, not a file, and a video is read more than once. Give - to read what is "
            "piped into stbn, or save it to a file first."
        )
    if path.stat().st_size == 0:
        raise InputError(f"The file {path} is empty. Copy or download it again.")
    try:
        options = {} if _crashes_with_options(path) else codec_options(max_pixels)
        container = av.open(media_name(path), options=options, **open_options())
    except PermissionError as error:
        raise InputError(
            f"The file {path} cannot be read: permission denied. Change its permissions."
        ) from error
    except (FFmpegError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a video ({error_reason(error)}): it is not a video, or it is damaged "
            "or truncated. Check that a player opens it."
        ) from error
    if path.suffix.lower() == ".webp" and _is_animated_webp(path):
        container.close()
        raise InputError(
            f"{path} is an animated WebP picture, which FFmpeg does not decode. Convert it to a video or to PNG "
            "pictures first."
        )
    if container.format.name in TEXT_DEMUXERS:
        container.close()
        raise InputError(f"{path} is a text file, not a video. Name a video file or a folder of images.")
    return container


def _is_animated_webp(path: Path) -> bool:
    """Whether the extended header of a WebP file says that it is animated (bit 1 of its flags)."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def _crashes_with_options(path: Path) -> bool:
    """Whether this PyAV ends the process when it opens the file with options for the decoders.

    Before 17.1 it does where streams are found only behind the header. The reader's own decoder has the options still.
    """
    if tuple(int(part) for part in av.__version__.split(".")[:2]) >= FIRST_WITH_OPTIONS:
        return False
    with path.open("rb") as file:
        return file.read(LONGEST_START).startswith(HEADERLESS_STARTS)


def find_video_stream(
    container: InputContainer, path: Path, notes: Warnings, max_pixels: int = MAX_PIXELS
) -> VideoStream:
    """The stream to denoise. Raises InputError if there is none, or its header states more than `max_pixels`."""
    streams = [s for s in container.streams.video if not is_cover(s)]
    if not streams:
        what = "only sound" if container.streams.audio else "no video"
        raise InputError(
            f"{path} holds {what}: there is nothing to denoise. Name a file with a video stream."
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(f"{path} uses a video codec that this FFmpeg build cannot decode. Convert it first.")
    check_pixels(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
    if len(streams) > 1:
        notes.add(
            f"{path.name} holds {len(streams)} video streams; the first is denoised, the others are copied."
        )
    return stream


def is_cover(stream: Stream) -> bool:
    """Whether a video stream is a still cover picture."""
    return Disposition.attached_pic in stream.disposition


def error_reason(error: Exception) -> str:
    """FFmpeg's own words for a failure, for use in a sentence."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def describe(
    container: InputContainer,
    stream: VideoStream,
    first: av.VideoFrame,
    start: Fraction | None = None,
    end: Fraction | None = None,
    begin: Fraction | None = None,
) -> VideoMetadata:
    """Metadata of a stream from its tags and its first decoded picture.

    start, end: half-open range in seconds of the source's own clock, for the estimates of length. begin: the video's
    beginning on that clock, where it is not the one that the file states.
    """
    context = stream.codec_context
    rate = frame_rate(container, stream)
    whole = _duration(container, stream)
    duration = (
        None
        if whole is None
        else _clip_duration(whole, origin(container, stream) if begin is None else begin, start, end)
    )
    count = _frame_count(stream, rate, whole)
    if count and whole and duration is not None:
        count = max(1, round(count * duration / whole))
    color = resolve_color(
        first.format.name,
        first.width,
        first.height,
        matrix=_tag(first.colorspace, context.colorspace, UNSPECIFIED),
        color_range=_tag(first.color_range, context.color_range, 0),
        primaries=_tag(getattr(first, "color_primaries", UNSPECIFIED), context.color_primaries, UNSPECIFIED),
        transfer=_tag(getattr(first, "color_trc", UNSPECIFIED), context.color_trc, UNSPECIFIED),
    )
    return VideoMetadata(
        width=first.width,
        height=first.height,
        pixel_format=first.format.name,
        bit_depth=describe_format(first.format.name).depth,
        color=color,
        frame_count=count,
        average_rate=rate,
        time_base=to_fraction(stream.time_base) or Fraction(1, 1000),
        duration_seconds=None if duration is None else float(duration),
        sample_aspect_ratio=to_fraction(stream.sample_aspect_ratio),
        rotation=first.rotation,
        display_matrix=_display_matrix(first),
        has_alpha=is_transparent(first),
        field_order=field_order(first),
        codec=context.codec.canonical_name,
        container=container.format.name,
    )


def is_bare(container: InputContainer) -> bool:
    """Whether a file is a stream without a container, so that nothing in it says when a picture is shown."""
    return bool(container.format.flags & NO_TIMESTAMPS)


def frame_rate(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Frames per second, the one place where this is decided; None where the file says nothing that can be.

    The average is right where it is possible: below FASTEST, and not above FFmpeg's guess, which is the codec's own
    rate or the lowest at which all times differ. DV and GXF break that. Of a bare stream the average is
    FFmpeg's default.
    """
    base = to_fraction(stream.time_base)

    def possible(rate: Fraction | None) -> Fraction | None:
        if rate is None or not SLOWEST <= rate <= FASTEST:
            return None
        is_clock = rate == 1000 and rate * (base or 0) == 1 and container.format.name in MILLISECOND_CLOCKS
        return None if is_clock else rate

    average, guessed, base = (
        possible(to_fraction(rate)) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate)
    )
    if average and guessed and (is_bare(container) or average > guessed * (1 + RATE_TOLERANCE)):
        return guessed
    return average or guessed or base


def _clip_duration(
    whole: Fraction, begin: Fraction, start: Fraction | None, end: Fraction | None
) -> Fraction:
    first = begin if start is None else max(start, begin)
    last = begin + whole if end is None else min(end, begin + whole)
    return max(last - first, Fraction(0))


def _tag(frame_value: int, context_value: int, unset: int) -> int:
    return int(context_value if frame_value == unset else frame_value)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    data = side_data(frame).get("DISPLAYMATRIX")
    return None if data is None else tuple(int(value) for value in np.frombuffer(bytes(data), np.int32)[:9])


def origin(container: InputContainer, stream: VideoStream) -> Fraction:
    """The source's own time, in seconds, that counts as the beginning."""
    base = to_fraction(stream.time_base)
    if stream.start_time is not None and base:
        return stream.start_time * base
    return Fraction(container.start_time or 0, CONTAINER_TICKS)


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    base = to_fraction(stream.time_base)
    if stream.duration and base:
        return stream.duration * base
    return Fraction(container.duration, CONTAINER_TICKS) if container.duration else None


def stated_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """When the video stream itself should end, in seconds; None where only the whole file's end is stated."""
    base = to_fraction(stream.time_base)
    if stream.duration and base:
        return (stream.start_time or 0) * base + stream.duration * base
    if len(container.streams) == 1 and container.duration:
        return Fraction((container.start_time or 0) + container.duration, CONTAINER_TICKS)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return None


def _frame_count(stream: VideoStream, rate: Fraction | None, duration: Fraction | None) -> int | None:
    tagged = stream.metadata.get("NUMBER_OF_FRAMES", "")
    even = rate * duration if rate and duration else None
    if stream.frames:
        return (
            stream.frames if even is None else min(stream.frames, math.ceil(even))
        )  # an edit list may hide some
    if tagged.isdigit():
        return int(tagged)
    return None if even is None else max(1, round(even))
