"""What a network learns from where neighbours share the noise: denoised frames, and noise like the clip's on them.

The noise is drawn anew (`NoiseTexture`), so that only its kind is learned, and never the picture. Denoised frames are
smoother than the truth, and a network that takes them for it learns to smooth. At half the size they are not: what was
lost is the finest detail, and halving drops that, with most of the noise that was left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.finetuning.gaps import JUDGED_PHASE, leave_out
from stbn_cli.finetuning.plan import StepSizes
from stbn_cli.finetuning.redraw import NoiseTexture
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.models.config import RecurrentConfig

SHRINK = 2
DRAWS = 4  # of the noise for each frame


class Lesson(NamedTuple):
    """Sequences of one step, all on the runs' device."""

    noisy: Tensor  # (N, T, 3, P, P) float32
    truth: Tensor  # of the same shape
    to_previous: Tensor  # (N, T, 2, p, p) float32 pixels, of the size of a hidden state
    to_next: Tensor


class LessonSource:
    """Endless lessons of denoised runs; what step number i shows depends on (seed, i) alone."""

    def __init__(
        self,
        denoised: Sequence[Tensor],
        texture: NoiseTexture,
        flow: FlowEstimator,
        sizes: StepSizes,
        config: RecurrentConfig,
        *,
        seed: int,
    ) -> None:
        """`denoised (T, 3, H, W)` of each run."""
        scale, multiple = config.scale, config.multiple
        self._scale, self._multiple, self._seed, self._batch_size = scale, multiple, seed, sizes.batch_size
        generator = torch.Generator().manual_seed(seed)
        self._draws: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for frames in denoised:
            truth = F.avg_pool2d(frames, SHRINK)
            height, width = (side // multiple * multiple for side in truth.shape[-2:])
            if min(height, width) == 0:
                continue
            truth = truth[..., :height, :width]
            for _ in range(DRAWS):
                noisy = texture.add_to(truth, generator)
                # Frames that are for judging are nothing to learn from.
                seen = leave_out(noisy, JUDGED_PHASE, flow, scale)
                kept = list(seen.kept)
                self._draws.append((noisy[kept], truth[kept], seen.to_previous, seen.to_next))
        self.length = min([sizes.train_length, *(len(draw[0]) for draw in self._draws)])
        sides = [side for draw in self._draws for side in draw[0].shape[-2:]]
        self.patch = min([sizes.patch_size, *sides]) // multiple * multiple
        weights = np.array([float(draw[0].numel()) for draw in self._draws])
        self._weights = weights / weights.sum()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from: the frames are too small."""
        return not self._draws or self.patch == 0

    def lesson(self, step: int) -> Lesson:
        """The sequences of a step."""
        random = np.random.default_rng((self._seed, step))
        sequences = [self._sequence(random) for _ in range(self._batch_size)]
        return Lesson(*(torch.stack(part) for part in zip(*sequences, strict=True)))

    def _sequence(self, random: np.random.Generator) -> tuple[Tensor, ...]:
        noisy, truth, to_previous, to_next = self._draws[
            int(random.choice(len(self._draws), p=self._weights))
        ]
        first = int(random.integers(len(noisy) - self.length + 1))
        top, left = (
            self._multiple * int(random.integers((size - self.patch) // self._multiple + 1))
            for size in noisy.shape[-2:]
        )
        times = slice(first, first + self.length)
        place = (times, slice(None), slice(top, top + self.patch), slice(left, left + self.patch))
        small = (
            times,
            slice(None),
            *(slice(start // self._scale, (start + self.patch) // self._scale) for start in (top, left)),
        )
        return noisy[place], truth[place], to_previous[small].float(), to_next[small].float()
