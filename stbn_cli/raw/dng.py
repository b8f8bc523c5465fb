"""DNG files: the mosaic with what its tags say of it, and the same file with other values in its place.

Nothing but the mosaic's own strips or tiles is written anew: every other byte of the file stays, so that all tags,
previews and private data keep their values and places. Section names are those of Adobe's DNG specification 1.7.
"""

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stbn_cli.errors import InputError, OptionError, OutputError
from stbn_cli.raw.mosaicfile import MosaicFile, check_cell, given_format
from stbn_cli.raw.pattern import CELL, BayerFormat, BayerOptions, cell_pattern
from stbn_cli.video.limits import check_pixels

if TYPE_CHECKING:
    from types import ModuleType

# Values of PhotometricInterpretation.
_CFA, _LINEAR_RAW = 32803, 34892
# Values of Compression.
_PLAIN, _JPEG, _DEFLATE, _OLD_DEFLATE = 1, 7, 8, 32946
_OTHERS = {34892: "lossy JPEG", 52546: "JPEG XL"}
# Values of Predictor for whole numbers: how far left of a pixel the one lies that it is the difference to.
_PREDICTORS = {1: 0, 2: 1, 34892: 2, 34893: 4}
# Numbers of tags.
_SUBFILE, _PHOTOMETRIC, _PREDICTOR = 254, 262, 317
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 324, 325
_CFA_DIMENSIONS, _CFA_PATTERN, _CFA_COLOURS, _CFA_LAYOUT = 33421, 33422, 50710, 50711
_TABLE, _BLACK_REPEATS, _BLACK, _BLACK_H, _BLACK_V, _WHITE = 50712, 50713, 50714, 50715, 50716, 50717
_ACTIVE_AREA, _FRAME_RATE = 50829, 51044
# SubTileBlockSize, RowInterleaveFactor, ColumnInterleaveFactor: 1 where pixels lie in their usual order.
_ORDERS = (50974, 50975, 52547)
_EXIF, _ISO = 34665, "ISOSpeedRatings"
# Sums over the mosaic. Readers take zeros for "none", and a wrong one for a damaged file.
_DIGESTS = (50972, 51111)
_RATIONALS = (5, 10)
_SHORT, _LONG, _LONG8 = 3, 4, 16
_LETTERS = {_SHORT: "H", _LONG: "I", 13: "I", _LONG8: "Q"}
_LOSSLESS_FRAME = 0xC3  # a JPEG's marker, ITU-T T.81, table B.1
_JPEG_LONGEST = 65535
_BITS = range(8, 17)
# In one file, previews and all; those within others are this deep at most.
_MOST_PICTURES, _DEPTH = 64, 2


def raw_library(name: str) -> "ModuleType":
    """A library that only raw files need. Raises `InputError` where it is not installed."""
    import importlib

    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"Raw pictures need the Python package {name}. Install it with: pip install 'stbn-cli[raw]'"
        ) from error
    if name == "tifffile":
        # It logs what it finds odd; what matters is refused here.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return module


@dataclass(frozen=True, slots=True)
class _Segment:
    """A strip or tile: where its bytes are, and which part of the stored picture it holds."""

    offset: int
    count: int
    top: int
    left: int
    height: int  # of the segment, beyond the picture's edge where it is a tile
    width: int


