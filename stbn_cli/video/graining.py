"""Film grain for a stream that is encoded already: its packets wait in a file until the grain is known."""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.codec import CodecContext
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

from stbn_cli.errors import OutputError
from stbn_cli.files import create_private
from stbn_cli.grain.parameters import FilmGrain, GrainSegment
from stbn_cli.video.av1 import GrainInserter, GrainScanner, StreamError
from stbn_cli.video.encoders import EncoderPlan

# Of a packet in the file: pts, dts, duration, whether it is a key frame, bytes.
HEADER = struct.Struct("<qqq?q")
NONE = -(2**63)
# Decoders that draw film grain, and with this option say it instead.
DECODER = "libdav1d"
WITHOUT_GRAIN = {"export_side_data": "film_grain"}
CHANGED = "its pictures would not be the same with film grain"
# About so many pictures are compared, of parts from one key frame to the next all over the stream.
COMPARED = 3000


class GrainedPackets:
    """Keeps the packets of an AV1 stream, and gives them back with film grain. A file at `path` until `close`."""

    def __init__(self, path: Path, plan: EncoderPlan, output: Path) -> None:
        """output: for sentences. Raises OSError."""
        self._path, self._plan, self._output = path, plan, output
        create_private(path)
        self._file = path.open("w+b")
        self._scanner = GrainScanner()
        self._times: list[Fraction | None] = []  # of the packets
        self._base = Fraction(1)

    def add(self, packet: Packet) -> None:
        """Keep the stream's next packet. Raises OSError, and OutputError for one that is not understood."""
        data = bytes(packet)
        try:
            self._scanner.scan(data)
        except StreamError as error:
            raise self._not_understood(error) from error
        base = packet.time_base
        self._base = Fraction(base.numerator, base.denominator)
        self._times.append(None if packet.pts is None else packet.pts * self._base)
        pts, dts = (NONE if value is None else value for value in (packet.pts, packet.dts))
        self._file.write(HEADER.pack(pts, dts, packet.duration or 0, packet.is_keyframe, len(data)))
        self._file.write(data)

    def with_grain(self, segments: Sequence[GrainSegment]) -> Iterator[Packet]:
        """All packets, in their order, with the grain of the segments; frames in none of them have none.

        Packets are decoded before and after: without the grain the pictures must be the same. Raises OSError, and
        OutputError if they are not.
        """
        inserter = GrainInserter(lambda frame: self._grain(segments, frame))
        check = _Comparison(-(-len(self._times) // COMPARED))
        self._file.seek(0)
        while header := self._file.read(HEADER.size):
            pts, dts, duration, is_key, size = HEADER.unpack(header)
            data = self._file.read(size)
            try:
                grained = inserter.insert(data)
            except StreamError as error:
                raise self._not_understood(error) from error
            if not check.same(data, grained, is_key):
                raise self._not_understood(StreamError(CHANGED))
            packet = Packet(grained)
            packet.pts = None if pts == NONE else pts
            packet.dts = None if dts == NONE else dts
            packet.duration, packet.is_keyframe = duration, is_key
            packet.time_base = self._base
            yield packet
        if not check.ends():
            raise self._not_understood(StreamError(CHANGED))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _grain(self, segments: Sequence[GrainSegment], frame: int) -> tuple[int, FilmGrain] | None:
        """Of the frame of this number."""
        time = self._times[self._scanner.shown[frame]] if frame in self._scanner.shown else None
        if time is None:
            return None  # it is never shown
        index = bisect_right(segments, time, key=lambda segment: segment.start) - 1
        found = index >= 0 and time < segments[index].end
        return (index, segments[index].grain) if found else None

    def _not_understood(self, error: StreamError) -> OutputError:
        return OutputError(
            f"Film grain cannot be written into {self._output}: {self._plan.encoder} made a stream that stbn does not "
            f"understand ({error}). Write a table with --grain-table instead."
        )


class _Comparison:
    """Two decoders side by side that draw no grain, for every `every`-th part from one key frame to the next."""

    def __init__(self, every: int) -> None:
        self._every, self._parts = every, 0
        self._decoders: list[VideoCodecContext] = []

    def same(self, first: bytes, second: bytes, is_key: bool) -> bool:
        """Whether two packets decode to the same pictures."""
        if is_key:
            if not self.ends():
                return False
            if self._parts % self._every == 0:
                self._decoders = _decoders()
            self._parts += 1
        return self._decode(Packet(first), Packet(second))

    def ends(self) -> bool:
        """Whether what the decoders still hold is the same."""
        same = self._decode(None, None)
        self._decoders = []
        return same

    def _decode(self, *packets: Packet | None) -> bool:
        if not self._decoders:
            return True
        try:
            pictures = [
                decoder.decode(packet) for decoder, packet in zip(self._decoders, packets, strict=True)
            ]
        except FFmpegError:
            return False
        return len(pictures[0]) == len(pictures[1]) and all(map(_is_same, *pictures))


def _decoders() -> list[VideoCodecContext]:
    """Two; none where this build has none."""
    try:
        found = [CodecContext.create(DECODER, "r") for _ in range(2)]
    except (FFmpegError, ValueError):
        return []
    decoders = [decoder for decoder in found if isinstance(decoder, VideoCodecContext)]
    for decoder in decoders:
        decoder.options = WITHOUT_GRAIN
    return decoders


def _is_same(first: VideoFrame, second: VideoFrame) -> bool:
    if (first.format.name, first.width, first.height) != (second.format.name, second.width, second.height):
        return False
    size = -(-first.format.components[0].bits // 8)
    return all(
        np.array_equal(_rows(one, size), _rows(other, size))
        for one, other in zip(first.planes, second.planes, strict=True)
    )


def _rows(plane: VideoPlane, size: int) -> np.ndarray:
    """The bytes of a plane, `size` for each value, without what fills up its rows."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)  # type: ignore[arg-type]
    return rows[: plane.height, : plane.width * size]
