"""Where the labels of a scatter plot's points go: pure geometry, greedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Gaps between point and label that are tried, nearest first, and the sides: right, left, above, below, then diagonal.
_GAPS = (6.0, 13.0, 22.0, 33.0)
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_POINT_RADIUS = 4.0
_MARGIN = 1.5  # kept free around a label


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle `[left, right] x [bottom, top]`."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.top - self.bottom)

    def overlap(self, other: "Box") -> float:
        """The area that both share."""
        return Box(
            max(self.left, other.left),
            max(self.bottom, other.bottom),
            min(self.right, other.right),
            min(self.top, other.top),
        ).area


@dataclass(frozen=True, slots=True)
class Placement:
    """A label's place: `box`, and the point `(x, y)` of its edge, corner or side that its text is aligned to."""

    box: Box
    x: float
    y: float
    horizontal: Literal["left", "center", "right"]
    vertical: Literal["bottom", "center", "top"]
    far: bool  # so far from its point that a line should join them


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], area: Box
) -> list[Placement]:
    """Places labels of the given (width, height) beside their points, in the unit of the points (1/72 inch fits).

    Each takes, in the order given, the nearest place that covers no point, no label so far and nothing outside
    `area`; if there is none, the one that covers least.
    """
    taken = [
        Box(x - _POINT_RADIUS, y - _POINT_RADIUS, x + _POINT_RADIUS, y + _POINT_RADIUS) for x, y in points
    ]
    placements: list[Placement] = []
    for point, size in zip(points, sizes, strict=True):
        candidates = [_beside(point, size, gap, side) for gap in _GAPS for side in _SIDES]
        # min takes the first of equals: the nearest.
        best = min(candidates, key=lambda candidate: _covered(candidate.box, taken, area))
        placements.append(best)
        taken.append(best.box)
    return placements


def _beside(
    point: tuple[float, float], size: tuple[float, float], gap: float, side: tuple[int, int]
) -> Placement:
    across, up = side
    x, y = point[0] + across * gap, point[1] + up * gap
    left = x + size[0] * (across - 1) / 2
    bottom = y + size[1] * (up - 1) / 2
    return Placement(
        Box(left - _MARGIN, bottom - _MARGIN, left + size[0] + _MARGIN, bottom + size[1] + _MARGIN),
        x,
        y,
        ("center", "left", "right")[across],
        ("center", "bottom", "top")[up],
        gap > _GAPS[1],
    )


def _covered(box: Box, taken: Sequence[Box], area: Box) -> float:
    """What a label in `box` would cover; beyond `area` it might be cut off, which is worse."""
    return sum(box.overlap(other) for other in taken) + 10.0 * (box.area - box.overlap(area))
