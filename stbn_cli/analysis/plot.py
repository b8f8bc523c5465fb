"""The analysis as a picture: noise over brightness, autocorrelation, level over time."""

from pathlib import Path

import numpy as np

from stbn_cli.analysis.analysis import Analysis
from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import check_file, whole_file
from stbn_cli.scale import BYTE_SCALE

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#c0392b", "#27803b", "#2b5fc0")
NAMES = ("red", "green", "blue")
SIZE = (11.0, 3.4)  # inches
DOTS = 120  # per inch


def check_plot(path: Path, *, overwrite: bool) -> None:
    """Raises `OptionError` for a suffix that is none of SUFFIXES, `OutputError` where nothing can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--plot {path} has none of the suffixes {', '.join(SUFFIXES)}. Name it so.")
    check_file(path, overwrite=overwrite)


def draw_plot(found: Analysis, path: Path) -> None:
    """Write the plot; it appears whole or not at all. Raises `OutputError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    levels, lags, time = figure.subplots(1, 3)
    run = found.typical
    full = run.measured.full
    shown = np.linspace(0.0, 1.0, 101)
    seen = (shown >= run.noise.brightness[0]) & (shown <= run.noise.brightness[1])
    for channel, values in enumerate(BYTE_SCALE * np.sqrt(full.model.variances_at(shown))):
        levels.plot(BYTE_SCALE * shown, values, ":", color=COLOURS[channel], linewidth=0.8)
        levels.plot(BYTE_SCALE * shown[seen], values[seen], color=COLOURS[channel], label=NAMES[channel])
        # Points are of high frequencies; all of the noise is so many times as strong.
        scale = full.ratio if np.isfinite(full.ratio) else 1.0
        points = np.array([(x, scale * y) for number, x, y in run.noise.points if number == channel])
        points = points.reshape(-1, 2)
        levels.plot(*(BYTE_SCALE * points.T), ".", color=COLOURS[channel], markersize=2.5, alpha=0.5)
    levels.set(title="Noise over brightness", xlabel="brightness", ylabel="standard deviation")
    levels.set_ylim(bottom=0.0)
    levels.legend(frameon=False, fontsize="small")
    for part in found.runs:
        lags.plot(part.correlation.lags, ".-", color="#777777", linewidth=0.8)
    lags.axhline(0.0, color="#bbbbbb", linewidth=0.6)
    lags.set(
        title="Autocorrelation of the noise", xlabel="pixels apart", ylabel="correlation", ylim=(-0.35, 1.05)
    )
    frames = [part.first_frame for part in found.runs]
    time.plot(
        frames,
        [BYTE_SCALE * part.noise.level for part in found.runs],
        "o-",
        color="#444444",
        label="high frequencies",
    )
    time.plot(
        frames,
        [part.level for part in found.runs],
        "s--",
        color="#999999",
        label="all of it",
    )
    time.set(title="Noise over time", xlabel="frame", ylabel="standard deviation")
    time.set_ylim(bottom=0.0)
    time.legend(frameon=False, fontsize="small")
    try:
        with whole_file(path) as partial:
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=DOTS)
    except OSError as error:
        raise OutputError(f"The plot {str(path)!r} cannot be written ({error.strerror or error}).") from error
