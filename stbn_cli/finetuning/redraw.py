"""Noise like that of a clip, drawn anew: as strong, as coarse, and shared by the colours in the same way.

What two aligned frames differ by is noise of both where nothing else changed. Water, occlusion and bad alignment only
add to it, so the blocks that differ little tell what noise looks like: their mean spectrum, of all three channels
together, shapes white noise. It does not matter what the denoiser makes of the noise, only that it finds motion.

Noise that is cut off at black and white is weaker there. What is drawn is the noise as it was before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stbn_cli.finetuning.aligned_run import AlignedRun
from stbn_cli.finetuning.alignment import Pair, comes_from_inside
from stbn_cli.models.warp import warp_bicubic
from stbn_cli.noise.model import NoiseLevelFunction

BLOCK = 32  # pixels: noise that reaches further is cut off
# The blocks to go by, of all in order of their difference over what the measured level leads to expect. The very
# first are copied, or cut off at black or white.
FIRST, LAST = 0.02, 0.12
FEWEST_BLOCKS = 20
CLIPPED = 0.06  # blocks this close to black or white do not count
# Nor do those with more than this part of a channel's values at the ends, as long as this part of the blocks is left.
CLIPPED_PART, LEAST_CLIPPED = 0.02, 0.2


@dataclass(frozen=True, slots=True)
class NoiseTexture:
    """What the noise of a clip looks like."""

    kernels: Tensor  # (3, 3, BLOCK, BLOCK) float32: from white noise in three channels to noise in R, G, B
    model: NoiseLevelFunction  # its level by brightness, but for a factor that is in the kernels
    clipped: bool = False  # whether the clip's noise is cut off at black and white

    def draw(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Noise for frames that look about like `frames (T, 3, H, W)`, of the same shape, new in each of them."""
        count, _, height, width = frames.shape
        white = torch.randn(count, 3, height + BLOCK, width + BLOCK, generator=generator).to(frames.device)
        size = (height + 2 * BLOCK, width + 2 * BLOCK)
        spectrum = torch.einsum(
            "cdyx,tdyx->tcyx", torch.fft.rfft2(self.kernels, size), torch.fft.rfft2(white, size)
        )
        drawn = torch.fft.irfft2(spectrum, size)[..., BLOCK : BLOCK + height, BLOCK : BLOCK + width]
        return drawn * self.model.sigma_at(frames)

    def add_to(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """`frames (T, 3, H, W)` with noise, cut off as that of the clip."""
        noisy = frames + self.draw(frames, generator)
        return noisy.clamp(0.0, 1.0) if self.clipped else noisy


def texture_of(runs: Sequence[AlignedRun], model: NoiseLevelFunction) -> NoiseTexture | None:
    """What the noise of runs looks like, whose level is about `model`; None where too little can be compared."""
    clipped = all(run.run.is_clipped for run in runs)
    found = [
        _blocks_of(run.run.noisy, pair, model, clipped)
        for run in runs
        for pairs in run.pairs.values()
        for pair in pairs
        if pair.source < pair.target
    ]
    blocks, changes, ends = (torch.cat(parts) for parts in zip(*found, strict=True))
    if clipped and len(blocks):
        fits = ends <= max(CLIPPED_PART, float(ends.quantile(LEAST_CLIPPED)))
        blocks, changes = blocks[fits], changes[fits]
    order = changes.argsort()
    first = int(FIRST * len(order))
    chosen = blocks[order[first : max(int(LAST * len(order)), first + FEWEST_BLOCKS)]]
    if len(chosen) < FEWEST_BLOCKS:
        return None
    window = torch.hann_window(BLOCK, periodic=True, device=blocks.device)
    window = window[:, None] * window
    spectra = torch.fft.fft2(chosen * window)
    # Of a difference, half is the noise of one frame.
    power = torch.einsum("ncyx,ndyx->yxcd", spectra, spectra.conj()) / (
        2.0 * len(chosen) * window.square().sum()
    )
    values, vectors = torch.linalg.eigh(power)
    roots = (vectors * values.clamp_min(0.0).sqrt()[..., None, :].to(vectors.dtype)) @ vectors.mH
    kernels = torch.fft.ifft2(roots.permute(2, 3, 0, 1)).real
    return NoiseTexture(torch.fft.fftshift(kernels, dim=(-2, -1)).contiguous(), model, clipped)


def _blocks_of(
    noisy: Tensor, pair: Pair, model: NoiseLevelFunction, clipped: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What two frames differ by, in units of the noise's level, in blocks (n, 3, BLOCK, BLOCK).

    And of each block what to put them in order by, (n,), and the part of the values that are black or white, (n,), in
    the channel that has most of them.
    """
    if min(noisy.shape[-2:]) < BLOCK:
        return noisy.new_zeros(0, 3, BLOCK, BLOCK), noisy.new_zeros(0), noisy.new_zeros(0)
    motion, target = pair.flow.float()[None], noisy[pair.target]
    shown = _cut(pair.shown.float())
    mean = shown.mean((1, 2, 3))
    inside = _cut(comes_from_inside(motion, 1.0)[0]).all(-1).all(-1)[:, 0]
    usable = inside & (mean > CLIPPED) & (mean < 1.0 - CLIPPED)
    sigma = model.variance_at(shown).expand_as(shown).mean((1, 2, 3)).sqrt()[:, None, None, None]
    blocks = _cut(target - warp_bicubic(noisy[pair.source : pair.source + 1], motion)[0]) / sigma
    # Where noise is cut off, there is less of it, and blocks that differ little are those.
    seen = _cut(target - pair.goals[0].float()) / sigma if clipped else blocks
    ends = _cut(((target <= 0.0) | (target >= 1.0)).float()).mean((2, 3)).amax(1)
    return blocks[usable], seen.square().mean((1, 2, 3))[usable], ends[usable]


def _cut(picture: Tensor) -> Tensor:
    """`picture (C, H, W)` in blocks (n, C, BLOCK, BLOCK) that overlap by halves."""
    blocks = picture.unfold(1, BLOCK, BLOCK // 2).unfold(2, BLOCK, BLOCK // 2)
    return blocks.permute(1, 2, 0, 3, 4).flatten(0, 1)
