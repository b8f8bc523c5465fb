"""What noise does to brightness on average, which noisy frames cannot tell.

Behind a tone curve, or cut off at black and white, noise has a mean: dark places look brighter than they are, by five
grey levels under a camera's strong noise. A network that was trained on clean frames has learned to undo that, and
noisy frames would speak against it. So what an estimate misses on average at each brightness is not judged.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

KNOTS = 16  # of brightness, evenly spaced over [0, 1]
# Pixels of no difference that are added at every knot: few pixels tell little of a mean.
PRIOR = 50


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

    def at(self, brightness: Tensor) -> Tensor:
        """The difference at `brightness (n, 3)`, of the same shape."""
        position = brightness.clamp(0.0, 1.0) * (KNOTS - 1)
        total = torch.zeros_like(position)
        for knot in range(KNOTS):
            total += (1.0 - (position - knot).abs()).clamp_min(0.0) * self.table[:, knot]
        return total
