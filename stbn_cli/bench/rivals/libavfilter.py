"""Planes of a clip through FFmpeg's filters: inside PyAV, or by an ffmpeg program where PyAV lacks the filter."""

import functools
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.filter
import numpy as np
from av.error import FFmpegError
from av.video.format import VideoFormat
from av.video.plane import VideoPlane

from stbn_cli.errors import StbnError

RATE = 25  # frames per second, of no consequence: filters see frames one after the other
PROGRAM = "ffmpeg"


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a chain."""

    name: str
    options: Mapping[str, object]
    guided: bool = False  # takes the source as its first input and what the chain made of it as its second

    @property
    def arguments(self) -> str:
        """Its options as FFmpeg writes them."""
        return ":".join(f"{name}={value}" for name, value in self.options.items())


def missing_filter(name: str) -> str | None:
    """None if a filter can run here, else why not and what to install."""
    if name in av.filter.filters_available or name in _program_filters():
        return None
    return (
        f"FFmpeg's {name} filter is not here: neither PyAV nor an ffmpeg program has it. "
        "Install FFmpeg (GPL build) with your system's package manager."
    )


def filter_version(name: str) -> str:
    """Of the libavfilter that runs a filter which is not missing."""
    if name in av.filter.filters_available:
        numbers = ".".join(map(str, av.library_versions["libavfilter"]))
        return f"libavfilter {numbers} in PyAV {av.__version__}"
    return f"ffmpeg {_ask_program('-version').split()[2]}"


def run_filters(codes: np.ndarray, depth: int, chain: Sequence[Filter]) -> np.ndarray:
    """Filter a clip of three planes, code values `(T, 3, H, W)` of `depth` bits, into the same shape and type.

    The planes travel as YUV 4:4:4, the one name that all filters accept in 8 and 16 bit; nothing is converted. Filters
    use as many threads as they like. Raises StbnError if a filter fails or does not return every frame.
    """
    pixel_format = "yuv444p" if depth == 8 else f"yuv444p{depth}le"
    inside = all(item.name in av.filter.filters_available for item in chain)
    try:
        filtered = (
            _run_inside(codes, pixel_format, chain) if inside else _run_program(codes, pixel_format, chain)
        )
    except (FFmpegError, OSError, subprocess.CalledProcessError) as error:
        reason = _last_line(error.stderr) if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise StbnError(
            f"FFmpeg's filter {_describe(chain)!r} failed: {reason}. Leave this rival out, or try another FFmpeg."
        ) from error
    if filtered.shape != codes.shape:
        raise StbnError(
            f"FFmpeg's filter {_describe(chain)!r} did not return the {len(codes)} frames it was given, one for one. "
            "Leave this rival out, or try another FFmpeg."
        )
    return filtered


def _describe(chain: Sequence[Filter]) -> str:
    return ",".join(f"{item.name}={item.arguments}" for item in chain)


def _run_inside(codes: np.ndarray, pixel_format: str, chain: Sequence[Filter]) -> np.ndarray:
    height, width = codes.shape[-2:]
    layout = VideoFormat(pixel_format, width, height)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=layout, time_base=Fraction(1, RATE))
    last, last_output = source, 0
    if any(item.guided for item in chain):
        last = graph.add("split")
        source.link_to(last)
        source, last_output = last, 1
    for item in chain:
        context = graph.add(item.name, item.arguments)
        if item.guided:
            source.link_to(context)
        last.link_to(context, last_output, 1 if item.guided else 0)
        last, last_output = context, 0
    last.link_to(graph.add("buffersink"))
    graph.configure()
    frames = []
    for index, planes in enumerate(codes):
        graph.vpush(_to_frame(planes, layout, index))
        frames.extend(_pull(graph, layout))
    graph.vpush(None)
    frames.extend(_pull(graph, layout))
    return np.stack(frames) if frames else codes[:0]


def _to_frame(planes: np.ndarray, layout: VideoFormat, index: int) -> av.VideoFrame:
    frame = av.VideoFrame(layout.width, layout.height, layout.name)
    frame.pts, frame.time_base = index, Fraction(1, RATE)
    for target, values in zip(frame.planes, planes, strict=True):
        _rows(target, values.dtype)[:, : layout.width] = values
    return frame


def _pull(graph: av.filter.Graph, layout: VideoFormat) -> Iterator[np.ndarray]:
    """The planes `(3, H, W)` of every frame that is ready."""
    while True:
        try:
            frame = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        if frame.format.name != layout.name:
            raise StbnError(
                f"FFmpeg turned {layout.name} into {frame.format.name}: a filter lacks this format. "
                "Leave this rival out, or try another FFmpeg."
            )
        dtype = np.dtype(np.uint8 if layout.components[0].bits == 8 else np.uint16)
        yield np.stack([_rows(plane, dtype)[:, : layout.width] for plane in frame.planes])


def _rows(plane: VideoPlane, dtype: np.dtype) -> np.ndarray:
    """A plane as a view, with the padding at the end of its rows."""
    values = np.frombuffer(memoryview(plane), dtype)  # type: ignore[arg-type]
    return values.reshape(-1, plane.line_size // dtype.itemsize)[: plane.height]


def _run_program(codes: np.ndarray, pixel_format: str, chain: Sequence[Filter]) -> np.ndarray:
    height, width = codes.shape[-2:]
    raw = ["-f", "rawvideo", "-pix_fmt", pixel_format]
    size = ["-video_size", f"{width}x{height}", "-framerate", str(RATE)]
    command = [
        _program(),
        "-v",
        "error",
        "-nostdin",
        "-noauto_conversion_filters",
        *raw,
        *size,
        "-i",
        "pipe:0",
    ]
    command += ["-filter_complex", _graph_text(chain), *raw, "pipe:1"]
    done = subprocess.run(command, input=codes.tobytes(), capture_output=True, check=True)
    whole = len(done.stdout) // codes[0].nbytes * codes[0].nbytes
    return np.frombuffer(done.stdout[:whole], codes.dtype).reshape(-1, *codes.shape[1:])


def _graph_text(chain: Sequence[Filter]) -> str:
    """The chain in FFmpeg's filtergraph syntax."""
    guided = any(item.guided for item in chain)
    steps, last = (["split[source][copy]"], "[copy]") if guided else ([], "")
    for number, item in enumerate(chain):
        inputs = f"[source]{last}" if item.guided else last
        output = f"[step{number}]" if number < len(chain) - 1 else ""
        steps.append(f"{inputs}{item.name}={item.arguments}{output}")
        last = output
    return ";".join(steps)


def _program() -> str:
    return shutil.which(PROGRAM) or PROGRAM


@functools.cache
def _program_filters() -> frozenset[str]:
    """Names of the filters of the ffmpeg program, none if there is no such program."""
    rows = (line.split() for line in _ask_program("-filters").splitlines())
    return frozenset(row[1] for row in rows if len(row) > 2 and "->" in row[2])


@functools.cache
def _ask_program(question: str) -> str:
    try:
        return subprocess.run(
            [_program(), "-hide_banner", question], capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
