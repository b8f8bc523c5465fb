"""The results as tables of text, the same for the terminal and the report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, Protocol, TypeVar

from stbn_cli.bench.crvd_results import CrvdResult
from stbn_cli.bench.published import PUBLISHED_ISOS, PUBLISHED_RAW, PUBLISHED_SIGMAS, SOURCE, PublishedRow
from stbn_cli.bench.results import NOISY, BenchResult, Estimate, Score, mebibytes
from stbn_cli.raw.crvd import CRVD_TEST_SCENES
from stbn_cli.raw.noise import CRVD_NOISE
from stbn_cli.report.model import Table

NOTHING = "-"
PARTIAL_MARK = "*"
METHOD_FAILED = "the method failed on some clips."
RENDERING_NOTE = (
    "Rendered plainly, alike for all (white balance 2.0, 1, 1.7, bilinear demosaicing, sRGB curve); papers render by a "
    "learned network, and their numbers are not comparable."
)


PSNR_NOTE = "Mean over frames, then clips; ± is the half-width of a 95 % interval over frames."


class LevelAverage(Protocol):
    """What tables know of an average: whose it is, and at which noise level or ISO."""

    @property
    def method(self) -> str: ...

    @property
    def level(self) -> float: ...

    @property
    def partial(self) -> bool: ...

    @property
    def frames_per_second(self) -> float | None: ...

    @property
    def peak_bytes(self) -> int | None: ...

    @property
    def device_bytes(self) -> int | None: ...


Row = TypeVar("Row", bound=LevelAverage)


def quality_tables(result: BenchResult, titles: dict[str, str]) -> list[Table]:
    """PSNR, SSIM and temporal error, a column for each noise level and their mean; `titles`: of the methods."""
    there = f"{len(result.clips)} of {len(result.clips) + len(result.missing)} sequences were there."
    columns = _Columns(
        result.averages,
        {sigma: f"sigma {sigma:g}" for sigma in result.sigmas},
        titles,
        there if result.missing else METHOD_FAILED,
    )
    return [
        columns.table("PSNR, dB", PSNR_NOTE, lambda row: row.psnr, digits=2, best=max),
        columns.table("SSIM", "", lambda row: row.ssim, digits=4, best=max),
        columns.table(
            "Temporal error, 0-255 scale",
            "How much the error changes from frame to frame along the motion; lower is calmer.",
            lambda row: row.temporal_error,
            digits=2,
            best=min,
        ),
    ]


def crvd_tables(result: CrvdResult, titles: dict[str, str]) -> list[Table]:
    """PSNR and SSIM on raw values and on the rendered picture, a column for each ISO and their mean."""
    columns = _Columns(
        result.averages,
        {iso: f"ISO {iso}" for iso in result.isos},
        titles,
        f"{len(result.missing)} of {len(CRVD_TEST_SCENES) * len(CRVD_NOISE)} parts are missing or incomplete."
        if result.missing
        else METHOD_FAILED,
    )
    return [
        columns.table(
            "PSNR on raw, dB",
            f"After rounding to 12 bits. {PSNR_NOTE}",
            lambda row: row.psnr,
            digits=2,
            best=max,
        ),
        columns.table(
            "SSIM on raw",
            "Window of 7x7, range 1, mean of the four planes; not comparable with what the STBN paper has.",
            lambda row: row.ssim,
            digits=4,
            best=max,
        ),
        columns.table("PSNR on sRGB, dB", RENDERING_NOTE, lambda row: row.rgb_psnr, digits=2, best=max),
        columns.table("SSIM on sRGB", "Window of 7x7.", lambda row: row.rgb_ssim, digits=4, best=max),
    ]


def cost_table(result: BenchResult | CrvdResult, titles: dict[str, str]) -> Table:
    """Speed and memory over all noise levels."""
    groups: dict[str, list[LevelAverage]] = {}
    for row in result.averages:
        if row.frames_per_second is not None:
            groups.setdefault(row.method, []).append(row)
    rows = []
    for method, averages in groups.items():
        speed = len(averages) / sum(1.0 / row.frames_per_second for row in averages if row.frames_per_second)
        host = max((row.peak_bytes for row in averages if row.peak_bytes), default=None)
        device = max((row.device_bytes for row in averages if row.device_bytes), default=None)
        cells = (f"{speed:.3g}", _size(host), _size(device))
        rows.append((titles[method], *cells))
    return Table(
        "Speed and memory",
        ("method", "frames/s", "peak memory, MiB", "GPU memory, MiB"),
        tuple(rows),
        "Frames in memory to frames in memory, after a warm-up; every method in a process of its own, whose peak holds "
        "its libraries and the clip.",
    )


def clip_tables(result: BenchResult, titles: dict[str, str]) -> list[Table]:
    """PSNR of each clip, a table for each noise level; nothing for one clip."""
    if len(result.clips) < 2:
        return []
    tables = []
    for sigma in result.sigmas:
        here = {(score.method, score.clip): score for score in result.scores if score.sigma == sigma}
        methods = dict.fromkeys(method for method, _ in here)

        def cell(method: str, clip: str, found: dict[tuple[str, str], Score] = here) -> str:
            return _number(fmean(found[method, clip].psnr), 2) if (method, clip) in found else NOTHING

        rows = tuple((titles[method], *(cell(method, clip) for clip in result.clips)) for method in methods)
        tables.append(Table(f"PSNR at sigma {sigma:g}, dB", ("method", *result.clips), rows))
    return tables


def published_table(rows: Sequence[PublishedRow], title: str) -> Table:
    """Numbers of papers, marked as quoted."""
    cells = tuple((row.method, *(f"{value:.2f}" for value in row.psnr), row.note) for row in rows)
    columns = ("method", *(f"sigma {sigma}" for sigma in PUBLISHED_SIGMAS), "")
    return Table(f"Quoted, not measured: PSNR on {title}, dB", columns, cells, SOURCE)


def published_crvd_table() -> Table:
    """The same on CRVD's raw values."""
    rows = [
        (row.method, *(f"{value:.2f}" for value in (*row.psnr, fmean(row.psnr))), row.note)
        for row in PUBLISHED_RAW
    ]
    columns = ("method", *(f"ISO {iso}" for iso in PUBLISHED_ISOS), "mean", "")
    note = f"{SOURCE} The published code cuts off fractions where this rounds."
    return Table("Quoted, not measured: PSNR on raw of CRVD, dB", columns, tuple(rows), note)


