"""Training sequences: crops of the noisy runs, turned and mirrored, whose noise stays as it was.

No scaling, no interpolation, no colours changed, no noise added. Step number i of a run depends on (seed, i) alone.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stbn_cli.finetuning.flows import BlindFlows
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.plan import StepSizes


class CropBatch(NamedTuple):
    """Sequences of one step, all on the runs' device."""

    noisy: Tensor  # (N, T, 3, P, P) float32
    to_previous: Tensor  # (N, T, 2, P, P) float32 pixels
    to_next: Tensor
    targets: Tensor  # (N, T, P, P) bool: pixels to learn from


class CropSource:
    """Endless batches from `runs`, each with the flows from its checkerboards."""

    def __init__(
        self, runs: list[NoisyRun], flows: list[tuple[BlindFlows, ...]], sizes: StepSizes, seed: int
    ) -> None:
        self._sizes, self._seed = sizes, seed
        # Sequences of a batch have one shape: runs that are shorter than the longest allows are left out.
        self.length = min(sizes.train_length, max(len(run.noisy) for run in runs))
        used = [(run, flow) for run, flow in zip(runs, flows, strict=True) if len(run.noisy) >= self.length]
        self._runs, self._flows = [run for run, _ in used], [flow for _, flow in used]
        side = min(min(run.noisy.shape[-2:]) for run in self._runs)
        self.patch = min(sizes.patch_size, side)
        weights = np.array([float(run.pixels) for run in self._runs])
        self._weights = weights / weights.sum()

    def batch(self, step: int) -> CropBatch:
        """The sequences of a step."""
        random = np.random.default_rng((self._seed, step))
        parts = [self._sequence(random) for _ in range(self._sizes.batch_size)]
        return CropBatch(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def _sequence(self, random: np.random.Generator) -> CropBatch:
        number = int(random.choice(len(self._runs), p=self._weights))
        run = self._runs[number]
        flows = self._flows[number][int(random.integers(len(self._flows[number])))]
        count, _, height, width = run.noisy.shape
        first, top, left = (
            int(random.integers(room + 1))
            for room in (count - self.length, height - self.patch, width - self.patch)
        )
        times = slice(first, first + self.length)
        place = (..., slice(top, top + self.patch), slice(left, left + self.patch))
        hidden = flows.hidden if len(flows.hidden) == 1 else flows.hidden[times]
        sequence = CropBatch(
            run.noisy[times][place],
            flows.to_previous[times][place].float(),
            flows.to_next[times][place].float(),
            (hidden[place] & ~run.held_out[times][place])[:, 0],
        )
        reverse, mirror, turns = random.random() < 0.5, random.random() < 0.5, int(random.integers(4))
        return turned(mirrored(reversed_in_time(sequence) if reverse else sequence, mirror), turns)


def reversed_in_time(sequence: CropBatch) -> CropBatch:
    """The last frame first; tensors without the batch axis, as in the next two."""
    noisy, to_previous, to_next, targets = (part.flip(0) for part in sequence)
    return CropBatch(noisy, to_next, to_previous, targets)


def mirrored(sequence: CropBatch, wanted: bool = True) -> CropBatch:
    """Left and right exchanged."""
    if not wanted:
        return sequence
    noisy, to_previous, to_next, targets = (part.flip(-1) for part in sequence)
    sign = to_next.new_tensor([-1.0, 1.0]).view(2, 1, 1)
    return CropBatch(noisy, to_previous * sign, to_next * sign, targets)


def turned(sequence: CropBatch, quarters: int) -> CropBatch:
    """Turned counter-clockwise by so many quarters."""
    for _ in range(quarters % 4):
        noisy, to_previous, to_next, targets = (torch.rot90(part, 1, (-2, -1)) for part in sequence)
        # What pointed right (+x) points up (-y) now, and what pointed down (+y) points right (+x).
        sign = to_next.new_tensor([1.0, -1.0]).view(2, 1, 1)
        sequence = CropBatch(noisy, to_previous.flip(-3) * sign, to_next.flip(-3) * sign, targets)
    return sequence
