"""How large a picture may be, and what an image file's header says of it, read before any memory is taken."""

import struct

from stbn_cli.errors import InputError

# Pixels of one picture: a square of 8192, two 8K frames. A float frame of it takes 0.8 GB.
MAX_PIXELS = 8192 * 8192
_PNG = b"\x89PNG\r\n\x1a\n"
# JPEG markers that start a frame and state its size (ITU-T T.81, table B.1).
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_JPEG_SCAN = 0xDA
# TIFF 6.0, section 8, and BigTIFF: the tags of the size, and the types it may have with their struct letters.
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}


def check_pixels(name: object, width: int, height: int, most: int) -> None:
    """Raise InputError if a picture of `name` has more than `most` pixels."""
    if width * height > most:
        raise InputError(
            f"{name} says that its pictures are {width}x{height}, more than the limit of {most} pixels. Give a larger "
            "--max-pixels if that is so and there is memory for it; otherwise the file is damaged."
        )


def image_size(data: memoryview) -> tuple[int, int] | None:
    """Width and height that the header of a PNG, JPEG or TIFF file states; None where there is none to read."""
    try:
        head = bytes(data[:8])
        if head == _PNG:
            return struct.unpack_from(">II", data, 16)
        if head.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff_size(data)
    except (struct.error, IndexError):
        pass  # cut off in its header: there is nothing to decode either
    return None


def is_cut_png(data: memoryview) -> bool:
    """Whether a chunk of a PNG file claims more bytes than the file has: OpenCV would make room for them first."""
    if bytes(data[:8]) != _PNG:
        return False
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            break
    return at > len(data)


def _jpeg_size(data: memoryview) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == _JPEG_SCAN:
            return None
        if marker == 0xFF:
            at += 1  # a fill byte
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _tiff_size(data: memoryview) -> tuple[int, int] | None:
    """Of the first directory, which is the picture that is decoded."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count, first = (
        (struct.unpack_from(order + "Q", data, start)[0], start + 8)
        if big
        else (struct.unpack_from(order + "H", data, start)[0], start + 2)
    )
    step, value_at = (20, 12) if big else (12, 8)
    found: dict[int, int] = {}
    for entry in range(first, min(first + count * step, len(data)), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_TYPES:
            found[tag] = struct.unpack_from(order + _TIFF_TYPES[kind], data, entry + value_at)[0]
    return (found[_TIFF_WIDTH], found[_TIFF_HEIGHT]) if len(found) == 2 else None
