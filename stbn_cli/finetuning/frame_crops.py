"""Training sequences for learning from frame to frame: crops of runs with frames left out, and their pairs.

Nothing is turned, mirrored or scaled: cameras and coders treat both axes differently, and so is their noise. Step
number i of a run depends on (seed, i) alone.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stbn_cli.finetuning.alignment import Pair, comes_from_inside
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.gaps import LEARNING_PHASES, PERIOD, GappedRun
from stbn_cli.finetuning.plan import StepSizes
from stbn_cli.finetuning.tone import Tone
from stbn_cli.models.config import RecurrentConfig


@dataclass(frozen=True, slots=True)
class AlignedRun:
    """A run, what a network sees of it in each phase, and its pairs by the number of the source."""

    run: NoisyRun
    gapped: tuple[GappedRun, ...]
    pairs: dict[int, tuple[Pair, ...]]

    def usable_pairs(self, source: int, phase: int) -> list[Pair]:
        """The pairs of an estimate whose target the network does not see in this phase."""
        return [pair for pair in self.pairs.get(source, ()) if pair.target % PERIOD == phase]

    def unseen(self, source: int, phase: int) -> Tensor:
        """Where an estimate is compared with nothing, (1, H, W) bool: what it shows is not to be found in a target."""
        run = self.run.noisy
        found = torch.zeros(1, *run.shape[-2:], dtype=torch.bool, device=run.device)
        for pair in self.usable_pairs(source, phase):
            for back in self.pairs.get(pair.target, ()):
                if back.target == source:
                    found |= back.weight
        return ~found


class FrameBatch(NamedTuple):
    """Sequences of one step, all on the runs' device, and M pairs of estimates in them with their goals."""

    noisy: Tensor  # (N, T, 3, P, P) float32
    to_previous: Tensor  # (N, T, 2, p, p) float32 pixels, of the size of a hidden state
    to_next: Tensor
    sequence: Tensor  # (M,) int64: which of the N
    frame: Tensor  # (M,) int64: which of its T
    flow: Tensor  # (M, 2, P, P) float32 pixels
    weight: Tensor  # (M, 1, P, P) bool
    goal: Tensor  # (M, 3, P, P) float32
    unseen: Tensor  # (N, T, 1, P, P) bool: pixels of estimates that are compared with nothing


class FrameCropSource:
    """Endless batches from `runs`; none from targets of the phase that is for judging."""

    def __init__(
        self, runs: list[AlignedRun], sizes: StepSizes, config: RecurrentConfig, tone: Tone, seed: int
    ) -> None:
        """`config`: of the network; `tone`: what it misses on average, and is to go on missing."""
        multiple = config.multiple
        self._batch_size, self._scale, self._multiple, self._seed = (
            sizes.batch_size,
            config.scale,
            multiple,
            seed,
        )
        self._tone = tone
        longest = max(min(len(gaps.kept) for gaps in run.gapped) for run in runs)
        self.length = min(max(sizes.train_length, 2), longest)  # of two frames, one lies beside a target
        self._runs = [run for run in runs if min(len(gaps.kept) for gaps in run.gapped) >= self.length]
        side = min(sizes.patch_size, *(min(run.run.noisy.shape[-2:]) for run in self._runs))
        self.patch = side // multiple * multiple
        weights = np.array([float(run.run.pixels) for run in self._runs])
        self._weights = weights / weights.sum()

    def batch(self, step: int) -> FrameBatch:
        """The sequences of a step."""
        random = np.random.default_rng((self._seed, step))
        sequences, pairs = [], []
        for number in range(self._batch_size):
            sequence, found = self._sequence(random)
            sequences.append(sequence)
            pairs += [(number, *pair) for pair in found]
        noisy, to_previous, to_next, unseen = (torch.stack(part) for part in zip(*sequences, strict=True))
        owners, frames, flows, weights, goals = zip(*pairs, strict=True)
        device = noisy.device
        flow = torch.stack(flows)
        return FrameBatch(
            noisy,
            to_previous,
            to_next,
            torch.tensor(owners, device=device),
            torch.tensor(frames, device=device),
            flow,
            torch.stack(weights) & comes_from_inside(flow, 1.0),
            torch.stack(goals),
            unseen,
        )

    def _sequence(
        self, random: np.random.Generator
    ) -> tuple[tuple[Tensor, ...], list[tuple[int, Tensor, Tensor, Tensor]]]:
        """Frames, flows and what is unseen of a sequence; of its pairs number of the frame, flow, weight, goal."""
        run = self._runs[int(random.choice(len(self._runs), p=self._weights))]
        phase = int(random.choice(LEARNING_PHASES))
        gaps = run.gapped[phase]
        height, width = run.run.noisy.shape[-2:]
        first = int(random.integers(len(gaps.kept) - self.length + 1))
        top, left = (
            self._multiple * int(random.integers((size - self.patch) // self._multiple + 1))
            for size in (height, width)
        )
        place = (..., slice(top, top + self.patch), slice(left, left + self.patch))
        small = (
            slice(first, first + self.length),
            slice(None),
            slice(top // self._scale, (top + self.patch) // self._scale),
            slice(left // self._scale, (left + self.patch) // self._scale),
        )
        kept = gaps.kept[first : first + self.length]
        noisy = run.run.noisy[list(kept)][place]
        pairs = [
            (index, pair.flow[place].float(), pair.weight[place], self._goal(pair, place))
            for index, source in enumerate(kept)
            for pair in run.usable_pairs(source, phase)
        ]
        unseen = torch.stack([run.unseen(source, phase)[place] for source in kept])
        return (noisy, gaps.to_previous[small].float(), gaps.to_next[small].float(), unseen), pairs

    def _goal(self, pair: Pair, place: tuple[Any, ...]) -> Tensor:
        missed = self._tone.at(pair.shown[place].float().movedim(0, -1)).movedim(-1, 0)
        return pair.goals[0][place].float() + missed
