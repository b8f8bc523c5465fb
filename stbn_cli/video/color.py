"""YUV <-> RGB in float32, exact to the bit over a round trip. Arrays only: knows nothing of files or PyAV.

Values are never clipped on the way to RGB, and chroma up-sampling has an exact left inverse, so
YUV -> RGB -> YUV with rounding gives back every code value, also those outside RGB's gamut.

What a picture costs is memory traffic. So it is converted in bands of rows that stay in the processor's cache, and
each step is one call of OpenCV or numpy on a whole band, which other threads can run beside.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np

# Luma weights (red, blue) of ITU-T H.273's matrix coefficients.
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt709": (0.2126, 0.0722),
    "bt601": (0.299, 0.114),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}
# From here on an untagged picture is taken as high definition, hence BT.709.
HD_HEIGHT, HD_WIDTH = 720, 1280
# Pixels of a band, which takes 20 to 30 bytes of intermediate values for each. Fewer cost more in calls; more, and the
# allocator gives memory back to the system and asks for it again in every picture of less than HD size.
BAND_PIXELS = 2**16
DITHER_SIDE = 8  # pixels


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The planes of a planar picture: Y, Cb, Cr ("yuv"), Y ("gray"), or G, B, R ("rgb")."""

    family: Literal["yuv", "gray", "rgb"]
    depth: int  # bits per component
    sub_x: int = 1  # luma columns per chroma column
    sub_y: int = 1  # luma rows per chroma row

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Type of the code values, in the least significant bits."""
        return np.uint8 if self.depth <= 8 else np.uint16

    @property
    def planes(self) -> int:
        """Number of planes."""
        return 1 if self.family == "gray" else 3

    def plane_shape(self, index: int, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of one plane of an H x W picture; odd sizes round up, as FFmpeg's do."""
        if self.family == "yuv" and index:
            return -(-height // self.sub_y), -(-width // self.sub_x)
        return height, width


def untagged_matrix(width: int, height: int) -> str:
    """The matrix, a key of LUMA_WEIGHTS, that an untagged YUV picture of this size is taken to have."""
    return "bt709" if height >= HD_HEIGHT or width >= HD_WIDTH else "bt601"


def _levels(depth: int, full_range: bool) -> tuple[float, float, float, float]:
    """(luma offset, luma span, chroma offset, chroma span) in code values."""
    if full_range:
        top = float(2**depth - 1)
        return 0.0, top, float(2 ** (depth - 1)), top
    unit = 2.0 ** (depth - 8)
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def planes_to_rgb(planes: list[np.ndarray], layout: PixelLayout, matrix: str, full_range: bool) -> np.ndarray:
    """Code values -> RGB.

    planes: as `layout` says, (H, W) or chroma size, unsigned integers. matrix: a key of LUMA_WEIGHTS, ignored
    for "gray" and "rgb". Returns (H, W, 3) float32, nominal [0, 1], not clipped.
    """
    height, width = planes[0].shape
    luma_offset, luma_span, chroma_offset, _ = _levels(layout.depth, full_range)
    # A chroma plane is centred. In "rgb" all planes have luma's levels.
    offsets = (luma_offset, chroma_offset, chroma_offset) if layout.family == "yuv" else (luma_offset,) * 3
    if layout.family == "gray":
        to_rgb = np.eye(3) / luma_span
    else:
        to_rgb = np.linalg.inv(_code_matrix(layout, matrix, full_range))
    to_rgb = to_rgb.astype(np.float32)
    rgb = np.empty((height, width, 3), np.float32)
    for rows in _bands(layout, height, width):
        parts = [
            _centred_band(plane, np.float32(offset), layout, rows, (height, width))
            for plane, offset in zip(planes, offsets, strict=False)
        ]
        picture = cv2.merge(parts if len(parts) == 3 else parts * 3)
        cv2.transform(picture, to_rgb, dst=rgb[rows])
    return rgb


def rgb_to_planes(
    rgb: np.ndarray, layout: PixelLayout, matrix: str, full_range: bool, *, dither: bool = False
) -> list[np.ndarray]:
    """RGB -> code values: the inverse of `planes_to_rgb`, rounded to nearest and clipped to the code range.

    rgb: (H, W, 3) float32, nominal [0, 1]. dither: round up or down by an ordered pattern, so that areas keep their
    mean and slow ramps have no steps; values that are code values already stay what they are. Returns contiguous planes
    of `layout.dtype`.
    """
    height, width = rgb.shape[:2]
    luma_offset, _, chroma_offset, _ = _levels(layout.depth, full_range)
    offsets = (luma_offset, chroma_offset, chroma_offset) if layout.family == "yuv" else (luma_offset,) * 3
    to_codes = _code_matrix(layout, matrix, full_range)
    to_codes = np.column_stack((to_codes, offsets[: layout.planes])).astype(np.float32)
    shapes = [layout.plane_shape(index, height, width) for index in range(layout.planes)]
    planes = [np.empty(shape, layout.dtype) for shape in shapes]
    for rows in _bands(layout, height, width):
        codes = cv2.transform(np.ascontiguousarray(rgb[rows], np.float32), to_codes)
        for index, part in enumerate(cv2.split(codes)):
            if layout.family == "yuv" and index:
                part = downsample_chroma(part, layout)
                first = rows.start // layout.sub_y
            else:
                first = rows.start
            if dither:
                part += _dither_pattern(first, *part.shape)
            _quantise(part, layout.depth, planes[index][first : first + len(part)])
    return planes


def _code_matrix(layout: PixelLayout, matrix: str, full_range: bool) -> np.ndarray:
    """(planes, 3) float64: nominal RGB -> code values of each plane less their offsets (H.273, section 8.3)."""
    _, luma_span, _, chroma_span = _levels(layout.depth, full_range)
    if layout.family == "rgb":
        return np.eye(3)[[1, 2, 0]] * luma_span  # planes are stored G, B, R
    red, blue = LUMA_WEIGHTS[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    if layout.family == "gray":
        return luma[None] * luma_span
    channels = np.eye(3)
    cb, cr = (channels[2] - luma) / (2 * (1 - blue)), (channels[0] - luma) / (2 * (1 - red))
    return np.stack((luma * luma_span, cb * chroma_span, cr * chroma_span))


def _bands(layout: PixelLayout, height: int, width: int) -> Iterator[slice]:
    """Consecutive slices of rows; all but the last start and end between two rows of chroma."""
    step = max(1, BAND_PIXELS // (width * layout.sub_y)) * layout.sub_y
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _centred_band(
    plane: np.ndarray, offset: np.float32, layout: PixelLayout, rows: slice, size: tuple[int, int]
) -> np.ndarray:
    """Code values less `offset` of one band as float32 at luma's size (rows, W); size: (H, W) of the picture.

    With its offset taken off before anything else, a neutral colour stays exactly neutral.
    """
    height, width = size
    if plane.shape == size:
        return np.subtract(plane[rows], offset, dtype=np.float32)
    # Up-sampling looks one row of chroma up and down.
    first, stop = rows.start // layout.sub_y, -(-rows.stop // layout.sub_y)
    above, below = max(first - 1, 0), min(stop + 1, len(plane))
    chroma = np.subtract(plane[above:below], offset, dtype=np.float32)
    top = above * layout.sub_y
    wide = upsample_chroma(chroma, layout, min(below * layout.sub_y, height) - top, width)
    return wide[rows.start - top : rows.stop - top]


def _dither_pattern(first: int, height: int, width: int) -> np.ndarray:
    """Thresholds between -1/2 and 1/2 for rows `first` on of a plane; (height, width) float32."""
    rows = np.arange(first, first + height) % DITHER_SIDE
    columns = np.arange(width) % DITHER_SIDE
    return _dither_matrix()[rows[:, None], columns]


@cache
def _dither_matrix() -> np.ndarray:
    """Bayer's matrix: each step of the recursion puts the next finer threshold between the last ones."""
    matrix = np.zeros((1, 1))
    while len(matrix) < DITHER_SIDE:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return ((matrix + 0.5) / matrix.size - 0.5).astype(np.float32)


def _quantise(values: np.ndarray, depth: int, out: np.ndarray) -> None:
    """Round to code values into `out`; overwrites `values`."""
    np.clip(values, 0, 2**depth - 1, out=values)
    np.rint(values, out=values)
    np.copyto(out, values, casting="unsafe")


def upsample_chroma(plane: np.ndarray, layout: PixelLayout, height: int, width: int) -> np.ndarray:
    """Chroma-size float32 -> (height, width) float32, such that `downsample_chroma` gives `plane` back.

    Along each axis: linear interpolation between block centres, plus in each block the constant that restores
    the block's mean. (Chroma is taken as centred in its block whatever its tagged location: the same error
    is made and undone on the way back.) All weights are eighths: code values come out exact.
    """
    if layout.sub_y > 1:
        rows = np.stack(_phases(plane, layout.sub_y, height, 0), axis=1)
        plane = rows.reshape(-1, plane.shape[1])[:height]
    if layout.sub_x > 1:
        columns = cv2.merge(_phases(plane, layout.sub_x, width, 1))
        plane = columns.reshape(height, -1)[:, :width]
    return plane


def downsample_chroma(plane: np.ndarray, layout: PixelLayout) -> np.ndarray:
    """(H, W) float32 -> chroma size: the mean of each block; the last may be partial at odd sizes."""
    plane = _whole_blocks(plane, layout.sub_y, 0)
    plane = _whole_blocks(plane, layout.sub_x, 1)
    if layout.sub_x == layout.sub_y == 1:
        return plane
    height, width = plane.shape
    # At whole ratios, area interpolation is the mean of the block.
    return cv2.resize(plane, (width // layout.sub_x, height // layout.sub_y), interpolation=cv2.INTER_AREA)


def _phases(plane: np.ndarray, factor: int, length: int, axis: int) -> list[np.ndarray]:
    """What stands first, second, ... in each block of `factor` after up-sampling one axis to `length`."""
    last, before = plane.take(-1, axis), plane.take(-2 if plane.shape[axis] > 1 else -1, axis)
    rest = length % factor
    phases = []
    for phase, (back, forth) in enumerate(_phase_weights(factor, factor)):
        kernel = np.array([back, 1 - back - forth, forth], np.float32)
        kernel = kernel[:, None] if axis == 0 else kernel[None]
        values = cv2.filter2D(plane, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
        if phase < rest:  # the last block is partial: its mean is one of fewer values
            back = np.float32(_phase_weights(factor, rest)[phase][0])
            end = last + back * (before - last)
            values[(-1, slice(None)) if axis == 0 else (slice(None), -1)] = end
        phases.append(values)
    return phases


@cache
def _phase_weights(factor: int, count: int) -> list[tuple[float, float]]:
    """Weights of the block before and of that after for the first `count` places of a block of `factor`.

    Linear interpolation's, less their mean over these places; the block's own weight completes them to 1.
    """
    positions = [(phase + 0.5) / factor - 0.5 for phase in range(count)]  # in blocks, from the block's centre
    back, forth = [max(-x, 0.0) for x in positions], [max(x, 0.0) for x in positions]
    return [(b - sum(back) / count, f - sum(forth) / count) for b, f in zip(back, forth, strict=True)]


def _whole_blocks(plane: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """`plane` with a partial block at its end filled up with that block's mean."""
    rest = plane.shape[axis] % factor
    if not rest:
        return plane
    partial = plane[-rest:] if axis == 0 else plane[:, -rest:]
    mean = partial.mean(axis=axis, keepdims=True, dtype=np.float32)
    return np.concatenate((plane, np.repeat(mean, factor - rest, axis)), axis)
