"""Gain and floor of a raw clip's noise, measured on its planes by what measures the noise-level function of video."""

import numpy as np

from stbn_cli.noise.level_function import BELOW_SCALE, TEXTURE_SCALE, estimate_noise
from stbn_cli.raw.noise import LARGEST_FLOOR, LARGEST_GAIN, PoissonGaussian, gain_for

# Planes that are measured: red, one green, blue. The mean of both greens would have less noise.
MEASURED = (0, 1, 3)
# The brightest values, by which all are divided for the measurement: raw clips are often dark.
BRIGHTEST = 0.995
ROUNDS = 60
# Where a clip is so dark that photons would add less than this part to the floor, they cannot be told from nothing; the
# gain is taken to be at least this part of that of CRVD's sensor with the same floor.
DARK, USUAL_GAIN = 0.5, 0.3
SMALLEST_VARIANCE = 1e-10


def measure_raw(frames: np.ndarray) -> PoissonGaussian:
    """The noise of raw frames `(T, h, w, 4)` float32 of one scene, packed: black 0, white 1, not clamped at black.

    Successive frames, as the noise of their aligned differences counts too. Raises `ValueError` for other shapes.
    """
    if frames.ndim != 4 or frames.shape[-1] != 4 or not len(frames):
        raise ValueError(f"expected frames of shape (T, h, w, 4), got {frames.shape}")
    scale = max(float(np.quantile(frames[:, ::4, ::4], BRIGHTEST)), 1e-4)
    found = estimate_noise(frames[..., list(MEASURED)] / np.float32(scale))
    if not found.points:
        return PoissonGaussian(0.0, (found.level * scale) ** 2)
    _, brightness, deviation = (np.array(column) for column in zip(*found.points, strict=True))
    brightness = np.clip(brightness, 0.0, None)
    slope, offset = _line(brightness, np.square(deviation))
    gain, floor = slope * scale, offset * scale**2
    usual = USUAL_GAIN * gain_for(floor)
    if usual * scale * float(brightness.max()) < DARK * floor:
        gain = max(gain, usual)
    return PoissonGaussian(min(gain, LARGEST_GAIN), min(floor, LARGEST_FLOOR))


def _line(brightness: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Slope and offset, both at least 0, of the line below which few points lie: texture adds, and nothing takes away.

    Reweighted least squares in relative errors, as strong noise must not drown weak.
    """
    variance = np.maximum(variance, SMALLEST_VARIANCE)
    line = 0.0, float(np.quantile(variance, 0.3))
    for _ in range(ROUNDS):
        expected = np.maximum(line[0] * brightness + line[1], SMALLEST_VARIANCE)
        residual = np.log(variance / expected)
        weight = 1.0 / (1.0 + np.square(residual / np.where(residual > 0, TEXTURE_SCALE, BELOW_SCALE)))
        following = _least_squares(brightness, variance, weight / np.square(expected))
        if np.allclose(following, line, rtol=1e-4, atol=SMALLEST_VARIANCE):
            break
        line = following
    return line


def _least_squares(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The line `(slope, offset)`, neither negative, of the least weighted squares."""
    total = weight.sum()
    centre, height = (weight * x).sum() / total, (weight * y).sum() / total
    spread = (weight * np.square(x - centre)).sum()
    slope = (weight * (x - centre) * (y - height)).sum() / spread if spread > 0.0 else 0.0
    if slope <= 0.0:
        return 0.0, float(height)
    if height - slope * centre < 0.0:
        return float((weight * x * y).sum() / (weight * x * x).sum()), 0.0
    return float(slope), float(height - slope * centre)