@dataclass(frozen=True, slots=True)
class _Columns(Generic[Row]):
    """Makes tables with a row for each method, and a column for each level and for their mean."""

    averages: Sequence[Row]
    levels: Mapping[float, str]  # what the columns are called
    titles: dict[str, str]  # of the methods
    partial_reason: str

    def table(
        self,
        title: str,
        note: str,
        pick: Callable[[Row], Estimate | None],
        *,
        digits: int,
        best: Callable[[Sequence[float]], float],
    ) -> Table:
        """The table of one measure."""
        found = {(row.method, row.level): row for row in self.averages}
        methods = list(dict.fromkeys(row.method for row in self.averages))
        means: list[list[float | None]] = []  # by method, by column
        rows = []
        for method in methods:
            here = [found.get((method, level)) for level in self.levels]
            estimates = [None if row is None else pick(row) for row in here]
            partial = any(row.partial for row in self.averages if row.method == method)
            cells = [_estimate(estimate, digits) for estimate in estimates]
            known = [estimate.mean for estimate in estimates if estimate is not None]
            overall = fmean(known) if len(known) == len(self.levels) else None
            means.append([None if estimate is None else estimate.mean for estimate in estimates])
            if len(self.levels) > 1:
                cells.append(NOTHING if overall is None else _number(overall, digits))
                means[-1].append(overall)
            rows.append((self.titles[method] + PARTIAL_MARK * partial, *cells))
        columns = ["method", *self.levels.values()]
        if len(self.levels) > 1:
            columns.append("mean")
        if any(row.partial for row in self.averages):
            note = f"{note} {PARTIAL_MARK} partial: {self.partial_reason}".strip()
        return Table(title, tuple(columns), tuple(rows), note, best=_best_cells(methods, means, best))


def _best_cells(
    methods: Sequence[str], means: Sequence[Sequence[float | None]], best: Callable[[Sequence[float]], float]
) -> tuple[tuple[int, int], ...]:
    """The best denoiser of each column, where there are several to choose from."""
    cells = []
    for column in range(len(means[0]) if means else 0):
        values = {}
        for row, method in enumerate(methods):
            value = means[row][column]
            if method != NOISY and value is not None and math.isfinite(value):
                values[row] = value
        if len(values) > 1:
            winner = best(list(values.values()))
            cells += [(row, column + 1) for row, value in values.items() if value == winner]
    return tuple(cells)


def _estimate(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return NOTHING
    margin = "" if estimate.margin is None else f" ±{estimate.margin:.{digits}f}"
    return _number(estimate.mean, digits) + margin


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _size(size: int | None) -> str:
    value = mebibytes(size)
    return NOTHING if value is None else f"{value:.0f}"
