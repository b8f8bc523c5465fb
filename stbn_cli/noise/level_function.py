"""How strong is a clip's noise at each brightness, in each channel? The noise-level function, from a few noisy frames.

Two views of the same noise, both of which the picture can only make larger: the high frequencies of the flattest blocks
of a frame (Ponomarenko et al., as analysed by Colom and Buades, IPOL 2013), and those of the difference of two frames
that were aligned block by block, where texture cancels. Groups of blocks of equal brightness give points (brightness,
variance), and the simplest variance function goes through them that leaves no point far below it. Knows nothing of
video files or networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stbn_cli.noise.bars import without_borders
from stbn_cli.noise.blocks import BlockSet, aligned_blocks, flat_blocks
from stbn_cli.noise.correlation import AlignedPair, aligned_pairs, check_frames
from stbn_cli.noise.estimate import (
    LUMA_WEIGHTS,
    PlaneSigmas,
    SigmaEstimate,
    chosen_frames,
    group_sigmas,
    plane_blocks,
    sigma_of,
)
from stbn_cli.noise.fit import fit_points, knot_weights
from stbn_cli.noise.model import CHANNELS, NoiseLevelFunction, SceneNoise

# Groups of blocks of equal brightness, in each frame and channel.
GROUPS = 10
# What is tried for the variance, the simplest first: (whether each channel has its own, knots of brightness).
SHAPES = ((False, 1), (True, 1), (False, 2), (True, 2), (False, 5), (True, 5))
# A point that lies above the function by this much (logarithm of the variance) counts half: texture. Below it, all do.
TEXTURE_SCALE = 0.08
BELOW_SCALE = 0.25
# A richer shape has to make the misfit smaller by this part for each parameter, and to change the standard deviation
# by so much at some brightness.
WORTH = 0.06
SMALLEST_CHANGE = 0.06
SMOOTHNESS = 0.02
# By how much luma has to show more noise than independent channels would; in 4:2:0 video it is up to 1.5.
LUMA_FACTOR = 1.2
SMALLEST_VARIANCE = (0.05 / 255) ** 2


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """The noise of a clip whose pixels are noisy independently of each other."""

    model: NoiseLevelFunction
    # Standard deviation on [0, 1]: root mean square over the frames and channels.
    level: float
    # What was measured: (channel, brightness, standard deviation) each, [0, 1] scale.
    points: tuple[tuple[int, float, float], ...]
    # Brightness between these was seen (5 % and 95 % of the blocks).
    brightness: tuple[float, float]
    reliable: bool
    # Share of the variance that frames have in common with the next: 0 if noise is new in every frame.
    temporal_correlation: float = 0.0
    # 4:2:0 video shows in each channel little more than its luma's noise. Independent channels whose luma has as much
    # would have so many times the noise of `model`.
    luma_factor: float = 1.0

    @property
    def scene_noise(self) -> SceneNoise:
        """The noise as a denoiser has to expect it."""
        return SceneNoise(self.model.scaled(self.luma_factor), self.level * self.luma_factor)


def estimate_noise(frames: np.ndarray | Tensor) -> NoiseEstimate:
    """The noise-level function of frames `(T, H, W, 3)` float RGB, nominal [0, 1]; may exceed it.

    Raises `ValueError` for other shapes, or if T is 0.
    """
    check_frames(frames)
    return estimate_with(frames, [part for pair in aligned_pairs(frames) for part in pair_sets(pair)])


def pair_sets(pair: AlignedPair) -> list[BlockSet]:
    """What a pair of aligned frames says of the noise-level function."""
    return aligned_blocks(pair, GROUPS)


def estimate_with(frames: np.ndarray | Tensor, aligned: Sequence[BlockSet]) -> NoiseEstimate:
    """As `estimate_noise`, where `pair_sets` has been asked already."""
    pictures = [without_borders(frame) for frame in chosen_frames(frames)]
    flat: list[BlockSet] = []
    sigmas: list[PlaneSigmas] = []
    for picture in pictures:
        planes = plane_blocks(picture)
        sigmas.append(group_sigmas(planes))
        flat += flat_blocks(planes, GROUPS)
    white = sigma_of(sigmas)
    sets = [*flat, *aligned]
    if not sets or white.frames_used == 0:
        return NoiseEstimate(
            NoiseLevelFunction.white(white.sigma), white.sigma, (), (0.0, 1.0), reliable=False
        )
    model = fit_level_function(sets)
    values = np.concatenate([picture.reshape(-1, CHANNELS)[::37] for picture in pictures])
    dark, bright = np.quantile(values, (0.05, 0.95)).clip(0.0, 1.0).tolist()
    level = _level(model, values)
    factor = _luma_factor(white)
    points = tuple((part.channel, part.brightness, math.sqrt(part.variance)) for part in sets)
    return NoiseEstimate(model, level, points, (dark, bright), white.reliable, _held(flat, aligned), factor)


def _held(flat: Sequence[BlockSet], aligned: Sequence[BlockSet]) -> float:
    """By how much frames' differences hold less noise than the frames themselves."""
    ratios = []
    for channel in range(CHANNELS):
        still = sorted((part.brightness, part.variance) for part in flat if part.channel == channel)
        if not still:
            continue
        brightness, variance = np.array(still).T
        ratios += [
            part.variance / max(float(np.interp(part.brightness, brightness, variance)), SMALLEST_VARIANCE)
            for part in aligned
            if part.channel == channel
        ]
    return float(np.clip(1.0 - np.median(ratios), 0.0, 1.0)) if ratios else 0.0


