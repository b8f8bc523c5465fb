"""Chooses the places of a picture that are worth a closer look."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.report.crops import square_sums

_LUMA = np.array(LUMA_WEIGHTS, np.float32)
# Contrast between neighbouring pixels above this counts no more: texture is meant, not one hard edge.
HARD_EDGE = 0.1


@dataclass(frozen=True, slots=True)
class PictureSquare:
    """A square of a picture, in pixels."""

    top: int
    left: int
    size: int

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """This part of a picture `(H, W, ...)`."""
        return picture[self.top : self.top + self.size, self.left : self.left + self.size]


def noisiest_places(before: np.ndarray, after: np.ndarray, size: int, count: int) -> list[PictureSquare]:
    """Up to `count` squares that do not overlap, those first where most was taken away (mean square).

    before, after: (H, W, 3) float RGB. size: pixels of a side, at most the picture's sides.
    """
    removed = np.square((before - after) @ _LUMA)
    return _best_places(removed, size, count, [])


def detailed_places(
    after: np.ndarray, size: int, count: int, taken: list[PictureSquare]
) -> list[PictureSquare]:
    """Up to `count` squares, clear of each other and of `taken`, those first with most fine detail.

    after: (H, W, 3) float RGB, denoised, so that noise does not pass for detail. Detail is the mean contrast
    between neighbouring pixels.
    """
    luma = after @ _LUMA
    contrast = np.zeros_like(luma)
    contrast[:, 1:] += np.minimum(np.abs(np.diff(luma, axis=1)), HARD_EDGE)
    contrast[1:] += np.minimum(np.abs(np.diff(luma, axis=0)), HARD_EDGE)
    return _best_places(contrast, size, count, taken)


def _best_places(score: np.ndarray, size: int, count: int, taken: list[PictureSquare]) -> list[PictureSquare]:
    """Greedy: the square with the largest sum of `score` (H, W), then the next that is clear of those before."""
    sums = square_sums(score, size, size)
    places: list[PictureSquare] = []
    for other in taken:
        _forbid(sums, other)
    while len(places) < count and np.isfinite(sums).any():
        top, left = np.unravel_index(np.argmax(sums), sums.shape)
        places.append(PictureSquare(int(top), int(left), size))
        _forbid(sums, places[-1])
    return places


def _forbid(sums: np.ndarray, place: PictureSquare) -> None:
    """Rule out every square that would share a pixel with `place`."""
    rows = slice(max(place.top - place.size + 1, 0), place.top + place.size)
    columns = slice(max(place.left - place.size + 1, 0), place.left + place.size)
    sums[rows, columns] = -np.inf
