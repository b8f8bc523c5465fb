"""YUV <-> RGB in float32, exact to the bit over a round trip. Pure numpy: knows nothing of files or PyAV.

Values are never clipped on the way to RGB, and chroma up-sampling has an exact left inverse, so
YUV -> RGB -> YUV with rounding gives back every code value, also those outside RGB's gamut.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

# Luma weights (red, blue) of ITU-T H.273's matrix coefficients.
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt709": (0.2126, 0.0722),
    "bt601": (0.299, 0.114),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}


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
    luma_offset, luma_span, chroma_offset, chroma_span = _levels(layout.depth, full_range)
    height, width = planes[0].shape
    rgb = np.empty((height, width, 3), np.float32)
    if layout.family != "yuv":
        order = (2, 0, 1) if layout.family == "rgb" else (0, 0, 0)  # planes are stored G, B, R
        for channel, plane in enumerate(order):
            rgb[..., channel] = _normalise(planes[plane], luma_offset, luma_span)
        return rgb
    luma = _normalise(planes[0], luma_offset, luma_span)
    cb, cr = (
        upsample_chroma(_normalise(plane, chroma_offset, chroma_span), layout, height, width)
        for plane in planes[1:]
    )
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    term = np.multiply(cr, np.float32(2 * (1 - red)))
    np.add(luma, term, out=rgb[..., 0])
    np.multiply(cb, np.float32(2 * (1 - blue)), out=term)
    np.add(luma, term, out=rgb[..., 2])
    cb *= np.float32(2 * blue * (1 - blue) / green)
    cr *= np.float32(2 * red * (1 - red) / green)
    luma -= cb
    np.subtract(luma, cr, out=rgb[..., 1])
    return rgb


def rgb_to_planes(rgb: np.ndarray, layout: PixelLayout, matrix: str, full_range: bool) -> list[np.ndarray]:
    """RGB -> code values: the inverse of `planes_to_rgb`, rounded to nearest and clipped to the code range.

    rgb: (H, W, 3) float32, nominal [0, 1]. Returns contiguous planes of `layout.dtype`.
    """
    luma_offset, luma_span, chroma_offset, chroma_span = _levels(layout.depth, full_range)
    top = 2**layout.depth - 1
    channels = [rgb[..., channel] for channel in range(3)]
    if layout.family == "rgb":
        return [
            _quantise(channels[index] * np.float32(1), luma_offset, luma_span, top) for index in (1, 2, 0)
        ]
    red, blue = LUMA_WEIGHTS[matrix]
    luma = channels[1] * np.float32(1 - red - blue)
    term = channels[0] * np.float32(red)
    luma += term
    np.multiply(channels[2], np.float32(blue), out=term)
    luma += term
    planes = []
    if layout.family == "yuv":
        for channel, weight in ((channels[2], blue), (channels[0], red)):
            np.subtract(channel, luma, out=term)
            chroma = downsample_chroma(term, layout)
            # At 4:4:4 `chroma` is `term` itself, which the next turn overwrites: quantising copies it first.
            planes.append(_quantise(chroma / np.float32(2 * (1 - weight)), chroma_offset, chroma_span, top))
    return [_quantise(luma, luma_offset, luma_span, top), *planes]


def _normalise(plane: np.ndarray, offset: float, span: float) -> np.ndarray:
    values = plane.astype(np.float32)
    if offset:
        values -= np.float32(offset)
    values *= np.float32(1 / span)
    return values


def _quantise(values: np.ndarray, offset: float, span: float, top: int) -> np.ndarray:
    """Round to code values; overwrites `values`."""
    values *= np.float32(span)
    values += np.float32(offset)
    np.rint(values, out=values)
    np.clip(values, 0, top, out=values)
    return values.astype(np.uint8 if top < 256 else np.uint16)


def upsample_chroma(plane: np.ndarray, layout: PixelLayout, height: int, width: int) -> np.ndarray:
    """Chroma-size float32 -> (height, width) float32, such that `downsample_chroma` gives `plane` back.

    Along each axis: linear interpolation between block centres, plus in each block the constant that restores
    the block's mean. (Chroma is taken as centred in its block whatever its tagged location: the same error
    is made and undone on the way back.)
    """
    rows = _upsample_rows(plane, layout.sub_y, height)
    if layout.sub_x == 1:
        return rows
    return np.ascontiguousarray(_upsample_rows(rows.T, layout.sub_x, width).T)


def downsample_chroma(plane: np.ndarray, layout: PixelLayout) -> np.ndarray:
    """(H, W) float32 -> chroma size: the mean of each block; the last may be partial at odd sizes."""
    rows = _mean_rows(plane, layout.sub_y)
    if layout.sub_x == 1:
        return rows
    return _mean_rows(rows.T, layout.sub_x).T


def _upsample_rows(plane: np.ndarray, factor: int, length: int) -> np.ndarray:
    if factor == 1:
        return plane
    before = np.concatenate((plane[:1], plane[:-1]))
    after = np.concatenate((plane[1:], plane[-1:]))
    out = np.empty((len(plane) * factor, plane.shape[1]), np.float32)
    for phase in range(factor):
        position = (phase + 0.5) / factor - 0.5  # in blocks, from the centre of this block
        neighbour, weight = (before, -position) if position < 0 else (after, position)
        out[phase::factor] = plane + np.float32(weight) * (neighbour - plane)
    return _restore_means(out[:length], plane, factor)


def _restore_means(out: np.ndarray, plane: np.ndarray, factor: int) -> np.ndarray:
    error = plane - _mean_rows(out, factor)
    for phase in range(factor):
        rows = out[phase::factor]
        rows += error[: len(rows)]
    return out


def _mean_rows(plane: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return plane
    whole, rest = divmod(len(plane), factor)
    total = plane[0 : whole * factor : factor].copy()
    for phase in range(1, factor):
        total += plane[phase : whole * factor : factor]
    total *= np.float32(1 / factor)
    if rest:
        total = np.concatenate((total, plane[whole * factor :].mean(axis=0, keepdims=True, dtype=np.float32)))
    return total
