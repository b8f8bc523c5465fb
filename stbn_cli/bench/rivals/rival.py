"""What the comparison knows of a classical denoiser: its name, whether it runs here, and how it denoises a clip."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Rival:
    """A denoiser of others, set up as well as it can be for white Gaussian noise of a known level."""

    name: str  # as --rivals takes it
    title: str  # as tables show it
    missing: Callable[
        [], str | None
    ]  # None if it can run here, else one sentence: why not, and how to install it
    version: Callable[[], str]  # of what runs it; only to be called when nothing is missing
    settings: Callable[[float], dict[str, Any]]  # what is used for a known sigma (0-255 scale)
    # Noisy (T, H, W, 3) float32 RGB, nominal [0, 1], not clipped, and sigma (0-255 scale) -> the same shape, float32,
    # not clipped. Raises StbnError if the denoiser fails.
    denoise: Callable[[np.ndarray, float], np.ndarray]
