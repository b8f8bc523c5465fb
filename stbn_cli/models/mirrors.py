"""Mirrored passes of a network over a clip, whose mean is better than they are on average.

A network that learned on a few hours of footage answers a mirrored clip a little differently. Those differences are
errors, and the mean loses most of them.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mirror:
    """One way to show a clip."""

    flipped: bool = False  # top to bottom
    mirrored: bool = False  # left to right
    reversed: bool = False  # in time

    @property
    def changes_frames(self) -> bool:
        """Whether frames look different."""
        return self.flipped or self.mirrored

    def of(self, maps: Tensor) -> Tensor:
        """`maps (N, C, h, w)` in this mirror; once more gives them back."""
        axes = [axis for axis, turned in ((-2, self.flipped), (-1, self.mirrored)) if turned]
        return maps.flip(axes) if axes else maps

    def of_unshuffled(self, frames: Tensor, scale: int) -> Tensor:
        """As `of`, for frames `(N, C * scale**2, h, w)` as `pixel_unshuffle` gives them."""
        if not self.changes_frames:
            return frames
        pixels = frames.unflatten(1, (-1, scale, scale))
        pairs = (((2, 4), self.flipped), ((3, 5), self.mirrored))  # within and between the unshuffled blocks
        return pixels.flip([axis for axes, turned in pairs if turned for axis in axes]).flatten(1, 3)


# The first so many are used: the frames as they are come first.
MIRRORS = (
    Mirror(),
    Mirror(flipped=True, mirrored=True),
    Mirror(mirrored=True, reversed=True),
    Mirror(flipped=True, reversed=True),
)
