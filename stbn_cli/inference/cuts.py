"""Where one scene ends and the next begins, found frame by frame, in strong noise too.

Two frames are compared by the correlation of small thumbnails: indifferent to brightness and contrast (fades,
flicker), barely touched by noise (a thumbnail's pixel averages many), searched over small shifts (motion).
Knows nothing of video files or networks.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

# Largest thumbnail, and the fewest picture pixels along a side of one of its cells: noise of std 50/255 is
# 0.025 or less in the mean of 8x8 pixels.
THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 27, 48
SMALLEST_CELL = 8
# Rows read per row of the thumbnail: enough to average the noise, and faster than reading them all.
ROWS_PER_CELL = 10
# A thumbnail (or a row or column at its edge) of smaller std shows nothing that could be compared: black,
# white, letterbox bars, whatever the noise.
FLAT_STD = 0.03
# Shifts tried in both directions, in pixels of the thumbnail (4 % of a wide frame's width).
SEARCH_RADIUS = 2
# The distance (1 - correlation, 0 .. 2) that makes a cut: FACTOR times the largest of the last HISTORY
# frames, within these bounds. Measured on 58 real clips, clean and with noise of std 50/255: within a scene
# it reaches 0.56 (fast pans), between scenes it is above 0.6 in 95 % and above 0.35 in 99.6 %.
LOWEST_THRESHOLD = 0.35
HIGHEST_THRESHOLD = 0.6
FACTOR = 2.0
HISTORY = 8
# A picture whose contrast has grown by this factor since its scene began was faded in, and its noise with it: bus at
# sigma 20 gained 5 dB afterwards. Where the noise was there before, beginning anew cost 0.3 to 0.5 dB during the fade.
FADED_IN = 1.6


@dataclass(frozen=True, slots=True)
class SceneFrames(Generic[T]):
    """One scene's frames, which are read as they are taken: as those of `itertools.groupby`, before the next scene."""

    opening: list[T]  # the first ones, as many as were asked for, or all of a scene that is shorter
    rest: Iterator[T]

    def __iter__(self) -> Iterator[T]:
        return chain(self.opening, self.rest)


def scenes_of(
    frames: Iterable[T], is_cut: Callable[[T], bool], opening: Callable[[], int] = lambda: 1
) -> Iterator[SceneFrames[T]]:
    """The scenes that `frames` consist of, each with its first `opening()` frames.

    `is_cut`, which is asked for every frame in order, says whether a new scene begins with it; the first one does
    whatever it says. Looks one frame ahead at a scene's end and nowhere else.
    """
    source = iter(frames)
    following = list(islice(source, 1))  # the first frame of the next scene, once that is known
    for frame in following:
        is_cut(frame)

    def scene() -> Iterator[T]:
        yield following.pop()
        for frame in source:
            if is_cut(frame):
                following.append(frame)
                return
            yield frame

    while following:
        rest = scene()
        yield SceneFrames(list(islice(rest, opening())), rest)
        deque(rest, maxlen=0)


