"""Plots as SVG elements: well-formed, small, alike every time, and whole whatever the numbers and names are."""

import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.report.labels import Box, place_labels
from stbn_cli.report.model import Plot
from stbn_cli.report.plots import EDGE_NOTE, LONGEST_LABEL, has_curve, line_plot, scatter_plot
from stbn_cli.report.svg import CHANNELS

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def texts(plot: Plot) -> list[str]:
    """The text that a plot shows."""
    return [element.text or "" for element in ElementTree.fromstring(plot.svg).iter("text")]


def lines(series: dict[str, list[float]]) -> Plot:
    return line_plot("PSNR", "frame", "PSNR [dB]", series)


def points(values: dict[str, tuple[float, float]], log_x: bool = True) -> Plot:
    return scatter_plot("Speed", "seconds per frame", "PSNR [dB]", values, log_x=log_x)


def check(plot: Plot) -> None:
    """What holds for every plot."""
    root = ElementTree.fromstring(plot.svg)
    assert root.tag == "svg" and "viewBox" in root.attrib and "width" not in root.attrib
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    assert not re.search(r"http|#0[12]0[12]0|nan|inf", values)
    assert not {element.tag for element in root.iter()} & {"style", "metadata", "script", "image"}
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    references = {element.attrib["href"] for element in root.iter("use")} | set(
        re.findall(r"url\((#[^)]+)", plot.svg)
    )
    assert len(ids) == len(set(ids)) and {f"#{name}" for name in ids} == references


@settings(max_examples=8)
@given(st.dictionaries(st.text(max_size=50), st.lists(NUMBERS, max_size=12), max_size=4))
def test_any_series_can_be_drawn(series: dict[str, list[float]]) -> None:
    plot = lines(series)
    check(plot)
    assert plot.note == (
        EDGE_NOTE if any(math.isinf(x) for values in series.values() for x in values) else ""
    )


@settings(max_examples=8)
@given(st.dictionaries(st.text(max_size=50), st.tuples(NUMBERS, NUMBERS), max_size=4), st.booleans())
def test_any_points_can_be_drawn(values: dict[str, tuple[float, float]], log_x: bool) -> None:
    check(points(values, log_x))


def test_nothing_finite_is_said_so() -> None:
    for plot in (
        lines({}),
        lines({"a": []}),
        lines({"a": [math.nan] * 3}),
        points({}),
        points({"a": (0.0, 30.0)}),
    ):
        assert "No finite values" in texts(plot)
    assert "Without a place here: a." in points({"a": (0.0, 30.0)}).note
    assert "a" in texts(points({"a": (0.0, 30.0)}, log_x=False))


def test_infinities_of_both_signs_have_triangles() -> None:
    plot = lines({"a": [math.inf, -math.inf, 30.0, 31.0]})
    check(plot)
    assert plot.note == EDGE_NOTE


def test_a_value_between_gaps_has_a_mark() -> None:
    gaps = [30.0, math.nan, 31.0, math.nan, 32.0] + [math.nan] * 40 + [33.0]
    alone = ElementTree.fromstring(lines({"a": gaps}).svg)
    marks = [element for element in alone.iter("use") if "series-1" in element.attrib.get("style", "")]
    assert len(marks) == 4 + 1  # and the legend's


def test_names_are_shown_as_they_are() -> None:
    names = ["_hidden", "$x_1$", "<b>&", "雪.mkv", 'id="x" url(#y)', "#010101"]
    for plot in (
        lines({name: [30.0, 31.0] for name in names}),
        points(dict.fromkeys(names, (1.0, 30.0))),
    ):
        assert set(names) <= set(texts(plot))
    long = "clip_" + "x" * 100 + "_sigma30.mkv"
    shown = next(text for text in texts(lines({long: [1.0]})) if "…" in text)
    assert len(shown) <= LONGEST_LABEL and shown.startswith("clip_") and shown.endswith("_sigma30.mkv")
    assert "a\N{REPLACEMENT CHARACTER}b c" in texts(lines({"a\x01b\nc": [1.0]}))


def test_twelve_series_have_twelve_looks() -> None:
    plot = ElementTree.fromstring(
        lines({f"s{index}": [float(index), index + 1.0] for index in range(12)}).svg
    )
    marks = {}
    for group in plot.iter("g"):
        for use in group.findall("use"):
            marks[use.attrib["href"]] = None
    dashes = {
        re.sub(r".*?(stroke-dasharray: [^;]*|$).*", r"\1", path.attrib.get("style", ""))
        for path in plot.iter("path")
    }
    assert len(marks) >= 12 and len(dashes) >= 4


