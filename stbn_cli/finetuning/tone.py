"""What noise does to brightness on average, which noisy frames cannot tell.

Behind a tone curve, or cut off at black and white, noise has a mean: dark places look brighter than they are, by five
grey levels under a camera's strong noise. A network that was trained on clean frames has learned to undo that, and
noisy frames would speak against it. So what an estimate misses on average at each brightness is not judged.

What noise that is cut off does to the mean is known, though, if the noise is.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stbn_cli.finetuning.redraw import NoiseTexture

KNOTS = 16  # of brightness, evenly spaced over [0, 1]
# Pixels of no difference that are added at every knot: few pixels tell little of a mean.
PRIOR = 50
# Levels of brightness at which noise is cut off to see what that does, and the side of the frames (pixels).
LEVELS, SIDE = 61, 64


@dataclass(frozen=True, slots=True)
class Tone:
    """A mean difference by brightness, (3, KNOTS) float32: of red, green, blue; linear between the knots."""

    table: Tensor

    @classmethod
    def of(cls, difference: Tensor, brightness: Tensor) -> Self:
        """The mean of `difference (n, 3)` at each `brightness (n, 3)`, [0, 1]."""
        sums, weights = [], []
        position = brightness.clamp(0.0, 1.0) * (KNOTS - 1)
        for knot in range(KNOTS):
            near = (1.0 - (position - knot).abs()).clamp_min(0.0)
            sums.append((near * difference).sum(0))
            weights.append(near.sum(0))
        return cls((torch.stack(sums) / (torch.stack(weights) + PRIOR)).T)

    @classmethod
    def of_truth(cls, texture: NoiseTexture) -> Self:
        """What the truth differs by from noise that is cut off, at each brightness that this noise is seen at."""
        levels = torch.linspace(0.0, 1.0, LEVELS, device=texture.kernels.device)
        frames = levels[:, None, None, None].expand(LEVELS, 3, SIDE, SIDE)
        noisy = frames + texture.draw(frames, torch.Generator().manual_seed(0))
        # The noise has no mean before; what was drawn has one by chance.
        cut = noisy - noisy.clamp(0.0, 1.0)
        seen = (frames - cut.mean((2, 3), keepdim=True)).expand_as(cut)
        return cls.of(*(part.movedim(1, -1).flatten(0, 2) for part in (cut, seen)))

    def beyond(self, other: Self, right: Self | None) -> Self:
        """What this differs by from `other`, or from what lies between that and what is `right`."""
        right = other if right is None else right
        low, high = torch.minimum(other.table, right.table), torch.maximum(other.table, right.table)
        return type(self)(self.table - self.table.clamp(low, high))

    def at(self, brightness: Tensor) -> Tensor:
        """The difference at `brightness (n, 3)`, of the same shape."""
        position = brightness.clamp(0.0, 1.0) * (KNOTS - 1)
        total = torch.zeros_like(position)
        for knot in range(KNOTS):
            total += (1.0 - (position - knot).abs()).clamp_min(0.0) * self.table[:, knot]
        return total
