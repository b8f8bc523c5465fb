"""`stbn analyze`: what noise a clip has, and what that means."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, say_beginning, show_json, show_sentence, show_table
from stbn_cli.cli.flags import RangeFlags, ReadFlags, flattened
from stbn_cli.cli.progress import FrameProgress
from stbn_cli.errors import OptionError
from stbn_cli.video.formats import STANDARD_STREAM

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis, RunAnalysis

BYTE = 255.0
CHANNELS = ("red", "green", "blue")
# Brightness at which the noise-level function is listed.
LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
EXAMPLES = opt.epilog(
    "stbn analyze clip.mp4",
    "stbn analyze clip.mp4 --plot noise.png",
    "stbn analyze 'frames/%05d.png' --json",
)


@flattened
def analyze(
    source: opt.InputArg,
    part: RangeFlags,
    read: ReadFlags,
    plot: Annotated[
        Path | None,
        opt.option(
            opt.INPUT_OUTPUT,
            "--plot",
            metavar="FILE",
            help="Draw the noise by brightness, its autocorrelation and its level over time (.png, .svg or .pdf).",
            default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, opt.option(opt.INPUT_OUTPUT, "--overwrite", help="Replace the plot if it exists.")
    ] = False,
    quiet: opt.QuietOpt = False,
    json: Annotated[
        bool, opt.option(opt.LOGGING, "--json", help="Print one JSON document instead of the table.")
    ] = False,
) -> None:
    """Measure the noise of a video: how strong it is, of what kind, and which model `stbn denoise` will use."""
    if source == STANDARD_STREAM:
        raise OptionError(
            "stbn analyze has to read the video more than once, which a pipe does not allow. Name a file."
        )
    if not quiet:
        say_beginning(source, measuring=True)
    from stbn_cli.analysis.analysis import analyze as measure

    if plot is not None:
        from stbn_cli.analysis.plot import check_plot

        check_plot(plot, overwrite=overwrite)
    span = read.span(part)
    with FrameProgress(None, phase="analysing", quiet=quiet) as progress:
        found = measure(source, span, progress=progress)
    if plot is not None:
        from stbn_cli.analysis.plot import draw_plot

        draw_plot(found, plot)
        if not quiet:
            say(f"Wrote {plot}.")
    if json:
        show_json({"input": source, **describe(found)})
    else:
        show_table(_rows(found))
        for sentence in found.verdict.sentences:
            show_sentence(sentence)
        if found.verdict.hint is not None:
            show_sentence(found.verdict.hint)


def describe(found: "Analysis") -> dict[str, Any]:
    """As plain values; noise on the 0-255 scale."""
    return {
        **found.summary(),
        "verdict": list(found.verdict.sentences),
        "hint": found.verdict.hint,
        "width": found.width,
        "height": found.height,
        "frames_measured": found.frames,
        "bars": {side: getattr(found.bars, side) for side in ("top", "bottom", "left", "right")},
        "clipped": {"black": found.black, "white": found.white},
        "grid": found.grid,
        "repeated_frames": found.repeated,
        "nearly_repeated_frames": found.near_duplicates,
        "skipped_blocks": found.skipped,
        "runs": [_described_run(run) for run in found.runs],
    }


def _described_run(run: "RunAnalysis") -> dict[str, Any]:
    return {
        "first_frame": run.first_frame,
        "frames": run.frames,
        "level": run.level,
        "high_frequency_level": BYTE * run.noise.level,
        "variances": [[BYTE**2 * value for value in row] for row in run.measured.full.model.variances],
        "brightness": list(run.noise.brightness),
        "level_function": {
            name: [[BYTE * level, value] for level, value in zip(LEVELS, values, strict=True)]
            for name, values in zip(CHANNELS, _level_function(run), strict=True)
        },
        "reliable": run.measured.reliable,
        "correlated_level": BYTE * run.correlation.sigma,
        "correlation": {"luma": run.correlation.luma, "chroma": run.correlation.chroma},
        "autocorrelation": list(run.correlation.lags),
        "autocorrelation_of_colour": list(run.correlation.colour_lags),
        "correlation_length": run.correlation.length,
        "shared_with_next_frame": run.temporal_correlation,
    }


def _level_function(run: "RunAnalysis") -> list[list[float]]:
    import numpy as np

    return (BYTE * np.sqrt(run.measured.full.model.variances_at(np.array(LEVELS)))).tolist()


def _rows(found: "Analysis") -> list[tuple[str, str]]:
    run = found.typical
    levels = [part.level for part in found.runs]
    rows = [
        ("kind of noise", found.verdict.kind + (" (hardly any)" if found.verdict.faint else "")),
        ("noise level", f"{found.level:.3g} on the 0-255 scale"),
    ]
    if len(levels) > 1:
        places = zip(found.runs, levels, strict=True)
        rows.append(
            ("level from frame", ", ".join(f"{part.first_frame}: {level:.3g}" for part, level in places))
        )
    functions = _level_function(run)
    for name, values in zip(CHANNELS, functions, strict=True):
        listed = ", ".join(
            f"{BYTE * level:.0f}: {value:.3g}" for level, value in zip(LEVELS, values, strict=True)
        )
        rows.append((f"{name}, by brightness", listed))
    correlation = run.correlation
    if correlation.reliable:
        rows += [
            (
                "shared by neighbours",
                f"{correlation.luma:.2f} in brightness, {correlation.chroma:.2f} in colour",
            ),
            ("correlation length", f"{correlation.length:.1f} pixels (0.6: white)"),
        ]
    else:
        rows.append(
            (
                "shared by neighbours",
                "not seen from frame to frame: too few different frames, or too little noise",
            )
        )
    rows += [
        (
            "shared by frames",
            f"{100 * run.temporal_correlation:.0f} % of the noise comes again in the next frame",
        ),
        (
            "repeated frames",
            f"{100 * found.repeated:.0f} % the same, {100 * found.near_duplicates:.0f} % nearly",
        ),
        ("skipped blocks", f"{100 * found.skipped:.1f} %"),
        ("compression grid", f"{found.grid:.2f} (1: none)"),
        ("clipped", f"{100 * found.black:.1f} % black, {100 * found.white:.1f} % white"),
    ]
    bars = found.bars
    if bars.any:
        rows.append(
            ("borders", f"top {bars.top}, bottom {bars.bottom}, left {bars.left}, right {bars.right} pixels")
        )
    return rows
