"""Runs of consecutive noisy frames, taken from all over the user's clips, as many as are wanted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from stbn_cli.errors import InputError
from stbn_cli.inference.scenes import CutDetector
from stbn_cli.noise.estimate import MAXIMUM_FRAMES

if TYPE_CHECKING:
    from stbn_cli.video.frames import FrameReader

# A video file, a folder or pattern of images, or frames (T, H, W, 3): uint8, uint16, or floating point on [0, 1].
Clip: TypeAlias = str | Path | np.ndarray

RUN_FRAMES = 24  # of a run, where a clip has more than are wanted
SMALLEST_SIDE = 32  # pixels
HELD_OUT = 0.05  # of the pixels are never a target
ASSUMED_RATE = 25.0  # frames a second, where a clip states none


@dataclass(slots=True)
class NoisyRun:
    """Consecutive frames of one scene. All tensors on one device."""

    name: str  # of the clip
    noisy: Tensor  # (T, 3, H, W) float32 RGB, nominal [0, 1]
    held_out: Tensor  # (T, 1, H, W) bool: pixels that are never a target

    @property
    def pixels(self) -> int:
        """Times frames."""
        return self.noisy.shape[0] * self.noisy.shape[2] * self.noisy.shape[3]

    def to(self, device: torch.device) -> "NoisyRun":
        """The same on a device."""
        return NoisyRun(self.name, self.noisy.to(device), self.held_out.to(device))


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of video files to take, in seconds, and the rate of image sequences."""

    start: float | None = None
    end: float | None = None
    rate: Fraction | float | None = None
    field: str = "auto"  # as `open_video` takes it


def read_runs(clips: Sequence[Clip], span: Span, pixels: int, seed: int) -> list[NoisyRun]:
    """Runs of about `pixels` pixels times frames together, an equal share of each clip, evenly spread over it.

    Split at scene cuts; the longest come first. A file that is named twice counts once: what one copy holds out the
    other would learn from. Raises `InputError` if a clip is missing, holds nothing, is smaller
    than SMALLEST_SIDE, or holds values that are not finite; `ValueError` for arrays that are no frames.
    """
    runs: list[NoisyRun] = []
    clips = _each_once(clips)
    for number, clip in enumerate(clips):
        found = list(_runs_of_clip(clip, span, pixels // len(clips)))
        name = f"clip {number + 1}" if isinstance(clip, np.ndarray) else Path(clip).name
        for index, frames in enumerate(found):
            generator = torch.Generator().manual_seed((seed * 1009 + number) * 100_003 + index)
            shape = (len(frames), 1, *frames.shape[-2:])
            runs.append(NoisyRun(name, frames, torch.rand(shape, generator=generator) < HELD_OUT))
    return sorted(runs, key=lambda run: -len(run.noisy))


def _each_once(clips: Sequence[Clip]) -> list[Clip]:
    files = [None if isinstance(clip, np.ndarray) else Path(clip).resolve() for clip in clips]
    return [
        clip
        for number, (clip, file) in enumerate(zip(clips, files, strict=True))
        if file is None or file not in files[:number]
    ]


def some_frames(frames: Tensor) -> Tensor:
    """A few of `frames (T, ...)`, evenly spread, for measurements that copy them."""
    return frames[:: -(-len(frames) // MAXIMUM_FRAMES)]


def frames_of_array(frames: np.ndarray) -> np.ndarray:
    """Frames `(T, H, W, 3)` as float32, integers scaled to [0, 1]. Raises `ValueError` for other shapes or types."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"expected frames (T, H, W, 3), got {frames.shape}")
    if frames.dtype in (np.uint8, np.uint16):
        return frames.astype(np.float32) / np.float32(np.iinfo(frames.dtype).max)
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating point frames, got {frames.dtype}")
    return frames.astype(np.float32, copy=False)


def _runs_of_clip(clip: Clip, span: Span, pixels: int) -> Iterator[Tensor]:
    """Scenes' frames `(T, 3, H, W)` float32."""
    if isinstance(clip, np.ndarray):
        frames_of_array(clip[:1])  # refuses what are no frames
        count = max(2, pixels // (clip.shape[1] * clip.shape[2]))
        for first, length in _places(len(clip), count):
            yield from _scenes(frames_of_array(clip[first : first + length]), "the frames")
        return
    # Here, so that arrays need no PyAV.
    from stbn_cli.video.reader import open_video

    with open_video(clip, start=span.start, end=span.end, rate=span.rate, field=span.field) as reader:
        metadata = reader.metadata
        wanted = max(2, pixels // (metadata.width * metadata.height))
        rate = float(metadata.average_rate or ASSUMED_RATE)
        length = metadata.frame_count
        if length is None and metadata.duration_seconds is not None:
            length = round(metadata.duration_seconds * rate)
        if length is None or length <= wanted:
            yield from _scenes(_first(reader, wanted), str(clip))
            return
    for first, count in _places(length, wanted):
        # Between two frames: containers that round times would else drop the first one.
        begin = (span.start or 0.0) + max(first - 0.5, 0.0) / rate
        try:
            reader = open_video(clip, start=begin, end=span.end, rate=span.rate, field=span.field)
        except InputError:
            if first == 0:
                raise
            continue  # the stated length was too long
        with reader:
            yield from _scenes(_first(reader, count), str(clip))


def _first(reader: "FrameReader", count: int) -> Iterator[np.ndarray]:
    """Pixels as the denoiser takes them."""
    from stbn_cli.video.fields import rows_by_field

    for index, frame in enumerate(reader):
        if index == count:
            return
        yield rows_by_field(frame.rgb) if reader.metadata.by_fields else frame.rgb


def _places(length: int, wanted: int) -> list[tuple[int, int]]:
    """(first frame, number of frames) of runs that hold about `wanted` of `length` frames together."""
    if length <= wanted:
        return [(0, length)]
    count = max(1, round(wanted / RUN_FRAMES))
    size = (
        wanted // count
    )  # not more, or runs could overlap, and what one holds out the other would learn from
    # In the middle of equal parts of the clip.
    return [(max(0, int((index + 0.5) * length / count - size / 2)), size) for index in range(count)]


def _scenes(frames: Iterable[np.ndarray], name: str) -> Iterator[Tensor]:
    """Frames `(H, W, 3)`, stacked scene by scene."""
    detector, scene = CutDetector(), []
    for index, frame in enumerate(frames):
        if min(frame.shape[:2]) < SMALLEST_SIDE:
            raise InputError(
                f"{name} is {frame.shape[1]}x{frame.shape[0]} pixels; finetuning needs at least "
                f"{SMALLEST_SIDE}x{SMALLEST_SIDE}. Denoise it without."
            )
        if not np.isfinite(frame).all():
            raise InputError(
                f"Frame {index} of {name} holds values that are not finite (NaN or infinity). Check the input."
            )
        if detector.is_cut(frame) and scene:
            yield torch.stack(scene)
            scene = []
        scene.append(torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1))
    if scene:
        yield torch.stack(scene)
