"""Noise like that of a clip, drawn anew: as strong, as coarse, and shared by the colours in the same way.

What two aligned frames differ by is noise of both where nothing else changed. Water, occlusion and bad alignment only
add to it, so the places that differ little tell what noise looks like: their mean spectrum, of all three channels
together, shapes white noise. It does not matter what the denoiser makes of the noise, only that it finds motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.finetuning.aligned_run import AlignedRun
from stbn_cli.finetuning.alignment import Pair, comes_from_inside
from stbn_cli.models.warp import warp_bicubic
from stbn_cli.noise.model import NoiseLevelFunction

BLOCK = 32  # pixels: noise that reaches further is cut off
STEP = BLOCK // 2
# The places to go by, of all in order of what frames differ there by, on average over the run, in units of what the
# measured level leads to expect. The very first are copied, or cut off at black or white. Single blocks must not be
# chosen so: those of coarse grain differ much by chance, and the least of them would be taken.
FIRST, LAST = 0.02, 0.12
FEWEST_BLOCKS, FEWEST_PLACES = 20, 4
CLIPPED = 0.06  # blocks this close to black or white do not count


@dataclass(frozen=True, slots=True)
class NoiseTexture:
    """What the noise of a clip looks like."""

    kernels: Tensor  # (3, 3, BLOCK, BLOCK) float32: from white noise in three channels to noise in R, G, B
    model: NoiseLevelFunction  # its level by brightness, but for a factor that is in the kernels

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


def texture_of(runs: Sequence[AlignedRun], model: NoiseLevelFunction) -> NoiseTexture | None:
    """What the noise of runs looks like, whose level is about `model`; None where too little can be compared."""
    energies = [_energies(run, model) for run in runs]
    means = torch.cat([part.nanmean(0) for part in energies])
    order = means.argsort()[: int(means.isfinite().sum())]
    first = int(FIRST * len(order))
    chosen = torch.zeros_like(means, dtype=torch.bool)
    chosen[order[first : max(int(LAST * len(order)), first + FEWEST_PLACES)]] = True
    power, count = torch.zeros((), device=means.device), 0
    for run, found, places in zip(
        runs, energies, chosen.split([part.shape[1] for part in energies]), strict=True
    ):
        for pair, energy in zip(_forward(run), found, strict=True):
            blocks = _blocks(run.run.noisy, pair, model, places & energy.isfinite())
            window = torch.hann_window(BLOCK, periodic=True, device=blocks.device)
            window = window[:, None] * window
            spectra = torch.fft.fft2(blocks * (window / window.square().sum().sqrt()))
            power = power + torch.einsum("ncyx,ndyx->yxcd", spectra, spectra.conj())
            count += len(blocks)
    if count < FEWEST_BLOCKS:
        return None
    # Of a difference, half is the noise of one frame.
    values, vectors = torch.linalg.eigh(power / (2.0 * count))
    roots = (vectors * values.clamp_min(0.0).sqrt()[..., None, :].to(vectors.dtype)) @ vectors.mH
    kernels = torch.fft.ifft2(roots.permute(2, 3, 0, 1)).real
    return NoiseTexture(torch.fft.fftshift(kernels, dim=(-2, -1)).contiguous(), model)


def _forward(run: AlignedRun) -> list[Pair]:
    return [pair for pairs in run.pairs.values() for pair in pairs if pair.source < pair.target]


def _energies(run: AlignedRun, model: NoiseLevelFunction) -> Tensor:
    """Mean squares of what frames differ by, in units of the noise's variance, (pairs, places); NaN: not usable."""
    noisy = run.run.noisy
    if min(noisy.shape[-2:]) < BLOCK:
        return noisy.new_zeros(1, 0)
    rows = []
    for pair in _forward(run):
        shown = pair.shown.float()
        mean, inside = _mean(shown), _mean(comes_from_inside(pair.flow.float()[None], 1.0)[0].float())
        usable = (inside > 1.0 - 1e-4) & (mean > CLIPPED) & (mean < 1.0 - CLIPPED)
        variance = _mean(model.variance_at(shown).expand_as(shown))
        rows.append((_mean(_difference(noisy, pair).square()) / variance).masked_fill(~usable, torch.nan))
    return torch.stack(rows)


def _blocks(noisy: Tensor, pair: Pair, model: NoiseLevelFunction, places: Tensor) -> Tensor:
    """What two frames differ by at these places, in units of the noise's level, (n, 3, BLOCK, BLOCK)."""
    if not places.any():
        return noisy.new_zeros(0, 3, BLOCK, BLOCK)
    shown = pair.shown.float()
    sigma = _mean(model.variance_at(shown).expand_as(shown)).sqrt()
    blocks = _difference(noisy, pair).unfold(1, BLOCK, STEP).unfold(2, BLOCK, STEP)
    across = blocks.shape[2]
    number = places.nonzero()[:, 0]
    return blocks[:, number // across, number % across].transpose(0, 1) / sigma[number, None, None, None]


def _difference(noisy: Tensor, pair: Pair) -> Tensor:
    return noisy[pair.target] - warp_bicubic(noisy[pair.source : pair.source + 1], pair.flow.float()[None])[0]


def _mean(picture: Tensor) -> Tensor:
    """Of the blocks of `picture (C, H, W)`, (places,)."""
    return F.avg_pool2d(picture.mean(0, keepdim=True), BLOCK, STEP).flatten()
