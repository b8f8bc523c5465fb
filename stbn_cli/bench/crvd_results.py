"""Scores of methods on CRVD, their averages by ISO, and the same as plain values for JSON and CSV."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import IO, Any

from stbn_cli.bench.results import Estimate, estimate_mean, mebibytes
from stbn_cli.raw.noise import CRVD_NOISE

MEASURES = ("psnr", "ssim", "rgb_psnr", "rgb_ssim")
CSV_COLUMNS = ("method", "scene", "iso", "frame", *MEASURES)


@dataclass(frozen=True, slots=True)
class CrvdScore:
    """One method on one scene at one ISO: values of each frame, on raw planes and on the rendered picture."""

    method: str
    scene: int
    iso: int
    psnr: tuple[float, ...]  # dB
    ssim: tuple[float, ...]
    rgb_psnr: tuple[float, ...]  # dB
    rgb_ssim: tuple[float, ...]
    seconds: float | None = None  # for all frames; None: nothing was run
    peak_bytes: int | None = None
    device_bytes: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return len(self.psnr)

    def document(self) -> dict[str, Any]:
        """The score as plain values."""
        return {
            "method": self.method,
            "scene": self.scene,
            "iso": self.iso,
            "frames": self.frames,
            **{name: fmean(getattr(self, name)) for name in MEASURES},
            "seconds": self.seconds,
            "peak_mib": mebibytes(self.peak_bytes),
            "device_mib": mebibytes(self.device_bytes),
            "details": self.details,
            "per_frame": {name: list(getattr(self, name)) for name in MEASURES},
        }


@dataclass(frozen=True, slots=True)
class CrvdGap:
    """What is missing of a scene at an ISO; `lacks` is "" if all of it is."""

    scene: int
    iso: int
    lacks: str

    def __str__(self) -> str:
        name = f"scene{self.scene}-iso{self.iso}"
        return f"{name} ({self.lacks})" if self.lacks else name


def listed(gaps: Sequence[CrvdGap]) -> str:
    """Gaps in words; a scene of which nothing is there is named once."""
    isos: dict[int, int] = {}
    for gap in gaps:
        isos[gap.scene] = isos.get(gap.scene, 0) + (not gap.lacks)
    gone = {scene for scene, count in isos.items() if count == len(CRVD_NOISE)}
    words = (f"scene{gap.scene}" if gap.scene in gone else str(gap) for gap in gaps)
    return ", ".join(dict.fromkeys(words))


@dataclass(frozen=True, slots=True)
class CrvdFailure:
    """A method that gave nothing for a scene at an ISO, and why."""

    method: str
    scene: int
    iso: int
    reason: str


@dataclass(frozen=True, slots=True)
class CrvdAverage:
    """One method at one ISO: means over frames, then scenes."""

    method: str
    iso: int
    scenes: int
    partial: bool  # frames or scenes are missing
    psnr: Estimate
    ssim: Estimate
    rgb_psnr: Estimate
    rgb_ssim: Estimate
    frames_per_second: float | None
    peak_bytes: int | None
    device_bytes: int | None

    @property
    def level(self) -> float:
        """The ISO, by which tables have their columns."""
        return self.iso

    def document(self) -> dict[str, Any]:
        """The average as plain values."""
        found: dict[str, Any] = {"method": self.method, "iso": self.iso, "scenes": self.scenes}
        found["partial"] = self.partial
        for name in MEASURES:
            estimate: Estimate = getattr(self, name)
            found[name], found[f"{name}_margin"] = estimate.mean, estimate.margin
        found["frames_per_second"] = self.frames_per_second
        found["peak_mib"], found["device_mib"] = mebibytes(self.peak_bytes), mebibytes(self.device_bytes)
        return found


@dataclass(frozen=True, slots=True)
class CrvdResult:
    """Everything that a run found out."""

    title: str
    clips: tuple[str, ...]  # such as scene7-iso1600
    missing: tuple[CrvdGap, ...]
    isos: tuple[int, ...]
    maximum_frames: int
    scores: tuple[CrvdScore, ...]
    failures: tuple[CrvdFailure, ...]
    environment: dict[str, Any]

    @property
    def averages(self) -> list[CrvdAverage]:
        """By method and ISO, in the order of first appearance."""
        groups: dict[tuple[str, int], list[CrvdScore]] = {}
        for score in self.scores:
            groups.setdefault((score.method, score.iso), []).append(score)
        failed = {(failure.method, failure.iso) for failure in self.failures}
        found = []
        for (method, iso), scores in groups.items():
            partial = (method, iso) in failed or any(gap.iso == iso for gap in self.missing)
            found.append(_average(method, iso, scores, partial))
        return found

    def document(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "measured_on": self.title,
            "clips": list(self.clips),
            "missing": [str(gap) for gap in self.missing],
            "isos": list(self.isos),
            "maximum_frames": self.maximum_frames,
            "environment": self.environment,
            "averages": [row.document() for row in self.averages],
            "scores": [score.document() for score in self.scores],
            "failures": [asdict(failure) for failure in self.failures],
        }


def write_crvd_csv(file: IO[str], scores: Iterable[CrvdScore]) -> None:
    """One line a frame."""
    table = csv.writer(file)
    table.writerow(CSV_COLUMNS)
    for score in scores:
        columns = (getattr(score, name) for name in MEASURES)
        for frame, values in enumerate(zip(*columns, strict=True)):
            table.writerow((score.method, score.scene, score.iso, frame, *values))


def _average(method: str, iso: int, scores: list[CrvdScore], partial: bool) -> CrvdAverage:
    seconds = [score.seconds for score in scores if score.seconds is not None]
    psnr, ssim, rgb_psnr, rgb_ssim = (
        estimate_mean([getattr(score, name) for score in scores]) for name in MEASURES
    )
    return CrvdAverage(
        method=method,
        iso=iso,
        scenes=len(scores),
        partial=partial,
        psnr=psnr,
        ssim=ssim,
        rgb_psnr=rgb_psnr,
        rgb_ssim=rgb_ssim,
        frames_per_second=sum(score.frames for score in scores) / sum(seconds) if seconds else None,
        peak_bytes=max((score.peak_bytes for score in scores if score.peak_bytes), default=None),
        device_bytes=max((score.device_bytes for score in scores if score.device_bytes), default=None),
    )
