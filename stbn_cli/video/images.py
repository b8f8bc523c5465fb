"""Image sequences (PNG, JPEG, TIFF; 8 and 16 bit) as videos, through OpenCV. Knows nothing of PyAV."""

import math
import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from stbn_cli.errors import InputError, OptionError, OutputError
from stbn_cli.files import current_umask, whole_file
from stbn_cli.raw.recognition import looks_like_mosaic
from stbn_cli.video.color import PixelLayout, planes_to_rgb, rgb_to_planes
from stbn_cli.video.fields import AUTO, with_fields
from stbn_cli.video.formats import FALLBACK_RATE, IMAGE_SUFFIXES, JPEG_SUFFIXES
from stbn_cli.video.frames import ColorSpec, Frame, FrameReader, FrameWriter, VideoMetadata, Warnings
from stbn_cli.video.limits import MAX_PIXELS, check_pixels, image_size, is_cut_png
from stbn_cli.video.names import NUMBER_FIELD, is_pattern, natural_key, numbered
from stbn_cli.video.times import exact_seconds

# How OpenCV encodes by suffix, where its default is not meant. WebP is without loss from 101 on: it takes a third off
# PNG for clean crops and a tenth for noisy ones.
_CODING = {
    **{suffix: [cv2.IMWRITE_JPEG_QUALITY, 95] for suffix in JPEG_SUFFIXES},
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
}
# Images have no stream to take a matrix from; RGB needs none, and gray is the mean of equal channels.
_GRAY_MATRIX = "bt601"


def is_image_source(path: str | Path) -> bool:
    """Whether `path` names images: an image file, a folder of them, or a pattern (`%04d`, `*`, `?`)."""
    path = Path(path)
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise InputError(f"The folder {path} cannot be read: permission denied. Change its permissions.")
        return any(child.suffix.lower() in IMAGE_SUFFIXES for child in path.iterdir())
    if path.exists():
        return path.suffix.lower() in IMAGE_SUFFIXES
    return is_pattern(path)


def list_images(path: Path) -> list[Path]:
    """The images that `path` names, in natural order. Raises InputError when there are none."""
    if path.is_dir():
        found = [child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES]
    elif path.exists():
        found = [path]
    elif not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist. Check the name.")
    elif NUMBER_FIELD.search(path.name):
        wanted = numbered(path.name)
        found = [child for child in path.parent.iterdir() if wanted.fullmatch(child.name)]
    else:
        found = [child for child in path.parent.glob(path.name) if child.suffix.lower() in IMAGE_SUFFIXES]
    found = [child for child in found if not child.name.startswith(".")]
    if not found:
        raise InputError(f"No PNG, JPEG or TIFF image matches {path}. Check the folder and the pattern.")
    return sorted(found, key=natural_key)


def files_in_range(
    path: Path,
    files: list[Path],
    start: float | None,
    end: float | None,
    rate: Fraction | float | None,
) -> tuple[Fraction, list[Path]]:
    """The frame rate of a sequence, and its files from `start` until `end` (seconds).

    Raises OptionError for an impossible rate, and InputError where no file is left.
    """
    if rate is not None and rate <= 0:
        raise OptionError(f"The frame rate {rate} is not positive. Give frames per second, such as 25.")
    rate = FALLBACK_RATE if rate is None else Fraction(rate).limit_denominator(1001)
    first = 0 if start is None else math.ceil(exact_seconds(start) * rate)
    last = None if end is None else math.ceil(exact_seconds(end) * rate)
    if not files[first:last]:
        until = "the end" if end is None else f"{end:g} s"
        raise InputError(
            f"{path} has no image between {start or 0:g} s and {until}: its images last "
            f"{float(len(files) / rate):g} s. Choose another range."
        )
    return rate, files[first:last]


