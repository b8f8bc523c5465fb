"""The results as tables of text, the same for the terminal and the report."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from stbn_cli.bench.published import PUBLISHED_SIGMAS, SOURCE, PublishedRow
from stbn_cli.bench.results import NOISY, Average, BenchResult, Estimate, Score, mebibytes
from stbn_cli.report.model import Table

NOTHING = "-"
PARTIAL_MARK = "*"


def quality_tables(result: BenchResult, titles: dict[str, str]) -> list[Table]:
    """PSNR, SSIM and temporal error, a column for each noise level and their mean; `titles`: of the methods."""
    averages = result.averages
    return [
        _by_sigma(
            result,
            averages,
            titles,
            "PSNR, dB",
            "Mean over frames, then clips; ± is the half-width of a 95 % interval over frames.",
            lambda row: row.psnr,
            digits=2,
            best=max,
        ),
        _by_sigma(result, averages, titles, "SSIM", "", lambda row: row.ssim, digits=4, best=max),
        _by_sigma(
            result,
            averages,
            titles,
            "Temporal error, 0-255 scale",
            "How much the error changes from frame to frame along the motion; lower is calmer.",
            lambda row: row.temporal_error,
            digits=2,
            best=min,
        ),
    ]


def cost_table(result: BenchResult, titles: dict[str, str]) -> Table:
    """Speed and memory over all noise levels."""
    groups: dict[str, list[Average]] = {}
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


def _by_sigma(
    result: BenchResult,
    averages: Sequence[Average],
    titles: dict[str, str],
    title: str,
    note: str,
    pick: Callable[[Average], Estimate | None],
    *,
    digits: int,
    best: Callable[[Sequence[float]], float],
) -> Table:
    found = {(row.method, row.sigma): row for row in averages}
    methods = list(dict.fromkeys(row.method for row in averages))
    means: list[list[float | None]] = []  # by method, by column
    rows = []
    for method in methods:
        estimates = [
            pick(found[method, sigma]) if (method, sigma) in found else None for sigma in result.sigmas
        ]
        partial = any(row.partial for row in averages if row.method == method)
        cells = [_estimate(estimate, digits) for estimate in estimates]
        known = [estimate.mean for estimate in estimates if estimate is not None]
        overall = fmean(known) if len(known) == len(result.sigmas) else None
        means.append([None if estimate is None else estimate.mean for estimate in estimates])
        if len(result.sigmas) > 1:
            cells.append(NOTHING if overall is None else _number(overall, digits))
            means[-1].append(overall)
        rows.append((titles[method] + PARTIAL_MARK * partial, *cells))
    columns = ["method", *(f"sigma {sigma:g}" for sigma in result.sigmas)]
    if len(result.sigmas) > 1:
        columns.append("mean")
    if any(row.partial for row in averages):
        note = f"{note} {PARTIAL_MARK} partial: {_partial_reason(result)}".strip()
    return Table(title, tuple(columns), tuple(rows), note, best=_best_cells(methods, means, best))


def _partial_reason(result: BenchResult) -> str:
    if result.missing:
        return f"{len(result.clips)} of {len(result.clips) + len(result.missing)} sequences were there."
    return "the method failed on some clips."


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
