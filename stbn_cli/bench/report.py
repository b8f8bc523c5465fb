"""The results as a report page."""

from statistics import fmean

from stbn_cli.bench.artifacts import CropKeeper
from stbn_cli.bench.results import NOISY, BenchResult, Score
from stbn_cli.bench.tables import clip_tables, cost_table, quality_tables
from stbn_cli.report.model import CropSet, Picture, Plot, Report, Table
from stbn_cli.report.plots import has_curve, line_plot, scatter_plot


def build_report(
    result: BenchResult, titles: dict[str, str], crops: CropKeeper, quoted: Table | None
) -> Report:
    """A page of tables, plots and crops; `titles`: of the methods."""
    tables = [*quality_tables(result, titles), cost_table(result, titles), *clip_tables(result, titles)]
    if quoted is not None:
        tables.append(quoted)
    return Report(
        title=f"stbn bench: {result.title}",
        summary=_summary(result),
        facts=tuple((name, str(value)) for name, value in _facts(result)),
        tables=tuple(tables),
        plots=(*_frame_plots(result, titles), *_cost_plots(result, titles)),
        crop_sets=tuple(_crop_sets(result, titles, crops)),
    )


def _summary(result: BenchResult) -> tuple[str, ...]:
    levels = ", ".join(f"{sigma:g}" for sigma in result.sigmas)
    sentences = [
        f"White Gaussian noise of known standard deviation {levels} (0-255 scale) was added to "
        f"{', '.join(result.clips)} (at most {result.maximum_frames} frames of each): one draw of the whole clip on "
        f"the CPU with seed {result.seed}, not clipped. Every method got the same noisy frames. Estimates are "
        "clipped to [0, 1] and not rounded; PSNR (over all channels) and SSIM are averaged over frames, then clips."
    ]
    if result.missing:
        sentences.append(f"Partial: these sequences were not there: {', '.join(result.missing)}.")
    failed = dict.fromkeys(failure.reason for failure in result.failures)
    return (*sentences, *failed)


def _facts(result: BenchResult) -> list[tuple[str, object]]:
    facts = list(result.environment.items())
    first: dict[str, Score] = {}
    for score in result.scores:
        if score.details:
            first.setdefault(f"{score.method} at sigma {score.sigma:g}", score)
    details = [
        (name, ", ".join(f"{k} {v}" for k, v in score.details.items())) for name, score in first.items()
    ]
    return [*facts, *details]


def _frame_plots(result: BenchResult, titles: dict[str, str]) -> list[Plot]:
    """PSNR of every frame, a plot for each clip at the middle noise level."""
    sigma = result.sigmas[len(result.sigmas) // 2]
    plots = []
    for clip in result.clips:
        here = [score for score in result.scores if (score.clip, score.sigma) == (clip, sigma)]
        series = {titles[score.method]: score.psnr for score in here if score.method != NOISY}
        if has_curve(series):
            plots.append(line_plot(f"Frame by frame: {clip}, sigma {sigma:g}", "frame", "PSNR, dB", series))
    return plots


def _cost_plots(result: BenchResult, titles: dict[str, str]) -> list[Plot]:
    """Quality against time over everything that was measured."""
    groups: dict[str, list[Score]] = {}
    for score in result.scores:
        if score.seconds is not None:
            groups.setdefault(score.method, []).append(score)
    points = {}
    for method, scores in groups.items():
        seconds = sum(score.seconds or 0.0 for score in scores) / sum(score.frames for score in scores)
        points[titles[method]] = (seconds, fmean(fmean(score.psnr) for score in scores))
    if len(points) < 2:
        return []
    note = "Mean over all clips and noise levels; up and to the left is better."
    return [
        scatter_plot("Quality against time", "seconds per frame", "PSNR, dB", points, log_x=True, note=note)
    ]


def _crop_sets(result: BenchResult, titles: dict[str, str], crops: CropKeeper) -> list[CropSet]:
    scores = {(score.clip, score.sigma, score.method): score for score in result.scores}
    sets = []
    for (clip, sigma), pictures in crops.sets.items():
        frame = crops.frame[clip]
        shown = []
        for method, image in pictures.items():
            score = scores.get((clip, sigma, method))
            caption = "" if score is None else f"{score.psnr[frame]:.2f} dB in this frame"
            shown.append(Picture(titles.get(method, method), image, caption))
        labels = list(pictures)
        right = next((i for i, name in enumerate(labels) if name not in ("clean", NOISY)), len(labels) - 1)
        title = f"{clip}, sigma {sigma:g}, frame {frame}"
        sets.append(CropSet(title, tuple(shown), left=labels.index(NOISY), right=right))
    return sets
