"""What a network does on pixels that it was never trained on: windows of the runs, looked at again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap

import numpy as np
import torch
from torch import Tensor

from stbn_cli.finetuning.flows import BlindFlows
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.luma import luma_of
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.posterior import posterior_mean, split_head
from stbn_cli.noise.sure import Predictions
from stbn_cli.raw.pattern import PLANES

# Small, so that few pixels come from many places: parts of a clip gain differently.
WINDOW = 128  # pixels of a side
# At least, where the run has as many: short windows do not show what a network's state becomes in a scene. On bus at
# sigma 30, windows of five frames said that the start had been improved by 0.16 dB where sixteen frames lost 0.09.
WINDOW_FRAMES = 16
# Pixels next to a cut side of a window lack neighbours that they have in the whole frame: they do not count.
MARGIN = 16
# Errors within a block of so many frames and pixels of a side may go together.
BLOCK_FRAMES, BLOCK = 8, 32
MOST_BLOCKS = 1 << 10  # of a window, along time and both axes
WINDOWS = 2  # the purpose of the random numbers


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a run, as slices of its tensors; `inner` are the pixels of it that count."""

    run: int
    times: slice
    rows: slice
    columns: slice
    inner: tuple[slice, slice]

    @property
    def place(self) -> tuple[slice, slice, slice, slice]:
        """The part of a tensor `(T, C, H, W)`."""
        return self.times, slice(None), self.rows, self.columns


def blocks_of(window: int, frames: Sequence[int], height: int, width: int) -> Tensor:
    """Numbers `(T, height, width)` int64 of the blocks that pixels belong to, each window's its own.

    `frames`: numbers, from the window's first.
    """
    times = torch.tensor(frames).div(BLOCK_FRAMES, rounding_mode="floor").view(-1, 1, 1)
    rows, columns = (torch.arange(side).div(BLOCK, rounding_mode="floor") for side in (height, width))
    place = rows[:, None] * MOST_BLOCKS + columns
    return (window * MOST_BLOCKS + times) * MOST_BLOCKS**2 + place


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation found."""

    predictions: Predictions  # of the pixels that were held out
    residual_correlation: float  # of what was removed, with the same one pixel away; luma; 0 for white noise
    residual_sigma: float  # standard deviation of what was removed, rms of the channels, [0, 1]
    picture: Tensor  # (3, H, W) float32: the middle frame of the first window, denoised


class HeldOutEvaluator:
    """Looks at networks on the same windows, spread over all runs by chance."""

    def __init__(self, runs: list[NoisyRun], flows: list[BlindFlows], pixels: int, seed: int) -> None:
        """`pixels`: times frames, of one evaluation."""
        self._runs, self._flows = runs, flows
        self.windows = choose_windows(runs, pixels, seed)

    @torch.inference_mode()
    def evaluate(
        self, network: STBN, told: float, noise: NoiseLevelFunction, precision: torch.dtype
    ) -> Evaluation:
        """`told` ([0, 1]) is what the network hears of the noise, `noise` what the posterior takes it for."""
        outputs, noisy, groups = [], [], []
        residual = _Residual()
        picture = None
        for number, window in enumerate(self.windows):
            run, flows = self._runs[window.run], self._flows[window.run]
            frames = run.noisy[window.place]
            motion = (flow[window.place].float()[None] for flow in (flows.to_previous, flows.to_next))
            with torch.autocast(frames.device.type, precision, enabled=precision != torch.float32):
                found = network(frames[None], told, *motion)[0].float()
            denoised = posterior_mean(found, frames, noise.sigma_at(split_head(found)[0]))
            if picture is None:
                picture = denoised[len(denoised) // 2]
            inner = (..., *window.inner)
            residual.add((frames - denoised)[inner])
            held = run.held_out[window.place][inner][:, 0]
            blocks = blocks_of(number, range(len(held)), *held.shape[1:]).to(frames.device)
            outputs.append(found[inner].movedim(1, -1)[held])
            noisy.append(frames[inner].movedim(1, -1)[held])
            groups.append(blocks[held])
        assert picture is not None
        predictions = Predictions(
            torch.cat(outputs).T[..., None], torch.cat(noisy).T[..., None], torch.cat(groups)
        )
        return Evaluation(predictions, residual.correlation, residual.sigma, picture)

    def noisy_picture(self) -> Tensor:
        """What `Evaluation.picture` was before, (3, H, W)."""
        frames = self._runs[self.windows[0].run].noisy[self.windows[0].place]
        return frames[len(frames) // 2]


class _Residual:
    """Sums over what was removed."""

    def __init__(self) -> None:
        self._products, self._squares, self._total, self._values = 0.0, 0.0, 0.0, 0

    def add(self, removed: Tensor) -> None:
        """`removed (T, C, h, w)`: of RGB, or of Bayer planes."""
        if removed.shape[1] == PLANES:
            luma = removed.mean(1)
        else:
            luma = luma_of(removed)[:, 0]
        luma = luma - luma.mean()
        for first, second in ((luma[..., 1:], luma[..., :-1]), (luma[..., 1:, :], luma[..., :-1, :])):
            self._products += float((first * second).sum())
            self._squares += 0.5 * float(first.square().sum() + second.square().sum())
        self._total += float(removed.square().sum())
        self._values += removed.numel()

    @property
    def correlation(self) -> float:
        return self._products / self._squares if self._squares else 0.0

    @property
    def sigma(self) -> float:
        return (self._total / max(self._values, 1)) ** 0.5


def choose_windows(runs: list[NoisyRun], pixels: int, seed: int) -> list[Window]:
    """Windows of about `pixels` pixels times frames, at least one, none twice; all of them if there are no more."""
    everywhere = [window for index, run in enumerate(runs) for window in _windows_of(index, run)]
    random = np.random.default_rng((seed, 0, WINDOWS))
    chosen: list[Window] = []
    for number in random.permutation(len(everywhere)).tolist():
        window = everywhere[number]
        chosen.append(window)
        pixels -= _extent(window.times) * _extent(window.rows) * _extent(window.columns)
        if pixels <= 0:
            break
    return chosen


def _extent(part: slice) -> int:
    return part.stop - part.start


def _windows_of(index: int, run: NoisyRun) -> list[Window]:
    """The whole run in windows that do not overlap but by their margins."""
    count, _, height, width = run.noisy.shape
    result = []
    bounds = np.linspace(0, count, max(1, count // WINDOW_FRAMES) + 1).round().astype(int).tolist()
    for times in starmap(slice, pairwise(bounds)):
        for rows, inner_rows in _cut(height):
            for columns, inner_columns in _cut(width):
                result.append(Window(index, times, rows, columns, (inner_rows, inner_columns)))
    return result


def _cut(size: int) -> list[tuple[slice, slice]]:
    """A side in parts with their margins: (what is computed, what of it counts)."""
    parts = max(1, round(size / (WINDOW - 2 * MARGIN)))
    bounds = np.linspace(0, size, parts + 1).round().astype(int).tolist()
    result = []
    for begin, end in pairwise(bounds):
        first, last = max(begin - MARGIN, 0), min(end + MARGIN, size)
        result.append((slice(first, last), slice(begin - first, end - first)))
    return result
