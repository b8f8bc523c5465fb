"""Denoising raw frames: their noise is measured once, made white for the network, and the transform undone.

Networks without a noise level (the published raw network) take the values as they are, clamped at black.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from torch import Tensor

from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.resume import StreamState
from stbn_cli.noise.estimate import MAXIMUM_FRAMES
from stbn_cli.noise.model import SceneNoise
from stbn_cli.noise.posterior import VARIANCE_FLOOR
from stbn_cli.noise.raw_level import measure_raw
from stbn_cli.raw.noise import PoissonGaussian

LEAST_SIGMA = 1e-5
SMALL = 100  # cells of a side
# Noise has no mean, so over so many cells the result has to be as bright as the noisy frame; what noise is left in such
# means, a thirtieth, is not seen. Without, networks tint the deepest shadows by a quarter of the noise.
MEAN_CELLS = 31


class RawDenoiser(Denoiser):
    """A `Denoiser` of packed mosaics `(h, w, 4)` float32, black 0 and white 1, not clamped (`raw.bayer.pack`)."""

    raw_noise: PoissonGaussian | None = None  # of the last run

    @property
    def given_noise(self) -> PoissonGaussian | None:
        """What the noise is stated to be; None: it is measured in the first frames."""
        return None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Denoise a clip `(T, h, w, 4)` of floating point; the result has its shape and type. Raises `ValueError`."""
        if not np.issubdtype(frames.dtype, np.floating):
            raise ValueError(f"expected floating point frames, black 0 and white 1, got {frames.dtype}")
        return super().__call__(frames)

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        resume: StreamState | None = None,
        on_chunk: Callable[[StreamState], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """As `Denoiser.stream`. The noise is that of the first frames: one sensitivity for the whole clip."""
        source = iter(frames)
        opening = list(islice(source, MAXIMUM_FRAMES))
        if not opening:
            return
        noise = self.given_noise or measure_raw(np.stack(opening))
        self.raw_noise = noise
        self._noise = None  # a finetuned model's noise was white; that of these frames is made so
        if self.given_noise is None and min(opening[0].shape[:2]) < SMALL:
            self._say(
                "The pictures are small, so texture may have been taken for noise. If too much is removed, state the "
                "noise by --raw-noise."
            )
        whole, asked = chain(opening, source), self.options
        stabiliser = None if self._config.head == "plain" else noise.stabiliser
        try:
            if stabiliser is None:
                # Their flow alone depends on the level.
                level = float(noise.deviation(np.mean([frame.mean() for frame in opening]).reshape(1))[0])
                self.options = replace(asked, sigma=max(level, LEAST_SIGMA))
                clamped = (np.maximum(frame, 0.0) for frame in whole)
                yield from super().stream(clamped, resume=resume, on_chunk=on_chunk)
                return
            sigma = max(stabiliser.sigma, LEAST_SIGMA)
            # Posteriors take no noise for weaker than this; where it is, less is to be removed, and of none nothing.
            share = min(1.0, sigma**2 / VARIANCE_FLOOR)
            self.options = replace(asked, sigma=sigma, strength=share * asked.strength)
            waiting: deque[np.ndarray] = deque()  # noisy frames of which no result has come yet
            done = 0 if resume is None else resume.frames

            def changed() -> Iterator[np.ndarray]:
                for index, frame in enumerate(whole):
                    if index >= done:
                        waiting.append(frame)
                    yield stabiliser.forward(frame)

            for denoised in super().stream(changed(), resume=resume, on_chunk=on_chunk):
                yield with_means_of(waiting.popleft(), stabiliser.inverse(denoised))
        finally:
            self.options = asked

    def _found(self, frames: list[Tensor], first_frame: int | None = None) -> SceneNoise:
        # A sensor clips at white alone, where nothing can be told.
        return SceneNoise.white(self.options.sigma or LEAST_SIGMA)


def with_means_of(noisy: np.ndarray, denoised: np.ndarray) -> np.ndarray:
    """`denoised (h, w, 4)`, brought to the local means of `noisy`, plane by plane."""
    import cv2

    side = min(MEAN_CELLS, *((size - 1) // 2 * 2 + 1 for size in noisy.shape[:2]))
    return denoised + cv2.blur(noisy - denoised, (side, side), borderType=cv2.BORDER_REFLECT)
