"""Measures two videos against each other, and both against a reference where there is one."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from stbn_cli.analysis.analysis import Analysis, analyze
from stbn_cli.compare.clips import Clips, Pictures, read_in_step
from stbn_cli.compare.residual import FrameResidual, ResidualStatistics, ResidualSummary
from stbn_cli.compare.verdict import ComparisonVerdict, judge
from stbn_cli.flow.estimator import FlowEstimator, create_flow_estimator
from stbn_cli.metrics import SSIM_WINDOW, psnr, ssim, temporal_error
from stbn_cli.source import Span
from stbn_cli.video.frames import Warnings

CHANNELS = ("red", "green", "blue")
DECIMALS = 6  # of what is written for programs


@dataclass(frozen=True, slots=True)
class Quality:
    """One frame against another, both clipped to [0, 1]."""

    psnr: float  # dB; infinite where both are equal
    ssim: float  # NaN for pictures smaller than 11x11
    temporal_error: float  # 0-255 scale; NaN for the first frame, and where no reference says how things move


@dataclass(frozen=True, slots=True)
class FrameComparison:
    """What was measured in one frame."""

    number: int  # from 0
    seconds: float  # when A shows it
    between: Quality  # A against B
    residual: FrameResidual
    a: Quality | None  # A against the reference
    b: Quality | None

    def to_dict(self) -> dict[str, float]:
        """Plain values to six decimals, infinities and NaN as they are; the keys are the columns of the CSV file."""
        values: dict[str, float] = {"frame": self.number, "seconds": self.seconds}
        values |= {"psnr": self.between.psnr, "ssim": self.between.ssim}
        values["largest_difference"] = self.residual.largest
        values |= {f"mean_{name}": value for name, value in zip(CHANNELS, self.residual.mean, strict=True)}
        values |= {f"std_{name}": value for name, value in zip(CHANNELS, self.residual.std, strict=True)}
        for name, quality in (("a", self.a), ("b", self.b)):
            if quality is not None:
                values |= {f"{key}_{name}": value for key, value in asdict(quality).items()}
        return {name: round(value, DECIMALS) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class AverageQuality:
    """Means over the frames of a video."""

    psnr: float  # dB, over the frames that differ; infinite if none does
    lowest_psnr: float
    ssim: float  # NaN if it could not be measured
    temporal_error: float  # NaN if it could not be measured
    equal_frames: int

    @classmethod
    def of(cls, frames: Sequence[Quality]) -> "AverageQuality":
        """Of one frame or more."""
        decibels = [frame.psnr for frame in frames if math.isfinite(frame.psnr)]
        return cls(
            psnr=fmean(decibels) if decibels else math.inf,
            lowest_psnr=min(frame.psnr for frame in frames),
            ssim=_mean([frame.ssim for frame in frames]),
            temporal_error=_mean([frame.temporal_error for frame in frames]),
            equal_frames=len(frames) - len(decibels),
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was found out."""

    names: dict[str, str]  # A, B, the reference: paths
    width: int
    height: int
    between: AverageQuality  # A against B
    a: AverageQuality | None  # against the reference
    b: AverageQuality | None
    residual: ResidualSummary
    noise_a: Analysis
    noise_b: Analysis
    verdict: ComparisonVerdict
    frames: tuple[FrameComparison, ...]
    warnings: tuple[str, ...]

    def verdict_on(self, a: str, b: str) -> ComparisonVerdict:
        """The verdict in sentences that call the videos by these names."""
        return _judged(self.residual, self.noise_a, self.noise_b, (a, b))

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Infinite: a PSNR of equal frames; NaN or None: not measured."""
        residual = asdict(self.residual)
        for name in ("mean", "std"):
            residual[name] = dict(zip(CHANNELS, residual[name], strict=True))
        paths = [*self.names.values(), None][:3]
        document = {
            **dict(zip(("a", "b", "reference"), paths, strict=True)),
            "frames": len(self.frames),
            "width": self.width,
            "height": self.height,
            "a_against_b": asdict(self.between),
            "a_against_reference": None if self.a is None else asdict(self.a),
            "b_against_reference": None if self.b is None else asdict(self.b),
            "noise_level": {"a": _level(self.noise_a), "b": _level(self.noise_b)},
            "noise": {"a": self.noise_a.summary(), "b": self.noise_b.summary()},
            "residual": residual,
            "verdict": asdict(self.verdict),
            "warnings": list(self.warnings),
            "per_frame": [frame.to_dict() for frame in self.frames],
        }
        return _rounded(document)


def compare_clips(
    clips: Clips,
    *,
    span: Span | None = None,
    limit: int | None = None,
    sinks: Sequence[Callable[[Pictures], None]] = (),
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Read all videos once, in step, and measure them; and some frames of A and B again, for their noise.

    span: as the clips were opened. limit: frames at most. sinks: receive every set of frames after it was measured,
    and may not change it. progress: called with the number of frames done so far. Memory: a few frames, and less than
    a kilobyte for each one measured.

    Raises InputError where a file turns out to be damaged, and whatever the sinks raise.
    """
    notes, measured = Warnings(), _Measured(clips)
    noise = [analyze(reader.path, span, frames=limit) for reader in (clips.a, clips.b)]
    for name, found in zip("AB", noise, strict=True):
        if found.verdict.hint is not None:
            notes.add(f"{name}: {found.verdict.hint}")
    for pictures in read_in_step(clips, limit, notes):
        measured.add(pictures)
        for sink in sinks:
            sink(pictures)
        if progress is not None:
            progress(pictures.number + 1)
    return measured.comparison(noise[0], noise[1], notes)


