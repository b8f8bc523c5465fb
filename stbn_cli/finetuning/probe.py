"""A look at clips before a run: whether their noise can be learned, by the rule that every command goes by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from stbn_cli.analysis.analysis import MOST_RUNS, Analysis, analyze
from stbn_cli.finetuning.footage import SMALLEST_SIDE, each_once
from stbn_cli.noise.calibration import assumed_noise
from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.estimate import MAXIMUM_FRAMES
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.measurement import SceneMeasurement, typical
from stbn_cli.noise.model import SceneNoise
from stbn_cli.noise.raw_level import MEASURED, measure_raw
from stbn_cli.raw.noise import PoissonGaussian
from stbn_cli.runs import Clip, runs_of_clip
from stbn_cli.source import Span


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few frames of all clips say of the noise."""

    clip: Analysis  # the one of median noise, which stands for all of them
    shared: bool  # by neighbouring pixels, in at least half of the clips: a blind spot sees it
    repeated: bool  # by neighbouring frames likewise: they tell nothing of it
    frames: int  # looked at

    @classmethod
    def of(cls, found: Sequence[Analysis]) -> Self:
        """From the analyses of all clips."""
        chosen = sorted(found, key=lambda clip: clip.level)[(len(found) - 1) // 2]
        shared = 2 * sum(clip.verdict.shared for clip in found) >= len(found)
        repeated = 2 * sum(clip.repeats_noise for clip in found) >= len(found)
        return cls(chosen, shared, repeated, sum(clip.frames for clip in found))

    @property
    def measured(self) -> SceneMeasurement:
        """The scene that stands for all."""
        return typical([run.measured for run in self.clip.runs])

    @property
    def level(self) -> float:
        """The noise level to show, [0, 1]."""
        return self.measured.level

    @property
    def faint(self) -> bool:
        """Whether there is hardly any noise."""
        return self.clip.verdict.faint

    @property
    def hint(self) -> str | None:
        """What to do about the clips first."""
        return self.clip.verdict.hint

    @property
    def correlation(self) -> NoiseCorrelation:
        """What neighbours share."""
        return self.measured.correlation

    def assumed(self, kind: NoiseKind) -> SceneNoise:
        """What `stbn denoise` would assume."""
        return assumed_noise(self.measured, kind)

    def summary(self) -> dict[str, Any]:
        """As `Analysis.summary`."""
        return self.clip.summary() | {"shared_by_neighbours": self.shared}


def probe(clips: Sequence[Clip], span: Span) -> Probe:
    """Measure the noise of all clips, in as many places together as an analysis looks at in one.

    Raises `InputError` if one cannot be read or is too small to learn from.
    """
    different = each_once(clips)
    most = max(1, MOST_RUNS // len(different))
    return Probe.of([analyze(clip, span, most_runs=most, smallest_side=SMALLEST_SIDE) for clip in different])


def probe_raw(clips: Sequence[Clip], span: Span) -> tuple[Probe, PoissonGaussian]:
    """As `probe`, of raw clips, whose noise is looked at after it was made white; and the noise itself.

    That of median gain stands for all. Raises `InputError` likewise.
    """
    noises, openings = [], []
    for clip in each_once(clips):
        runs = runs_of_clip(
            clip, span, lambda length, size: [(0, MAXIMUM_FRAMES)], smallest_side=SMALLEST_SIDE, raw=True
        )
        openings.append(next(iter(runs)).frames.permute(0, 2, 3, 1).numpy())
        noises.append(measure_raw(openings[-1]))
    noise = sorted(noises, key=lambda noise: noise.gain)[(len(noises) - 1) // 2]
    shown = [noise.stabiliser.forward(frames)[..., list(MEASURED)] for frames in openings]
    return Probe.of([analyze(frames, span, smallest_side=SMALLEST_SIDE) for frames in shown]), noise
