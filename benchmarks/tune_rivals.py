"""Search the settings of a rival of `stbn bench` that are best for white Gaussian noise of a known level.

    python benchmarks/tune_rivals.py CLIP... --rival nlmeans [--sigma 10,20,30,40,50] [--frames 8] [--crop 256]

Coordinate search at each level for the highest PSNR, averaged over frames, then clips: a setting with values in CHOICES
tries each of them, other floating-point ones (strengths are relative to the noise) climb by factors, until a round over
all settings gains next to nothing. The middle level starts from the present settings, each other level from its
neighbour's winner. Noise and PSNR are those of quality.py. Prints what is tried, then the table for the code.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stbn_cli.bench.rivals.method import LibraryMethod
from stbn_cli.bench.rivals.registry import METHODS
from stbn_cli.errors import StbnError
from stbn_cli.metrics import psnr
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.protocol import protocol_noise
from stbn_cli.training.footage import load_clip

# What is not tried stays as it is.
CHOICES: dict[str, dict[str, tuple[object, ...]]] = {
    "nlmeans": {"patch": (3, 5, 7), "window": (7, 9, 11, 15)},
    "fftdnoiz": {"block": (16, 32, 64), "overlap": (0.5, 0.7, 0.8)},
    "vaguedenoiser": {"percent": (90.0, 95.0, 100.0)},
    "ffmpeg-bm3d": {"step": (2, 3, 4)},
    "opencv": {"patch": (3, 5, 7), "window": (11, 15, 21), "frames": (3, 5)},
    "vs-bm3d": {"profile": ("np", "high", "vn")},
    "vs-vbm3d": {"profile": ("np", "high", "vn"), "radius": (2, 4, 6)},
    "vs-dfttest": {"frames": (1, 3, 5), "overlap": (12, 14)},
    "bm3d": {"profile": ("np", "vn"), "domain": (0, 16, 32)},
}
STRIDES = (1.25, 1.08)  # factors by which floating-point settings climb, coarse, then fine
STEP_GAIN, ROUND_GAIN = 0.003, 0.02  # dB; less is not worth a step, or another round


class Search:
    """Scores settings of one method at one level, remembering what it has tried."""

    def __init__(
        self, method: LibraryMethod, sigma: float, clips: list[torch.Tensor], frozen: set[str]
    ) -> None:
        self.method, self.sigma, self.frozen = method, sigma, frozen
        self.clips = [(clip, _noisy(clip, sigma)) for clip in clips]
        self.scores: dict[tuple[tuple[str, Any], ...], float] = {}

    def score(self, settings: dict[str, Any]) -> float:
        """PSNR in dB, averaged over frames, then clips; -inf for settings that are refused."""
        key = tuple(settings.items())
        if key not in self.scores:
            begun = time.perf_counter()
            try:
                found = [
                    float(psnr(_tensor(self.method.run(noisy, self.sigma, settings)), clean).mean())
                    for clean, noisy in self.clips
                ]
                self.scores[key] = sum(found) / len(found)
            except StbnError as error:  # beyond what the filter takes
                print(error)
                self.scores[key] = -math.inf
            print(
                f"sigma {self.sigma:g} {self.scores[key]:6.2f} dB {time.perf_counter() - begun:6.1f} s {settings}",
                flush=True,
            )
        return self.scores[key]

    def climb(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The best settings that changing one at a time leads to."""
        best = settings
        while True:
            before = self.score(best)
            for name, value in best.items():
                if name in self.frozen:
                    continue
                choices = CHOICES.get(self.method.name, {}).get(name, ())
                if isinstance(value, float) and not choices:
                    for stride in STRIDES:
                        best = self._climb_one(best, name, stride)
                else:
                    best = max((best, *({**best, name: choice} for choice in choices)), key=self.score)
            if self.score(best) < before + ROUND_GAIN:
                return best

    def _climb_one(self, best: dict[str, Any], name: str, stride: float) -> dict[str, Any]:
        for factor in (stride, 1 / stride):
            climbed = best
            while True:
                step = {**climbed, name: float(f"{climbed[name] * factor:.3g}")}
                if self.score(step) < self.score(climbed) + STEP_GAIN:
                    break
                climbed = step
            if climbed is not best:
                return climbed
        return best


def _noisy(clean: torch.Tensor, sigma: float) -> np.ndarray:
    return protocol_noise(clean, sigma / BYTE_SCALE).permute(0, 2, 3, 1).numpy()


def _tensor(clip: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)


def _load(path: Path, frames: int, crop: int) -> torch.Tensor:
    """`(T, 3, crop, crop)` float32 on [0, 1] from the middle of the frame."""
    clip = load_clip(path, frames)
    top, left = (max(side - crop, 0) // 2 for side in clip.shape[1:3])
    return (
        torch.from_numpy(clip[:, top : top + crop, left : left + crop]).permute(0, 3, 1, 2).float()
        / BYTE_SCALE
    )


def _outward(levels: list[float]) -> Iterator[tuple[float, float | None]]:
    """Every level with the neighbour that was searched before it, from the middle on."""
    middle = len(levels) // 2
    yield levels[middle], None
    for index in range(middle + 1, len(levels)):
        yield levels[index], levels[index - 1]
    for index in range(middle - 1, -1, -1):
        yield levels[index], levels[index + 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--rival", required=True, choices=METHODS)
    parser.add_argument("--sigma", default="10,20,30,40,50", help="noise levels, 0-255 scale")
    parser.add_argument(
        "--frames", type=int, default=8, help="of each clip; 1 will do for rivals that see one at a time"
    )
    parser.add_argument("--crop", type=int, default=256, help="pixels")
    parser.add_argument("--frozen", default="", help="settings to leave as they are, with commas")
    arguments = parser.parse_args()
    method = METHODS[arguments.rival]
    if reason := method.missing():
        parser.error(reason)
    clips = [_load(path, arguments.frames, arguments.crop) for path in arguments.clips]
    levels = sorted(float(level) for level in arguments.sigma.split(","))
    winners: dict[float, dict[str, Any]] = {}
    scores = {}
    for sigma, neighbour in _outward(levels):
        start = method.settings_at(sigma) if neighbour is None else winners[neighbour]
        search = Search(method, sigma, clips, set(arguments.frozen.split(",")))
        winners[sigma] = search.climb(start)
        scores[sigma] = search.score(winners[sigma])
    for sigma in levels:
        print(f"{sigma}: {winners[sigma]},  # {scores[sigma]:.2f} dB")


if __name__ == "__main__":
    main()
