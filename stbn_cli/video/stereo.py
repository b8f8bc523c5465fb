"""Two views in one picture: what a video says of how they lie in it, and which containers can say the same."""

import av
from av.video.stream import VideoStream

from stbn_cli.video.formats import CONTAINER_NAMES, MATROSKA, MUXERS
from stbn_cli.video.frames import VideoMetadata, Warnings
from stbn_cli.video.sidedata import side_data

# Matroska's tag, as FFmpeg reads and writes it, and its value where there is one view.
STEREO_TAG, MONO = "stereo_mode", "mono"
# FFmpeg's AVStereo3DType -> Matroska's mode with the left view first, and with the right one.
MODES = {
    1: ("left_right", "right_left"),
    2: ("top_bottom", "bottom_top"),
    3: ("block_lr", "block_rl"),
    4: ("checkerboard_lr", "checkerboard_rl"),
    6: ("row_interleaved_lr", "row_interleaved_rl"),
    7: ("col_interleaved_lr", "col_interleaved_rl"),
}
ANAGLYPHS = ("anaglyph_cyan_red", "anaglyph_green_magenta")
# In some other way: views in layers, or of a packing without a name.
OTHER = "of another kind"
# The modes that each container has a mark for that we can write.
WRITABLE = {
    MATROSKA: (*(mode for pair in MODES.values() for mode in pair), *ANAGLYPHS),
    MUXERS[".webm"]: (*MODES[1], *MODES[2]),
}
# Of FFmpeg's AVStereo3D: where the type lies and where the flags, and the flag for "the right view first".
_TYPE, _FLAGS, _INVERTED = slice(0, 4), slice(4, 8), 1


def stereo_mode(stream: VideoStream, picture: av.VideoFrame) -> str | None:
    """How two views lie in each picture, as Matroska names it, or OTHER; None for one view."""
    tag = stream.metadata.get(STEREO_TAG)
    if tag == MONO or tag in WRITABLE[MATROSKA]:
        return None if tag == MONO else tag
    data = side_data(picture).get("STEREO3D")
    if data is None:
        return None
    kind, flags = (int.from_bytes(bytes(data)[part], "little") for part in (_TYPE, _FLAGS))
    return MODES[kind][flags & _INVERTED] if kind in MODES else OTHER if kind else None


def written_mode(metadata: VideoMetadata, muxer: str) -> str | None:
    """The mode that an output is marked with; None where it has no mark."""
    return metadata.stereo_mode if metadata.stereo_mode in WRITABLE.get(muxer, ()) else None


def report_stereo(metadata: VideoMetadata, muxer: str | None, notes: Warnings) -> None:
    """Say that a container (None: images) has no mark for two views where the source has one."""
    mode = metadata.stereo_mode
    if mode is None or (muxer is not None and written_mode(metadata, muxer)):
        return
    hint = "An .mkv output keeps it." if mode in WRITABLE[MATROSKA] else "No other output holds it either."
    notes.lose(f"The stereo 3D mark ({mode}) cannot be held by {CONTAINER_NAMES[muxer]}. {hint}")
