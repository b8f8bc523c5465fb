"""Film grain written into AV1 packets: pictures stay what they are, and each frame gets the grain of its time."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from av.packet import Packet

from stbn_cli.grain.parameters import FilmGrain
from stbn_cli.video.av1 import (
    GrainInserter,
    GrainScanner,
    StreamError,
    read_sequence,
    units,
    with_grain_flag,
)
from stbn_cli.video.encoders import find_encoder

pytestmark = pytest.mark.skipif(find_encoder("av1") != "libsvtav1", reason="this FFmpeg build has no SVT-AV1")

WIDTH, HEIGHT = 128, 96
GRAIN = FilmGrain(
    ((0, 80), (255, 80)), ((0, 40),), ((0, 40),), 9, (1,) * 24, (2,) * 25, (-3,) * 25, 7, seed=5
)
OTHER = FilmGrain(((30, 20), (200, 90)), (), (), 11, (0,) * 24, (0,) * 25, (0,) * 25, 8)
ENCODERS = {
    "usual": {},
    "low delay": {"svtav1-params": "pred-struct=1"},
    "overlays": {"svtav1-params": "enable-overlays=1"},
    "tiles": {"svtav1-params": "tile-columns=1:tile-rows=1"},
    "superres": {"svtav1-params": "superres-mode=1:superres-denom=12"},
    "screen": {"svtav1-params": "scm=1"},
    "matrices": {"svtav1-params": "enable-qm=1:enable-variance-boost=1"},
    "key frames": {"svtav1-params": "keyint=5:irefresh-type=1"},
    "lossless": {"svtav1-params": "lossless=1"},
}


def encoded(options: dict[str, str], pix_fmt: str = "yuv420p", frames: int = 18) -> list[tuple[bytes, int]]:
    """Packets of a turning and zooming picture, with their times."""
    os.environ.setdefault("SVT_LOG", "1")
    context = av.CodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = {"preset": "8", "crf": "40"} | options
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    packets = []
    for number in range(frames):
        frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
        kind, scale = (np.uint8, 1) if pix_fmt == "yuv420p" else (np.uint16, 4)
        zoom, turn = 1 + 0.02 * number, 0.02 * number
        across = (column - WIDTH / 2) * zoom + (row - HEIGHT / 2) * turn
        luma = 110 + 60 * np.sin(across / 11) + 40 * np.cos((row - 2 * number) / 13)
        for index, plane in enumerate(frame.planes):
            values = np.frombuffer(plane, kind).reshape(plane.height, -1)  # type: ignore[call-overload]
            values[:, : plane.width] = 128 * scale if index else (luma * scale).astype(kind)
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [(bytes(packet), packet.pts) for packet in packets]


def decoded(packets: list[bytes], *, drawn: bool) -> list[np.ndarray]:
    """Luma of each frame."""
    context = av.CodecContext.create("libdav1d", "r")
    if not drawn:
        context.options = {"export_side_data": "film_grain"}
    frames = [frame for packet in packets for frame in context.decode(Packet(packet))] + context.decode(None)
    return [frame.to_ndarray(format="gray16le").astype(float) / 257 for frame in frames]


def grained(packets: list[tuple[bytes, int]]) -> list[bytes]:
    """No grain before frame 4, then GRAIN, and OTHER from frame 10 on."""
    scanner = GrainScanner()
    for data, _ in packets:
        scanner.scan(data)

    def grain(number: int) -> tuple[int, FilmGrain] | None:
        if number not in scanner.shown:
            return None
        time = packets[scanner.shown[number]][1]
        return None if time < 4 else (0, GRAIN) if time < 10 else (1, OTHER)

    inserter = GrainInserter(grain)
    return [inserter.insert(data) for data, _ in packets]


@pytest.mark.parametrize("name", ENCODERS)
def test_pictures_stay_and_grain_comes_on_time(name: str) -> None:
    packets = encoded(ENCODERS[name])
    given = [data for data, _ in packets]
    written = grained(packets)
    before, after = decoded(given, drawn=False), decoded(written, drawn=False)
    assert len(before) == len(after) == 18
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    sigmas = [np.std(one - other) for one, other in zip(decoded(written, drawn=True), after, strict=True)]
    assert sigmas[:4] == [0.0] * 4
    assert sigmas[4:10] == pytest.approx([5.0] * 6, rel=0.25)
    assert sigmas[10:] == pytest.approx([1.0] * 8, rel=0.4)
    if name == "usual":
        # What is said once is only referred to later.
        assert sum(map(len, written)) - sum(map(len, given)) < 130 + 4 * len(packets)


def test_ten_bits() -> None:
    packets = encoded({}, "yuv420p10le", 12)
    written = grained(packets)
    plain = decoded(written, drawn=False)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(plain, decoded([data for data, _ in packets], drawn=False), strict=True)
    )
    sigmas = [np.std(one - other) for one, other in zip(decoded(written, drawn=True), plain, strict=True)]
    assert sigmas[:4] == [0.0] * 4 and sigmas[4:10] == pytest.approx([5.0] * 6, rel=0.25)


def test_frames_have_grain_of_their_own() -> None:
    written = grained(encoded({}))
    first, second = (
        one - other
        for one, other in list(zip(decoded(written, drawn=True), decoded(written, drawn=False), strict=True))[
            5:7
        ]
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_what_is_no_av1_is_refused() -> None:
    with pytest.raises(StreamError):
        list(units(b"\xff\xff\xff"))
    with pytest.raises(StreamError, match="sequence header"):
        GrainScanner().scan(b"\x32\x01\x00")
    packet = encoded({}, frames=2)[0][0]
    with pytest.raises(StreamError):
        GrainScanner().scan(packet[:20])
    inserter = GrainInserter(lambda number: (0, GRAIN))
    with pytest.raises(StreamError, match="film grain already"):
        GrainInserter(lambda number: None).insert(inserter.insert(packet))


def test_the_sequence_header_says_that_there_is_grain() -> None:
    header = next(obu for obu in units(encoded({}, frames=1)[0][0]) if obu.kind == 1)
    data = header.header + bytes([len(header.payload)]) + header.payload
    assert not read_sequence(header.payload).film_grain
    for start in (b"", b"\x81\x00\x0c\x00"):
        flagged = with_grain_flag(start + data)
        assert flagged[: len(start)] == start and len(flagged) == len(start + data)
        assert read_sequence(flagged[len(start) + 2 :]).film_grain
