"""Watches frames before and after denoising, and says what grain was removed when."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np

from stbn_cli.grain.fitting import Fitted, fit
from stbn_cli.grain.parameters import SEEDS, GrainSegment
from stbn_cli.grain.statistics import BLOCK, Statistics, gather
from stbn_cli.video.color import PixelLayout, planes_to_rgb, rgb_to_planes
from stbn_cli.video.formats import FALLBACK_RATE
from stbn_cli.video.frames import ColorSpec, Frame

# A frame is looked at every so many seconds: grain does not change from one to the next. Of pictures with fewer blocks
# than this there are more.
SAMPLE_SECONDS, SAMPLE_BLOCKS = Fraction(1, 2), 200
# Of a long film fewer are kept than this (each takes about 14 kB), at longer intervals.
MOST_SAMPLES = 4000
# No segment is longer than this.
SEGMENT_SECONDS = 5
# Both pictures are compared with more bits than they are written with: rounding and dithering are no grain.
DEPTH = 16
# From one segment to the next.
SEED_STEP = 24593


class GrainMeter:
    """Measures the grain that is removed from frames, which it is shown before and after, in their order.

    One thread may show noisy frames while another shows denoised ones.
    """

    def __init__(self, layout: PixelLayout, color: ColorSpec) -> None:
        """layout, color: of the output. What is not Y'CbCr is measured as 4:2:0 of BT.709."""
        self._written, self._color = layout, color
        self._matrix, self._full_range = color.matrix, color.full_range
        self._layout = replace(layout, depth=DEPTH)
        if layout.family == "rgb":
            self._matrix, self._full_range = "bt709", False
            self._layout = PixelLayout("yuv", DEPTH, 2, 2)
        self._times = _Times()
        self._end = Fraction(0)
        self._next: Fraction | None = None
        self._waiting: dict[int, list[np.ndarray]] = {}
        self._samples: list[tuple[int, Statistics]] = []
        self._sparse = 1  # times as long are the intervals

    def noisy(self, number: int, frame: Frame) -> None:
        """See a frame before it is denoised; number: from 0 on."""
        time = frame.pts * frame.time_base
        self._times.add(frame.pts, frame.time_base)
        if frame.duration:
            self._end = time + frame.duration * frame.time_base
        elif len(self._times) > 1:
            self._end = 2 * time - self._times[len(self._times) - 2]
        if self._next is None or time >= self._next:
            height, width = frame.rgb.shape[:2]
            blocks = (height // BLOCK) * (width // BLOCK)
            self._next = time + SAMPLE_SECONDS * min(Fraction(blocks, SAMPLE_BLOCKS), 1) * self._sparse
            self._waiting[number] = self._planes(frame.rgb)

    def denoised(self, number: int, rgb: np.ndarray) -> None:
        """See the same frame denoised, (H, W, 3) float32."""
        before = self._waiting.pop(number, None)
        if before is not None:
            sub = self._layout.sub_x, self._layout.sub_y
            after = _bytes(self._planes(rgb))
            found = gather(_bytes(before), after, sub)
            if found is not None:
                self._samples.append((number, found))
            if len(self._samples) >= MOST_SAMPLES:
                self._samples, self._sparse = self._samples[::2], 2 * self._sparse

    def kept(self, number: int, planes: Sequence[np.ndarray]) -> None:
        """See the same frame denoised, as the planes that are written."""
        if number in self._waiting:
            color = self._color
            rgb = planes_to_rgb(list(planes), self._written, color.matrix, color.full_range)
            self.denoised(number, rgb)

    @property
    def has_measured(self) -> bool:
        """Whether any place was flat enough."""
        return bool(self._samples)

    def segments(self, scenes: Sequence[int]) -> list[GrainSegment]:
        """The grain of all frames seen, by segments of time that no scene cut divides; none where there is hardly any.

        scenes: numbers of the frames that begin one.
        """
        if not self._times:
            return []
        bounds = self._bounds(scenes)
        found = {}
        for index, (first, stop) in enumerate(pairwise(bounds)):
            statistics = self._statistics(first, stop)
            if statistics is not None:
                found[index] = self._fitted(index, statistics)
        last = self._times[len(self._times) - 1]
        last = self._end if self._end > last else last + 1 / FALLBACK_RATE
        segments = []
        for index, (first, stop) in enumerate(pairwise(bounds)):
            # Where nothing flat was seen, it is as it was before, else as it is after.
            known = [other for other in found if other <= index] or list(found)[:1]
            fitted = found[known[-1]] if known else None
            if fitted is not None:
                end = self._times[stop] if stop < len(self._times) else last
                segments.append(
                    GrainSegment(self._times[first], end, fitted.grain, fitted.strengths, fitted.correlation)
                )
        return segments

    def _bounds(self, scenes: Sequence[int]) -> list[int]:
        """Numbers of the frames with which segments begin, and of the end."""
        count = len(self._times)
        starts = sorted({0, *(number for number in scenes if 0 < number < count)})
        bounds = []
        for first, stop in pairwise((*starts, count)):
            start = self._times[first]
            length = (self._times[stop] if stop < count else self._times[count - 1]) - start
            parts = max(math.ceil(length / SEGMENT_SECONDS), 1)
            bounds.append(first)
            for part in range(1, parts):
                place = bisect_right(self._times, start + length * part / parts, first, stop)
                if bounds[-1] < place < stop:
                    bounds.append(place)
        return [*bounds, count]

    def _statistics(self, first: int, stop: int) -> Statistics | None:
        """Of frames first to stop - 1; None: nothing is known."""
        seen = [sample for number, sample in self._samples if first <= number < stop]
        return reduce(add, seen) if seen else None

    def _fitted(self, index: int, statistics: Statistics) -> Fitted | None:
        sub = self._layout.sub_x, self._layout.sub_y
        return fit(statistics, sub, self._written.depth, (index + 1) * SEED_STEP % SEEDS)

    def _planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        return rgb_to_planes(rgb, self._layout, self._matrix, self._full_range)


class _Times:
    """Times in seconds, in 8 bytes each."""

    def __init__(self) -> None:
        self._ticks, self._base = array("q"), Fraction(1)

    def add(self, ticks: int, base: Fraction) -> None:
        if not self._ticks:
            self._base = base
        self._ticks.append(round(ticks * base / self._base))

    def __len__(self) -> int:
        return len(self._ticks)

    def __getitem__(self, index: int) -> Fraction:
        return self._ticks[index] * self._base


def _bytes(planes: list[np.ndarray]) -> list[np.ndarray]:
    return [plane.astype(np.float32) / 2 ** (DEPTH - 8) for plane in planes]
