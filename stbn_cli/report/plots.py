"""Plots of a report, drawn by Matplotlib as SVG: no display, no pyplot, and no say for the user's matplotlibrc."""

import io
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from stbn_cli.report.labels import Box, place_labels
from stbn_cli.report.model import Plot
from stbn_cli.report.svg import FAINT, INK, MUTED, PAGE, SERIES, inline_svg

# Inches of POINTS points, without the legend: small enough that text is legible on a phone of 380 pixels.
SIZE = (4.6, 2.9)
LEGEND_COLUMNS = (3, 2, 1)
POINTS = 72
FONT_SIZE = 9.0  # points
LONGEST_LABEL = 30  # characters
MARKS_PER_LINE = 8
# Numbers of colours, dashes and markers with a long common period: 132 series before a look repeats.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 1.8, 1.2, 1.8)))
MARKERS: tuple[Any, ...] = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", (6, 1, 0))
EDGE_NOTE = "Triangles at the edge stand for infinite values."
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stbn",
    "font.size": FONT_SIZE,
    "text.color": INK,
    # Names of files may hold dollar signs.
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_SIZE,
    "axes.titlepad": 10.0,
    "axes.formatter.useoffset": False,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "legend.borderaxespad": 0.0,
    "path.simplify_threshold": 0.25,
}


def has_curve(series: Mapping[str, Sequence[float]]) -> bool:
    """Whether a line plot would show a line: two finite values or more in some of `series`."""
    return any(np.isfinite(np.asarray(values, np.float64)).sum() > 1 for values in series.values())


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[float]],
    *,
    colors: Mapping[str, str] | None = None,
    note: str = "",
) -> Plot:
    """Values over their index from 0, such as the PSNR of every frame; a line for each of `series`, any length.

    `colors`: of `svg`, by series; the others take the next of its own. NaN leaves a gap; infinite values are triangles
    at the upper or lower edge. The legend is in the order of the means, the highest first, as the lines mostly are.
    """
    values = {name: np.asarray(numbers, np.float64) for name, numbers in series.items()}
    with _axes(x_label, y_label) as (figure, axes):
        handles = {
            name: _draw_line(
                axes, _look(number, (colors or {}).get(name)), values[name], number / len(series)
            )
            for number, name in enumerate(series)
        }
        last = max((len(numbers) for numbers in values.values()), default=1) - 1
        margin = max(0.5, 0.02 * last)
        axes.set_xlim(-margin, max(0, last) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
        if not any(np.isfinite(numbers).any() for numbers in values.values()):
            _say_empty(axes)
        _draw_legend(
            figure, {name: handles[name] for name in sorted(values, key=lambda name: -_mean(values[name]))}
        )
        svg = _svg(figure)
    if any(np.isinf(numbers).any() for numbers in values.values()):
        note = f"{note} {EDGE_NOTE}".lstrip()
    means = "; ".join(f"{name}: mean {_mean(numbers):.4g}" for name, numbers in values.items())
    return Plot(title, svg, f"{y_label} over {x_label}. {means}", note)


def scatter_plot(
    title: str,
    x_label: str,
    y_label: str,
    points: Mapping[str, tuple[float, float]],
    *,
    log_x: bool = True,
    note: str = "",
) -> Plot:
    """Labelled points `(x, y)`, such as quality against seconds per frame.

    Points that have no place (infinite, NaN, or not above 0 on a logarithmic axis) are named in the note instead.
    """
    drawn = {
        name: (look, x, y)
        for look, (name, (x, y)) in enumerate(points.items())
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)
    }
    with _axes(x_label, y_label) as (figure, axes):
        axes.grid()
        axes.margins(0.08, 0.12)
        for look, x, y in drawn.values():
            axes.plot(x, y, **_look(look) | {"markersize": 7.0, "linestyle": "none"})
        if log_x:
            _scale_by_ratio(axes, [x for _, x, _ in drawn.values()])
        if drawn:
            _label_points(figure, axes, {name: (x, y) for name, (_, x, y) in drawn.items()})
        else:
            _say_empty(axes)
        svg = _svg(figure)
    missing = ", ".join(name for name in points if name not in drawn)
    if missing:
        note = f"{note} Without a place here: {missing}.".lstrip()
    listed = "; ".join(f"{name}: {x:.4g}, {y:.4g}" for name, (_, x, y) in drawn.items())
    return Plot(title, svg, f"{y_label} against {x_label}. {listed}", note)


