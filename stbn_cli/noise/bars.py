"""Borders without picture around the frames of one scene, float32, nominal [0, 1]: letterbox, pillarbox."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

# Rows and columns at the edge whose values span no more than this are borders, not picture.
BORDER_RANGE = 2 / 255


@dataclass(frozen=True, slots=True)
class Bars:
    """Width in pixels of the borders without picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return any((self.top, self.bottom, self.left, self.right))


def picture_area(frames: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of `(T, C, H, W)` between those at the edges that are of one colour in every frame.

    Empty slices where nothing is left.
    """
    if not frames.size:
        return slice(0, 0), slice(0, 0)
    most, least = frames.max(axis=0), frames.min(axis=0)
    rows = _extent(most.max(axis=2) - least.min(axis=2))
    # Of what is left: the bars above need not be as dark as those beside.
    most, least = most[:, rows], least[:, rows]
    if not most.size:
        return rows, slice(0, 0)
    return rows, _extent(most.max(axis=1) - least.min(axis=1))


def _extent(spans: np.ndarray) -> slice:
    """From the first to the last line of more than one colour; spans: `(C, lines)`."""
    alive = np.flatnonzero(spans.max(axis=0) > BORDER_RANGE)
    return slice(int(alive[0]), int(alive[-1]) + 1) if alive.size else slice(0, 0)


def without_borders(frame: np.ndarray) -> np.ndarray:
    """The picture in a frame `(H, W, 3)`; empty where there is none."""
    rows, columns = picture_area(frame.transpose(2, 0, 1)[None])
    return frame[rows, columns]


def find_bars(frames: Tensor) -> Bars:
    """Letterbox and pillarbox of `(T, 3, H, W)`; none where all is of one colour."""
    height, width = frames.shape[-2:]
    rows, columns = picture_area(frames.cpu().numpy())
    if rows.stop == 0 or columns.stop == 0:
        return Bars()
    return Bars(rows.start, height - rows.stop, columns.start, width - columns.stop)


def without_bars(frames: Tensor, bars: Bars) -> Tensor:
    """The picture of `(T, 3, H, W)` between the bars."""
    height, width = frames.shape[-2:]
    return frames[..., bars.top : height - bars.bottom, bars.left : width - bars.right]
