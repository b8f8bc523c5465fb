"""Raw pictures as a clip: DNG files, or pictures of one channel that are mosaics because the user says so."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from stbn_cli.errors import InputError, OptionError
from stbn_cli.raw.bayer import pack
from stbn_cli.raw.dng import DngFile
from stbn_cli.raw.mosaicfile import MosaicFile, PictureMosaic
from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.video.fields import AUTO, ON
from stbn_cli.video.formats import JPEG_SUFFIXES, RAW_SUFFIXES
from stbn_cli.video.frames import ColorSpec, Frame, FrameReader, VideoMetadata
from stbn_cli.video.images import files_in_range
from stbn_cli.video.limits import MAX_PIXELS

DNG = "dng"
# What `VideoMetadata.container` is for raw pictures, by suffix.
KINDS = {".dng": DNG, ".tif": "tiff", ".tiff": "tiff", ".png": "png"}
# Values beyond black or white by this share of the range, or so many of them, are no noise.
FAR = 0.01
MOST = 0.75
GREENS_APART = 0.05  # half their difference over their mean; sensors differ by a thousandth


class RawReader(FrameReader):
    """Frames of raw pictures at a constant rate; see `reader.open_video`.

    A frame's `rgb` is the mosaic's planes, (ceil(H / 2), ceil(W / 2), 4) float32 as `bayer.pack` orders them, black 0
    and white 1, not clipped. `metadata` has the size of the mosaic, and in `bayer` the format of the first one.
    iso: as the camera noted it in the first file; None: it did not.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        options: BayerOptions,
        *,
        start: float | None = None,
        end: float | None = None,
        rate: Fraction | float | None = None,
        max_pixels: int = MAX_PIXELS,
        field: str = AUTO,
    ) -> None:
        """files: in order; DNG all, or pictures all. Raises InputError and OptionError as `open_video` does."""
        super().__init__(path)
        if field == ON:
            raise OptionError("--field on: raw pictures have no fields. Leave it out.")
        self._options, self._max_pixels = options, max_pixels
        self._files = list(files)
        self.is_dng = self._files[0].suffix.lower() in RAW_SUFFIXES
        self._check_options()
        first = self._open(self._files[0])
        if rate is None and isinstance(first, DngFile):
            rate = first.frame_rate
        self.iso = first.iso if isinstance(first, DngFile) else None
        exact, self._files = files_in_range(path, self._files, start, end, rate)
        self.image_names = tuple(file.name for file in self._files)
        self._size, self._pattern = first.size, first.bayer.pattern
        self._check_levels(first)
        if self.is_dng and options != BayerOptions():
            self._notes.add(
                f"Reading {path.name} by the pattern and levels that were stated, not by its tags."
            )
        if not self.is_dng and (options.black is None or options.white is None):
            self._notes.add(
                f"Taking black {first.bayer.blacks[0]:g} and white {first.bayer.white:g} for {path.name}. State the "
                "camera's levels with --black and --white if they differ."
            )
        self.metadata = VideoMetadata(
            width=first.size[1],
            height=first.size[0],
            pixel_format="gray" if first.depth == 8 else "gray16le",
            bit_depth=first.depth,
            color=ColorSpec("rgb", full_range=True, matrix_tag=0),
            frame_count=len(self._files),
            average_rate=exact,
            time_base=1 / exact,
            duration_seconds=float(len(self._files) / exact),
            container=KINDS[self._files[0].suffix.lower()],
            bayer=first.bayer,
        )

    def _check_options(self) -> None:
        if self.is_dng and self._options.denies:
            raise OptionError("--bayer none: a DNG is a mosaic, and says itself which. Leave it out.")
        if not self.is_dng and any(file.suffix.lower() in JPEG_SUFFIXES for file in self._files):
            raise InputError(
                f"{self.path} names JPEG pictures, which cannot hold a mosaic. Leave out --bayer."
            )

    def _check_levels(self, first: MosaicFile) -> None:
        """Refuse levels that cannot be the first picture's, and name what looks wrong of them. Raises InputError."""
        planes = packed(first)
        black, white = max(first.bayer.blacks), first.bayer.white
        if float(np.quantile(planes, MOST)) < -FAR:
            raise InputError(
                f"Most values of {first.path} lie far below the black level {black:g}. State the camera's own with "
                "--black."
            )
        if float((planes > 1.0 + FAR).mean()) > FAR:
            self._notes.add(
                f"Many values of {first.path.name} lie above the white level {white:g}. State the camera's own with "
                "--white if it differs."
            )
        red, green, other, blue = planes.mean((0, 1)).tolist()
        apart = abs(green - other) / max(green + other, FAR)
        if apart > GREENS_APART and apart > 3.0 * abs(red - blue) / max(red + blue, FAR):
            self._notes.add(
                f"The two greens of {first.path.name} differ, and red and blue do not: is its pattern really "
                f"{first.bayer.pattern}?"
            )

    def _open(self, file: Path) -> MosaicFile:
        if self.is_dng:
            return DngFile(file, self._options, self._max_pixels)
        return PictureMosaic(file, self._options, self._max_pixels)

    def mosaic(self, index: int) -> MosaicFile:
        """The file of frame `index`. Raises `InputError` where it cannot be read or is not as the first one is."""
        file = self._open(self._files[index])
        if (file.size, file.bayer.pattern) != (self._size, self._pattern):
            raise InputError(
                f"{file.path} is a {file.size[1]}x{file.size[0]} {file.bayer.pattern} mosaic but the first one is "
                f"{self._size[1]}x{self._size[0]} {self._pattern}. Put pictures of one camera and size in the folder."
            )
        return file

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self._files)):
            file = self.mosaic(index)
            yield Frame(packed(file), index, self.metadata.time_base, 1)


def packed(file: MosaicFile) -> np.ndarray:
    """A mosaic as a frame: planes (h, w, 4) float32."""
    return np.ascontiguousarray(np.moveaxis(pack(file.values(), file.bayer), 0, -1))