class ImageReader(FrameReader):
    """Frames of an image sequence at a constant rate; see `reader.open_video`."""

    def __init__(
        self,
        path: str | Path,
        *,
        start: float | None = None,
        end: float | None = None,
        rate: Fraction | float | None = None,
        max_pixels: int = MAX_PIXELS,
        field: str = AUTO,
        gray: bool = False,
    ) -> None:
        """gray: pictures of one channel are grey for sure. Raises InputError for such that look like mosaics."""
        super().__init__(Path(path))
        self._max_pixels = max_pixels
        rate, self._files = files_in_range(self.path, list_images(self.path), start, end, rate)
        self.image_names = tuple(file.name for file in self._files)
        image = read_image(self._files[0], max_pixels)
        depth, single = image.dtype.itemsize * 8, image.ndim == 2
        if single and not gray and looks_like_mosaic(image):
            raise InputError(
                f"{path} looks like raw mosaics, not like grey pictures: its pixels differ as a Bayer pattern's do. "
                "State them, such as --bayer GBRG --black 240 --white 4095, or --bayer none if it is grey."
            )
        if _is_transparent(image):
            self._notes.lose(
                f"The alpha channel of {self._files[0].name} is dropped: only colour is denoised."
            )
        self._layout = PixelLayout("gray" if single else "rgb", depth)
        metadata = VideoMetadata(
            width=image.shape[1],
            height=image.shape[0],
            pixel_format={(8, 0): "rgb24", (16, 0): "rgb48le", (8, 1): "gray", (16, 1): "gray16le"}[
                depth, single
            ],
            bit_depth=depth,
            color=ColorSpec("rgb", full_range=True, matrix_tag=0),
            frame_count=len(self._files),
            average_rate=rate,
            time_base=1 / rate,
            duration_seconds=float(len(self._files) / rate),
            has_alpha=_is_transparent(image),
            losses=tuple(self._notes.losses),
        )
        self.metadata = with_fields(metadata, self._layout, field, str(path), self._notes)

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            image = read_image(file, self._max_pixels)
            if image.shape[:2] != (self.metadata.height, self.metadata.width):
                raise InputError(
                    f"{file} is {image.shape[1]}x{image.shape[0]} but the first image is "
                    f"{self.metadata.width}x{self.metadata.height}. Put images of one size in the folder."
                )
            yield Frame(_image_to_rgb(image), index, self.metadata.time_base, 1)


def read_image(file: Path, max_pixels: int) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4) BGR(A), uint8 or uint16; a JPEG's EXIF orientation is applied."""
    if file.exists() and not file.is_file():
        raise InputError(
            f"The image {file} is not an ordinary file. Remove it from the folder."
        )  # a FIFO would wait
    try:
        data = np.fromfile(file, np.uint8)  # not cv2.imread: that cannot open every name on every system
    except OSError as error:
        raise InputError(
            f"The image {file} cannot be read: {error.strerror}. Check its permissions."
        ) from error
    if size := image_size(data.data):
        check_pixels(file, *size, max_pixels)
    flags = cv2.IMREAD_UNCHANGED
    if file.suffix.lower() in JPEG_SUFFIXES:
        flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # UNCHANGED would ignore the EXIF orientation
    try:
        image = cv2.imdecode(data, flags) if data.size and not is_cut_png(data.data) else None
    except cv2.error:  # among others, OpenCV's own limits
        image = None
    if image is None:
        raise InputError(f"The image {file} is empty or damaged. Copy it again or remove it from the folder.")
    if image.dtype not in (np.uint8, np.uint16) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise InputError(
            f"The image {file} is neither 8- nor 16-bit gray or RGB. Convert it to 16-bit RGB first."
        )
    return image


def _is_transparent(image: np.ndarray) -> bool:
    return (
        image.ndim == 3 and image.shape[2] == 4 and bool((image[..., 3] != np.iinfo(image.dtype).max).any())
    )


def _image_to_rgb(image: np.ndarray) -> np.ndarray:
    depth = image.dtype.itemsize * 8
    if image.ndim == 2:
        return planes_to_rgb([image], PixelLayout("gray", depth), _GRAY_MATRIX, True)
    planes = [image[..., channel] for channel in (1, 0, 2)]  # BGR -> G, B, R
    return planes_to_rgb(planes, PixelLayout("rgb", depth), "rgb", True)


