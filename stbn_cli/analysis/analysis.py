"""The noise of a clip, measured all over it: how strong at which brightness, how related, of what kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stbn_cli.analysis.picture import Filled, clipped_shares, filled_range, find_repeats, grid_strength
from stbn_cli.analysis.verdict import Evidence, NoiseVerdict, holds_noise, judge
from stbn_cli.errors import InputError
from stbn_cli.noise.bars import Bars, find_bars, without_bars
from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.level_function import NoiseEstimate
from stbn_cli.noise.measurement import SceneMeasurement, measure_scene, median_correlation, typical
from stbn_cli.runs import Clip, Run, runs_of_clip, runs_of_frames
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.source import Source, Span

RUN_FRAMES = 8
FRAMES_PER_RUN = 16  # of the clip: so many frames are worth a run
# The same for every command, so that all of them say the same of a clip.
MOST_RUNS = 5
# Bits of a pixel below which a coder has to leave traces: 0.5 is 6.5 Mbit/s for 960x540 at 25 frames a second.
LOSSY_BITS = 2.0
# Codecs without loss, or with so little that noise stays what it is.
FAITHFUL_CODECS = frozenset(
    {"ffv1", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "v210", "prores", "dnxhd"}
)
FEWEST_FRAMES = 2  # of a run, to separate noise from picture


@dataclass(frozen=True, slots=True)
class RunAnalysis:
    """What was found in consecutive frames of one scene."""

    first_frame: int  # about, where the file was not read from its start
    frames: int
    measured: SceneMeasurement

    @property
    def level(self) -> float:
        """The noise level, 0-255 scale."""
        return BYTE_SCALE * self.measured.level

    @property
    def noise(self) -> NoiseEstimate:
        """What high frequencies show."""
        return self.measured.independent

    @property
    def correlation(self) -> NoiseCorrelation:
        """What neighbours share."""
        return self.measured.correlation

    @property
    def temporal_correlation(self) -> float:
        """Share of the noise's variance that a frame has in common with the next; 0 if it is new."""
        return self.noise.temporal_correlation


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in a clip: `level` is on the 0-255 scale, as everywhere; details in `runs` are on [0, 1]."""

    width: int
    height: int
    frames: int  # looked at
    runs: tuple[RunAnalysis, ...]
    bars: Bars
    black: float  # share of values
    white: float
    grid: float  # 1: no grid of 8 pixels is seen
    repeated: float  # share of frames that are equal to the one before
    near_duplicates: float  # share of frames that nearly are
    skipped: float  # share of blocks that are equal to those of the frame before, though the frame is not
    verdict: NoiseVerdict

    @property
    def repeats_noise(self) -> bool:
        """Whether frames share most of their noise with the next, so that it cannot be told from the picture."""
        return holds_noise(float(np.median([run.temporal_correlation for run in self.runs])), self.skipped)

    @property
    def typical(self) -> RunAnalysis:
        """The run of median noise."""
        chosen = typical([run.measured for run in self.runs])
        return next(run for run in self.runs if run.measured is chosen)

    @property
    def level(self) -> float:
        """Noise level of the clip, 0-255 scale: that of the typical run."""
        return self.typical.level

    def summary(self) -> dict[str, Any]:
        """What every command says of the noise, as plain values; the level on the 0-255 scale."""
        luma, chroma = median_correlation([run.measured for run in self.runs])
        return {
            "kind": self.verdict.kind,
            "level": round(self.level, 3),
            "faint": self.verdict.faint,
            "shared_by_neighbours": self.verdict.shared,
            "correlation": {"luma": round(luma, 3), "chroma": round(chroma, 3)},
        }


def analyze(
    clip: Clip,
    span: Span | None = None,
    *,
    frames: int | None = None,
    most_runs: int = MOST_RUNS,
    smallest_side: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Measure the noise of a video file, images, or frames `(T, H, W, 3)`: up to `most_runs` runs all over it.

    What every command says of a clip's noise is from here.

    frames: of the clip's beginning, to look no further; None: all. progress: called with the number of frames looked
    at so far. Raises `InputError` if the clip cannot be read or is smaller than `smallest_side` pixels; `ValueError`
    for arrays that are no frames.
    """
    chosen = _chosen_runs(clip, span or Span(), frames, most_runs, smallest_side)
    return _analysed(chosen, lambda size: _Coding.of(clip, span or Span(), size), progress)


def analyze_frames(read: Callable[[int], np.ndarray], length: int, *, deep: bool) -> Analysis:
    """As `analyze`, for `length` frames by number: `read(n)` is `(H, W, 3)` float32 RGB, nominal [0, 1].

    deep: they have more than 8 bits a value. Nothing is known of how they were coded. Raises `InputError` for values
    that are not finite.
    """
    runs = _long_enough(runs_of_frames(read, length, lambda length, _: _places(length, MOST_RUNS)))
    return _analysed(runs, lambda _: _Coding(lossy=False, deep=deep), None)


