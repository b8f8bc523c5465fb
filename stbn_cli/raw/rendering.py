"""Raw pictures as they are looked at. Not for measuring: each kind of file is rendered in its own way."""

import io
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from stbn_cli.raw.bayer import pack
from stbn_cli.raw.dng import DngFile, raw_library
from stbn_cli.raw.mosaicfile import MosaicFile
from stbn_cli.raw.pattern import PLANES, BayerFormat
from stbn_cli.raw.reader import RawReader
from stbn_cli.video.frames import ColorSpec, VideoMetadata

# The sRGB curve (IEC 61966-2-1) for 16-bit values, and as LibRaw takes it: power and slope.
_SRGB = (2.4, 12.92)
_TOP = 65535
# H.273's numbers for BT.709's matrix and primaries, and for the sRGB curve.
_SHOWN = ColorSpec("bt709", full_range=False, matrix_tag=1, range_tag=1, primaries=1, transfer=13)
# OpenCV's conversion for each pattern.
_DEMOSAIC = {
    "RGGB": cv2.COLOR_BayerRGGB2RGB,
    "GRBG": cv2.COLOR_BayerGRBG2RGB,
    "GBRG": cv2.COLOR_BayerGBRG2RGB,
    "BGGR": cv2.COLOR_BayerBGGR2RGB,
}
# Gains of a channel that has next to no light stay below this.
_LARGEST_GAIN = 8.0


def rendered_metadata(metadata: VideoMetadata) -> VideoMetadata:
    """What raw pictures become, but for a DNG's orientation: what every player shows."""
    return replace(metadata, pixel_format="yuv420p", bit_depth=8, color=_SHOWN, bayer=None)


class Rendering:
    """Renders the mosaics of one clip, all alike.

    metadata: of the rendered pictures: sRGB, and for DNG turned as their tags say.
    """

    metadata: VideoMetadata

    def __init__(self, reader: RawReader) -> None:
        """Renders the first mosaic: only then is the size known. Raises `InputError` where it cannot be read."""
        first = reader.mosaic(0)
        planes = pack(first.values(), first.bayer)
        means = np.maximum(planes.reshape(PLANES, -1).mean(1), 1e-6)
        green = (means[1] + means[2]) / 2
        # Greys of the world average to grey; the same for all frames, as a camera's gains are.
        self._gains = np.clip(
            [green / means[0], 1.0, 1.0, green / means[3]], 1 / _LARGEST_GAIN, _LARGEST_GAIN
        )
        height, width = self.render(first, first.values()).shape[:2]
        self.metadata = replace(rendered_metadata(reader.metadata), width=width, height=height)

    def render(self, file: MosaicFile, values: np.ndarray) -> np.ndarray:
        """Values (H, W) float32 in place of the file's own, as a picture (H', W', 3) float32 in [0, 1]."""
        picture = _developed(file, values) if isinstance(file, DngFile) else None
        if picture is None:
            picture = simple_picture(values, file.bayer, self._gains)
        # Most video formats share colours between two pixels.
        even = picture[: max(2, len(picture) // 2 * 2), : max(2, picture.shape[1] // 2 * 2)]
        return even.astype(np.float32) / np.float32(_TOP)


def simple_picture(values: np.ndarray, bayer: BayerFormat, gains: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mosaic values (H, W) as sRGB (H, W, 3) uint16: gains of the planes, bilinear demosaicing, the sRGB curve."""
    scaled = np.empty(values.shape, np.float32)
    for plane, (row, column) in enumerate(bayer.places):
        black = bayer.black_of(plane)
        light = (values[row::2, column::2] - black) / (bayer.white - black)
        scaled[row::2, column::2] = light * gains[plane]
    mosaic = np.rint(np.clip(scaled, 0.0, 1.0) * _TOP).astype(np.uint16)
    colours = np.asarray(cv2.cvtColor(mosaic, _DEMOSAIC[bayer.pattern]), np.uint16)
    return _CURVE[colours]


def _developed(file: DngFile, values: np.ndarray) -> np.ndarray | None:
    """The DNG with these values as LibRaw renders it, (H', W', 3) uint16; None: it cannot read such a DNG."""
    rawpy = raw_library("rawpy")
    data = file.encoded(file.rounded(values))
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            return raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,  # the same exposure for all frames
                output_color=rawpy.ColorSpace.sRGB,
                gamma=_SRGB,
                output_bps=16,
            )
    except rawpy.LibRawError:
        return None


def _curve() -> np.ndarray:
    """The sRGB curve, (65536,) uint16."""
    light = np.arange(_TOP + 1) / _TOP
    shown = np.where(light <= 0.0031308, _SRGB[1] * light, 1.055 * light ** (1 / _SRGB[0]) - 0.055)
    return np.rint(shown * _TOP).astype(np.uint16)


_CURVE = _curve()