def test_drawing_is_repeatable_and_leaves_no_trace() -> None:
    before = dict(matplotlib.rcParams)
    series = {"a": [30.0, 31.0, math.inf], "b": [29.0, math.nan, 28.0]}
    first = lines(series), points({"a": (1.0, 30.0), "b": (1.1, 30.1)})
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "svg.hashsalt": "other"}):
        assert first == (lines(series), points({"a": (1.0, 30.0), "b": (1.1, 30.1)}))
    assert dict(matplotlib.rcParams) == before


def test_long_series_stay_small() -> None:
    frames = [30.0 + math.sin(index / 7.0) + (index * 7919 % 13) / 13.0 for index in range(2000)]
    assert len(lines({"a": frames}).svg) < 60_000


def test_the_legend_follows_the_lines() -> None:
    shown = texts(
        lines({"low": [1.0], "nothing": [math.nan], "high": [9.0], "equal": [math.inf], "mid": [5.0]})
    )
    assert [name for name in shown if name.isalpha() and name not in ("frame",)][-5:] == [
        "equal",
        "high",
        "mid",
        "low",
        "nothing",
    ]


@pytest.mark.parametrize("values", [[0.5], [0.51, 0.52], [0.004, 9.0], [1e-4, 2e3], [3.0, 3.0]])
def test_a_logarithmic_axis_always_has_ticks(values: list[float]) -> None:
    plot = points({f"s{index}": (value, 30.0 + index) for index, value in enumerate(values)})
    before_label = texts(plot)[: texts(plot).index("seconds per frame")]
    ticks = [float(text) for text in before_label]
    assert len(ticks) >= 2 and ticks == sorted(ticks)
    assert ticks[0] <= 2.5 * min(values) and max(values) <= 10.0 * ticks[-1]


def test_channels_have_their_own_colours() -> None:
    order = {"blue": [1.0, 2.0], "red": [3.0, 4.0], "other": [5.0, 6.0]}
    plot = line_plot("Mean", "frame", "levels", order, colors=CHANNELS)
    check(plot)
    used = set(re.findall(r"stroke: var\(--(series-[a-z0-9]+)\)", plot.svg))
    assert used == {"series-blue", "series-red", "series-3"}


def test_one_value_is_no_curve() -> None:
    assert not has_curve({"a": [30.0], "b": [math.nan, 31.0, math.inf]}) and not has_curve({})
    assert has_curve({"a": [30.0], "b": [30.0, math.nan, 31.0]})


def test_the_drawing_grows_with_its_legend() -> None:
    def height(names: list[str]) -> float:
        box = ElementTree.fromstring(lines({name: [1.0, 2.0] for name in names}).svg).attrib["viewBox"]
        return float(box.split()[3])

    assert height(["a"]) == height(["a", "b", "c"]) < height(["a", "b", "c", "d"])
    assert height(["x" * 30, "y" * 30, "z" * 30]) > height(["a", "b", "c"]) + 20


AREA = Box(0.0, 0.0, 480.0, 240.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), unique=True, max_size=10), st.data())
def test_labels_of_points_apart_cover_nothing(cells: list[tuple[int, int]], data: st.DataObject) -> None:
    jitter = st.floats(-4.0, 4.0)
    places = [(40 + 80 * x + data.draw(jitter), 30 + 60 * y + data.draw(jitter)) for x, y in cells]
    boxes = [placement.box for placement in place_labels(places, [(50.0, 10.0)] * len(places), AREA)]
    dots = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for index, box in enumerate(boxes):
        assert AREA.left <= box.left and box.right <= AREA.right
        assert AREA.bottom <= box.bottom and box.top <= AREA.top
        assert not any(box.overlap(other) for other in boxes[:index])
        assert not any(box.overlap(dot) for dot in dots)


def test_labels_of_one_place_spread() -> None:
    placements = place_labels([(240.0, 120.0)] * 8, [(50.0, 10.0)] * 8, AREA)
    boxes = [placement.box for placement in placements]
    assert not any(box.overlap(other) for index, box in enumerate(boxes) for other in boxes[:index])
