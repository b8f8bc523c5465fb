"""Text subtitles moved between the two codecs that differ in the packet's wrapping alone: SubRip and MP4's."""

import re

# (codec, muxer) -> the codec in which that container holds the same text.
CONVERSIONS = {
    ("subrip", "mp4"): "mov_text",
    ("subrip", "mov"): "mov_text",
    ("mov_text", "matroska"): "subrip",
}
# MP4 begins a text with its length in bytes, as 16 bits, and may have boxes of style behind it.
LENGTH_BYTES = 2
LONGEST_TEXT = 2**16 - 1
# SubRip's markup, which MP4 would show as text.
MARKUP = re.compile(rb"</?(?:b|i|u|s|font)(?:\s[^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)


def to_mov_text(data: bytes) -> tuple[bytes, bool]:
    """A SubRip packet as MP4's, and whether markup was left out (MP4 has its own, in boxes)."""
    text = MARKUP.sub(b"", data)
    plain = text.replace(b"\r\n", b"\n")[:LONGEST_TEXT]
    return len(plain).to_bytes(LENGTH_BYTES, "big") + plain, text != data


def to_subrip(data: bytes) -> tuple[bytes, bool]:
    """MP4's packet as SubRip, and whether boxes of style were left out. Empty for the gaps between texts."""
    length = int.from_bytes(data[:LENGTH_BYTES], "big")
    end = LENGTH_BYTES + length
    return data[LENGTH_BYTES:end], len(data) > end
