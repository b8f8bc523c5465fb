"""The published protocol on CRVD: real noise of five sensitivities, against clean frames of the same scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stbn_cli.bench.crvd_results import CrvdFailure, CrvdGap, CrvdScore
from stbn_cli.bench.isolation import IsolatedMethods, Measurement, MethodFailedError
from stbn_cli.bench.methods import Method
from stbn_cli.bench.results import NOISY
from stbn_cli.errors import InputError
from stbn_cli.metrics import psnr, ssim
from stbn_cli.raw.bayer import unpack
from stbn_cli.raw.clips import read_planes
from stbn_cli.raw.crvd import CRVD_FORMAT, CRVD_FRAMES, CRVD_TEST_SCENES, find_crvd_clips, find_crvd_truth
from stbn_cli.raw.noise import CRVD_NOISE, CRVD_RANGE
from stbn_cli.raw.rendering import simple_picture

TITLE = "CRVD"
WHERE = "CRVD is linked in the README of https://github.com/cao-cong/RViDeNet."
# White balance of the planes in the fixed rendering: plausible for daylight, and the same for all methods.
GAINS = (2.0, 1.0, 1.0, 1.7)


@dataclass(frozen=True, slots=True)
class CrvdSequence:
    """The noisy frames of one scene at one ISO, and their clean ones, in the order of time."""

    scene: int
    iso: int
    noisy: tuple[Path, ...]
    truth: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Such as scene7-iso1600."""
        return f"scene{self.scene}-iso{self.iso}"


def find_crvd_sequences(folder: Path | None) -> tuple[list[CrvdSequence], list[CrvdGap]]:
    """The protocol's sequences below `folder`, and what is missing of them.

    Raises `InputError`, with where to get the data, if none is there.
    """
    if folder is None:
        raise InputError(
            f"The folder of {TITLE} is not known: give it by --data DIR, or set STBN_DATA. {WHERE}"
        )
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give --data the folder of {TITLE}. {WHERE}")
    clips = find_crvd_clips(folder)
    if clips and all(clip.draw is None for clip in clips):
        raise InputError(
            f"{folder} holds only outdoor scenes of {TITLE}, of which there are no clean frames to measure against. "
            f"Give --data the folder with the indoor scenes. {WHERE}"
        )
    noisy = {(clip.scene, clip.iso): clip.frames for clip in clips if clip.draw == 0}
    truth = find_crvd_truth(folder)
    sequences: list[CrvdSequence] = []
    missing: list[CrvdGap] = []
    for scene in CRVD_TEST_SCENES:
        for iso in CRVD_NOISE:
            frames, clean = noisy.get((scene, iso), {}), truth.get((scene, iso), {})
            shared = [number for number in range(1, CRVD_FRAMES + 1) if number in frames and number in clean]
            if shared:
                pair = tuple(frames[n] for n in shared), tuple(clean[n] for n in shared)
                sequences.append(CrvdSequence(scene, iso, *pair))
            if len(shared) < CRVD_FRAMES:
                missing.append(CrvdGap(scene, iso, _lack(frames, clean, shared)))
    if not sequences:
        scenes = f"scenes {CRVD_TEST_SCENES[0]} to {CRVD_TEST_SCENES[-1]}"
        if not clips and not truth:
            raise InputError(f"{folder} holds nothing of {TITLE}. {WHERE}")
        what = (
            "no clean frames (indoor_raw_gt)"
            if clips and not truth
            else f"no noisy and clean frames of {scenes}"
        )
        raise InputError(f"{folder} holds {what}, and on those {TITLE} is measured. {WHERE}")
    return sequences, missing


def _lack(noisy: Mapping[int, Path], clean: Mapping[int, Path], shared: Sequence[int]) -> str:
    """What there is not of a scene at an ISO; "": nothing is there."""
    if shared:
        return f"{CRVD_FRAMES - len(shared)} of {CRVD_FRAMES} frames"
    if noisy and clean:
        return "frames of equal numbers"
    return "clean frames" if noisy else "noisy frames" if clean else ""


class CrvdObserver(Protocol):
    """Receives everything as it happens."""

    def sequence_begins(self, sequence: CrvdSequence, clean: Tensor) -> None:
        """`clean (T, 4, h, w)` float32, packed, has been read."""
        ...

    def scored(self, score: CrvdScore) -> None: ...

    def failed(self, failure: CrvdFailure) -> None: ...


