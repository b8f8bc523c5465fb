"""Frames that show two videos at once, and the video of them."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stbn_cli.compare.clips import Clips, Pictures
from stbn_cli.errors import OptionError
from stbn_cli.video.adapted_reader import AdaptedReader
from stbn_cli.video.formats import FALLBACK_RATE
from stbn_cli.video.frames import Frame, FrameWriter, StreamSource
from stbn_cli.video.times import exact_seconds
from stbn_cli.video.writer import EncodeOptions, create_video

NAMES = ("side", "split", "difference")
# Pixels of the line between both halves; even, and at an even column, so that it shares no chroma with them.
DIVIDER = 2
WHITE, GREY = 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Layout:
    """How two pictures become one.

    "side": A left, B right. "split": the left half of A, the right half of B, a white line between them.
    "difference": grey plus `gain` times A - B.
    """

    name: str = "side"
    gain: float = 4.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise OptionError(f"There is no layout {self.name!r}. Choose one of {', '.join(NAMES)}.")
        if not 0 < self.gain < float("inf"):
            raise OptionError(f"The gain {self.gain:g} is not positive. Give a number such as 4.")

    def width(self, width: int) -> int:
        """Of the picture that shows two of `width`."""
        return 2 * width if self.name == "side" else width

    def compose(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """One picture `(H, width(W), 3)` of two `(H, W, 3)` float32 RGB, nominal [0, 1]."""
        if self.name == "side":
            return np.concatenate((a, b), axis=1)
        if self.name == "difference":
            return difference(a, b, self.gain)
        left = (a.shape[1] // 2 - DIVIDER // 2) // 2 * 2
        line = np.full_like(a[:, :DIVIDER], WHITE)
        return np.concatenate((a[:, :left], line, b[:, left + DIVIDER :]), axis=1)


def difference(a: np.ndarray, b: np.ndarray, gain: float) -> np.ndarray:
    """Grey plus `gain` times a - b, clipped to [0, 1]; all float32."""
    return np.clip(np.float32(GREY) + np.float32(gain) * (a - b), 0.0, 1.0)


class LayoutWriter:
    """Writes the frames of a comparison as a video or images, with A's times, sound and colours; a context manager.

    Nothing has the final name before `finish()`, and leaving the context without it removes what was written.
    """

    def __init__(
        self,
        path: str | Path,
        clips: Clips,
        layout: Layout,
        options: EncodeOptions,
        *,
        limit: int | None,
        overwrite: bool,
    ) -> None:
        self._path = path
        self._clips = clips
        self._layout = layout
        self._options = options
        self._limit = limit
        self._overwrite = overwrite
        self._stack = ExitStack()
        self._writer: FrameWriter | None = None

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user: what the output cannot keep of A."""
        return [] if self._writer is None else self._writer.warnings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __call__(self, pictures: Pictures) -> None:
        """Write one frame. Raises what `create_video` and its writer raise."""
        a = pictures.a
        if self._writer is None:
            reader = canvas(self._clips, self._layout, self._limit, a)
            writer = create_video(self._path, reader, self._options, overwrite=self._overwrite)
            self._writer = self._stack.enter_context(writer)
        rgb = self._layout.compose(a.rgb, pictures.b)
        self._writer.write(Frame(rgb, a.pts, a.time_base, a.duration))

    def finish(self) -> None:
        """Check what was written and put it in place."""
        assert self._writer is not None
        self._writer.finish()


def canvas(
    clips: Clips, layout: Layout, limit: int | None = None, first: Frame | None = None
) -> AdaptedReader:
    """A, described as the video that `layout` makes of the clips. `limit`: frames at most; `first`: A's first frame."""
    metadata = clips.metadata
    frames = min((count for count in (clips.expected_frames, limit) if count), default=None)
    shown = replace(metadata, width=layout.width(metadata.width), frame_count=frames)
    return AdaptedReader(clips.a, shown, _streams(clips, limit, first))


def _streams(clips: Clips, limit: int | None, first: Frame | None) -> StreamSource | None:
    """A's other streams, up to the end of what is compared."""
    source, metadata = clips.a.stream_source, clips.metadata
    whole = metadata.duration_seconds
    if source is None or first is None or whole is None:
        return source
    rate = metadata.average_rate or FALLBACK_RATE
    lengths = [reader.metadata.duration_seconds for reader in clips.readers.values()]
    shortest = min(exact_seconds(length) for length in lengths if length)
    if limit is not None:
        shortest = min(shortest, Fraction(limit) / rate)
    if shortest + 1 / rate > exact_seconds(whole):
        return source
    end = first.pts * first.time_base + source.shift + shortest
    return replace(source, end=end if source.end is None else min(end, source.end))
