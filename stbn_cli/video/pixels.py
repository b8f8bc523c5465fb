"""PyAV frames <-> planes of code values, and the colour tags of a stream.

Only lossless rearrangements are left to FFmpeg's scaler (nv12 -> yuv420p, bgra -> gbrp, ...); matrix, range
and chroma resampling are `color.py`'s, because the scaler guesses what PyAV does not pass to it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import av
import av.error
import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat

from stbn_cli.errors import InputError, OptionError
from stbn_cli.video.color import PixelLayout, planes_to_rgb, rgb_to_planes, untagged_matrix
from stbn_cli.video.frames import (
    RANGE_FULL,
    RANGE_LIMITED,
    RANGE_UNSPECIFIED,
    ColorSpec,
    FieldOrder,
    Frame,
)

# H.273 matrix numbers that are a 3 x 3 matrix on gamma-encoded values. 3 is reserved: read as untagged.
MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
MATRIX_NUMBERS = {"rgb": 0, "bt709": 1, "fcc": 4, "bt601": 6, "smpte240m": 7, "bt2020": 9}
MATRIX_RGB = 0
UNSUPPORTED_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
# How H.273's numbers are called in sentences; FFmpeg takes the same names.
TAG_NAMES: dict[str, dict[int, str]] = {
    "matrix": {
        **{0: "RGB", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"},
        **UNSUPPORTED_MATRICES,
    },
    "range": {RANGE_LIMITED: "limited", RANGE_FULL: "full"},
    "primaries": {
        **{1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"},
        **{10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"},
    },
    "transfer": {
        **{1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100"},
        **{10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10"},
        **{15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"},
    },
}
# Sample depths for which FFmpeg has planar formats.
PLANAR_DEPTHS = (8, 9, 10, 12, 14, 16)
SUBSAMPLING_NAMES = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411", (1, 2): "440", (4, 4): "410"}

# FFmpeg's AVFieldOrder numbers.
FIELD_ORDERS = {None: 1, "top": 2, "bottom": 3}


def mark_field_order(context: av.VideoCodecContext, order: str | None) -> None:
    """Set which field comes first for an encoder; None: whole pictures. PyAV before 17.1 cannot."""
    if hasattr(context, "field_order"):
        context.field_order = FIELD_ORDERS[order]


# The scaler's moves are too short for a pool of threads, which it would build anew for every frame.
_ONE_THREAD: dict = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def describe_format(pixel_format: str) -> PixelLayout:
    """The planar layout that holds all of FFmpeg's `pixel_format` but its alpha.

    Raises InputError for what has none: hardware frames, Bayer mosaics, floating point, XYZ.
    """
    try:
        video_format = VideoFormat(pixel_format, 64, 64)
        components = [part for part in video_format.components if not part.is_alpha]
    except (ValueError, RuntimeError) as error:
        raise InputError(f"FFmpeg knows no pixel format {pixel_format!r}. Choose another one.") from error
    depth = max((part.bits for part in components), default=0)
    unusable = not depth or depth > 16 or video_format.is_bayer or pixel_format.startswith("xyz")
    if unusable or any(mark in pixel_format for mark in ("f16", "f32")):
        raise InputError(
            f"The pixel format {pixel_format} cannot be denoised: it is not integer RGB, YUV or gray. "
            "Convert the video to an ordinary format such as yuv420p or rgb48 first."
        )
    depth = min(known for known in PLANAR_DEPTHS if known >= depth)
    if video_format.is_rgb or video_format.has_palette:
        return PixelLayout("rgb", depth)
    if len(components) == 1:
        return PixelLayout("gray", depth)
    return PixelLayout(
        "yuv", depth, 64 // video_format.chroma_width(64), 64 // video_format.chroma_height(64)
    )


def planar_format(layout: PixelLayout) -> str:
    """FFmpeg's name of the little-endian planar format with this layout."""
    suffix = "" if layout.depth == 8 else f"{layout.depth}le"
    if layout.family == "rgb":
        return f"gbrp{suffix}"
    if layout.family == "gray":
        return f"gray{suffix}"
    return f"yuv{SUBSAMPLING_NAMES[layout.sub_x, layout.sub_y]}p{suffix}"


def has_alpha(pixel_format: str) -> bool:
    """Whether the format has an alpha component."""
    return any(part.is_alpha for part in VideoFormat(pixel_format, 64, 64).components)


def is_transparent(frame: av.VideoFrame) -> bool:
    """Whether a picture has an alpha component that is not opaque everywhere. Palettes count as opaque."""
    if not has_alpha(frame.format.name) or frame.format.has_palette:
        return False
    part = next(part for part in frame.format.components if part.is_alpha)
    if not frame.format.name.startswith("yuva"):
        # In a plane of its own: the scaler only moves the values.
        frame = frame.reformat(format="gbrap" if part.bits <= 8 else "gbrap16le", **_ONE_THREAD)
        part = frame.format.components[3]
    layout = PixelLayout("gray", part.bits)
    return bool((_plane_view(frame, 3, layout) != 2**part.bits - 1).any())


