"""Noise that is cut off at black and white: where that happened, and what it did to the mean.

Values below black cannot be stored, so there noise only adds: the mean of x + s n, kept above 0, is above x by up to
0.4 s. A denoiser finds that mean, and blacks turn grey; whites turn grey in the same way. The mean is a known function
of x and s, which is inverted here after A. Foi, "Clipped noisy images: heteroskedastic modeling and practical
denoising", Signal Processing 2009. Knows nothing of files or networks.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.noise.bars import find_bars, without_bars
from stbn_cli.noise.luma import luma_of
from stbn_cli.noise.model import CHANNELS, Clipping, NoiseLevelFunction

# Mean and variance of max(n, 0) with standard normal n.
SMALLEST_MEAN, SMALLEST_VARIANCE = 1.0 / math.sqrt(2.0 * math.pi), 0.5 - 0.5 / math.pi
# Means further than this many standard deviations from the end are lifted by less than 0.0004 of one.
FURTHEST_MEAN = 3.0
DEGREE = 6  # of the polynomial that is the logarithm of the lift

# How clipping is found: in blocks of so many pixels, of so many frames at most.
BLOCK = 16
MAXIMUM_FRAMES = 4
FEWEST_BLOCKS = 4
# Blocks are near an end if their mean is within so many standard deviations of it.
NEAR = 1.6
# Values are at the end that are within this part of the standard deviation, or the rounding of a code value. Of noise
# that was not cut off at least a fifth as many are beyond them.
AT_END, ROUNDING = 0.25, 1.1 / 255
BEYOND = 0.1
# Of the blocks near an end the noise of this quantile counts: others hold texture. It has to be so much weaker than
# what is assumed before it takes the place of that; stronger, it counts up to so much, by which the level of dark clips
# is measured too low at times.
QUANTILE = 0.4
CERTAIN, MOST_ABOVE = 0.9, 1.08

# How it is undone: the mean is that of so many halved pixels around, where the picture is as dark.
WINDOW = 5
DARK = (
    2.0  # standard deviations from the end where means stop to be averaged; they all are one of them nearer
)
# Of the variance that clipped noise has at the end at least the first part was removed where there is noise at all;
# from the second on nothing is doubted. In video of half colour resolution half of it is there.
LEAST_REMOVED, ENOUGH_REMOVED = 0.15, 0.4


def clean_position(mean: np.ndarray) -> np.ndarray:
    """The z of at least 0 for which `max(z + n, 0)` with standard normal n has this mean; 0 for smaller means."""
    # Newton's method from above: the function is convex, so z comes down to the root and never goes beyond it.
    value = torch.from_numpy(np.asarray(mean, np.float64))
    z = value
    for _ in range(5):
        z = (z - (clipped_mean(z) - value) / torch.special.ndtr(z)).clamp_min(0.0)
    return z.numpy()


def clipped_mean(z: Tensor) -> Tensor:
    """Mean of `max(z + n, 0)` with standard normal n."""
    return z * torch.special.ndtr(z) + SMALLEST_MEAN * torch.exp(-0.5 * z.square())


def clipped_variance(z: Tensor) -> Tensor:
    """Variance of `max(z + n, 0)` with standard normal n."""
    mean = clipped_mean(z)
    return torch.special.ndtr(z) + z * mean - mean.square()


@lru_cache(maxsize=1)
def _lift_coefficients() -> tuple[float, ...]:
    means = np.linspace(SMALLEST_MEAN, FURTHEST_MEAN, 400)
    lifts = np.log(means - clean_position(means))
    return tuple(np.polynomial.Polynomial.fit(means, lifts, DEGREE).convert().coef.tolist())


def lift(mean: Tensor) -> Tensor:
    """By how much clipping at 0 has raised this mean, in standard deviations of the noise as is the mean.

    The clean value, the difference, is at least 0.
    """
    inside = mean.clamp(SMALLEST_MEAN, FURTHEST_MEAN)
    coefficients = _lift_coefficients()
    total = torch.full_like(inside, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total.mul_(inside).add_(coefficient)
    return torch.minimum(total.exp_(), mean.clamp_min(0.0))


def find_clipping(frames: Tensor, noise: NoiseLevelFunction) -> Clipping:
    """Where the noise of a scene's frames `(T, 3, H, W)` float, nominal [0, 1], was cut off, and how strong it was.

    Found in the values alone, whatever made them: dark blocks hold values at black and hardly any beyond. Noise that
    was added to floating point frames and not clipped has both. `noise`: what is assumed of it; weaker noise in the
    blocks in question is taken for what it is there.
    """
    frames = frames[:: -(-len(frames) // MAXIMUM_FRAMES)].float()
    frames = without_bars(frames, find_bars(frames))
    if min(frames.shape[-2:]) < BLOCK:
        return Clipping()
    blocks = _blocks(torch.cat((frames, luma_of(frames)), 1))
    means = blocks.mean((2, 3))
    # At their own brightness: what a function of brightness says of values that a clip does not hold is a guess.
    assumed = noise.sigma_at(means[:, :CHANNELS, None, None]).expand(len(means), CHANNELS, 1, 1)[..., 0, 0]
    return Clipping(
        _strength_near(blocks, means, assumed), _strength_near(1.0 - blocks, 1.0 - means, assumed)
    )


def _strength_near(blocks: Tensor, means: Tensor, assumed: Tensor) -> tuple[float, ...]:
    """Standard deviations of the noise near 0 by channel; 0 where it was not cut off there.

    blocks: `(n, 4, BLOCK, BLOCK)`, channels and luma; means `(n, 4)`; assumed `(n, 3)`.
    """
    dark = means < NEAR * torch.cat((assumed, assumed.amax(1, keepdim=True)), 1)
    chosen = dark.any(1)
    if int(chosen.sum()) < FEWEST_BLOCKS:
        return (0.0,) * CHANNELS
    blocks, means, dark, assumed = (part[chosen] for part in (blocks, means, dark, assumed))
    # Means of 2x2 pixels are the same before and after colours are stored at half the resolution, and luma is not
    # touched by that: together they give the noise of each pixel of each channel.
    fine = _spread(blocks[:, 3:])
    halved = _spread(F.avg_pool2d(blocks, 2))
    shares = (halved[:, :CHANNELS].mean(0) / halved[:, 3:].mean(0).clamp_min(1e-12)).sqrt()
    deviations = torch.cat((fine.sqrt() * shares, fine.sqrt()), 1)
    cut = [_is_cut_off(blocks[dark[:, i], i], deviations[dark[:, i], i]) for i in range(CHANNELS + 1)]
    strengths = []
    for channel in range(CHANNELS):
        if not (cut[channel] or cut[CHANNELS]) or int(dark[:, channel].sum()) < FEWEST_BLOCKS:
            strengths.append(0.0)
            continue
        here, found = dark[:, channel], _before_clipping(means[:, channel], deviations[:, channel])
        measured = float(torch.quantile(found[here], QUANTILE))
        expected = float(assumed[here, channel].median())
        strengths.append(min(max(expected, min(measured, MOST_ABOVE * expected)), measured / CERTAIN))
    return tuple(strengths)


def _blocks(planes: Tensor) -> Tensor:
    """`(n, C, BLOCK, BLOCK)` of `(T, C, H, W)`."""
    rows, columns = (side // BLOCK for side in planes.shape[-2:])
    cut = planes[..., : rows * BLOCK, : columns * BLOCK]
    cut = cut.unflatten(-1, (columns, BLOCK)).unflatten(-3, (rows, BLOCK))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _spread(blocks: Tensor) -> Tensor:
    """Variance `(n, C)` within quarters of blocks `(n, C, side, side)`, without their means."""
    half = blocks.shape[-1] // 2
    quarters = blocks.unflatten(-1, (2, half)).unflatten(-3, (2, half))
    return quarters.var((3, 5)).mean((2, 3))


def _is_cut_off(blocks: Tensor, deviations: Tensor) -> bool:
    """Whether noise of about these deviations (n,) ends at 0 in blocks `(n, 16, 16)`."""
    if len(blocks) < FEWEST_BLOCKS:
        return False
    margin = (AT_END * deviations).clamp_min(ROUNDING).view(-1, 1, 1)
    at_end, beyond = (blocks.abs() <= margin).float().mean(), (blocks < -margin).float().mean()
    return bool(at_end > 0) and bool(beyond < BEYOND * at_end)


@lru_cache(maxsize=1)
def _ratios() -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation over mean of clipped noise, ascending, and the mean that belongs to it."""
    z = torch.linspace(5.0, 0.0, 501, dtype=torch.float64)
    mean = clipped_mean(z)
    return (clipped_variance(z).sqrt() / mean).numpy(), mean.numpy()


