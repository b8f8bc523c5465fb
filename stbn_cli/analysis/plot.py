"""The analysis as a picture: noise over brightness, autocorrelation of brightness and colour, level over time."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stbn_cli.analysis.analysis import Analysis, RunAnalysis
from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import check_file, whole_file
from stbn_cli.noise.correlation import WHITE_CHROMA
from stbn_cli.noise.measurement import median_correlation
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#c0392b", "#27803b", "#2b5fc0")
NAMES = ("red", "green", "blue")
BRIGHTNESS, COLOUR, FAINT = "#333333", "#a0359c", "#bbbbbb"
PANEL = (4.2, 3.7)  # inches
DOTS = 120  # per inch
# High frequencies tell of all the noise where both differ by no more than this part.
SAME = 0.05
# Standard deviations above this many times the fitted one are mostly the picture's.
TEXTURE = 1.15
HEADROOM = 1.25  # of an axis, for its legend


def check_plot(path: Path, *, overwrite: bool) -> None:
    """Raises `OptionError` for a suffix that is none of SUFFIXES, `OutputError` where nothing can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--plot {path} has none of the suffixes {', '.join(SUFFIXES)}. Name it so.")
    check_file(path, overwrite=overwrite)


def draw_plot(found: Analysis, path: Path) -> None:
    """Write the plot; it appears whole or not at all. Raises `OutputError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A single run is a dot, and no course over time.
    panels = 3 if len(found.runs) > 1 else 2
    figure = Figure(figsize=(panels * PANEL[0], PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    levels, lags, *rest = figure.subplots(1, panels)
    _draw_levels(levels, found.typical)
    _draw_lags(lags, found)
    for axes in rest:
        _draw_time(axes, found)
    try:
        with whole_file(path) as partial:
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DOTS)
    except OSError as error:
        raise OutputError(f"The plot {str(path)!r} cannot be written ({error.strerror or error}).") from error


def _is_seen_whole(run: RunAnalysis) -> bool:
    """Whether high frequencies tell of all the noise."""
    full = run.measured.full
    return abs(full.ratio - 1.0) <= SAME or not np.isfinite(full.ratio)


def _draw_levels(axes: "Axes", run: RunAnalysis) -> None:
    """What was measured at high frequencies as dots, the function fitted to them, and that of all the noise."""
    full, whole = run.measured.full, _is_seen_whole(run)
    scale = full.ratio if whole and np.isfinite(full.ratio) else 1.0
    fitted = run.noise.model.scaled(scale)
    for channel, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        points = np.array([(x, scale * y) for number, x, y in run.noise.points if number == channel])
        x, y = points.reshape(-1, 2).T
        kept = y <= TEXTURE * np.sqrt(fitted.variances_at(x)[channel])
        axes.plot(BYTE_SCALE * x[~kept], BYTE_SCALE * y[~kept], ".", color=colour, markersize=3.0, alpha=0.15)
        axes.plot(BYTE_SCALE * x[kept], BYTE_SCALE * y[kept], ".", color=colour, markersize=3.0, alpha=0.6)
        axes.plot([], [], "o", color=colour, markersize=4.0, label=name)
    if run.noise.points:
        _draw_function(axes, run, fitted, "" if whole else "high frequencies alone", "-")
    if not whole or not run.noise.points:
        _draw_function(axes, run, full.model, "all of the noise", "--")
    axes.set(
        title="Noise over brightness",
        xlabel="brightness\n(dotted: not in the clip; pale: taken for texture)",
        ylabel="standard deviation, 0-255 scale",
    )
    axes.set_ylim(0.0, HEADROOM * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize="small", loc="upper left", ncols=3)


def _draw_function(axes: "Axes", run: RunAnalysis, model: NoiseLevelFunction, name: str, dashes: str) -> None:
    """A line for each channel, or one where the function has one for all; `name` stands above its end."""
    shown = np.linspace(0.0, 1.0, 101)
    seen = (shown >= run.noise.brightness[0]) & (shown <= run.noise.brightness[1])
    curves = BYTE_SCALE * np.sqrt(model.variances_at(shown))
    own = len(model.variances) > 1
    for channel in range(len(curves) if own else 1):
        colour = COLOURS[channel] if own else BRIGHTNESS
        axes.plot(BYTE_SCALE * shown, curves[channel], ":", color=colour, linewidth=0.8)
        axes.plot(BYTE_SCALE * shown[seen], curves[channel][seen], dashes, color=colour, linewidth=1.5)
    axes.annotate(
        name,
        (BYTE_SCALE, float(curves[:, -1].max())),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize="small",
    )


def _draw_lags(axes: "Axes", found: Analysis) -> None:
    """The autocorrelation of brightness and of colour; the typical run's strong, the others' weak."""
    luma, chroma = median_correlation([run.measured for run in found.runs])
    axes.axhspan(-WHITE_CHROMA, WHITE_CHROMA, color="#eeeeee", label="independent noise")
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    known = False
    for run in found.runs:
        correlation, is_typical = run.correlation, run is found.typical
        for values, colour, name, number in (
            (correlation.lags, BRIGHTNESS, "brightness", luma),
            (correlation.colour_lags, COLOUR, "colour", chroma),
        ):
            known = known or bool(values)
            axes.plot(
                values,
                ".-",
                color=colour,
                linewidth=1.5 if is_typical else 0.7,
                alpha=1.0 if is_typical else 0.4,
                label=f"{name}, neighbours share {number:.2f}" if is_typical and values else None,
            )
    axes.set(
        title="Autocorrelation of the noise", xlabel="pixels apart", ylabel="correlation", ylim=(-0.35, 1.05)
    )
    if known:
        axes.legend(frameon=False, fontsize="small", loc="upper right")
    else:
        axes.text(
            0.5,
            0.6,
            "Unknown: too few different frames,\nor too little noise.",
            ha="center",
            transform=axes.transAxes,
        )


def _draw_time(axes: "Axes", found: Analysis) -> None:
    """The level of every run, and what high frequencies show of it where that is less."""
    frames = [run.first_frame for run in found.runs]
    axes.plot(frames, [run.level for run in found.runs], "o-", color=BRIGHTNESS, label="all of the noise")
    if not all(map(_is_seen_whole, found.runs)):
        values = [BYTE_SCALE * run.noise.level for run in found.runs]
        axes.plot(frames, values, "s--", color="#888888", label="high frequencies alone")
    axes.set(title="Noise over time", xlabel="frame", ylabel="standard deviation, 0-255 scale")
    axes.set_ylim(0.0, HEADROOM * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize="small", loc="upper left")