def _level(model: NoiseLevelFunction, values: np.ndarray) -> float:
    import torch

    shown = torch.from_numpy(np.ascontiguousarray(values.T))[..., None]  # (3, n, 1)
    return math.sqrt(float(model.variance_at(shown).expand_as(shown).mean()))


def _luma_factor(white: SigmaEstimate) -> float:
    """See `NoiseEstimate.luma_factor`."""
    weighted = zip(LUMA_WEIGHTS, white.per_channel, strict=True)
    expected = math.sqrt(sum((weight * sigma) ** 2 for weight, sigma in weighted))
    if expected <= 0.0 or white.luma <= LUMA_FACTOR * expected:
        return 1.0
    return white.luma / expected


def fit_level_function(sets: Sequence[BlockSet]) -> NoiseLevelFunction:
    """The simplest variance function that the groups of blocks do not contradict."""
    channel = np.array([part.channel for part in sets])
    brightness = np.clip([part.brightness for part in sets], 0.0, 1.0)
    target = np.log(np.maximum([part.variance for part in sets], SMALLEST_VARIANCE))
    flat = _robust_row(brightness, target, 1)
    model = NoiseLevelFunction((tuple(np.exp(flat).tolist()),))
    current = _logarithms(model, channel, brightness)
    cost = _misfit(target - current)
    # Where a channel shows nothing that could be measured (all of it clipped), none has a function of its own.
    complete = len(np.unique(channel)) == CHANNELS
    for own, knots in SHAPES[1:]:
        if own and not complete:
            continue
        chosen = [channel == index for index in range(CHANNELS)] if own else [np.ones(len(channel), bool)]
        rows = [np.exp(_robust_row(brightness[mine], target[mine], knots)) for mine in chosen]
        trial = NoiseLevelFunction(tuple(tuple(row.tolist()) for row in rows))
        predicted = _logarithms(trial, channel, brightness)
        parameters = len(rows) * knots
        before = sum(len(row) for row in model.variances)
        worth = (1.0 - WORTH) ** max(parameters - before, 1)
        trial_cost = _misfit(target - predicted)
        change = np.abs(np.expm1(0.5 * (predicted - current))).max()
        if trial_cost < worth * cost and change >= SMALLEST_CHANGE:
            model, cost, current = trial, trial_cost, predicted
    return model


def _logarithms(model: NoiseLevelFunction, channel: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Of the variance of each point (n,)."""
    return np.log(model.variances_at(brightness)[channel, np.arange(len(channel))])


def _weights(residual: np.ndarray) -> np.ndarray:
    scale = np.where(residual > 0, TEXTURE_SCALE, BELOW_SCALE)
    return 1.0 / (1.0 + np.square(residual / scale))


def _misfit(residual: np.ndarray) -> float:
    """Mean of a bounded measure of the residuals (logarithm of variances)."""
    scale = np.where(residual > 0, TEXTURE_SCALE, BELOW_SCALE)
    return float(np.log1p(np.square(residual / scale)).mean()) + 1e-3


def _robust_row(brightness: np.ndarray, target: np.ndarray, knots: int) -> np.ndarray:
    """Logarithms of the variance at the knots."""
    # Between knots without points the function goes on as its neighbours do.
    bend = np.diff(np.eye(knots), n=2, axis=0) if knots > 2 else np.zeros((0, knots))
    roughness = SMOOTHNESS * len(target) * bend.T @ bend
    shares = knot_weights(brightness, knots)
    row = fit_points(shares, target, _weights, roughness, linear_variance=True)
    return np.clip(row, math.log(SMALLEST_VARIANCE), 0.0)
