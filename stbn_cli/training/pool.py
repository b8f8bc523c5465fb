"""A pool of noisy clips on disk, made once and drawn from in training: frames, truth, noise levels and flow.

Making it takes PyAV and hours of a CPU; training from it takes neither. One safetensors file holds one short clip.
Entry number i depends on (seed, i) alone, so that several processes can make a pool together and a stopped one goes on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stbn_cli.errors import InputError
from stbn_cli.files import whole_file
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.noise.levels import level_map
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.mixture import EVERYTHING, Mix, draw_clip
from stbn_cli.training.dataset import SequenceOptions, SequenceSource
from stbn_cli.training.footage import Footage

LEAD = 2  # frames before those that are kept: the first one coded is coded by itself
KEPT_FRAMES = 12
# Pixels of the square clips: small ones show more of a scene, shrunk further, and so finer details.
SIZES = (96, 112, 144)
STILL_SHARE = 0.3
RESTING_SHARE = 0.15  # of the clips that show nothing but their first frame
FLOW_SCALE = 2  # flow is found, and kept, at half resolution
RECIPE = 3  # purpose of random numbers in SequenceSource.random


def make_pool(
    folder: Path,
    footage: Footage,
    numbers: range,
    seed: int = 0,
    report: Callable[[int, str], None] = lambda number, kind: None,
    mix: Mix = EVERYTHING,
) -> None:
    """Write the entries `numbers` that `folder` lacks; `report` receives each new one's number and kind of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [
        SequenceSource(
            footage,
            SequenceOptions(frames=LEAD + KEPT_FRAMES, size=size, still_share=STILL_SHARE, seed=seed),
            "cpu",
        )
        for size in SIZES
    ]
    flow = create_flow_estimator("dis-half")
    for number in numbers:
        path = entry_path(folder, number)
        if path.exists():
            continue
        source = sources[number % len(sources)]
        random = source.random(number, RECIPE)
        clean = source.sequence(number)
        if random.random() < RESTING_SHARE:
            clean = clean[:1].expand_as(clean)
        clip = draw_clip(clean, random, mix)
        noisy, clean = clip.noisy[LEAD:], clip.clean[LEAD:]
        to_previous, to_next = estimate_clip_flows(flow, F.avg_pool2d(noisy, FLOW_SCALE))
        tensors = {
            "noisy": noisy.half() if clip.kept_as_float else _bytes(noisy),
            "clean": _bytes(clean),
            "levels": clip.levels,
            "to_previous": to_previous.half(),
            "to_next": to_next.half(),
        }
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with whole_file(path) as partial:
            save_file(contiguous, partial, {"kind": clip.kind})
        report(number, clip.kind)


def entry_path(folder: Path, number: int) -> Path:
    """The file of an entry."""
    return folder / f"{number:06d}.safetensors"


class PoolBatch(NamedTuple):
    """Sequences for a recurrent network, float32; h and w are half of H and W.

    noisy, clean: `(N, T, 3, H, W)`, nominal [0, 1]. level: `(N, T, 2, h, w)`, standard deviations of luma and colour
    noise. to_previous, to_next: `(N, T, 2, h, w)` in pixels of the halved frames.
    """

    noisy: Tensor
    clean: Tensor
    level: Tensor
    to_previous: Tensor
    to_next: Tensor


class Pool:
    """Random crops of a pool's entries; entries that are added while it is in use are found."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        """Raises `InputError` if the folder holds no entry."""
        self.folder, self.seed = folder, seed
        self._files: list[Path] = []
        self.refresh()

    def refresh(self) -> None:
        """Look for new entries."""
        self._files = sorted(self.folder.glob("[!.]*.safetensors"))
        if not self._files:
            raise InputError(f"The pool {str(self.folder)!r} holds no clips. Make them first.")

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, step: int, count: int, frames: int, size: int, error: float) -> PoolBatch:
        """`count` sequences of `frames` frames of `size` pixels (a multiple of 4), at most KEPT_FRAMES.

        Levels are wrong by `error` (standard deviation of the logarithm).
        """
        random = np.random.default_rng((self.seed, step))
        frames = min(frames, KEPT_FRAMES)
        parts = [self._crop(random, frames, size, error) for _ in range(count)]
        return PoolBatch(*(torch.stack(part) for part in zip(*parts, strict=True)))

    def _crop(self, random: np.random.Generator, count: int, size: int, error: float) -> tuple[Tensor, ...]:
        path = self._files[int(random.integers(len(self._files)))]
        with safe_open(path, "pt") as file:
            frames, _, height, width = file.get_slice("noisy").get_shape()
            if min(height, width) < size:
                return self._crop(random, count, size, error)  # of another entry
            start = int(random.integers(frames - count + 1))
            side = size
            top, left = (4 * int(random.integers((whole - side) // 4 + 1)) for whole in (height, width))
            times, half = slice(start, start + count), side // FLOW_SCALE
            rows, columns = slice(top, top + side), slice(left, left + side)
            noisy, clean = (file.get_slice(name)[times, :, rows, columns] for name in ("noisy", "clean"))
            rows, columns = (slice(first // FLOW_SCALE, first // FLOW_SCALE + half) for first in (top, left))
            flows = [
                file.get_slice(name)[times, :, rows, columns].float() for name in ("to_previous", "to_next")
            ]
            levels = file.get_tensor("levels")
        noisy, clean = (
            frames.float() / BYTE_SCALE if frames.dtype == torch.uint8 else frames.float()
            for frames in (noisy, clean)
        )
        if random.random() < 0.5:  # backwards in time
            noisy, clean, flows = noisy.flip(0), clean.flip(0), [flow.flip(0) for flow in flows[::-1]]
        if random.random() < 0.5:
            noisy, clean = noisy.flip(-1), clean.flip(-1)
            flows = [flow.flip(-1) * flow.new_tensor((-1.0, 1.0)).view(2, 1, 1) for flow in flows]
        if random.random() < 0.5:
            noisy, clean = noisy.transpose(-1, -2), clean.transpose(-1, -2)
            flows = [flow.transpose(-1, -2).flip(1) for flow in flows]
        if random.random() < 0.5:  # colours in another order
            order = torch.from_numpy(random.permutation(3))
            if bool((levels[1] < 0.5 * levels[0]).all()) or random.random() < 0.3:
                noisy, clean = noisy[:, order], clean[:, order]
        wrong = levels * torch.from_numpy(_level_error(random, error)).float()
        return noisy, clean, level_map(noisy, wrong, FLOW_SCALE), flows[0], flows[1]


def _level_error(random: np.random.Generator, error: float) -> np.ndarray:
    """Factors `(2, 1)`: a measurement is wrong by `error` (standard deviation of the logarithm)."""
    both, each = random.normal(0.0, error * 0.7), random.normal(0.0, error * 0.7, (2, 1))
    return np.exp(both + each)


def _bytes(frames: Tensor) -> Tensor:
    return (frames * BYTE_SCALE).round().clamp(0.0, BYTE_SCALE).to(torch.uint8)