def _analysed(
    chosen: Iterator[Run],
    coding_of: "Callable[[tuple[int, int]], _Coding]",
    progress: Callable[[int], None] | None,
) -> Analysis:
    runs: list[RunAnalysis] = []
    pictures: list[tuple[int, Bars, tuple[float, float], float, Filled]] = []
    totals = np.zeros(4)  # pairs, same, alike, skipped blocks' share times pairs
    size, seen = (0, 0), 0
    for run in chosen:
        size = (run.frames.shape[-1], run.frames.shape[-2])
        seen += len(run.frames)
        bars = find_bars(run.frames)
        inside = without_bars(run.frames, bars)
        pictures.append(
            (len(run.frames), bars, clipped_shares(inside), grid_strength(inside), filled_range(inside))
        )
        repeats = find_repeats(inside)
        totals += (repeats.pairs, repeats.same, repeats.near_duplicates, repeats.skipped * repeats.pairs)
        if len(run.frames) >= FEWEST_FRAMES or not runs:
            runs.append(RunAnalysis(run.first, len(run.frames), measure_scene(inside.permute(0, 2, 3, 1))))
        if progress is not None:
            progress(seen)
    if not runs:
        raise InputError("No frames could be read. Check the clip.")
    weights = np.array([count for count, *_ in pictures], float) / seen
    black, white = (sum(w * part[2][i] for w, part in zip(weights, pictures, strict=True)) for i in (0, 1))
    pairs = max(totals[0], 1.0)
    grid = float(np.median([part[3] for part in pictures]))
    coding = coding_of(size)
    # What codes a single picture, as cameras do, is no video coder: models for what those leave do not fit.
    is_still = seen == 1
    evidence = Evidence(
        runs=tuple(run.measured for run in runs),
        skipped=float(totals[3] / pairs),
        grid=1.0 if is_still else grid,
        temporal_correlation=float(np.median([run.temporal_correlation for run in runs])),
        lossy=coding.lossy and not is_still,
        deep=coding.deep,
        filled=Filled.together([part[4] for part in pictures]),
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
        near_duplicates=float(totals[2] / pairs),
        skipped=evidence.skipped,
        verdict=judge(evidence),
    )


def _chosen_runs(clip: Clip, span: Span, frames: int | None, most: int, smallest_side: int) -> Iterator[Run]:
    """Up to `most` runs of up to RUN_FRAMES frames."""

    def places(length: int | None, size: int) -> list[tuple[int, int]]:
        if frames is not None:
            length = frames if length is None else min(length, frames)
        return _places(length, most)

    return _long_enough(runs_of_clip(clip, span, places, smallest_side=smallest_side))


def _places(length: int | None, most: int) -> list[tuple[int, int]]:
    """First frames and lengths of up to `most` runs all over a clip of `length` frames; None: unknown."""
    if length is None or length <= RUN_FRAMES:
        return [(0, min(length or RUN_FRAMES, RUN_FRAMES))]
    count = min(most, max(length // FRAMES_PER_RUN, 1))
    last = length - RUN_FRAMES
    # A single one in the middle: clips may fade in, and coders keep more noise in the first frame.
    starts = np.linspace(0, last, count).round().astype(int).tolist() if count > 1 else [last // 2]
    return [(start, RUN_FRAMES) for start in starts]


def _long_enough(runs: Iterator[Run]) -> Iterator[Run]:
    """Those of several frames; a single frame only if there is nothing else."""
    short: Run | None = None
    found = False
    for run in runs:
        if len(run.frames) >= FEWEST_FRAMES:
            found = True
            yield run
        else:
            short = short or run
    if not found and short is not None:
        yield short


@dataclass(frozen=True, slots=True)
class _Coding:
    """How a clip is stored."""

    lossy: bool  # with loss, and with few bits
    deep: bool  # with more than 8 bits a value

    @classmethod
    def of(cls, clip: Clip, span: Span, size: tuple[int, int]) -> "_Coding":
        if isinstance(clip, np.ndarray):
            return cls(lossy=False, deep=clip.dtype != np.uint8)
        from stbn_cli.video.pixels import describe_format

        whole = replace(span, start=None, end=None)
        with Source(clip, whole).open() as reader:
            metadata = reader.metadata
        deep = describe_format(metadata.pixel_format).depth > 8
        if not Path(clip).is_file() or metadata.codec is None or metadata.codec in FAITHFUL_CODECS:
            return cls(lossy=False, deep=deep)
        if not metadata.frame_count:
            return cls(lossy=True, deep=deep)
        bits = 8 * Path(clip).stat().st_size / (metadata.frame_count * size[0] * size[1])
        return cls(bits < LOSSY_BITS, deep)
