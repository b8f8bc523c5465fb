"""Whole files, damaged in known places, and the headers of files that claim too much."""

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def cut(path: Path, share: float) -> Path:
    """The first `share` of a file, beside it."""
    data = path.read_bytes()
    short = path.with_name(f"cut{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def video_packets(path: Path) -> list[tuple[int | None, int, bytes]]:
    """(position in the file, pts, data) of the packets of the first video stream."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        return [(packet.pos, packet.pts or 0, bytes(packet)) for packet in packets]


def corrupt(path: Path, *numbers: int) -> Path:
    """A copy with the content of some packets, counted in the order of the file, overwritten from byte 4 on."""
    data = bytearray(path.read_bytes())
    packets = video_packets(path)
    for number in numbers:
        at = bytes(data).index(packets[number][2]) + 4
        length = len(packets[number][2]) - 4
        data[at : at + length] = b"\xff" * length
    broken = path.with_name(f"broken{path.suffix}")
    broken.write_bytes(data)
    return broken


def corrupt_transport(path: Path, number: int) -> Path:
    """A copy of an MPEG-TS file in which the payload of one video packet's first cell is overwritten."""
    data = bytearray(path.read_bytes())
    position = video_packets(path)[number][0]
    assert position is not None
    data[position + 60 : position + 180] = b"\xff" * 120
    broken = path.with_name(f"broken{path.suffix}")
    broken.write_bytes(data)
    return broken


def flat_clip(path: Path, width: int, height: int, frames: int = 1) -> Path:
    """One gray after another, FFV1."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for index in range(frames):
            picture = av.VideoFrame(width, height, "gray")
            np.frombuffer(picture.planes[0], np.uint8)[:] = 90 + index
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def y4m_claiming(width: int, height: int) -> bytes:
    """A Y4M file of one short frame whose header states a size."""
    return f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\nFRAME\n".encode() + bytes(5000)
