"""Runs of consecutive noisy frames, taken from all over the user's clips, as many as are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.estimate import MAXIMUM_FRAMES
from stbn_cli.raw.noise import Stabiliser
from stbn_cli.runs import Clip, runs_of_clip
from stbn_cli.source import Span

RUN_FRAMES = 24  # of a run, where a clip has more than are wanted
SMALLEST_SIDE = 32  # pixels
HELD_OUT = 0.05  # of the pixels are never a target


@dataclass(slots=True)
class NoisyRun:
    """Consecutive frames of one scene. All tensors on one device."""

    name: str  # of the clip
    noisy: Tensor  # (T, 3, H, W) float32 RGB, nominal [0, 1]; of raw clips (T, 4, h, w), with white noise
    held_out: Tensor  # (T, 1, H, W) bool: pixels that are never a target

    @property
    def pixels(self) -> int:
        """Times frames."""
        return self.noisy.shape[0] * self.noisy.shape[2] * self.noisy.shape[3]

    @property
    def is_clipped(self) -> bool:
        """Whether the noise may be cut off at black and white: nothing lies beyond."""
        return float(self.noisy.min()) >= 0.0 and float(self.noisy.max()) <= 1.0

    def to(self, device: torch.device) -> "NoisyRun":
        """The same on a device."""
        return NoisyRun(self.name, self.noisy.to(device), self.held_out.to(device))


def read_runs(
    clips: Sequence[Clip],
    span: Span,
    pixels: int,
    seed: int,
    stabiliser: Stabiliser | None = None,
    *,
    fewest: int = 2,
) -> list[NoisyRun]:
    """Runs of about `pixels` pixels times frames together, an equal share of each clip, evenly spread over it.

    `stabiliser`: of raw clips; None of video. `fewest`: frames of each clip that has as many. Split at scene cuts; the
    longest come first. A file that is named twice counts once: what one copy holds out the other would learn from.
    Raises `InputError` if a clip is missing, holds nothing, is smaller than SMALLEST_SIDE, or holds values that are not
    finite; `ValueError` for arrays that are no frames.
    """
    runs: list[NoisyRun] = []
    clips = each_once(clips)

    def places(length: int | None, size: int) -> list[tuple[int, int]]:
        return _places(length, max(fewest, pixels // len(clips) // size))

    for number, clip in enumerate(clips):
        found = runs_of_clip(clip, span, places, smallest_side=SMALLEST_SIDE, raw=stabiliser is not None)
        name = f"clip {number + 1}" if isinstance(clip, np.ndarray) else Path(clip).name
        for index, (_, frames) in enumerate(found):
            if stabiliser is not None:
                frames = stabiliser.forward(frames)
            generator = torch.Generator().manual_seed((seed * 1009 + number) * 100_003 + index)
            shape = (len(frames), 1, *frames.shape[-2:])
            runs.append(NoisyRun(name, frames, torch.rand(shape, generator=generator) < HELD_OUT))
    return sorted(runs, key=lambda run: -len(run.noisy))


def each_once(clips: Sequence[Clip]) -> list[Clip]:
    """The clips without files that were named before."""
    files = [None if isinstance(clip, np.ndarray) else Path(clip).resolve() for clip in clips]
    return [
        clip
        for number, (clip, file) in enumerate(zip(clips, files, strict=True))
        if file is None or file not in files[:number]
    ]


def some_frames(frames: Tensor) -> Tensor:
    """A few of `frames (T, ...)`, evenly spread, for measurements that copy them."""
    return frames[:: -(-len(frames) // MAXIMUM_FRAMES)]


def _places(length: int | None, wanted: int) -> list[tuple[int, int]]:
    """(first frame, number of frames) of runs that hold about `wanted` of `length` frames together."""
    if length is None or length <= wanted:
        return [(0, wanted if length is None else length)]
    count = max(1, round(wanted / RUN_FRAMES))
    size = (
        wanted // count
    )  # not more, or runs could overlap, and what one holds out the other would learn from
    # In the middle of equal parts of the clip.
    return [(max(0, int((index + 0.5) * length / count - size / 2)), size) for index in range(count)]