class CutDetector:
    """Streaming scene-cut detector; holds thumbnails of the last frames and nothing else.

    Deterministic. A cut behind black or empty frames is reported when the picture returns, a dissolve not at
    all; a flash of one frame at most once, and not at all if it leaves the frame empty or only brighter. A scene that
    is faded in begins anew several times, since what is measured of its first frames does not hold for the others.
    """

    def __init__(self) -> None:
        # The two latest thumbnails that show something, newest last. The older one recognises a scene that
        # returns after a single foreign frame.
        self._shown: deque[np.ndarray] = deque(maxlen=2)
        self._distances: deque[float] = deque(maxlen=HISTORY)
        # Contrast of the frame that the scene began with, and of the latest one.
        self._first_spread = self._last_spread = 0.0

    def is_cut(self, frame: np.ndarray) -> bool:
        """Whether a new scene begins with `frame`; call for every frame in order.

        Args:
            frame: (H, W, 3) float32 RGB or (H, W, 4) Bayer planes, nominal range [0, 1], noisy. A change of size is a
                cut.

        Raises:
            ValueError: the shape is another.
        """
        return self.begins_with(thumbnail_of(frame))

    @property
    def is_blank(self) -> bool:
        """Whether no frame so far shows anything."""
        return not self._shown

    def begins_with(self, thumbnail: np.ndarray) -> bool:
        """As `is_cut`, for what `thumbnail_of` makes of the frame."""
        spread = float(_spread(thumbnail))
        if spread < FLAT_STD:
            return False
        cut = False
        begins = not self._shown
        if self._shown and self._shown[-1].shape != thumbnail.shape:
            cut = True
            self._shown.clear()
        elif self._shown:
            distance = _distance(self._shown[-1], thumbnail)
            threshold = self._threshold()
            cut = distance > threshold
            if cut and len(self._shown) > 1:
                cut = _distance(self._shown[0], thumbnail) > threshold
            if not cut:
                self._distances.append(distance)
                # Twice in a row: a flash is none.
                cut = min(spread, self._last_spread) > FADED_IN * self._first_spread
        if cut or begins:
            self._first_spread = spread
        self._last_spread = spread
        if cut:
            # The new scene may move in its own way.
            self._distances.clear()
        self._shown.append(thumbnail)
        return cut

    def _threshold(self) -> float:
        # Right after a cut nothing is known of the motion: expect the worst.
        if not self._distances:
            return HIGHEST_THRESHOLD
        return min(max(FACTOR * max(self._distances), LOWEST_THRESHOLD), HIGHEST_THRESHOLD)


def thumbnail_of(frame: np.ndarray) -> np.ndarray:
    """(H, W, C) -> at most (27, 48, C) float32, every pixel the mean of a cell. Raises `ValueError` as `is_cut`."""
    import cv2

    if frame.ndim != 3 or frame.shape[2] not in (3, 4):
        raise ValueError(f"expected a frame of shape (H, W, 3) or (H, W, 4), got {tuple(frame.shape)}")
    height, width = frame.shape[:2]
    rows = min(THUMBNAIL_HEIGHT, max(height // SMALLEST_CELL, 1))
    columns = min(THUMBNAIL_WIDTH, max(width // SMALLEST_CELL, 1))
    step = max(height // (rows * ROWS_PER_CELL), 1)
    lines = frame[::step].astype(np.float32, copy=False)
    return cv2.resize(lines, (columns, rows), interpolation=cv2.INTER_AREA)


def _spread(thumbnail: np.ndarray, axis: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Std over `axis` about each channel's mean, root mean square of the channels."""
    return np.sqrt(thumbnail.var(axis=axis).mean(axis=-1))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """1 - correlation of two thumbnails (h, w, 3) of one size at the best small shift."""
    first, second = _without_bars(first, second)
    distance = 1 - _correlation(first, second)
    if distance <= LOWEST_THRESHOLD / FACTOR:
        # Near enough to raise no threshold; the search is for the others.
        return distance
    height, width = first.shape[:2]
    reach_y, reach_x = (min(SEARCH_RADIUS, side // 4) for side in (height, width))
    for dy in range(-reach_y, reach_y + 1):
        for dx in range(-reach_x, reach_x + 1):
            here = first[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
            there = second[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
            distance = min(distance, 1 - _correlation(here, there))
    return distance


def _without_bars(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut off edge rows and columns that are flat in both (letterbox bars make any two scenes alike)."""
    for _ in range(2):  # rows, then columns
        shown = np.flatnonzero(np.maximum(_spread(first, (1,)), _spread(second, (1,))) >= FLAT_STD)
        inside = slice(shown[0], shown[-1] + 1) if shown.size else slice(None)
        first, second = first[inside].transpose(1, 0, 2), second[inside].transpose(1, 0, 2)
    return first, second


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two pictures (h, w, 3), means of the channels removed; 0 if one shows nothing."""
    first = first - first.mean(axis=(0, 1))
    second = second - second.mean(axis=(0, 1))
    energy = float(np.square(first).sum()) * float(np.square(second).sum())
    return float((first * second).sum()) / math.sqrt(energy) if energy > 0 else 0.0
