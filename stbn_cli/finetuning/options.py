"""Options of a finetuning run."""

import math
from dataclasses import dataclass

from stbn_cli.scale import BYTE_SCALE

SMALLEST_PATCH = 16  # pixels


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """Options of `stbn finetune`; None leaves the choice to `plan`."""

    sigma: float | None = (
        None  # noise standard deviation on [0, 1]; None: learned, as a function of brightness
    )
    minutes: float = 10.0  # wall clock, reading included
    steps: int | None = None  # of the optimiser, instead of what fits the minutes
    from_scratch: bool = False  # start from random weights
    distillation: bool = True  # finetune the flow network too, where the model has one
    seed: int = 0
    learning_rate: float | None = None  # of Adam, at its highest
    batch_size: int | None = None  # sequences a step
    patch_size: int | None = None  # pixels of a square crop
    train_length: int | None = None  # frames of a sequence

    def __post_init__(self) -> None:
        problem = None
        if self.sigma is not None and not 0.0 < self.sigma <= 1.0:
            problem = f"a known noise level lies above 0 and at most at 255, got {BYTE_SCALE * self.sigma:g}"
        elif not (math.isfinite(self.minutes) and self.minutes > 0):
            problem = f"--minutes is a positive number, got {self.minutes}"
        elif self.steps is not None and self.steps < 1:
            problem = f"--steps is at least 1, got {self.steps}"
        elif self.learning_rate is not None and not (0 < self.learning_rate < math.inf):
            problem = f"--lr is a positive number, got {self.learning_rate}"
        elif self.batch_size is not None and self.batch_size < 1:
            problem = f"--batch-size is at least 1, got {self.batch_size}"
        elif self.patch_size is not None and self.patch_size < SMALLEST_PATCH:
            problem = f"--patch-size is at least {SMALLEST_PATCH} pixels, got {self.patch_size}"
        elif self.train_length is not None and self.train_length < 1:
            problem = f"--train-length is at least 1 frame, got {self.train_length}"
        if problem is not None:
            raise ValueError(problem)