def _before_clipping(mean: Tensor, deviation: Tensor) -> Tensor:
    """Standard deviation of noise that has this mean and deviation (n,) since it was cut off at 0."""
    ratios, means = _ratios()
    ratio = (deviation / mean.clamp_min(1e-6)).numpy()
    unclipped = ratio < ratios[0]
    found = mean.numpy() / np.interp(ratio, ratios, means)
    return torch.from_numpy(np.where(unclipped, deviation.numpy(), found))


def undo_clipping(
    estimate: Tensor, noisy: Tensor, clipping: Clipping, spread: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Clean values and their standard deviations from means of clipped noise; all `(N, 3, H, W)` float32, [0, 1].

    The function is steep at the end: an error of the mean would count twice. So how much is taken off is found from the
    mean around, of values that are as dark, and detail and what is left of the noise pass as they are. Where little
    was removed (`noisy` less `estimate`), as in bars and titles, there was no noise to raise anything.
    """
    for strengths, flip in ((clipping.low, False), (clipping.high, True)):
        if any(strengths):
            if flip:
                estimate, noisy = 1.0 - estimate, 1.0 - noisy
            estimate, spread = _undo_at_zero(estimate, noisy, strengths, spread)
            if flip:
                estimate, noisy = 1.0 - estimate, 1.0 - noisy
    return estimate, spread


def _undo_at_zero(
    estimate: Tensor, noisy: Tensor, strengths: tuple[float, ...], spread: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    # A channel that was not cut off has noise so weak that nothing is taken off.
    sigma = estimate.new_tensor(strengths).clamp_min(1e-6).view(CHANNELS, 1, 1)
    mean = estimate / sigma
    dark = (DARK - mean).clamp_(0.0, 1.0)
    weight, weighted = _around(dark), _around(dark * mean.clamp_min(0.0))
    removed = _around((noisy - estimate).square_()).div_(SMALLEST_VARIANCE * sigma.square())
    doubt = removed.sub_(LEAST_REMOVED).div_(ENOUGH_REMOVED - LEAST_REMOVED).clamp_(0.0, 1.0)
    around, doubt = (_enlarged(part, estimate) for part in (weighted / weight.clamp_min(1e-6), doubt))
    around = torch.lerp(mean, around, dark)
    taken = lift(around).mul_(doubt)
    clean = torch.maximum(mean - taken, mean.clamp_max(0.0))
    if spread is not None:
        # Of a change of the clean value the mean shows this part.
        seen = torch.special.ndtr((around - taken).clamp_min(0.0))
        spread = spread / torch.lerp(torch.ones_like(seen), seen, doubt)
    return clean.mul_(sigma), spread


def _around(plane: Tensor) -> Tensor:
    """Means over a window, at half the resolution."""
    return F.avg_pool2d(
        F.avg_pool2d(plane, 2, ceil_mode=True), WINDOW, 1, WINDOW // 2, count_include_pad=False
    )


def _enlarged(plane: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(plane, size=like.shape[-2:], mode="bilinear", align_corners=False)
