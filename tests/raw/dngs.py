"""DNG files made with tifffile and imagecodecs, which know nothing of stbn."""

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

CFA, LINEAR_RAW = 32803, 34892
COLOURS = {"R": 0, "G": 1, "B": 2}
PLAIN, JPEG, DEFLATE, LOSSY = 1, 7, 8, 34892
# Tag types of TIFF 6.0 by their letters.
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL = 1, 2, 3, 4, 5, 7, 10

Tag = tuple[int, int, int, Any, bool]


@dataclass(frozen=True)
class DngSpec:
    """What a DNG contains; the defaults are the plainest."""

    pattern: str = "RGGB"
    size: tuple[int, int] = (48, 64)
    bits: int = 16
    compression: int = PLAIN
    tile: tuple[int, int] | None = None
    rows: int | None = None  # of a strip
    big_endian: bool = False
    components: int = 1  # of a lossless JPEG: neighbours in a row, as most cameras and converters write them
    preview: bool = False  # in the first directory; the mosaic in a SubIFD
    photometric: int = CFA
    predictor: int | None = None
    dtype: str = "uint16"
    tags: tuple[Tag, ...] = ()
    without: tuple[int, ...] = ()
    seed: int = 0


def codes_of(spec: DngSpec) -> np.ndarray:
    """Random numbers over the whole range, and a smooth part, (H, W) uint16."""
    generator = np.random.default_rng(spec.seed)
    height, width = spec.size
    codes = generator.integers(0, 1 << spec.bits, spec.size)
    ramp = np.linspace(0, (1 << spec.bits) - 1, width)
    codes[: height // 2] = np.rint(ramp)
    return codes.astype(spec.dtype)


def colour_tags() -> tuple[Tag, ...]:
    """What a DNG states of its camera and of how it is developed, and what nobody but its maker knows."""
    matrix = np.array([[9, 10], [-3, 10], [-1, 10], [-4, 10], [12, 10], [2, 10], [-1, 10], [2, 10], [6, 10]])
    table = np.linspace(-4, 4, 18).astype(np.float32)
    return (
        (50706, BYTE, 4, (1, 4, 0, 0), True),
        (50707, BYTE, 4, (1, 1, 0, 0), True),
        (271, ASCII, 0, "Maker", True),
        (272, ASCII, 0, "Camera", True),
        (50708, ASCII, 0, "Maker Camera", True),
        (274, SHORT, 1, 1, True),
        (50721, SRATIONAL, 9, tuple(int(number) for number in matrix.ravel()), True),
        (50728, RATIONAL, 3, (1, 2, 1, 1, 2, 3), True),
        (50778, SHORT, 1, 21, True),
        (50937, LONG, 3, (2, 3, 1), True),  # a hue and saturation map, and its size
        (50938, 11, 18, tuple(float(number) for number in table), True),
        (50740, BYTE, 40, bytes(range(40)), True),  # private data
        (51043, BYTE, 8, bytes((1, 2, 3, 4, 0, 0, 0, 0)), True),  # a time code
        (51044, SRATIONAL, 1, (24000, 1001), True),
        (51111, BYTE, 16, bytes(range(16)), True),  # a sum over the mosaic
        (65000, UNDEFINED, 12, b"private data", True),
    )


def write_dng(path: Path, spec: DngSpec = DngSpec(), codes: np.ndarray | None = None) -> np.ndarray:
    """Make the file; its stored numbers."""
    codes = codes_of(spec) if codes is None else codes
    cfa: tuple[Tag, ...] = (
        (33421, SHORT, 2, (2, 2), True),
        (33422, BYTE, 4, bytes(COLOURS[colour] for colour in spec.pattern), True),
        (50829, LONG, 4, (0, 0, *spec.size), True),
    )
    given = {tag[0] for tag in spec.tags}
    shared = tuple(tag for tag in colour_tags() if tag[0] not in (given | set(spec.without)))
    own = tuple(tag for tag in cfa if tag[0] not in (given | set(spec.without))) + spec.tags
    with tifffile.TiffWriter(path, byteorder=">" if spec.big_endian else "<") as file:
        if spec.preview:
            picture = np.random.default_rng(1).integers(0, 256, (12, 16, 3)).astype(np.uint8)
            file.write(picture, photometric="rgb", subfiletype=1, subifds=1, extratags=shared, metadata=None)
        else:
            own = shared + own
        _write_mosaic(file, codes, spec, own)
    return codes


def _write_mosaic(file: tifffile.TiffWriter, codes: np.ndarray, spec: DngSpec, tags: tuple[Tag, ...]) -> None:
    options: dict[str, Any] = {
        "photometric": spec.photometric,
        "subfiletype": 0,
        "extratags": tags,
        "metadata": None,
        "software": "tests",
        "tile": spec.tile,
        "rowsperstrip": spec.rows or (None if spec.tile else spec.size[0]),
    }
    if spec.compression == JPEG or spec.bits not in (8, 16, 32):
        parts = [_part(codes, spec, *place) for place in _places(spec)]
        file.write(
            iter(parts),
            shape=codes.shape,
            dtype=codes.dtype,
            compression=spec.compression if spec.compression != PLAIN else None,
            bitspersample=spec.bits,
            **options,
        )
    else:
        compression = None if spec.compression == PLAIN else spec.compression
        file.write(codes, compression=compression, predictor=spec.predictor, **options)


def _places(spec: DngSpec) -> list[tuple[int, int, int, int]]:
    height, width = spec.size
    rows, columns = spec.tile or (spec.rows or height, width)
    return [(top, left, rows, columns) for top in range(0, height, rows) for left in range(0, width, columns)]


def _part(codes: np.ndarray, spec: DngSpec, top: int, left: int, rows: int, columns: int) -> bytes:
    part = codes[top : top + rows, left : left + columns]
    if spec.tile:
        part = np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])))
    if spec.compression == JPEG and spec.components > 1:
        return lossless_jpeg(part, spec.bits, spec.components)
    if spec.compression == JPEG:
        return imagecodecs.ljpeg_encode(np.ascontiguousarray(part), bitspersample=spec.bits)
    return b"".join(_packed_row(row, spec.bits) for row in part)


