"""One preview of a surveyed moment: denoise, show, and predict."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.preview.clip import ClipWriter
from stbn_cli.preview.forecast import Forecast, Trial, TrialResult, forecast
from stbn_cli.preview.location import HALF_PRECISION_FRAMES, LocatedMoment
from stbn_cli.preview.moment import Shot, StageTimings, denoise_moment
from stbn_cli.preview.picture import compose_sheet
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.images import write_picture
from stbn_cli.video.output import check_output, resolve_output


@dataclass(frozen=True, slots=True)
class Preview:
    """What was shown and what is predicted."""

    begin: Fraction  # time of the first frame shown, in seconds from the video's beginning
    shown: int  # frames
    levels: tuple[float, ...]  # noise level of each scene shown, 0-255 scale
    differences: tuple[str, ...]  # why the full run may differ by more than 1e-3; none: it does not
    forecast: Forecast
    warnings: tuple[str, ...]  # on what the full run's output cannot keep


def shows_video(output: str | Path) -> bool:
    """Whether a preview of this name is a video rather than a picture. Raises `OptionError` if it is neither."""
    kind = resolve_output(output).kind
    if kind == "images":
        raise OptionError(
            f"The preview {output} is one file: a picture (.png, .jpg) or a video (.mp4, .mkv, ...). "
            "Name it so with -o."
        )
    return kind == "video"


def check_preview(source: str | Path, output: str | Path, overwrite: bool) -> None:
    """Refuse an impossible preview before any work is done. Raises as `check_output` and `shows_video` do."""
    video, folder = shows_video(output), Path(output).parent
    check_output(source, output, overwrite)
    # A folder of images may be new, the folder of one picture may not.
    if not video and not folder.is_dir():
        raise OutputError(f"The folder {folder} does not exist. Create it or name another one.")


def make_preview(
    found: LocatedMoment,
    output: str | Path,
    denoiser: Denoiser,
    *,
    full_output: str | Path,
    encode: EncodeOptions,
    split: bool = False,
    level: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> Preview:
    """Show a surveyed moment before and after, and predict the full run.

    Args:
        output: a picture or a video, by its suffix; it appears whole or not at all. A picture shows the first frame.
        full_output: where the full run would write; its name decides container and codec of the prediction.
        encode: how the full run would encode.
        split: a video shows the left of one and the right of the other instead of both side by side.
        level: the noise level to write into a picture, 0-255 scale; None: that of its scene.
        progress: called with the number of frames denoised so far, of `found.frames`.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
    """
    check_preview(found.source.path, output, overwrite)
    with ExitStack() as stack:
        clip, shots = None, list[Shot]()
        if shows_video(output):
            clip = stack.enter_context(ClipWriter(found, output, split=split, overwrite=overwrite))
        take = shots.append if clip is None else clip.add
        timings, tried = denoise_and_try(found, denoiser, full_output, encode, take, progress)
        if clip is not None:
            clip.finish()
        else:
            write_picture(Path(output), _sheet(found, shots[0], shown_level(found, level)))
    return summary_of(found, timings, tried)


def denoise_and_try(
    found: LocatedMoment,
    denoiser: Denoiser,
    full_output: str | Path,
    encode: EncodeOptions,
    take: Callable[[Shot], None],
    progress: Callable[[int], None],
) -> tuple[StageTimings, TrialResult]:
    """Denoise a moment and encode it as the full run would; `take` is called with every shot to be shown.

    The other arguments are those of `make_preview`.
    """
    timings = StageTimings()
    with Trial(found, full_output, encode) as trial:
        for count, shot in enumerate(denoise_moment(found, denoiser, timings), 1):
            trial.write(shot)
            if shot.wanted:
                take(shot)
            progress(count)
        return timings, trial.finish()


def summary_of(found: LocatedMoment, timings: StageTimings, tried: TrialResult) -> Preview:
    """What a moment says when it has been denoised and its encoding tried."""
    return Preview(
        begin=found.times[found.wanted.start],
        shown=len(found.wanted),
        levels=tuple(BYTE_SCALE * part.noise.shown for part in found.parts),
        differences=tuple(differences(found)),
        forecast=forecast(found, timings, tried),
        warnings=tried.warnings,
    )


def timestamp(seconds: Fraction) -> str:
    """H:MM:SS.mmm."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{milliseconds / 1000:06.3f}"


def shown_level(found: LocatedMoment, level: float | None) -> float:
    """The noise level to show, 0-255 scale: `level`; where that is None, that of the moment's first scene."""
    return BYTE_SCALE * found.parts[0].noise.shown if level is None else level


def _sheet(found: LocatedMoment, shot: Shot, level: float) -> np.ndarray:
    return compose_sheet(
        shot.before.rgb,
        shot.after,
        f"{timestamp(shot.time)}    noise level {level:.3g}",
        turns=found.metadata.rotation // 90 % 4,
        aspect=found.metadata.sample_aspect_ratio,
    )


def differences(found: LocatedMoment) -> list[str]:
    """Why the full run may differ from the preview by more than 1e-3, in sentences; none: it does not."""
    part = found.parts[0]
    if not part.known:
        return [
            f"The scene begins before {timestamp(found.times[0])}, where the search for its beginning ended: its "
            "noise level and chunks are those from there on, and the full run may differ slightly."
        ]
    if not part.exact and found.plan.dtype.itemsize < 4:
        return [
            f"The scene begins more than {HALF_PRECISION_FRAMES} frames before, too far to repeat the full run's "
            "rounding: a value may differ from it by 1 in 255. --precision fp32 has no such difference."
        ]
    return []
