"""A stream in parts that can be denoised apart from each other: each begins where a scene does.

The recurrence starts afresh there, the noise is measured anew and chunks are counted from there, so that the frames are
those of the whole stream. Knows nothing of files or networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stbn_cli.inference.cuts import CutDetector


@dataclass(frozen=True, slots=True)
class Part:
    """Successive whole scenes of a stream; frames are counted from its beginning."""

    first: int
    count: int  # frames
    scenes: tuple[int, ...]  # the first frame of each

    def begins_scene(self, index: int) -> bool:
        """Whether a scene begins with this frame, counted from the part's first one."""
        return self.first + index in self.scenes


class SceneFinder:
    """Says of every frame of a stream whether `Denoiser.stream` begins a scene with it."""

    def __init__(self) -> None:
        self._detector = CutDetector()
        self._shown: np.ndarray | None = None

    def begins_scene(self, frame: np.ndarray) -> bool:
        """Call for every frame `(H, W, 3)` of one size in order; the frames are kept until the next one."""
        first = self._shown is None
        if self._shown is not None and is_repeat(frame, self._shown):
            return False
        self._shown = frame
        return self._detector.is_cut(frame) or first


def parts_of(scenes: Sequence[int], count: int, shortest: int) -> list[Part]:
    """Parts of at least `shortest` frames, as many as there can be; one, if it must be.

    scenes: the first frame of each, 0 first. count: frames in all.
    """
    bounds = [0]
    for scene in scenes:
        if scene - bounds[-1] >= shortest and count - scene >= shortest:
            bounds.append(scene)
    ends = [*bounds[1:], count]
    return [
        Part(first, end - first, tuple(scene for scene in scenes if first <= scene < end))
        for first, end in zip(bounds, ends, strict=True)
    ]


def is_repeat(frame: np.ndarray, shown: np.ndarray) -> bool:
    """Whether two frames are equal value for value; some rows suffice for most pairs."""
    return np.array_equal(frame[::32], shown[::32]) and np.array_equal(frame, shown)
