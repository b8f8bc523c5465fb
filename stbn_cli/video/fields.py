"""Interlaced pictures: two fields, taken half a frame time apart, in alternating rows.

Denoised by fields, a picture is laid out with the rows of the upper field over those of the lower: each half is then a
picture of one moment, and its neighbours in time are the same field of the frames around it.
"""

from dataclasses import replace

import numpy as np

from stbn_cli.errors import OptionError
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.frames import VideoMetadata, Warnings

AUTO, ON, OFF = "auto", "on", "off"
FIELD_MODES = (AUTO, ON, OFF)


def check_mode(mode: str) -> None:
    """Raises OptionError for what is none of FIELD_MODES."""
    if mode not in FIELD_MODES:
        raise OptionError(f"Unknown --field {mode!r}. Choose one of {', '.join(FIELD_MODES)}.")


def with_fields(
    metadata: VideoMetadata, layout: PixelLayout, mode: str, name: str, notes: Warnings
) -> VideoMetadata:
    """Metadata that say whether the video is denoised by fields: "on", "off", or "auto", as its pictures are marked.

    Raises OptionError for "on" where a plane has an odd number of rows; "auto" then says so and leaves it.
    """
    if mode == OFF or (mode == AUTO and metadata.field_order is None):
        return metadata
    if metadata.height % (2 * layout.sub_y) == 0:
        return replace(metadata, by_fields=True)
    problem = f"{name} has {metadata.height} rows of {metadata.pixel_format}, which are not two fields of equal size"
    if mode == ON:
        raise OptionError(f"--field on: {problem}. Leave it out.")
    notes.add(
        f"{problem}, although it is marked as interlaced: its fields are denoised as one picture. Deinterlace it first "
        "for best results."
    )
    return metadata


def rows_by_field(picture: np.ndarray) -> np.ndarray:
    """(H, ...) with the rows 0, 2, 4, ... first and the rows 1, 3, 5, ... behind them; a copy."""
    return np.concatenate((picture[0::2], picture[1::2]))


def rows_woven(picture: np.ndarray) -> np.ndarray:
    """The inverse of `rows_by_field`; a copy."""
    woven = np.empty_like(picture)
    upper = len(picture[0::2])
    woven[0::2], woven[1::2] = picture[:upper], picture[upper:]
    return woven
