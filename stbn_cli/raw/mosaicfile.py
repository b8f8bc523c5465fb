"""One file with one mosaic: its values in, other values of the same kind out."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from stbn_cli.errors import InputError, OptionError
from stbn_cli.raw.pattern import BayerFormat, BayerOptions
from stbn_cli.video.images import encode_image, read_image

WHITE_OF = {8: 255.0, 16: 65535.0}


class MosaicFile(ABC):
    """The mosaic of a file, in memory.

    bayer: how its values are read, from its upper left corner on. size: (H, W). depth: bits of its values, 8 to 16.
    """

    path: Path
    bayer: BayerFormat
    size: tuple[int, int]
    depth: int
    kind: str  # for sentences

    @abstractmethod
    def values(self) -> np.ndarray:
        """The mosaic (H, W) float32 in the values of `bayer`. Raises `InputError` for damage."""

    @abstractmethod
    def rounded(self, values: np.ndarray) -> np.ndarray:
        """`values` (H, W) as the whole numbers, uint8 or uint16, that the file can hold; nothing is cut at white."""

    @abstractmethod
    def encoded(self, numbers: np.ndarray, suffix: str | None = None) -> bytes:
        """The file with these whole numbers (H, W) in place of its own; suffix: the new file's, where it differs.

        Raises `OutputError`.
        """


class PictureMosaic(MosaicFile):
    """A picture of one channel that is a mosaic because the user says so."""

    def __init__(self, path: Path, options: BayerOptions, max_pixels: int) -> None:
        """Raises `InputError` for pictures of several channels, and `OptionError` for impossible levels."""
        assert options.pattern is not None
        image = read_image(path, max_pixels)
        if image.ndim != 2:
            raise InputError(
                f"{path} is in colour, and a mosaic has one channel. Leave out --bayer, or name the raw pictures."
            )
        self.path, self.kind = path, "pictures"
        self._image = image
        self.size = (image.shape[0], image.shape[1])
        check_cell(path, self.size)
        self.depth = image.dtype.itemsize * 8
        black = 0.0 if options.black is None else options.black
        white = WHITE_OF[self.depth] if options.white is None else options.white
        self.bayer = given_format(options.pattern, black, white)

    def values(self) -> np.ndarray:
        return self._image.astype(np.float32)

    def rounded(self, values: np.ndarray) -> np.ndarray:
        whole = np.rint(np.clip(values, 0.0, WHITE_OF[self.depth]))
        return whole.astype(self._image.dtype)

    def encoded(self, numbers: np.ndarray, suffix: str | None = None) -> bytes:
        return encode_image(suffix or self.path.suffix, numbers).tobytes()


def given_format(pattern: str, black: float | tuple[float, float, float, float], white: float) -> BayerFormat:
    """Raises `OptionError` for levels that the user gave and that cannot be."""
    try:
        return BayerFormat(pattern, black, white)
    except ValueError as error:
        raise OptionError(f"--bayer, --black and --white cannot be used: {error}.") from error


def check_cell(path: Path, size: tuple[int, int]) -> None:
    """Raises `InputError` for a picture that is smaller than a pattern's cell."""
    if min(size) < 2:
        raise InputError(
            f"{path} has {size[1]}x{size[0]} pixels, less than a cell of the pattern. Name another file."
        )
