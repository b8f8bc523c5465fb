"""Noise as footage has it, drawn at random over clean clips: sensor, camera, film, JPEG and video coding in any order.

What `degrade` draws for one kind at a time, this mixes, with what happens inside and behind a camera: noise reduction
in space and time, colour in blotches, resizing, JPEG, one or two codings, dark pictures, and none at all.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.luma import luma_of
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.isp import blurred, draw_pipeline
from stbn_cli.synthesis.processing import blotchy, grain, jpeg, resized, spatially_reduced, temporally_reduced
from stbn_cli.synthesis.sensor import SensorNoise, draw_sensor_noise, poisson_gaussian, rounded

if TYPE_CHECKING:
    from stbn_cli.synthesis.codec import H264

SIGMA_RANGE = (0.7, 60.0)  # standard deviation, 0-255 scale
EVEN_SHARE = 0.35  # of the levels that are uniform on that range; the others are in the logarithm
TWICE_SHARE = 0.15  # of what is coded
HEVC_SHARE = 0.35
BITRATE_SHARE = 0.35
JPEG_SHARE = 0.25  # of what is not coded
RESIZED_SHARE = 0.15
FLOAT_SHARE = 0.6  # of white and sensor noise that is neither clipped nor rounded
DARK_SHARE = 0.25
DARKEST = 0.04  # factor on the picture's values
BITRATES = (0.8e6, 20e6)  # bits per second of 960x540 at 25 frames a second
BITRATE_PIXELS = 960 * 540
PRESETS = ("ultrafast", "veryfast", "fast", "medium")
# x265's slower presets give other pictures every time in small frames.
HEVC_PRESETS = ("ultrafast", "superfast")
LEVEL_KNOTS = 9  # brightness values at which levels are stated, evenly spaced on [0, 1]
SMALLEST_COUNT = 200  # values from which a level at one brightness is measured


@dataclass(frozen=True, slots=True)
class Mix:
    """How often which noise is drawn."""

    sources: tuple[tuple[str, float], ...] = (
        ("camera", 0.28),
        ("blotchy", 0.24),
        ("white", 0.16),
        ("sensor", 0.09),
        ("grain", 0.11),
        ("clean", 0.12),
    )  # kinds of noise and their shares of the draws
    coded: float = 0.55  # of what is not kept as floating point
    sampled: float = 0.35  # of what is neither coded nor JPEG: seen through 4:2:0


EVERYTHING = Mix()
# For networks that are taken where neighbours share their noise.
CAMERAS = Mix(
    (("camera", 0.55), ("blotchy", 0.25), ("white", 0.03), ("grain", 0.07), ("clean", 0.1)), 0.35, 0.6
)
MIXES = {"everything": EVERYTHING, "cameras": CAMERAS}


@dataclass(frozen=True, slots=True, eq=False)
class NoisyClip:
    """A clip with noise and without, `(T, 3, H, W)` float32, nominal [0, 1], and what the noise is.

    `levels (2, LEVEL_KNOTS)`: standard deviation of luma and of colour differences (red and blue minus luma) on the
    [0, 1] scale, at brightness 0 to 1. `kept_as_float`: the noise is neither clipped nor rounded.
    """

    noisy: Tensor
    clean: Tensor
    levels: Tensor
    kind: str
    kept_as_float: bool


def draw_clip(clean: Tensor, random: np.random.Generator, mix: Mix = EVERYTHING) -> NoisyClip:
    """Random noise over `clean (T, 3, H, W)`, nominal [0, 1]; height and width multiples of 4."""
    # Here, so that training from a pool needs no PyAV.
    from stbn_cli.synthesis.codec import sampled

    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    clean = clean.float()
    if random.random() < DARK_SHARE:
        clean = clean * float(np.exp(random.uniform(np.log(DARKEST), 0.0)))
    kinds, shares = zip(*mix.sources, strict=True)
    kind = str(random.choice(kinds, p=np.array(shares) / sum(shares)))
    sigma = _draw_sigma(random) / BYTE_SCALE
    if kind in ("white", "sensor") and random.random() < FLOAT_SHARE:
        source = (
            SensorNoise(NoiseLevelFunction.white(sigma))
            if kind == "white"
            else draw_sensor_noise(random, sigma)
        )
        noisy = replace(source, clipped=False).add_to(clean, generator)
        return NoisyClip(noisy, clean, measured_levels(noisy, clean), kind, True)
    noisy, clean = _with_noise(kind, clean, random, sigma, generator)
    if random.random() < RESIZED_SHARE:
        size = [
            max(round(side * float(np.exp(random.uniform(-0.35, 0.35))) / 4) * 4, 64)
            for side in clean.shape[-2:]
        ]
        noisy, clean = (rounded(resized(frames, size[0], size[1])) for frames in (noisy, clean))
    if random.random() < mix.coded:
        kind += "+coded"
        clean = sampled(clean)
        for _ in range(2 if random.random() < TWICE_SHARE else 1):
            noisy, _ = _draw_coder(random, sigma, noisy).code(noisy)
    elif random.random() < JPEG_SHARE:
        kind += "+jpeg"
        clean = sampled(clean)
        noisy = jpeg(noisy, int(random.integers(60, 99)))
    elif random.random() < mix.sampled:
        noisy, clean = sampled(noisy), sampled(clean)
    noisy = rounded(noisy)
    return NoisyClip(noisy, clean, measured_levels(noisy, clean), kind, False)


def measured_levels(noisy: Tensor, clean: Tensor) -> Tensor:
    """The true `NoisyClip.levels` of `noisy - clean`, by brightness of the clean frames; gaps are filled linearly."""
    difference = noisy - clean
    luma = luma_of(difference)
    colour = (difference - luma)[:, [0, 2]].square().mean(1)
    squares = (luma[:, 0].square().flatten(), colour.flatten())
    position = (luma_of(clean).clamp(0.0, 1.0) * (LEVEL_KNOTS - 1)).flatten()
    low = position.floor().clamp_max(LEVEL_KNOTS - 2).long()
    share = position - low
    knots = np.arange(LEVEL_KNOTS)
    rows = []
    for square in squares:
        total, count = torch.zeros(LEVEL_KNOTS), torch.zeros(LEVEL_KNOTS)
        for index, weight in ((low, 1.0 - share), (low + 1, share)):
            total.index_add_(0, index, weight * square)
            count.index_add_(0, index, weight)
        known = (count >= min(SMALLEST_COUNT, float(count.max()))).numpy()
        found = (total / count.clamp_min(1e-9)).sqrt().numpy()
        rows.append(np.interp(knots, knots[known], found[known]))
    return torch.from_numpy(np.stack(rows)).float()


def _with_noise(
    kind: str, clean: Tensor, random: np.random.Generator, sigma: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if kind == "clean":
        return rounded(clean), clean
    if kind == "white":
        return SensorNoise(NoiseLevelFunction.white(sigma), clipped=True).add_to(clean, generator), clean
    if kind == "sensor":
        return replace(draw_sensor_noise(random, sigma), clipped=True).add_to(clean, generator), clean
    if kind == "grain":
        model, shared = _draw_level(random, sigma), float(random.random() < 0.5 or random.random())
        size = float(random.uniform(0.2, 2.0))
        shape = list(clean.shape)
        own = grain(tuple(shape), size, generator)
        shape[1] = 1
        common = grain(tuple(shape), size, generator)
        draw = shared**0.5 * common + (1.0 - shared) ** 0.5 * own
        return rounded(clean + draw * model.sigma_at(clean)), clean
    if kind == "camera":
        pipeline = draw_pipeline(random, sigma)
        noisy, clean = pipeline.deliver(clean, generator), pipeline.deliver(clean, None)
    else:
        ratio = float(np.exp(random.uniform(np.log(0.25), np.log(1.6))))
        luma_size = 0.0 if random.random() < 0.15 else float(random.uniform(0.35, 1.0))
        sizes = float(random.uniform(0.6, 2.0)), float(random.uniform(1.2, 3.2))
        levels = _draw_level(random, sigma), _draw_level(random, sigma * ratio)
        noisy = rounded(clean + blotchy(clean, *levels, luma_size, sizes, generator))
    if random.random() < 0.35:
        strength = sigma * float(random.uniform(0.3, 1.5)) if random.random() < 0.7 else 0.0
        colour = float(random.uniform(0.6, 2.5)) if random.random() < 0.7 else 0.0
        noisy = spatially_reduced(noisy, strength, colour, int(random.integers(1, 4)))
    if random.random() < 0.25:
        noisy = temporally_reduced(noisy, float(random.uniform(0.3, 0.75)), max(2.0 * sigma, 4 / BYTE_SCALE))
    if random.random() < 0.2:
        amount, radius = float(random.uniform(0.2, 1.0)), float(random.uniform(0.6, 1.5))
        noisy, clean = (frames + amount * (frames - blurred(frames, radius)) for frames in (noisy, clean))
    return rounded(noisy), rounded(clean)


def _draw_sigma(random: np.random.Generator) -> float:
    low, high = SIGMA_RANGE
    if random.random() < EVEN_SHARE:
        return float(random.uniform(low, high))
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _draw_level(random: np.random.Generator, sigma: float) -> NoiseLevelFunction:
    """A level function with standard deviation `sigma` in the middle tones: rising, falling or constant."""
    if random.random() < 0.4:
        return NoiseLevelFunction.white(sigma)
    if random.random() < 0.5:
        return poisson_gaussian(sigma**2 * 1.6, sigma * 0.2**0.5).model
    dark, light = (float(np.exp(random.uniform(-0.9, 0.6))) for _ in range(2))
    return NoiseLevelFunction((((dark * sigma) ** 2, sigma**2, (light * sigma) ** 2),))


def _draw_coder(random: np.random.Generator, sigma: float, frames: Tensor) -> "H264":
    from stbn_cli.synthesis.codec import H264

    hevc = bool(random.random() < HEVC_SHARE)
    presets = HEVC_PRESETS if hevc else PRESETS
    preset = presets[int(random.integers(len(presets)))]
    # Who codes strong noise finely needs very many bits.
    crf = float(random.uniform(16.0 + min(BYTE_SCALE * sigma / 5.0, 6.0), 35.0))
    bitrate = None
    if random.random() < BITRATE_SHARE:
        rate = float(np.exp(random.uniform(np.log(BITRATES[0]), np.log(BITRATES[1]))))
        bitrate = round(rate * frames.shape[-1] * frames.shape[-2] / BITRATE_PIXELS)
    return H264(crf, preset, bitrate, hevc)
