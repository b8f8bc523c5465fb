"""The noise of a clip, measured all over it: how strong at which brightness, how related, of what kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stbn_cli.analysis.picture import (
    Bars,
    clipped_shares,
    find_bars,
    find_repeats,
    grid_strength,
    without_bars,
)
from stbn_cli.analysis.verdict import Evidence, Verdict, judge
from stbn_cli.errors import InputError
from stbn_cli.noise.correlation import NoiseCorrelation, measure_correlation
from stbn_cli.noise.levelfunction import NoiseEstimate, estimate_noise
from stbn_cli.runs import Clip, Run, Span, runs_of_clip

RUN_FRAMES = 8
MOST_RUNS = 12
SMALLEST_SIDE = 16
# Bits of a pixel below which a coder has to leave traces: 0.5 is 6.5 Mbit/s for 960x540 at 25 frames a second.
LOSSY_BITS = 2.0
# Codecs without loss, or with so little that noise stays what it is.
FAITHFUL_CODECS = frozenset(
    {"ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "v210", "prores", "dnxhd"}
)
FEWEST_FRAMES = 2  # of a run, to tell noise from picture


@dataclass(frozen=True, slots=True)
class RunAnalysis:
    """What was found in consecutive frames of one scene."""

    first_frame: int  # about, where the file was not read from its start
    frames: int
    noise: NoiseEstimate
    correlation: NoiseCorrelation
    held: float  # share of the noise's variance that a frame has in common with the next; 0 if it is new


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in a clip; noise on the [0, 1] scale."""

    width: int
    height: int
    frames: int  # looked at
    runs: tuple[RunAnalysis, ...]
    bars: Bars
    black: float  # share of values
    white: float
    grid: float  # 1: no grid of 8 pixels is seen
    repeated: float  # share of frames that are equal to the one before
    alike: float  # share of frames that nearly are
    skipped: float  # share of blocks that are equal to those of the frame before, though the frame is not
    verdict: Verdict

    @property
    def typical(self) -> RunAnalysis:
        """The run of median noise."""
        order = sorted(self.runs, key=lambda run: run.noise.level)
        return order[(len(order) - 1) // 2]

    @property
    def level(self) -> float:
        """Noise of the typical run."""
        run = self.typical
        return max(run.noise.level, run.correlation.level if run.correlation.reliable else 0.0)


def analyze(
    clip: Clip,
    span: Span | None = None,
    *,
    most_runs: int = MOST_RUNS,
    progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Measure the noise of a video file, images, or frames `(T, H, W, 3)`: up to `most_runs` runs all over it.

    progress: called with the number of frames looked at so far. Raises `InputError` if the clip cannot be read or is
    smaller than SMALLEST_SIDE; `ValueError` for arrays that are no frames.
    """
    runs: list[RunAnalysis] = []
    pictures: list[tuple[int, Bars, tuple[float, float], float]] = []
    totals = np.zeros(4)  # pairs, same, alike, skipped blocks' share times pairs
    size, seen = (0, 0), 0
    for run in _chosen_runs(clip, span or Span(), most_runs):
        size = (run.frames.shape[-1], run.frames.shape[-2])
        seen += len(run.frames)
        bars = find_bars(run.frames)
        inside = without_bars(run.frames, bars)
        pictures.append((len(run.frames), bars, clipped_shares(inside), grid_strength(inside)))
        repeats = find_repeats(inside)
        totals += (repeats.pairs, repeats.same, repeats.alike, repeats.skipped * repeats.pairs)
        if len(run.frames) >= FEWEST_FRAMES or not runs:
            runs.append(_analyze_run(run.first, inside.permute(0, 2, 3, 1).numpy()))
        if progress is not None:
            progress(seen)
    if not runs:
        raise InputError("No frames could be read. Check the clip.")
    weights = np.array([count for count, *_ in pictures], float) / seen
    black, white = (sum(w * part[2][i] for w, part in zip(weights, pictures, strict=True)) for i in (0, 1))
    pairs = max(totals[0], 1.0)
    grid = float(np.median([strength for *_, strength in pictures]))
    evidence = Evidence(
        runs=tuple((run.noise, run.correlation) for run in runs),
        skipped=float(totals[3] / pairs),
        grid=grid,
        held=float(np.median([run.held for run in runs])),
        lossy=_is_lossy(clip, size),
    )
    return Analysis(
        width=size[0],
        height=size[1],
        frames=seen,
        runs=tuple(runs),
        bars=Bars(
            *(min(getattr(part[1], side) for part in pictures) for side in ("top", "bottom", "left", "right"))
        ),
        black=float(black),
        white=float(white),
        grid=grid,
        repeated=float(totals[1] / pairs),
        alike=float(totals[2] / pairs),
        skipped=evidence.skipped,
        verdict=judge(evidence),
    )


def _chosen_runs(clip: Clip, span: Span, most: int) -> Iterator[Run]:
    """Up to `most` runs of up to RUN_FRAMES frames; a single frame only if there is nothing else."""

    def places(length: int | None, size: int) -> list[tuple[int, int]]:
        if length is None or length <= RUN_FRAMES:
            return [(0, RUN_FRAMES)]
        count = min(most, max(length // RUN_FRAMES, 1))
        starts = np.linspace(0, length - RUN_FRAMES, count).round().astype(int).tolist()
        return [(start, RUN_FRAMES) for start in starts]

    short: Run | None = None
    found = False
    for run in runs_of_clip(clip, span, places, smallest_side=SMALLEST_SIDE):
        if len(run.frames) >= FEWEST_FRAMES:
            found = True
            yield run
        else:
            short = short or run
    if not found and short is not None:
        yield short


def _is_lossy(clip: Clip, size: tuple[int, int]) -> bool:
    """Whether a file is coded with loss, and with few bits."""
    if isinstance(clip, np.ndarray) or not Path(clip).is_file():
        return False
    from stbn_cli.video.reader import open_video

    with open_video(clip) as reader:
        metadata = reader.metadata
    if metadata.codec is None or metadata.codec in FAITHFUL_CODECS:
        return False
    if not metadata.frame_count:
        return True
    return 8 * Path(clip).stat().st_size / (metadata.frame_count * size[0] * size[1]) < LOSSY_BITS


def _analyze_run(first: int, frames: np.ndarray) -> RunAnalysis:
    noise = estimate_noise(frames)
    correlation = measure_correlation(frames)
    return RunAnalysis(first, len(frames), noise, correlation, noise.held)
