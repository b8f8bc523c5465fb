"""Every kind of noise that there are models for, drawn at random over clean frames."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stbn_cli.noise.calibration import MEASUREMENT_ERROR, SMALLEST_CODED_LEVEL
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.isp import draw_grain, draw_pipeline
from stbn_cli.synthesis.sensor import SensorNoise, draw_sensor_noise

# Shares of the draws.
PIPELINE_SHARE = 0.65  # of camera noise; the rest is grain
SAMPLED_SHARE = 0.6  # of camera noise that is seen through 4:2:0
INDEPENDENT_SHARE = 0.45  # of what is coded; as much of the camera's
CLEAN_SHARE = 0.08  # of what is coded: nothing but the coder
# Frames coded before those that are wanted, so that the first of these is not always one coded by itself.
LEAD = 3


class Degraded(NamedTuple):
    """Frames `noisy` and what they would be without noise, `(T, 3, H, W)` float32 each, and the noise.

    For correlated noise `noise` is one level, the root mean square of the difference.
    """

    noisy: Tensor
    clean: Tensor
    noise: NoiseLevelFunction


def lead_of(kind: NoiseKind) -> int:
    """Frames that `degrade` needs before the first one that it gives."""
    return LEAD if kind == "compressed" else 0


def degrade(
    kind: NoiseKind, clean: Tensor, random: np.random.Generator, sigma_range: tuple[float, float]
) -> Degraded:
    """Random noise of a kind over `clean (T + lead_of(kind), 3, H, W)`, nominal [0, 1], H and W even.

    `sigma_range`: levels on the [0, 1] scale; small ones are drawn more often. Of sharpened or coded noise it is the
    level before that.
    """
    low, high = sigma_range
    sigma = float(np.exp(random.uniform(np.log(max(low, 1e-3)), np.log(max(high, 1e-3)))))
    generator = torch.Generator(clean.device).manual_seed(int(random.integers(2**63)))
    if kind == "white":
        noise = SensorNoise(NoiseLevelFunction.white(sigma))
        return Degraded(noise.add_to(clean, generator), clean.float(), noise.model)
    if kind == "sensor":
        noise = draw_sensor_noise(random, sigma)
        return Degraded(noise.add_to(clean, generator), clean.float(), noise.model)
    if kind == "camera":
        noisy, shown = _through_camera(clean, random, sigma, generator)
        if random.random() < SAMPLED_SHARE:
            from stbn_cli.synthesis.codec import sampled

            noisy, shown = sampled(noisy), sampled(shown)
        return _correlated(noisy.to(clean.device), shown.to(clean.device))
    from stbn_cli.synthesis.codec import draw_coder

    share, shown = random.random(), clean.float()
    if share < INDEPENDENT_SHARE:
        noisy = draw_sensor_noise(random, sigma).add_to(clean, generator)
    elif share < 1.0 - CLEAN_SHARE:
        noisy, shown = _through_camera(clean, random, sigma, generator)
    else:
        noisy, sigma = clean, 0.0
    noisy, _ = draw_coder(random, sigma).code(noisy)
    return _correlated(noisy[LEAD:].to(clean.device), shown[LEAD:])


def _through_camera(
    clean: Tensor, random: np.random.Generator, sigma: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if random.random() < PIPELINE_SHARE:
        pipeline = draw_pipeline(random, sigma)
        return pipeline.deliver(clean, generator), pipeline.deliver(clean, None)
    grain = draw_grain(random, draw_sensor_noise(random, sigma).model)
    return grain.add_to(clean, generator), clean.float()


def _correlated(noisy: Tensor, clean: Tensor) -> Degraded:
    level = float((noisy - clean).square().mean().sqrt())
    return Degraded(noisy, clean, NoiseLevelFunction.white(level))


def conditioning_noise(
    kind: NoiseKind, noise: NoiseLevelFunction, noisy: Tensor, error: float
) -> NoiseLevelFunction:
    """The conditioning for `noise` in frames `noisy (T, 3, H, W)`, `error` standard deviations off the usual."""
    mean, deviation = MEASUREMENT_ERROR[kind]
    assumed = noise.scaled(math.exp(mean + deviation * error))
    if kind == "compressed":
        return NoiseLevelFunction.white(max(assumed.level(noisy), SMALLEST_CODED_LEVEL))
    return assumed