def write_csv(file: IO[str], frames: Sequence[FrameComparison]) -> None:
    """A row a frame under the names of `FrameComparison.to_dict`; inf for equal frames, empty for not measured."""
    table = csv.DictWriter(file, list(frames[0].to_dict()))
    table.writeheader()
    for frame in frames:
        table.writerow({name: "" if math.isnan(value) else value for name, value in frame.to_dict().items()})


class _Measured:
    """What is gathered while the frames pass."""

    def __init__(self, clips: Clips) -> None:
        self._clips = clips
        self._residual = ResidualStatistics()
        self._frames: list[FrameComparison] = []
        self._flow = create_flow_estimator("dis")
        self._previous: _Tensors | None = None

    def add(self, pictures: Pictures) -> None:
        """Measure one set of frames."""
        a, b = pictures.a, pictures.b
        reference = None if pictures.reference is None else _tensor(pictures.reference)
        now = _Tensors(_tensor(a.rgb), _tensor(b), reference)
        between = Quality(float(psnr(now.a, now.b)), _ssim(now.a, now.b), math.nan)
        quality_a, quality_b = now.qualities(self._previous, self._flow)
        self._frames.append(
            FrameComparison(
                number=pictures.number,
                seconds=float(a.pts * a.time_base),
                between=between,
                residual=self._residual.add(a.rgb, b),
                a=quality_a,
                b=quality_b,
            )
        )
        self._previous = now

    def comparison(self, noise_a: Analysis, noise_b: Analysis, notes: Warnings) -> Comparison:
        """The result."""
        residual = self._residual.summary()
        metadata = self._clips.metadata
        return Comparison(
            names={name: str(reader.path) for name, reader in self._clips.readers.items()},
            width=metadata.width,
            height=metadata.height,
            between=AverageQuality.of([frame.between for frame in self._frames]),
            a=_average([frame.a for frame in self._frames]),
            b=_average([frame.b for frame in self._frames]),
            residual=residual,
            noise_a=noise_a,
            noise_b=noise_b,
            verdict=_judged(residual, noise_a, noise_b, ("A", "B")),
            frames=tuple(self._frames),
            warnings=tuple(notes.messages),
        )


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Frames of one moment, `(3, H, W)` float32, clipped to [0, 1] as a screen would."""

    a: Tensor
    b: Tensor
    reference: Tensor | None

    def qualities(
        self, previous: "_Tensors | None", flow: FlowEstimator
    ) -> tuple[Quality | None, Quality | None]:
        """A and B against the reference; `previous`: the frames before."""
        clean = self.reference
        if clean is None:
            return None, None
        errors = [math.nan, math.nan]
        if previous is not None and previous.reference is not None:
            to_previous = flow(clean[None], previous.reference[None])
            flows = torch.cat((torch.zeros_like(to_previous), to_previous))
            cleans = torch.stack((previous.reference, clean))
            pairs = ((previous.a, self.a), (previous.b, self.b))
            errors = [float(temporal_error(torch.stack(pair), cleans, flows)) for pair in pairs]
        found = [
            Quality(float(psnr(picture, clean)), _ssim(picture, clean), error)
            for picture, error in zip((self.a, self.b), errors, strict=True)
        ]
        return found[0], found[1]


def _tensor(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1).clamp(0.0, 1.0).contiguous()


def _ssim(estimate: Tensor, clean: Tensor) -> float:
    return float(ssim(estimate, clean)) if min(clean.shape[-2:]) >= SSIM_WINDOW else math.nan


def _judged(
    residual: ResidualSummary, noise_a: Analysis, noise_b: Analysis, names: tuple[str, str]
) -> ComparisonVerdict:
    reliable = noise_a.typical.noise.reliable
    return judge(residual, noise_a.level, noise_b.level, reliable=reliable, names=names)


def _average(frames: Sequence[Quality | None]) -> AverageQuality | None:
    known = [frame for frame in frames if frame is not None]
    return AverageQuality.of(known) if known else None


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _level(found: Analysis) -> dict[str, Any]:
    measured = found.typical.measured
    return {
        "sigma": found.level if measured.found else None,
        "reliable": measured.independent.reliable,
    }


def _rounded(value: Any) -> Any:
    """The document with rounded numbers."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, DECIMALS) if isinstance(value, float) else value