def run_crvd(
    sequences: Sequence[CrvdSequence], methods: Sequence[Method], frames: int, observer: CrvdObserver
) -> tuple[list[CrvdScore], list[CrvdFailure]]:
    """Every method on the first `frames` of every sequence, all at once; one that fails is reported and left out there.

    Raises `InputError` for a sequence that cannot be read.
    """
    for sequence in sequences:
        _load(sequence, 1)  # what cannot be read must not end a run of hours in its middle
    scores: list[CrvdScore] = []
    failures: list[CrvdFailure] = []
    with IsolatedMethods() as run:
        for sequence in sequences:
            noisy, clean = _load(sequence, frames)
            observer.sequence_begins(sequence, clean)
            scores.append(score_planes(NOISY, sequence, noisy, clean))
            observer.scored(scores[-1])
            packed = noisy.permute(0, 2, 3, 1).contiguous().numpy()
            for method in methods:
                try:
                    measured = run(method, packed, sequence.iso)
                except MethodFailedError as error:
                    failures.append(CrvdFailure(method.name, sequence.scene, sequence.iso, str(error)))
                    observer.failed(failures[-1])
                    continue
                denoised = torch.from_numpy(measured.denoised).permute(0, 3, 1, 2)
                scores.append(score_planes(method.name, sequence, denoised, clean, measured))
                observer.scored(scores[-1])
    return scores, failures


def score_planes(
    method: str,
    sequence: CrvdSequence,
    planes: Tensor,
    clean: Tensor,
    measured: Measurement | None = None,
) -> CrvdScore:
    """What planes `(T, 4, h, w)` float32, black 0 and white 1, are worth, frame by frame."""
    quality: list[tuple[float, float, float, float]] = []
    for frame, goal in zip(planes, clean, strict=True):
        frame = as_stored(frame)
        shown, wanted = as_shown(frame), as_shown(goal)
        pairs = ((frame, goal), (shown, wanted))
        raw, rgb = ((float(psnr(*pair)), float(ssim(*pair, uniform=True))) for pair in pairs)
        quality.append((*raw, *rgb))
    raw_psnr, raw_ssim, rgb_psnr, rgb_ssim = zip(*quality, strict=True)
    return CrvdScore(
        method,
        sequence.scene,
        sequence.iso,
        raw_psnr,
        raw_ssim,
        rgb_psnr,
        rgb_ssim,
        seconds=None if measured is None else measured.seconds,
        peak_bytes=None if measured is None else measured.peak_bytes,
        device_bytes=None if measured is None else measured.device_bytes,
        details={} if measured is None else measured.details,
    )


def as_stored(planes: Tensor) -> Tensor:
    """Planes of any shape as whole numbers of a 12-bit sensor hold them, clamped at black; black 0 and white 1.

    Rounded to the nearest number. The published code cuts the fraction off, which costs it half a step.
    """
    return (planes.clamp(0.0, 1.0) * CRVD_RANGE).round() / CRVD_RANGE


def as_shown(planes: Tensor) -> Tensor:
    """Planes `(4, h, w)` as sRGB `(3, 2 h, 2 w)` float32 on [0, 1], through a plain rendering that never changes."""
    size = (2 * planes.shape[-2], 2 * planes.shape[-1])
    picture = simple_picture(unpack(planes.numpy(), CRVD_FORMAT, size), CRVD_FORMAT, GAINS)
    return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1) / 65535.0


def _load(sequence: CrvdSequence, frames: int) -> tuple[Tensor, Tensor]:
    """Noisy planes and clean ones, these clamped at black, `(T, 4, h, w)` float32."""
    noisy = read_planes(sequence.noisy[:frames], CRVD_FORMAT, clamp=False)
    clean = read_planes(sequence.truth[:frames], CRVD_FORMAT, clamp=True)
    if noisy is None or clean is None or noisy.shape != clean.shape:
        raise InputError(
            f"The frames of {sequence.name} in {sequence.noisy[0].parent} and {sequence.truth[0].parent} cannot be "
            "read, or are not mosaics of one size. Unpack the data set again."
        )
    return torch.from_numpy(noisy), torch.from_numpy(clean)
