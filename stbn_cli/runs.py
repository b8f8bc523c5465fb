"""Runs of consecutive frames of one scene each, from all over a clip: a file, or an array of frames."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from stbn_cli.errors import InputError
from stbn_cli.inference.cuts import CutDetector, scenes_of
from stbn_cli.raw.files import not_raw
from stbn_cli.raw.pattern import PLANES
from stbn_cli.source import Source, Span
from stbn_cli.video.formats import FALLBACK_RATE

if TYPE_CHECKING:
    from stbn_cli.video.frames import FrameReader

# A video file, a folder or pattern of images, or frames (T, H, W, 3): uint8, uint16, or floating point on [0, 1]. Where
# raw clips are meant: raw pictures, or packed mosaics (T, h, w, 4), black 0 and white 1.
Clip: TypeAlias = str | Path | np.ndarray


class Run(NamedTuple):
    """Consecutive frames of one scene, and the number of the first (about, if the file was not read from its start)."""

    first: int
    frames: Tensor  # (T, 3, H, W) float32 RGB, nominal [0, 1]; of raw clips (T, 4, h, w)


def frames_of_array(frames: np.ndarray, channels: int = 3) -> np.ndarray:
    """Frames `(T, H, W, C)` as float32, integers scaled to [0, 1]. Raises `ValueError` for other shapes or types."""
    if frames.ndim != 4 or frames.shape[-1] != channels or not frames.size:
        raise ValueError(f"expected frames (T, H, W, {channels}), got {frames.shape}")
    if frames.dtype in (np.uint8, np.uint16):
        return frames.astype(np.float32) / np.float32(np.iinfo(frames.dtype).max)
    if not np.issubdtype(frames.dtype, np.floating):
        raise ValueError(f"expected uint8, uint16 or floating point frames, got {frames.dtype}")
    return frames.astype(np.float32, copy=False)


# Where to look, from the clip's length in frames (None: unknown) and the pixels of a frame: first frames and lengths.
Places: TypeAlias = Callable[[int | None, int], list[tuple[int, int]]]


def is_raw(clip: Clip, span: Span) -> bool:
    """Whether a clip is of raw pictures, or of packed mosaics. Raises `InputError` if it cannot be read."""
    if isinstance(clip, np.ndarray):
        return clip.ndim == 4 and clip.shape[-1] == PLANES
    with Source(clip, span).open() as reader:
        return reader.metadata.bayer is not None


def runs_of_clip(
    clip: Clip, span: Span, places: Places, *, smallest_side: int = 1, raw: bool = False
) -> Iterator[Run]:
    """The runs that `places` asks for, split at scene cuts. `raw`: the clip is raw; without it, such clips are refused.

    Raises `InputError` if the clip is missing, holds nothing, is smaller than `smallest_side` pixels, or holds values
    that are not finite; `ValueError` for arrays that are no frames.
    """
    if isinstance(clip, np.ndarray):
        channels = PLANES if raw else 3
        frames_of_array(clip[:1], channels)  # refuses what are no frames
        for first, length in places(len(clip), clip.shape[1] * clip.shape[2]):
            frames = frames_of_array(clip[first : first + length], channels)
            yield from _scenes(frames, first, "the frames", smallest_side)
        return
    source = Source(clip, span)
    with source.open() as reader:
        metadata = reader.metadata
        if metadata.bayer is not None and not raw:
            raise not_raw(clip)
        size = metadata.width * metadata.height // (PLANES if raw else 1)
        rate = float(metadata.average_rate or FALLBACK_RATE)
        length = metadata.frame_count
        if length is None and metadata.duration_seconds is not None:
            length = round(metadata.duration_seconds * rate)
        chosen = places(length, size)
        if chosen[0][0] == 0:
            yield from _scenes(_first(reader, chosen[0][1]), 0, str(clip), smallest_side)
            del chosen[0]
    for first, count in chosen:
        # Between two frames: containers that round times would else drop the first one.
        begin = (span.start or 0.0) + max(first - 0.5, 0.0) / rate
        try:
            reader = source.open(start=begin)
        except InputError:
            continue  # the stated length was too long
        with reader:
            yield from _scenes(_first(reader, count), first, str(clip), smallest_side)


def runs_of_frames(read: Callable[[int], np.ndarray], length: int, places: Places) -> Iterator[Run]:
    """As `runs_of_clip`, for `length` frames by number: `read(n)` is `(H, W, 3)` float32 RGB, nominal [0, 1]."""
    height, width = read(0).shape[:2]
    for first, count in places(length, height * width):
        yield from _scenes((read(number) for number in range(first, first + count)), first, "the clip", 1)


def _first(reader: "FrameReader", count: int) -> Iterator[np.ndarray]:
    """Pixels as the denoiser takes them."""
    from stbn_cli.video.fields import rows_by_field

    for index, frame in enumerate(reader):
        if index == count:
            return
        yield rows_by_field(frame.rgb) if reader.metadata.by_fields else frame.rgb


def _scenes(frames: Iterable[np.ndarray], start: int, name: str, smallest_side: int) -> Iterator[Run]:
    """Frames `(H, W, 3)`, the first of which is number `start`, stacked scene by scene."""
    for scene in scenes_of(_checked(frames, start, name, smallest_side), CutDetector().is_cut):
        pictures = [torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1) for frame in scene]
        yield Run(start, torch.stack(pictures))
        start += len(pictures)


def _checked(frames: Iterable[np.ndarray], start: int, name: str, smallest_side: int) -> Iterator[np.ndarray]:
    """`frames`, if they are large enough and finite."""
    for index, frame in enumerate(frames, start):
        if min(frame.shape[:2]) < smallest_side:
            raise InputError(
                f"{name} is {frame.shape[1]}x{frame.shape[0]} pixels; measuring its noise takes at least "
                f"{smallest_side}x{smallest_side}. Use stbn denoise with --sigma."
            )
        if not np.isfinite(frame).all():
            raise InputError(
                f"Frame {index} of {name} holds values that are not finite (NaN or infinity). Check the input."
            )
        yield frame
