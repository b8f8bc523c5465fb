"""Read a finished file back and compare it with what was written."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from stbn_cli.errors import OutputError
from stbn_cli.video.formats import CONTAINER_CODECS, MUXERS
from stbn_cli.video.frames import (
    RANGE_FULL,
    RANGE_LIMITED,
    RANGE_UNSPECIFIED,
    UNSPECIFIED,
    ColorSpec,
    FieldOrder,
)
from stbn_cli.video.names import media_name
from stbn_cli.video.pixels import field_order, is_full_range, tag_name, to_fraction
from stbn_cli.video.probe import error_reason
from stbn_cli.video.times import Times

MP4 = MUXERS[".mp4"]

# Containers whose muxer moves all streams by one common offset, because they hold no negative times.
OFFSET_MUXERS = ("mpegts",)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a written file must hold."""

    video_index: int
    times: Sequence[Fraction] | Times  # presentation times in seconds, increasing
    kinds: list[str]  # the types of all streams
    muxer: str
    color: ColorSpec
    aspect: Fraction | None
    rotation: int
    field_order: FieldOrder | None


def verify_video(path: Path, expected: Expected) -> list[str]:
    """Check a written video; only its first frame is decoded.

    Times must be equal where the container's clock can hold them, else within half a tick. Raises OutputError
    for a wrong stream, frame count or time. Returns sentences for what is harmless but lost: tags of colour,
    pixel aspect, rotation or fields that codec and container do not keep.
    """
    try:
        with av.open(media_name(path)) as container:
            found = [stream.type for stream in container.streams]
            stream = container.streams[expected.video_index]
            assert isinstance(stream, VideoStream)
            base = to_fraction(stream.time_base) or Fraction(1, 1000)
            lost = _lost_tags(container, stream, expected)
        # Opened anew instead of seeking back, which can skip packets before time 0.
        with av.open(media_name(path)) as container:
            packets = container.demux(container.streams[expected.video_index])
            stamps = array("q", (packet.pts for packet in packets if packet.pts is not None and packet.size))
    except (FFmpegError, OSError, IndexError) as error:
        raise _failed(path, f"it cannot be read back ({error_reason(error)})") from error
    missing = Counter(expected.kinds) - Counter(found)
    if missing:
        raise _failed(path, f"it lacks streams: {', '.join(sorted(missing.elements()))}")
    np.frombuffer(stamps, np.int64).sort()  # in place: a film has hundreds of thousands
    _check_times(path, stamps, base, expected)
    return lost


def _check_times(path: Path, stamps: array, base: Fraction, expected: Expected) -> None:
    times, written = expected.times, Times(base, stamps)
    if len(written) != len(times):
        raise _failed(path, f"it holds {len(written)} frames instead of {len(times)}")
    moved = expected.muxer in OFFSET_MUXERS
    offset = next(iter(written)) - next(iter(times)) if moved else Fraction(0)
    for number, (is_at, should) in enumerate(zip(written, times, strict=True)):
        exact = (should / base).denominator == 1
        # Half a tick is what rounding costs; with an offset its own end is rounded too.
        allowed = base if offset else Fraction(0) if exact else base / 2
        if abs(is_at - offset - should) > allowed:
            raise _failed(path, f"frame {number} is at {float(is_at):.6f} s instead of {float(should):.6f} s")


def _lost_tags(container: InputContainer, stream: VideoStream, expected: Expected) -> list[str]:
    first = next(container.decode(stream), None)
    if first is None:
        return []
    color = expected.color
    tagged = first if hasattr(first, "color_trc") else stream.codec_context  # PyAV 16's frames lack them
    primaries, transfer = tagged.color_primaries, tagged.color_trc
    tags = [
        ("colour matrix", "matrix", color.matrix_tag, UNSPECIFIED, first.colorspace),
        ("colour range", "range", color.range_tag, RANGE_UNSPECIFIED, _found_range(first)),
        ("colour primaries", "primaries", color.primaries, UNSPECIFIED, primaries),
        ("transfer curve", "transfer", color.transfer, UNSPECIFIED, transfer),
    ]
    lost = [
        f"{name} ({tag_name(kind, wanted)})"
        for name, kind, wanted, unset, found in tags
        if wanted not in (unset, found)
    ]
    aspect, order = expected.aspect or Fraction(1), expected.field_order
    squeezed = aspect not in (1, to_fraction(stream.sample_aspect_ratio) or 1)
    if squeezed:
        lost.append(f"pixel aspect ({aspect.numerator}:{aspect.denominator})")
    if expected.rotation % 360 not in (0, first.rotation % 360):
        lost.append(f"rotation ({expected.rotation % 360} degrees)")
    if order not in (None, field_order(first)):
        lost.append(f"field order ({order} field first)")
    if not lost:
        return []
    # Only codecs that state it themselves bring it through Matroska and WebM: PyAV cannot set that of the container.
    fits = expected.muxer != MP4 and stream.codec_context.codec.canonical_name in CONTAINER_CODECS[MP4]
    hint = " An .mp4 output keeps the pixel aspect." if squeezed and fits else ""
    return [f"The output's codec and container do not keep the source's {', '.join(lost)}.{hint}"]


def _found_range(first: av.VideoFrame) -> int:
    """As tagged, or as it is understood where there is no tag: codecs leave out what goes without saying."""
    return RANGE_FULL if is_full_range(first.format.name, first.color_range) else RANGE_LIMITED


def _failed(path: Path, why: str) -> OutputError:
    return OutputError(
        f"The output failed its check: {why}. Nothing was put in place. Try another container, such as .mkv, "
        f"and report this as a bug ({path.name})."
    )
