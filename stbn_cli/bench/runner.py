"""Runs methods over clips and noise levels by the published protocol, every method on the same noisy frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stbn_cli.bench.clips import Clip, load_clean
from stbn_cli.bench.isolation import IsolatedMethods, Measurement, MethodFailedError
from stbn_cli.bench.methods import Method
from stbn_cli.bench.results import NOISY, Failure, Score
from stbn_cli.errors import InputError
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.metrics import SSIM_WINDOW, psnr, ssim, temporal_error
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.protocol import protocol_noise

PROTOCOL_FRAMES = 85
PROTOCOL_SIGMAS = (10.0, 20.0, 30.0, 40.0, 50.0)
PROTOCOL_SEED = 0
SMALLEST_SIDE = 2 * SSIM_WINDOW  # pixels


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured; the defaults are the published protocol."""

    sigmas: tuple[float, ...] = PROTOCOL_SIGMAS  # 0-255 scale
    frames: int = PROTOCOL_FRAMES  # of each clip, at most
    seed: int = PROTOCOL_SEED  # of the noise, anew before each clip and level


class Observer(Protocol):
    """Receives everything as it happens."""

    def clip_begins(self, clip: str, clean: Tensor) -> None:
        """`clean (T, 3, H, W)` float32 on [0, 1] has been read."""
        ...

    def frames_ready(self, clip: str, sigma: float, method: str, frames: Tensor) -> None:
        """`frames (T, 3, H, W)` float32, not clipped, of a method or the noisy ones."""
        ...

    def scored(self, score: Score) -> None: ...

    def failed(self, failure: Failure) -> None: ...


def run_bench(
    clips: Sequence[Clip], methods: Sequence[Method], options: BenchOptions, observer: Observer
) -> tuple[list[Score], list[Failure]]:
    """Every method on every clip at every noise level; a method that fails is left out there, and reported as failed.

    Raises `InputError` for a clip that cannot be read or is smaller than `SMALLEST_SIDE`.
    """
    for clip in clips:
        _load(clip, 1)  # what cannot be read must not end a run of hours in its middle
    scores: list[Score] = []
    failures: list[Failure] = []
    with IsolatedMethods() as run:
        for clip in clips:
            clean = _load(clip, options.frames)
            observer.clip_begins(clip.name, clean)
            flow = _flow_to_previous(clean)
            for sigma in options.sigmas:
                noisy = protocol_noise(clean, sigma / BYTE_SCALE, options.seed)
                observer.frames_ready(clip.name, sigma, NOISY, noisy)
                scores.append(_score(NOISY, clip.name, sigma, noisy, clean, flow, None))
                observer.scored(scores[-1])
                frames = noisy.permute(0, 2, 3, 1).contiguous().numpy()
                for method in methods:
                    try:
                        measured = run(method, frames, sigma)
                    except MethodFailedError as error:
                        failures.append(Failure(method.name, clip.name, sigma, str(error)))
                        observer.failed(failures[-1])
                        continue
                    denoised = torch.from_numpy(measured.denoised).permute(0, 3, 1, 2)
                    observer.frames_ready(clip.name, sigma, method.name, denoised)
                    scores.append(_score(method.name, clip.name, sigma, denoised, clean, flow, measured))
                    observer.scored(scores[-1])
    return scores, failures


def _load(clip: Clip, frames: int) -> Tensor:
    clean = load_clean(clip, frames)
    height, width = clean.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"{clip.path} is {width}x{height}; quality is measured on at least {SMALLEST_SIDE}x{SMALLEST_SIDE} "
            "pixels. Name larger clips."
        )
    return clean


def _flow_to_previous(clean: Tensor) -> Tensor:
    """Flow `(T, 2, H, W)` from each frame to the one before, of the clean clip; entry 0 leads nowhere."""
    flow = clean.new_zeros(len(clean), 2, *clean.shape[-2:])
    estimator = create_flow_estimator("dis")
    for t in range(1, len(clean)):
        flow[t] = estimator(clean[t : t + 1], clean[t - 1 : t])[0]
    return flow


def _score(
    method: str,
    clip: str,
    sigma: float,
    frames: Tensor,
    clean: Tensor,
    flow: Tensor,
    measured: Measurement | None,
) -> Score:
    pairs = [
        (frames[t], clean[t]) for t in range(len(clean))
    ]  # one by one: a clip's maps would fill the memory
    steps = [slice(t - 1, t + 1) for t in range(1, len(clean))]
    changes = [float(temporal_error(frames[step], clean[step], flow[step])) for step in steps]
    quality = (
        tuple(float(psnr(*pair)) for pair in pairs),
        tuple(float(ssim(*pair)) for pair in pairs),
        tuple(changes),
    )
    if measured is None:
        return Score(method, clip, sigma, *quality)
    return Score(
        method,
        clip,
        sigma,
        *quality,
        seconds=measured.seconds,
        peak_bytes=measured.peak_bytes,
        device_bytes=measured.device_bytes,
        details=measured.details,
    )
