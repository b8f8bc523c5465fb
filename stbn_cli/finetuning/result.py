"""What a finetuning run tells while it works, and at its end."""

from dataclasses import dataclass
from enum import StrEnum

import torch

from stbn_cli.checkpoints.serial import Checkpoint
from stbn_cli.finetuning.probe import Probe
from stbn_cli.models.config import passes_of
from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.sure import Gain
from stbn_cli.scale import BYTE_SCALE


class Outcome(StrEnum):
    """Why the result is what it is."""

    IMPROVED = "improved"  # better than the start by more than chance
    # Nothing was learned, but the mean of mirrored passes is better than one pass of the start.
    AVERAGED = "averaged"
    NO_GAIN = "no gain"  # the result is the start
    CORRELATED_NOISE = "correlated noise"  # the result is the start, which cannot learn from such noise
    REPEATED_NOISE = "repeated noise"  # the result is the start; neighbouring frames share their noise too
    TOO_SHORT = (
        "too short"  # the result is the start; there are too few frames to learn from their neighbours
    )
    NOTHING_NEW = (
        "nothing new"  # the result is the start; hardly a pixel could be compared with the next frame
    )
    # The result is the start: what a coder left of the noise depends on the picture.
    CODED_NOISE = "coded noise"
    IDENTITY = "identity"  # the result is the start; the network had begun to reproduce the noise


@dataclass(frozen=True, slots=True)
class FinetuneProgress:
    """Where a run is."""

    phase: str  # in words: "reading", "finding motion", "training"
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    gain: Gain | None = None  # of the best so far, once there is one


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """How a run ended. `checkpoint` is what `stbn denoise` should take: the best found, or the start itself."""

    checkpoint: Checkpoint
    outcome: Outcome
    interrupted: bool  # by the user
    finished: bool  # all steps were made
    gain: Gain | None  # over the start by the run's own estimate; None where nothing was trained
    against: str  # what `gain` compares with: the model started from, or the noisy frames
    noise: NoiseLevelFunction  # as known or learned
    level: float  # of that noise over the clips, 0-255 scale
    correlation: NoiseCorrelation | None
    flow_distilled: bool
    luma_only: bool  # learned from luma alone, and `gain` is that of the luma
    frames: int  # looked at
    steps: int  # made
    seconds: float
    before: torch.Tensor | None = None  # (3, H, W) float32, [0, 1]: a crop, noisy
    start: torch.Tensor | None = None  # denoised by the start
    after: torch.Tensor | None = None  # denoised by the result, if that is not the start
    measured: Probe | None = None  # the noise as every command has it
    known: bool = False  # the user has given the noise level
    not_learned_because: Outcome | None = None  # of an averaged result

    @property
    def improved(self) -> bool:
        """Whether the result is better than the start."""
        return self.outcome in (Outcome.IMPROVED, Outcome.AVERAGED)

    @property
    def passes(self) -> int:
        """Passes over a clip that the result takes."""
        return passes_of(self.checkpoint.config)

    def noise_levels(self) -> list[list[float]]:
        """Standard deviation on the 0-255 scale: rows for red, green, blue (or one for all), from dark to bright."""
        return [[round(BYTE_SCALE * value**0.5, 3) for value in row] for row in self.noise.variances]
