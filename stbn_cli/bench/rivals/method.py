"""A denoiser with settings that were tuned at a few noise levels, and the settings in between."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from stbn_cli.bench.rivals.rival import Rival

Settings: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LibraryMethod:
    """How a library denoises with any settings, and which are best at each level; makes the Rival."""

    name: str
    title: str
    missing: Callable[[], str | None]
    version: Callable[[], str]
    tuned: Mapping[float, Settings]  # by sigma (0-255 scale), ascending; strengths are relative to sigma
    options: Callable[[float, Settings], dict[str, Any]]  # sigma, settings -> as the library takes them
    run: Callable[
        [np.ndarray, float, Settings], np.ndarray
    ]  # noisy, sigma, settings -> denoised, as Rival.denoise

    def settings_at(self, sigma: float) -> dict[str, Any]:
        """The tuned settings for a noise level: see `interpolate`."""
        return interpolate(self.tuned, sigma)

    def rival(self) -> Rival:
        """The method with its tuned settings."""
        return Rival(
            self.name,
            self.title,
            self.missing,
            self.version,
            settings=lambda sigma: self.options(sigma, self.settings_at(sigma)),
            denoise=lambda noisy, sigma: self.run(noisy, sigma, self.settings_at(sigma)),
        )


def interpolate(tuned: Mapping[float, Settings], sigma: float) -> dict[str, Any]:
    """Settings for `sigma`: floating-point ones linear between the two levels around it, others the nearer level's.

    Beyond the first and last level theirs are used: strengths are relative to sigma, so they go on growing with it.
    """
    levels = list(tuned)
    above = bisect_right(levels, sigma)
    low, high = levels[max(above - 1, 0)], levels[min(above, len(levels) - 1)]
    share = 0.0 if low == high else (sigma - low) / (high - low)
    nearer = tuned[high] if share > 0.5 else tuned[low]
    return {
        name: (1 - share) * value + share * tuned[high][name] if isinstance(value, float) else nearer[name]
        for name, value in tuned[low].items()
    }
