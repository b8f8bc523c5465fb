"""Runs of frames whose neighbours are aligned with each other."""

from dataclasses import dataclass

from stbn_cli.finetuning.alignment import Pair
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.gaps import PERIOD, GappedRun


@dataclass(frozen=True, slots=True)
class AlignedRun:
    """A run, what a network sees of it in each phase, and its pairs by the number of the source."""

    run: NoisyRun
    gapped: tuple[GappedRun, ...]
    pairs: dict[int, tuple[Pair, ...]]

    def usable_pairs(self, source: int, phase: int) -> list[Pair]:
        """The pairs of an estimate whose target the network does not see in this phase."""
        return [pair for pair in self.pairs.get(source, ()) if pair.target % PERIOD == phase]
