"""A report with one of everything, for the tests that need a page."""

import math

import numpy as np
import pytest

from stbn_cli.report.crops import encode_picture
from stbn_cli.report.model import CropSet, Picture, Report, Table
from stbn_cli.report.plots import line_plot, scatter_plot
from stbn_cli.report.svg import CHANNELS

# What a file name may hold, and what HTML, SVG, Matplotlib or CSS might take for something else.
NASTY = "</script><b onclick=\"x('&amp;')\">_$x^2$ {{ 7*7 }} é 雪.mkv"
COLORS = {"red": (255, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 255)}
PICTURE_WIDTH, PICTURE_HEIGHT = 200, 100


def _crops(title: str, names: dict[str, tuple[int, int, int]]) -> CropSet:
    shape = (PICTURE_HEIGHT, PICTURE_WIDTH, 3)
    plain = {name: np.full(shape, rgb, np.uint8) for name, rgb in names.items()}
    pictures = (Picture(name, encode_picture(rgb), f"{name}!") for name, rgb in plain.items())
    return CropSet(title, tuple(pictures), note="A note on crops.")


@pytest.fixture(scope="session")
def report() -> Report:
    """Two tables (one much wider than a phone), three plots and two sets of pictures."""
    # Six methods: as many as there are colours.
    methods = ("noisy", "nlmeans", "BM3D", "STBN", "a_method_with_a_name_that_does_not_end_soon", NASTY)
    columns = ("Method", *(f"column {number}" for number in range(12)))
    rows = tuple(
        (method, *(f"{20 + row}.{column:02d}" for column in range(12))) for row, method in enumerate(methods)
    )
    frames = {method: [20.0 + row, math.nan, 22.5, math.inf] for row, method in enumerate(methods)}
    speeds = {method: (0.1 * 3**row, 20.0 + row) for row, method in enumerate(methods)}
    return Report(
        title=f"Report on {NASTY}",
        summary=("A sentence.", "Another."),
        facts=(("command", f"stbn bench '{NASTY}' " + "--sigma 10 " * 40), ("seed", "0")),
        tables=(
            Table("PSNR", columns, rows, "Bold: the best.", best=((3, 1), (3, 2))),
            Table("Notes", ("Method", "What"), (("nlmeans", "patches"),), numeric=False),
        ),
        plots=(
            line_plot("PSNR of every frame", "frame", "PSNR [dB]", frames),
            scatter_plot("Speed", "seconds per frame", "PSNR [dB]", speeds),
            line_plot(
                "Channels", "frame", "levels", {name: [1.0, 2.0] for name in CHANNELS}, colors=CHANNELS
            ),
        ),
        crop_sets=(_crops("Colours", COLORS), _crops(NASTY, {NASTY: (9, 9, 9), "white": (255, 255, 255)})),
    )