def resolve_color(
    pixel_format: str,
    width: int,
    height: int,
    *,
    matrix: int,
    color_range: int,
    primaries: int,
    transfer: int,
) -> ColorSpec:
    """Colour as tagged, with the documented rule where a tag is missing.

    Untagged matrix: BT.709 from 720 rows or 1280 columns on, else BT.601. Untagged range: full for RGB, for
    the yuvj formats and for palettes, else limited. The tags are H.273/FFmpeg numbers. Raises InputError for
    matrices that are not a plain matrix (YCgCo, constant luminance, ICtCp, ...).
    """
    family = describe_format(pixel_format).family
    assumed = []
    if family == "rgb":
        name = "rgb"
    elif family == "yuv" and matrix in UNSUPPORTED_MATRICES:
        raise InputError(
            f"The video's colour matrix is {UNSUPPORTED_MATRICES[matrix]}, which is not supported. "
            "Convert it to BT.709 or BT.2020 non-constant luminance first."
        )
    elif matrix in MATRIX_NAMES:
        name = MATRIX_NAMES[matrix]
    else:
        name = untagged_matrix(width, height)
        assumed.append("matrix")
    full = is_full_range(pixel_format, color_range)
    if color_range not in (RANGE_LIMITED, RANGE_FULL) and not pixel_format.startswith("yuvj"):
        assumed.append("range")
    tagged_range = RANGE_FULL if pixel_format.startswith("yuvj") else color_range
    return ColorSpec(name, full, matrix, tagged_range, primaries, transfer, assumed=tuple(assumed))


def is_full_range(pixel_format: str, color_range: int) -> bool:
    """Whether values fill the whole code range: as tagged, and where nothing is, only in RGB and the yuvj formats."""
    if color_range in (RANGE_LIMITED, RANGE_FULL) and not pixel_format.startswith("yuvj"):
        return color_range == RANGE_FULL
    return pixel_format.startswith("yuvj") or describe_format(pixel_format).family == "rgb"


def tag_name(kind: str, number: int) -> str:
    """What a tag says; kind: a key of TAG_NAMES. A number that no standard names is "unknown"."""
    return TAG_NAMES[kind].get(int(number), "unknown")


def frame_to_rgb(
    frame: av.VideoFrame, color: ColorSpec, depth: int | None = None, *, by_fields: bool = False
) -> np.ndarray:
    """A decoded picture as (H, W, 3) float32, nominal [0, 1], not clipped. Alpha is dropped.

    depth: bits of a value where the frame's samples have more and keep it in their upper ones, as hardware
    decoders do (p016 for 12 bits); None = as many as the frame's format says. by_fields: chroma is that of fields.
    """
    name = frame.format.name
    layout = describe_format(name)
    planar = planar_format(layout)
    if name.replace("yuvj", "yuv").replace("yuva", "yuv").replace("gbrap", "gbrp") != planar:
        frame = _rearrange(frame, planar)
    planes = [_plane_view(frame, index, layout) for index in range(layout.planes)]
    if depth is not None and depth < layout.depth:
        shift = layout.depth - depth
        layout = replace(layout, depth=depth)
        planes = [(plane >> shift).astype(layout.dtype) for plane in planes]
    if not by_fields:
        return planes_to_rgb(planes, layout, color.matrix, color.full_range)
    # Each alone: chroma must not be mixed where one field would follow on the other.
    rgb = np.empty((frame.height, frame.width, 3), np.float32)
    for first in range(2):
        rows = [np.ascontiguousarray(plane[first::2]) for plane in planes]
        rgb[first::2] = planes_to_rgb(rows, layout, color.matrix, color.full_range)
    return rgb


def rgb_to_frame(frame: Frame, pixel_format: str, color: ColorSpec) -> av.VideoFrame:
    """An RGB picture as a tagged PyAV frame of `pixel_format`, with its time."""
    layout = describe_format(pixel_format)
    planes = rgb_to_planes(frame.rgb, layout, color.matrix, color.full_range)
    return planes_to_frame(planes, frame, pixel_format, color)


def planes_to_frame(
    planes: Sequence[np.ndarray], timed: Frame, pixel_format: str, color: ColorSpec
) -> av.VideoFrame:
    """Code values, as `rgb_to_planes` gives them, as a tagged PyAV frame with the time of `timed`."""
    layout = describe_format(pixel_format)
    # The picture is tagged before and after: the rearrangement must see equal range on both sides.
    picture = join_planes(planes, layout)
    _tag(picture, color)
    if pixel_format.replace("yuvj", "yuv") != planar_format(layout):
        picture = _rearrange(picture, pixel_format)
        _tag(picture, color)
    picture.pts = timed.pts
    picture.time_base = timed.time_base
    if timed.duration and hasattr(picture, "duration"):
        picture.duration = timed.duration
    return picture