class ImageWriter(FrameWriter):
    """Write frames as images into a hidden folder, moved to its final place by `finish()`."""

    color = ColorSpec("rgb", full_range=True)

    def __init__(
        self,
        folder: Path,
        name: str,
        reader_metadata: VideoMetadata,
        names: tuple[str, ...] | None,
        hidden: Path | None = None,
        *,
        dither: bool = True,
        notes: Warnings,
    ) -> None:
        """folder: the final place. name: a `%d` pattern with suffix, used where `names` has no entry.

        hidden: a folder in which the images lie until they are all there; None: one beside the final place.
        notes: what is known to get lost.
        """
        super().__init__(notes)
        self.path = folder
        self._pattern = name
        self._names = names
        is_deep = reader_metadata.bit_depth > 8 and Path(name).suffix.lower() not in JPEG_SUFFIXES
        depth = 16 if is_deep else 8
        gray = reader_metadata.pixel_format.startswith("gray")
        self.layout = PixelLayout("gray" if gray else "rgb", depth)
        self._dither = dither and depth < reader_metadata.bit_depth
        self._written: list[str] = []
        # Beside the new folder, or inside one that exists: never across a file system border.
        name = f".{folder.name}.{os.getpid()}.part"
        beside = folder / name if folder.is_dir() else folder.parent / name
        self._partial = beside if hidden is None else hidden / "images"
        shutil.rmtree(self._partial, ignore_errors=True)  # of a run that was killed
        try:
            self._partial.mkdir(mode=0o700, parents=True)  # unfinished work is nobody else's
        except OSError as error:
            raise OutputError(
                f"The folder {folder} cannot be created: {error.strerror}. Choose another place."
            ) from error

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        return rgb_to_planes(rgb, self.layout, _GRAY_MATRIX, True, dither=self._dither)

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        """Encode and write one frame from its code values; images have no times."""
        name = self._name(len(self._written))
        try:
            (self._partial / name).write_bytes(self._encoded(name, planes))
        except OSError as error:
            raise OutputError(
                f"The image {name} cannot be written to {self._partial}: {error}. Free some space or choose "
                "another place."
            ) from error
        self._written.append(name)

    def _encoded(self, name: str, planes: list[np.ndarray]) -> bytes:
        """The file of that name. Raises OSError."""
        image = planes[0] if len(planes) == 1 else cv2.merge([planes[1], planes[0], planes[2]])
        return encode_image(Path(name).suffix, image).tobytes()

    def _name(self, index: int) -> str:
        if self._names is not None and index < len(self._names):
            return Path(self._names[index]).stem + Path(self._pattern).suffix
        return self._pattern % (index + 1)

    def _complete(self) -> None:
        """Check that every image is there and move them to the final folder. Other files in it stay."""
        files = [self._partial / name for name in self._written]
        if (
            not files
            or len(set(files)) != len(files)
            or not all(f.is_file() and f.stat().st_size for f in files)
        ):
            raise OutputError(
                f"Not every image arrived in {self._partial}; nothing was moved. Check the disk."
            )
        try:
            if self.path.is_dir():
                for file in files:
                    os.replace(file, self.path / file.name)
                self._partial.rmdir()
            else:
                self._partial.chmod(0o777 & ~current_umask())
                os.replace(self._partial, self.path)
        except OSError as error:
            raise OutputError(f"The images cannot be moved to {self.path}: {error.strerror}.") from error

    def _discard(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as its suffix says, whole or not at all. Raises `OutputError`."""
    with whole_file(path) as partial:
        encode_image(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)).tofile(partial)


def encode_image(suffix: str, image: np.ndarray) -> np.ndarray:
    """The bytes (n,) uint8 of a file of this kind with gray (H, W) or BGR (H, W, 3). Raises OSError."""
    done, data = cv2.imencode(suffix, image, _CODING.get(suffix.lower(), []))
    if not done:
        raise OSError("OpenCV cannot encode it")
    return data
