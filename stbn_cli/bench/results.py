"""Scores of methods on clips, their averages, and the same as plain values for JSON and CSV."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, variance
from typing import IO, Any

NOISY = "noisy"  # the method that does nothing
CONFIDENCE = 1.96  # standard errors of a 95 % interval
MIB = 2**20
CSV_COLUMNS = ("method", "clip", "sigma", "frame", "psnr", "ssim", "temporal_error")


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one clip at one noise level (0-255 scale)."""

    method: str
    clip: str
    sigma: float
    psnr: tuple[float, ...]  # dB, of each frame
    ssim: tuple[float, ...]  # of each frame
    temporal_error: tuple[
        float, ...
    ]  # 0-255 scale, of each frame but the first; see `metrics.temporal_error`
    seconds: float | None = None  # for all frames; None: nothing was run
    peak_bytes: int | None = None
    device_bytes: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return len(self.psnr)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over frames, then clips, and the half-width of its 95 % interval (None with too few frames)."""

    mean: float
    margin: float | None


@dataclass(frozen=True, slots=True)
class Average:
    """One method at one noise level over all clips that it was measured on."""

    method: str
    sigma: float
    clips: int
    partial: bool  # clips are missing
    psnr: Estimate
    ssim: Estimate
    temporal_error: Estimate | None  # None for clips of one frame
    frames_per_second: float | None
    peak_bytes: int | None
    device_bytes: int | None

    @property
    def level(self) -> float:
        """The noise level, by which tables have their columns."""
        return self.sigma


@dataclass(frozen=True, slots=True)
class Failure:
    """A method that gave nothing for a clip, and why."""

    method: str
    clip: str
    sigma: float
    reason: str


def estimate_mean(clips: Sequence[Sequence[float]]) -> Estimate:
    """Mean over the frames of each clip, then over clips: the protocol's average.

    The interval is that of a stratified mean: clips are fixed, frames vary independently within them. Frames of one
    clip resemble each other, so the true uncertainty for other footage is larger.
    """
    mean = fmean(fmean(frames) for frames in clips)
    if any(len(frames) < 2 for frames in clips) or not math.isfinite(mean):
        return Estimate(mean, None)
    error = math.sqrt(sum(variance(frames) / len(frames) for frames in clips)) / len(clips)
    return Estimate(mean, CONFIDENCE * error)


def average(scores: Iterable[Score], expected_clips: int) -> list[Average]:
    """The average of each method at each noise level, in the order of first appearance."""
    groups: dict[tuple[str, float], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.method, score.sigma), []).append(score)
    return [_average(method, sigma, group, expected_clips) for (method, sigma), group in groups.items()]


def _average(method: str, sigma: float, scores: list[Score], expected_clips: int) -> Average:
    seconds = [score.seconds for score in scores if score.seconds is not None]
    changing = [score.temporal_error for score in scores if score.temporal_error]
    return Average(
        method=method,
        sigma=sigma,
        clips=len(scores),
        partial=len(scores) < expected_clips,
        psnr=estimate_mean([score.psnr for score in scores]),
        ssim=estimate_mean([score.ssim for score in scores]),
        temporal_error=estimate_mean(changing) if changing else None,
        frames_per_second=sum(score.frames for score in scores) / sum(seconds) if seconds else None,
        peak_bytes=max((score.peak_bytes for score in scores if score.peak_bytes), default=None),
        device_bytes=max((score.device_bytes for score in scores if score.device_bytes), default=None),
    )


def score_document(score: Score) -> dict[str, Any]:
    """A score as plain values; the PSNR of equal frames is infinite."""
    return {
        "method": score.method,
        "clip": score.clip,
        "sigma": score.sigma,
        "frames": score.frames,
        "psnr": fmean(score.psnr),
        "ssim": fmean(score.ssim),
        "temporal_error": fmean(score.temporal_error) if score.temporal_error else None,
        "seconds": score.seconds,
        "peak_mib": mebibytes(score.peak_bytes),
        "device_mib": mebibytes(score.device_bytes),
        "details": score.details,
        "per_frame": {
            "psnr": list(score.psnr),
            "ssim": list(score.ssim),
            "temporal_error": list(score.temporal_error),
        },
    }


def average_document(row: Average) -> dict[str, Any]:
    """An average as plain values."""
    temporal = row.temporal_error
    return {
        "method": row.method,
        "sigma": row.sigma,
        "clips": row.clips,
        "partial": row.partial,
        "psnr": row.psnr.mean,
        "psnr_margin": row.psnr.margin,
        "ssim": row.ssim.mean,
        "ssim_margin": row.ssim.margin,
        "temporal_error": None if temporal is None else temporal.mean,
        "temporal_error_margin": None if temporal is None else temporal.margin,
        "frames_per_second": row.frames_per_second,
        "peak_mib": mebibytes(row.peak_bytes),
        "device_mib": mebibytes(row.device_bytes),
    }


def write_csv(file: IO[str], scores: Iterable[Score]) -> None:
    """One line a frame; the first frame has no temporal error."""
    table = csv.writer(file)
    table.writerow(CSV_COLUMNS)
    for score in scores:
        changes = ("", *score.temporal_error)
        for frame, values in enumerate(zip(score.psnr, score.ssim, changes, strict=True)):
            table.writerow((score.method, score.clip, f"{score.sigma:g}", frame, *values))


def mebibytes(size: int | None) -> float | None:
    return None if size is None else round(size / MIB, 1)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Everything that a run found out."""

    title: str  # what was measured on: "Set8", or the clips' names
    clips: tuple[str, ...]
    missing: tuple[str, ...]  # sequences of the data set that are not there
    sigmas: tuple[float, ...]
    maximum_frames: int
    seed: int
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]
    environment: dict[str, Any]  # versions, device, command

    @property
    def averages(self) -> list[Average]:
        return average(self.scores, len(self.clips) + len(self.missing))

    def document(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "measured_on": self.title,
            "clips": list(self.clips),
            "missing": list(self.missing),
            "sigmas": list(self.sigmas),
            "maximum_frames": self.maximum_frames,
            "seed": self.seed,
            "environment": self.environment,
            "averages": [average_document(row) for row in self.averages],
            "scores": [score_document(score) for score in self.scores],
            "failures": [asdict(failure) for failure in self.failures],
        }