@contextmanager
def _axes(x_label: str, y_label: str) -> Iterator[tuple[Figure, Axes]]:
    """An empty drawing, to be finished within the context: there Matplotlib's (global) settings are ours."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # Texts are measured in Matplotlib's font and shown in the reader's, which may well have the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=SIZE, dpi=POINTS, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_xlabel(_printable(x_label))
        axes.set_title(_printable(y_label))
        yield figure, axes


def _draw_line(axes: Axes, style: dict[str, Any], values: np.ndarray, offset: float) -> Line2D:
    """`offset`: of its marks, in parts of their distance, so that those of several lines do not cover each other."""
    finite = np.isfinite(values)
    # A value between two gaps has no line to show it.
    beside = np.pad(finite, 1)
    marked = finite & ~beside[:-2] & ~beside[2:]
    spacing = max(1, len(values) // MARKS_PER_LINE)
    marked[int(offset * spacing) :: spacing] = True
    (line,) = axes.plot(np.where(finite, values, np.nan), **style, markevery=np.flatnonzero(marked).tolist())
    for sign, height, marker in ((1.0, 1.0, "^"), (-1.0, 0.0, "v")):
        places = np.flatnonzero(values == sign * math.inf)
        if places.size:
            heights = np.full(places.size, height)
            edge = style | {"marker": marker, "linestyle": "none", "markersize": 6.0}
            axes.plot(places, heights, **edge, transform=axes.get_xaxis_transform(), clip_on=False)
    return line


def _look(number: int, color: str | None = None) -> dict[str, Any]:
    """Colour (`color` if given), dashes and marker of the series of this number.

    A thin edge sets markers off from what they cross.
    """
    return {
        "color": color or SERIES[number % len(SERIES)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markeredgecolor": PAGE,
        "markeredgewidth": 0.6,
    }


def _draw_legend(figure: Figure, handles: Mapping[str, Line2D]) -> None:
    """Below the axes, in as many columns as fit; the figure grows by its height."""
    width, height = figure.get_size_inches()
    legend_height = 0.0
    for columns in LEGEND_COLUMNS:
        # Matplotlib leaves names with a leading underscore out; set afterwards, they are as good as any other.
        legend = figure.legend(
            list(handles.values()), ["-"] * len(handles), loc="outside lower left", ncols=columns
        )
        for text, name in zip(legend.get_texts(), handles, strict=True):
            text.set_text(_printable(name))
        extent = legend.get_window_extent()
        legend_height = extent.height / POINTS
        if extent.width <= POINTS * width or columns == LEGEND_COLUMNS[-1]:
            break
        legend.remove()
    figure.set_size_inches(width, height + legend_height)


def _scale_by_ratio(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis around `values`, at least a decade long, with ticks at 1, 2 and 5 written out."""
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (-1.0, 1.0)
    margin = max(0.1 * (high - low), (1.0 - (high - low)) / 2)
    low, high = low - margin, high + margin
    steps = (1, 2, 5) if high - low < 3.0 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**decade for decade, step in itertools.product(decades, steps)]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:.6g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(10.0**low, 10.0**high)


def _label_points(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what was measured is to stay where it is
    texts = [axes.text(0.0, 0.0, _printable(name), transform=None) for name in points]
    sizes = [(extent.width, extent.height) for extent in (text.get_window_extent() for text in texts)]
    places = [tuple(place) for place in axes.transData.transform(list(points.values()))]
    frame = axes.get_window_extent()
    area = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    for text, place, label in zip(texts, places, place_labels(places, sizes, area), strict=True):
        text.set(x=label.x, y=label.y, ha=label.horizontal, va=label.vertical)
        if label.far:
            end = (min(max(place[0], label.box.left), label.box.right), label.y)
            line = Line2D(
                *zip(place, end, strict=True), color=MUTED, linewidth=0.6, transform=None, zorder=1.5
            )
            axes.add_artist(line)


def _say_empty(axes: Axes) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "No finite values", color=MUTED, ha="center", transform=axes.transAxes)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return inline_svg(buffer.getvalue())


def _mean(values: np.ndarray) -> float:
    """The mean without NaN; -inf where nothing is left, or where infinities cancel."""
    known = values[~np.isnan(values)]
    with np.errstate(invalid="ignore"):
        mean = float(known.mean()) if known.size else -math.inf
    return -math.inf if math.isnan(mean) else mean


def _printable(text: str) -> str:
    """`text` as one line that XML can hold, its middle left out if it is long."""
    line = " ".join(text.split())
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )
    if len(line) <= LONGEST_LABEL:
        return line
    half = LONGEST_LABEL // 2
    return f"{line[: half - 1]}…{line[-half:]}"