def lossless_jpeg(part: np.ndarray, bits: int, components: int, predictor: int = 1) -> bytes:
    """ITU-T T.81, process 14, by the book: all categories have codes of 5 bits; neighbours in a row interleave."""
    height, width = part.shape[0], part.shape[1] // components
    samples = part.reshape(height, width, components).astype(int)
    left, above = np.zeros_like(samples), np.zeros_like(samples)
    left[:, 1:], above[1:] = samples[:, :-1], samples[:-1]
    predicted = left if predictor == 1 else above
    predicted[0, 1:], predicted[1:, 0] = samples[0, :-1], samples[:-1, 0]
    predicted[0, 0] = 1 << bits - 1
    out = []
    for difference in (samples - predicted).ravel():
        difference = (int(difference) + 32768) % 65536 - 32768
        size = abs(difference).bit_length()
        out.append(f"{size:05b}")
        if 0 < size < 16:
            out.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(out)
    text += "1" * (-len(text) % 8)
    coded = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    table = (
        bytes((0, 0, 0, 0, 0, 17)) + bytes(11) + bytes(range(17))
    )  # class and number, then codes by length
    frame = struct.pack(">BHHB", bits, height, width, components)
    frame += b"".join(bytes((number, 0x11, 0)) for number in range(components))
    scan = bytes((components,)) + b"".join(bytes((number, 0)) for number in range(components))
    marks = ((b"\xff\xc4", table), (b"\xff\xc3", frame), (b"\xff\xda", scan + bytes((predictor, 0, 0))))
    head = b"".join(mark + struct.pack(">H", len(body) + 2) + body for mark, body in marks)
    return b"\xff\xd8" + head + coded + b"\xff\xd9"


def _packed_row(row: np.ndarray, bits: int) -> bytes:
    number = 0
    for value in row:
        number = number << bits | int(value)
    used = len(row) * bits
    return (number << -used % 8).to_bytes(-(-used // 8), "big")


__all__ = ["DngSpec", "codes_of", "field", "replace", "write_dng"]