class DngFile(MosaicFile):
    """The mosaic of a DNG file; its active area is what is denoised, and what lies around it stays.

    frame_rate: frames per second where the file is one of a sequence that states it. iso: as the camera noted it.
    """

    frame_rate: float | None = None
    iso: float | None = None

    def __init__(self, path: Path, options: BayerOptions, max_pixels: int, data: bytes | None = None) -> None:
        """data: the file's bytes, where they are in memory already. Raises `InputError` for what cannot be read."""
        self.path, self.kind = path, "DNG"
        self._options, self._max_pixels = options, max_pixels
        self._data = _read(path) if data is None else data
        tifffile = raw_library("tifffile")
        try:
            with tifffile.TiffFile(io.BytesIO(self._data)) as file:
                page = self._mosaic_page(file)
                self._digests = [
                    tag.valueoffset
                    for number in _DIGESTS
                    if (tag := file.pages[0].tags.get(number)) is not None and tag.count == 16
                ]
                self._order = file.byteorder
                self._understand(page)
                self._look_around(file.pages[0], page)
        except (InputError, OptionError):
            raise
        except Exception as error:  # tifffile raises whatever its parsing comes to
            raise _damaged(path) from error

    # What the tags say.

    def _mosaic_page(self, file: Any) -> Any:
        pages = list(islice(_pages(file.pages), _MOST_PICTURES))  # a damaged chain of them has no end
        kinds = [_first(page.tags.valueof(_PHOTOMETRIC)) for page in pages]
        found = [page for page, kind in zip(pages, kinds, strict=True) if kind == _CFA]
        if found:
            whole = [page for page in found if not _first(page.tags.valueof(_SUBFILE, 0))] or found
            return max(whole, key=lambda page: page.imagewidth * page.imagelength)
        if _LINEAR_RAW in kinds:
            raise InputError(
                f"{self.path} is a linear DNG: it was developed to full colour and holds no mosaic. Denoise the raw "
                "files it was made from, or export it as 16-bit TIFF."
            )
        raise InputError(f"{self.path} is a DNG without a mosaic. Export it as 16-bit TIFF or PNG.")

    def _understand(self, page: Any) -> None:
        path, tags = self.path, page.tags
        self._stored = (int(page.imagelength), int(page.imagewidth))
        check_pixels(path, self._stored[1], self._stored[0], self._max_pixels)
        self._compression = int(page.compression)
        self._predictor = int(_first(tags.valueof(_PREDICTOR, 1)))
        bits, sample = int(_first(page.bitspersample)), int(_first(page.sampleformat))
        if self._compression in _OTHERS:
            raise _unreadable(path, f"its mosaic is compressed as {_OTHERS[self._compression]}, a way")
        if sample != 1 or bits > _BITS[-1]:
            raise _unreadable(
                path, f"its mosaic is of a kind ({'floating point' if sample == 3 else f'{bits}-bit'})"
            )
        deflated = self._compression in (_DEFLATE, _OLD_DEFLATE) and self._predictor in _PREDICTORS
        if self._compression not in (_PLAIN, _JPEG) and not deflated:
            raise _unreadable(path, f"its mosaic is compressed in a way (number {self._compression})")
        if bits not in _BITS or page.samplesperpixel != 1 or int(page.fillorder) != 1:
            raise _unreadable(path, f"its mosaic has {bits} bits in an order")
        if any(one != 1 for number in _ORDERS for one in _numbers(tags, number)):
            raise _unreadable(path, "its mosaic's rows or columns are in an order")
        self._bits = bits
        self._segments = self._find_segments(page)
        if self._compression == _JPEG and _lossless_samples(self._bytes(self._segments[0])) is None:
            raise _unreadable(path, "its mosaic is compressed as lossy JPEG, a way")
        self._table = self._read_table(tags)
        self.depth = bits if self._table is None else 16
        self._area = self._active_area(tags)
        top, left, bottom, right = self._area
        self.size = (bottom - top, right - left)
        check_cell(path, self.size)
        self.bayer, self._offsets = self._levels(tags)

    def _find_segments(self, page: Any) -> list[_Segment]:
        """Raises `InputError` where they are not all in the file."""
        height, width = self._stored
        tiled = bool(page.is_tiled)
        step = (int(page.tilelength), int(page.tilewidth)) if tiled else (int(page.rowsperstrip), width)
        step = (step[0] if tiled else min(step[0], height), step[1])
        places = [(top, left) for top in range(0, height, step[0]) for left in range(0, width, step[1])]
        offsets, counts = page.dataoffsets, page.databytecounts
        if len(places) > len(offsets) or len(offsets) != len(counts):
            raise _damaged(self.path)
        numbers = (_TILE_OFFSETS, _TILE_COUNTS) if tiled else (_STRIP_OFFSETS, _STRIP_COUNTS)
        self._offset_tag, self._count_tag = (page.tags.get(number) for number in numbers)
        segments = [
            _Segment(
                int(offset),
                int(count),
                *place,
                step[0] if tiled else min(step[0], height - place[0]),
                step[1],
            )
            for place, offset, count in zip(places, offsets, counts, strict=False)
        ]
        end = 0
        for segment in sorted(segments, key=lambda segment: segment.offset):
            # Two that overlap could not be written.
            if not segment.count or segment.offset < max(end, 8):
                raise _damaged(self.path)
            end = segment.offset + segment.count
        if end > len(self._data):
            raise _damaged(self.path)
        return segments

    def _read_table(self, tags: Any) -> np.ndarray | None:
        """LinearizationTable: what stored numbers mean, (2 ** bits,) uint16; beyond its end, what its last one does."""
        if (tag := tags.get(_TABLE)) is None:
            return None
        table = np.atleast_1d(np.asarray(tag.value, np.uint16))[: 1 << self._bits]
        return np.pad(table, (0, (1 << self._bits) - len(table)), mode="edge")

    def _active_area(self, tags: Any) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of the pixels that are not masked."""
        height, width = self._stored
        area = [int(number) for number in _numbers(tags, _ACTIVE_AREA) or (0, 0, height, width)]
        if len(area) != 4 or not (0 <= area[0] < area[2] <= height and 0 <= area[1] < area[3] <= width):
            raise _damaged(self.path)
        return area[0], area[1], area[2], area[3]

    def _levels(self, tags: Any) -> tuple[BayerFormat, np.ndarray | None]:
        """The format of the active area, and by how much the black level differs from it, pixel by pixel (H, W)."""
        options = self._options
        pattern = options.pattern or self._pattern(tags)
        default = float((1 << self._bits) - 1 if self._table is None else self._table.max())
        white = float(_first(_numbers(tags, _WHITE) or (default,)))
        black, offsets = self._black(tags)
        if options.black is not None:
            black, offsets = options.black, None
        if options.white is not None:
            white = options.white
        if options.black is not None or options.white is not None:
            return given_format(pattern, black, white), offsets
        try:
            return BayerFormat(pattern, black, white), offsets
        except ValueError as error:
            raise InputError(
                f"The levels in {self.path} cannot be right: {error}. Give them with --black and --white."
            ) from error

    def _pattern(self, tags: Any) -> str:
        dimensions = tuple(int(number) for number in _numbers(tags, _CFA_DIMENSIONS) or (2, 2))
        layout = _first(_numbers(tags, _CFA_LAYOUT) or (1,))
        planes = [int(number) for number in _numbers(tags, _CFA_COLOURS) or (0, 1, 2)]
        colours = [int(number) for number in _numbers(tags, _CFA_PATTERN)]
        pattern = cell_pattern(colours) if dimensions == (CELL, CELL) and len(colours) == CELL**2 else None
        if pattern is None or layout != 1 or planes != [0, 1, 2]:
            raise InputError(
                f"{self.path} has a colour filter array that is not a 2x2 Bayer pattern (as X-Trans), which stbn "
                "cannot denoise as raw. Develop it to 16-bit TIFF first, for example with darktable or rawtherapee."
            )
        return pattern

    def _black(self, tags: Any) -> tuple[float | tuple[float, float, float, float], np.ndarray | None]:
        height, width = self.size
        rows, columns = (int(number) for number in _numbers(tags, _BLACK_REPEATS) or (1, 1))
        levels = _numbers(tags, _BLACK) or [0.0] * (rows * columns)
        across, down = _numbers(tags, _BLACK_H), _numbers(tags, _BLACK_V)
        wrong = min(rows, columns) < 1 or len(levels) != rows * columns
        if wrong or len(across) not in (0, width) or len(down) not in (0, height):
            raise _damaged(self.path)
        cell = np.asarray(levels, np.float64).reshape(rows, columns)
        if not np.isfinite([*levels, *across, *down]).all():
            raise _damaged(self.path)
        simple = not any(across) and not any(down)
        if simple and np.ptp(cell) == 0:
            return float(cell[0, 0]), None
        if simple and CELL % rows == 0 and CELL % columns == 0:
            four = np.tile(cell, (CELL // rows, CELL // columns)).ravel()
            return (float(four[0]), float(four[1]), float(four[2]), float(four[3])), None
        # Every pixel has a level of its own: one for all, and how each differs from it.
        repeats = (math.ceil(height / rows), math.ceil(width / columns))
        level = np.tile(cell, repeats)[:height, :width]
        level += np.asarray(across or [0.0]) + np.asarray(down or [0.0])[:, None]
        black = float(level.mean())
        return black, (level - black).astype(np.float32)

    def _look_around(self, first: Any, page: Any) -> None:
        """Take the frame rate and the ISO, where they are stated."""
        for tags in (first.tags, page.tags):
            if (rate := _numbers(tags, _FRAME_RATE)) and math.isfinite(rate[0]) and rate[0] > 0:
                self.frame_rate = rate[0]
            exif = tags.valueof(_EXIF)
            iso = exif.get(_ISO) if isinstance(exif, dict) else tags.valueof(34855)
            if iso is not None and _first(iso) > 0:
                self.iso = float(_first(iso))

    # Values in.

    def _bytes(self, segment: _Segment) -> bytes:
        return self._data[segment.offset : segment.offset + segment.count]

    @cached_property
    def _codes(self) -> np.ndarray:
        """The picture as it is stored, (H, W) uint16, with what lies around the active area."""
        height, width = self._stored
        codes = np.empty((height, width), np.uint16)
        try:
            for segment in self._segments:
                part = self._decode(self._bytes(segment), segment.height, segment.width)
                rows, columns = (
                    min(segment.height, height - segment.top),
                    min(segment.width, width - segment.left),
                )
                codes[segment.top : segment.top + rows, segment.left : segment.left + columns] = part[
                    :rows, :columns
                ]
        except InputError:
            raise
        except Exception as error:  # the decoders' own errors have no common base
            raise _damaged(self.path) from error
        return codes

    def _decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """A segment (H, W) uint16."""
        if self._compression == _JPEG:
            if _lossless_samples(data) != height * width:
                raise _damaged(self.path)  # before any memory is taken
            # Not ljpeg_decode: damaged data can end the process there.
            frame = raw_library("imagecodecs").jpegsof3_decode(data)
            return np.asarray(frame, np.uint16).reshape(height, width)
        if self._compression == _PLAIN:
            return self._from_bytes(data, height, width)
        row = -(-width * self._bits // 8)
        unpacked = zlib.decompressobj().decompress(data, height * row)
        numbers = self._from_bytes(unpacked, height, width)
        if step := _PREDICTORS[self._predictor]:
            numbers = numbers.copy()
            for first in range(step):
                np.cumsum(numbers[:, first::step], axis=1, dtype=np.uint16, out=numbers[:, first::step])
            numbers &= np.uint16((1 << self._bits) - 1)
        return numbers

    def _from_bytes(self, data: bytes, height: int, width: int) -> np.ndarray:
        if self._bits in (8, 16):
            dtype = np.dtype(np.uint8) if self._bits == 8 else np.dtype(np.uint16).newbyteorder(self._order)
            return np.frombuffer(data, dtype, height * width).reshape(height, width).astype(np.uint16)
        # Rows begin with a byte, and the codec knows none: each is filled up to where bits and bytes meet.
        row, whole = -(-width * self._bits // 8), self._whole(width)
        rows = np.zeros((height, whole * self._bits // 8), np.uint8)
        rows[:, :row] = np.frombuffer(data, np.uint8, height * row).reshape(height, row)
        numbers = raw_library("imagecodecs").packints_decode(rows.tobytes(), np.uint16, self._bits)
        return numbers.reshape(height, whole)[:, :width]

    def _whole(self, width: int) -> int:
        """The next width at which rows of packed bits fill their last byte."""
        step = 8 // math.gcd(self._bits, 8)
        return -(-width // step) * step

    @property
    def _inside(self) -> tuple[slice, slice]:
        top, left, bottom, right = self._area
        return slice(top, bottom), slice(left, right)

    def values(self) -> np.ndarray:
        codes = self._codes[self._inside]
        values = (codes if self._table is None else self._table[codes]).astype(np.float32)
        return values if self._offsets is None else values - self._offsets

    # Values out.

    def rounded(self, values: np.ndarray) -> np.ndarray:
        shifted = values if self._offsets is None else values + self._offsets
        whole = np.rint(np.clip(shifted, 0.0, (1 << self.depth) - 1))
        return whole.astype(np.uint8 if self.depth == 8 else np.uint16)

    def encoded(self, numbers: np.ndarray, suffix: str | None = None) -> bytes:
        codes = self._codes.copy()
        codes[self._inside] = numbers if self._table is None else self._inverted(numbers, codes[self._inside])
        parts = [self._encode(self._cut(codes, segment)) for segment in self._segments]
        try:
            data = self._with_parts(parts)
        except struct.error as error:
            raise OutputError(
                f"{self.path.name} would become too large for a DNG. Write an uncompressed copy of the source first."
            ) from error
        if not np.array_equal(codes, self._codes):
            for place in self._digests:
                data[place : place + 16] = bytes(16)
        written = bytes(data)
        if not np.array_equal(DngFile(self.path, self._options, self._max_pixels, written)._codes, codes):
            raise OutputError(f"{self.path.name} could not be written as a DNG that reads back the same.")
        return written

    def _inverted(self, numbers: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The stored numbers that mean `numbers`, or what is nearest in the table; `own` where they mean the same."""
        assert self._table is not None
        order = np.argsort(self._table, kind="stable")
        meant = self._table[order].astype(np.int64)
        # For every possible value, the place of the nearest one that the table has.
        nearest = np.searchsorted((meant[1:] + meant[:-1]) / 2, np.arange(1 << 16), side="left")
        codes = order[nearest].astype(np.uint16)[numbers]
        return np.where(self._table[codes] == self._table[own], own, codes)

    def _cut(self, codes: np.ndarray, segment: _Segment) -> np.ndarray:
        """A segment of the stored picture; what of a tile lies beyond its edge repeats the last pixels."""
        part = codes[segment.top : segment.top + segment.height, segment.left : segment.left + segment.width]
        beyond = ((0, segment.height - part.shape[0]), (0, segment.width - part.shape[1]))
        return np.pad(part, beyond, mode="edge")

    def _encode(self, part: np.ndarray) -> bytes:
        height, width = part.shape
        if self._compression == _JPEG:
            # Two rows in one: the encoder predicts from above, and so within one colour.
            pairs = height % 2 == 0 and 2 * width <= _JPEG_LONGEST
            rows = np.ascontiguousarray(part.reshape(height // 2, 2 * width) if pairs else part)
            return raw_library("imagecodecs").ljpeg_encode(rows, bitspersample=self._bits)
        if self._compression == _PLAIN:
            return self._to_bytes(part)
        if step := _PREDICTORS[self._predictor]:
            ahead = part[:, :-step]
            part = part.copy()
            part[:, step:] -= ahead
            part &= np.uint16((1 << self._bits) - 1)
        return zlib.compress(self._to_bytes(part))

    def _to_bytes(self, part: np.ndarray) -> bytes:
        height, width = part.shape
        if self._bits in (8, 16):
            dtype = np.dtype(np.uint8) if self._bits == 8 else np.dtype(np.uint16).newbyteorder(self._order)
            return part.astype(dtype).tobytes()
        whole, row = self._whole(width), -(-width * self._bits // 8)
        padded = np.zeros((height, whole), np.uint16)
        padded[:, :width] = part
        packed = np.frombuffer(raw_library("imagecodecs").packints_encode(padded, self._bits), np.uint8)
        return packed.reshape(height, whole * self._bits // 8)[:, :row].tobytes()

    def _with_parts(self, parts: Sequence[bytes]) -> bytearray:
        """The file with other bytes in its segments, each where it was if it fits there, else at the end."""
        data = bytearray(self._data)
        if all(len(part) == segment.count for part, segment in zip(parts, self._segments, strict=True)):
            for part, segment in zip(parts, self._segments, strict=True):
                data[segment.offset : segment.offset + segment.count] = part
            return data
        places = []
        tail = self._tail()
        if tail is not None:
            # Nothing but the mosaic lies there: it can shrink and grow.
            del data[tail:]
        for part, segment in zip(parts, self._segments, strict=True):
            place = segment.offset
            if tail is not None or len(part) > segment.count:
                data += bytes(len(data) % 2)  # offsets are even
                place = len(data)
                data += part
            else:
                data[place : place + segment.count] = part + bytes(segment.count - len(part))
            places.append(place)
        self._set(data, self._offset_tag, places)
        self._set(data, self._count_tag, [len(part) for part in parts])
        return data

    def _tail(self) -> int | None:
        """Where the segments begin, if from there to the end of the file there is nothing else."""
        ordered = sorted(self._segments, key=lambda segment: segment.offset)
        end = ordered[0].offset
        for segment in ordered:
            if segment.offset - end > 1:
                return None
            end = segment.offset + segment.count
        return ordered[0].offset if len(self._data) - end <= 1 else None

    def _set(self, data: bytearray, tag: Any, numbers: Sequence[int]) -> None:
        """Write a tag's numbers over its own; those of segments beyond the picture, if any, stay."""
        kind = int(tag.dtype)
        kept = [int(number) for number in np.atleast_1d(tag.value)[len(numbers) :]]
        numbers = [*numbers, *kept]
        if kind == _SHORT and max(numbers) > 0xFFFF:
            kind = _LONG
        packed = struct.pack(f"{self._order}{len(numbers)}{_LETTERS[kind]}", *numbers)
        if kind == tag.dtype:
            data[tag.valueoffset : tag.valueoffset + len(packed)] = packed
            return
        # Wider numbers than the source's: their type changes, and where there are several, their place.
        struct.pack_into(f"{self._order}H", data, tag.offset + 2, kind)
        if len(packed) > 4:
            data += bytes(len(data) % 2)
            place = len(data)
            data += packed
            packed = struct.pack(f"{self._order}I", place)
        data[tag.offset + 8 : tag.offset + 8 + len(packed)] = packed


def _pages(pages: Any, depth: int = 0) -> Iterator[Any]:
    """All pictures of a file, those within others too."""
    for page in pages:
        yield page
        if getattr(page, "subifds", None) and depth < _DEPTH:
            yield from _pages(page.pages, depth + 1)


def _numbers(tags: Any, number: int) -> list[float]:
    """A tag's values, rational ones divided; none where it is missing."""
    tag = tags.get(number)
    if tag is None:
        return []
    value = tag.value
    values = list(value) if isinstance(value, tuple | list | bytes | np.ndarray) else [value]
    if int(tag.dtype) in _RATIONALS:
        pairs = zip(values[::2], values[1::2], strict=True)
        return [above / below if below else math.nan for above, below in pairs]
    return [float(one) for one in values]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) else value


def _lossless_samples(data: bytes) -> int | None:
    """How many numbers a lossless JPEG says that it holds; None for any other data."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            return height * width * components if marker == _LOSSLESS_FRAME else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not an ordinary file. Remove it from the folder.")  # a FIFO would wait
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Check its name and its permissions."
        ) from error


def _damaged(path: Path) -> InputError:
    return InputError(f"The DNG {path} is empty, cut off or damaged. Copy it again or remove it.")


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} cannot be denoised as raw: {why} that stbn does not read. Make a DNG of it that is uncompressed or "
        "losslessly compressed, for example with Adobe DNG Converter, or develop it to 16-bit TIFF."
    )