def rgb_to_code_values(
    rgb: np.ndarray, layout: PixelLayout, color: ColorSpec, *, dither: bool, by_fields: bool = False
) -> list[np.ndarray]:
    """The planes that `frame_to_rgb` makes `rgb` (H, W, 3) of, in `layout`; dither: see `rgb_to_planes`."""
    if not by_fields:
        return rgb_to_planes(rgb, layout, color.matrix, color.full_range, dither=dither)
    height, width = rgb.shape[:2]
    shapes = [layout.plane_shape(index, height, width) for index in range(layout.planes)]
    planes = [np.empty(shape, layout.dtype) for shape in shapes]
    for first in range(2):
        field = rgb_to_planes(rgb[first::2], layout, color.matrix, color.full_range, dither=dither)
        for plane, rows in zip(planes, field, strict=True):
            plane[first::2] = rows
    return planes


def field_order(picture: av.VideoFrame) -> FieldOrder | None:
    """Which field of a picture is first in time, as it is marked; None: progressive."""
    if not picture.interlaced_frame:
        return None
    # PyAV does not report it, but a filter knows.
    graph = _graph(picture, Fraction(1, 1000), "select", "eq(interlace_type\\,TOPFIRST)")
    graph.push(picture)
    with contextlib.suppress(av.error.BlockingIOError):
        graph.pull()
        return "top"
    return "bottom"


class FieldMarker:
    """Marks pictures of one size and format as two fields."""

    def __init__(self, first: FieldOrder) -> None:
        self._mode = "tff" if first == "top" else "bff"
        self._graph: Graph | None = None

    def mark(self, picture: av.VideoFrame, color: ColorSpec) -> av.VideoFrame:
        """The picture with its tags, time and the mark, which PyAV lets nobody but a filter set."""
        if self._graph is None:
            self._graph = _graph(picture, picture.time_base or Fraction(1, 1000), "setfield", self._mode)
        self._graph.push(picture)
        marked = self._graph.pull()
        assert isinstance(marked, av.VideoFrame)
        _tag(marked, color)
        marked.pts, marked.time_base = picture.pts, picture.time_base
        return marked


def _graph(picture: av.VideoFrame, time_base: Fraction, name: str, arguments: str) -> Graph:
    """One filter between a source of pictures like this one and a sink."""
    graph = Graph()
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=time_base
    )
    node, sink = graph.add(name, arguments), graph.add("buffersink")
    source.link_to(node)
    node.link_to(sink)
    graph.configure()
    return graph


def join_planes(planes: Sequence[np.ndarray], layout: PixelLayout) -> av.VideoFrame:
    """Planes of `layout` as a planar picture without tags or time."""
    height, width = planes[0].shape
    picture = av.VideoFrame(width, height, planar_format(layout))
    for index, plane in enumerate(planes):
        _plane_view(picture, index, layout)[...] = plane
    return picture


def split_planes(picture: av.VideoFrame, layout: PixelLayout) -> list[np.ndarray]:
    """The planes of a planar picture of `layout`, as copies."""
    return [_plane_view(picture, index, layout).copy() for index in range(layout.planes)]


def _tag(picture: av.VideoFrame, color: ColorSpec) -> None:
    picture.colorspace = color.matrix_tag
    picture.color_range = color.range_tag
    if hasattr(picture, "color_trc"):  # from PyAV 17 on; before it the encoder's own fields have to do
        picture.color_primaries = color.primaries
        picture.color_trc = color.transfer


def _rearrange(frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    # Equal, explicit ranges on both sides keep the scaler from "correcting" yuvj or full range.
    frame_range = frame.color_range if frame.color_range in (RANGE_LIMITED, RANGE_FULL) else RANGE_UNSPECIFIED
    return frame.reformat(
        format=pixel_format, src_color_range=frame_range, dst_color_range=frame_range, **_ONE_THREAD
    )


def _plane_view(frame: av.VideoFrame, index: int, layout: PixelLayout) -> np.ndarray:
    """The plane as a writable view, without the padding FFmpeg keeps at the end of each row."""
    plane = frame.planes[index]
    height, width = layout.plane_shape(index, frame.height, frame.width)
    item = np.dtype(layout.dtype)
    flat = np.frombuffer(memoryview(plane), item)  # type: ignore[arg-type]
    rows = flat.reshape(-1, abs(plane.line_size) // item.itemsize)
    if plane.line_size < 0:  # stored bottom-up; the buffer starts at its lowest address
        rows = rows[::-1]
    return rows[:height, :width]


def to_fraction(value: object) -> Fraction | None:
    """A PyAV rational as a Fraction; None where unset.

    PyAV up to 18 gives Fraction or None, PyAV 19 an AVRational that is falsy, never None, when unset.
    """
    return Fraction(value.numerator, value.denominator) if value else None  # type: ignore[attr-defined]


def require_format(pixel_format: str) -> PixelLayout:
    """`describe_format` for an option the user typed: raises OptionError."""
    try:
        return describe_format(pixel_format)
    except InputError as error:
        raise OptionError(f"--pix-fmt {pixel_format} cannot be used: {error}") from error
