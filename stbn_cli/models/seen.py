"""A noisy frame as a network takes it: made once by its `see`, used in both directions and when both are fused."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Frames `(N, C, H, W)`, and maps of them `(N, K, h, w)` at the resolution of a hidden state.

    A map of 1x1 pixels holds everywhere.
    """

    frame: Tensor
    maps: tuple[Tensor, ...]
    dtype: torch.dtype  # in which the network that made it computes

    def part(self, rows: slice, columns: slice, scale: int) -> "Seen":
        """These rows and columns of the maps, of which a pixel is `scale` x `scale` of the frame's."""
        full = (slice(side.start * scale, side.stop * scale) for side in (rows, columns))
        cut = (part if part.shape[-2:] == (1, 1) else part[..., rows, columns] for part in self.maps)
        return Seen(self.frame[(..., *full)], tuple(cut), self.dtype)

    def at(self, index: slice) -> "Seen":
        """Some of the frames."""
        return Seen(self.frame[index], tuple(part[index] for part in self.maps), self.dtype)


def joined(seen: Sequence[Seen]) -> Seen:
    """All of them as one batch."""
    if len(seen) == 1:
        return seen[0]
    maps = zip(*(one.maps for one in seen), strict=True)
    frames = torch.cat([one.frame for one in seen])
    return Seen(frames, tuple(torch.cat(parts) for parts in maps), seen[0].dtype)
