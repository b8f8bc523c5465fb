"""A page that shows several moments of a video before and after, each with a divider between both."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import check_file
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.preview.location import LocatedMoment, Moment, choose_moment, locate
from stbn_cli.preview.make import (
    Preview,
    denoise_and_try,
    differences,
    shown_level,
    summary_of,
    timestamp,
)
from stbn_cli.preview.moment import Shot, StageTimings, denoise_moment
from stbn_cli.report.crops import encode_picture, square_sums
from stbn_cli.report.model import CropSet, Picture
from stbn_cli.source import Source
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.frames import VideoMetadata

MOMENTS = 3  # where none are asked for
# Pictures are stored without loss, 2 to 6 MB for so many pixels; of larger frames a part is shown.
LONG_SIDE, SHORT_SIDE = 1920, 1080
SEEN_STRETCH = 0.02  # pixels that are wider or narrower by less look square


def check_page(source: str | Path, output: str | Path, overwrite: bool) -> None:
    """Refuse a page that could not be written, before any work. Raises `OutputError`."""
    path, origin = Path(output), Path(source)
    if path.exists() and origin.exists() and path.samefile(origin):
        raise OutputError(
            f"The output {path} is the input itself. Name another file; the input is never replaced."
        )
    check_file(path, overwrite)


def choose_moments(metadata: VideoMetadata, times: Sequence[float]) -> list[Moment]:
    """The moments at `times` (seconds); if there are none, a few that are spread evenly over the video.

    Raises `OptionError` for times beyond the end, as far as the length is known.
    """
    length = metadata.duration_seconds
    if times or length is None:
        return [choose_moment(metadata, time) for time in times or (0.0,)]
    count = min(MOMENTS, metadata.frame_count or MOMENTS)
    return [choose_moment(metadata, length * (2 * index + 1) / (2 * count)) for index in range(count)]


def locate_moments(
    source: Source, denoiser: Denoiser, moments: Sequence[Moment], *, asked: bool
) -> list[LocatedMoment]:
    """Survey the moments. Raises as `locate` does; where nobody asked for them, later ones may lie beyond the end."""
    found: list[LocatedMoment] = []
    for moment in moments:
        try:
            found.append(locate(source, denoiser, moment))
        except OptionError:
            # The file promises a longer video than it holds.
            if asked or not found:
                raise
    return found


def frames_to_denoise(moments: Sequence[LocatedMoment]) -> int:
    """How many frames `show_moments` denoises."""
    tried = len(moments) // 2
    return sum(
        found.frames if index == tried else found.wanted.start - found.parts[0].first + 1
        for index, found in enumerate(moments)
    )


def show_moments(
    moments: Sequence[LocatedMoment],
    denoiser: Denoiser,
    *,
    full_output: str | Path,
    encode: EncodeOptions,
    level: float | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Preview, list[CropSet]]:
    """Denoise the first frame of each surveyed moment, and predict the full run from the middle one.

    Args:
        moments: one or more, in any order.
        full_output, encode, level: as `make_preview` takes them.
        progress: called with the number of frames denoised so far, of `frames_to_denoise`.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
    """
    crop_sets: list[CropSet] = []
    previews: list[Preview] = []
    done = 0
    for index, found in enumerate(moments):
        shots: list[Shot] = []
        if index == len(moments) // 2:
            report = partial(_report_from, progress, done)
            timings, tried = denoise_and_try(found, denoiser, full_output, encode, shots.append, report)
            previews.append(summary_of(found, timings, tried))
            done += found.frames
        else:
            for shot in denoise_moment(found, denoiser, StageTimings()):
                done += 1
                progress(done)
                if shot.wanted:
                    shots.append(shot)
                    break
        crop_sets.append(_crop_set(found, shots[0], shown_level(found, level)))
    return _together(previews[0], moments), crop_sets


def _report_from(progress: Callable[[int], None], done: int, count: int) -> None:
    progress(done + count)


def _together(tried: Preview, moments: Sequence[LocatedMoment]) -> Preview:
    """What the moment that was tried says, said of all of them."""
    apart = (sentence for found in moments for sentence in differences(found))
    return replace(
        tried,
        begin=moments[0].times[moments[0].wanted.start],
        shown=len(moments),
        levels=tuple(shown_level(found, None) for found in moments),
        differences=tuple(dict.fromkeys(apart)),
    )


def _crop_set(found: LocatedMoment, shot: Shot, level: float) -> CropSet:
    turns = found.metadata.rotation // 90 % 4
    before, after = (np.rot90(frame, turns) for frame in (shot.before.rgb, shot.after))
    rows, columns = _part(before, after)
    height, width = before.shape[:2]
    notes = [f"Noise level {level:.3g}."]
    if (rows.stop - rows.start, columns.stop - columns.start) != (height, width):
        notes.append(
            f"Of the frame of {width}x{height} this is the part where most was removed, {columns.start} pixels from "
            f"the left and {rows.start} from the top."
        )
    aspect = found.metadata.sample_aspect_ratio
    if aspect is not None and abs(aspect - 1) > SEEN_STRETCH:
        notes.append("Pixels are shown as squares; a player stretches this video.")
    pictures = (("before", before), ("after", after))
    return CropSet(
        timestamp(shot.time),
        tuple(Picture(name, encode_picture(frame[rows, columns])) for name, frame in pictures),
        note=" ".join(notes),
    )


def _part(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is shown: the whole frame, or the part where most was removed (mean square of luma)."""
    height, width = before.shape[:2]
    sides = (SHORT_SIDE, LONG_SIDE) if width >= height else (LONG_SIDE, SHORT_SIDE)
    rows, columns = min(height, sides[0]), min(width, sides[1])
    if (rows, columns) == (height, width):
        return slice(0, rows), slice(0, columns)
    sums = square_sums(np.square((before - after) @ np.array(LUMA_WEIGHTS, np.float32)), rows, columns)
    top, left = (int(place) for place in np.unravel_index(int(sums.argmax()), sums.shape))
    return slice(top, top + rows), slice(left, left + columns)
