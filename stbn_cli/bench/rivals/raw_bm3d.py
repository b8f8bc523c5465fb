"""BM3D on packed mosaics: CRVD's noise, which is known, is made white first, and the transform undone without bias."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from stbn_cli.bench.methods import Run
from stbn_cli.bench.rivals.bm3d_package import BM3D, PACKAGE
from stbn_cli.errors import StbnError
from stbn_cli.raw.noise import CRVD_NOISE, PoissonGaussian

# Rows: brightness, red against blue, both greens against each other, green against red and blue. Orthonormal: noise
# stays white and equally strong. BM3D matches blocks on the first and treats all four by what it found there: on a
# frame of rafting 0.2 to 0.8 dB better than when each is treated alone, mixed or not.
MIXING = 0.5 * np.array(
    [[1, 1, 1, 1], [2**0.5, 0, 0, -(2**0.5)], [0, 2**0.5, -(2**0.5), 0], [1, -1, -1, 1]], np.float32
)


def denoise_raw(noisy: np.ndarray, noise: PoissonGaussian) -> np.ndarray:
    """Packed mosaics `(T, h, w, 4)` float32, frame by frame. Raises `StbnError` where BM3D fails."""
    bm3d = importlib.import_module(PACKAGE)
    stabiliser = noise.stabiliser
    profile = bm3d.BM3DProfileVN()
    profile.nf = 0  # what is for coloured noise is left out
    denoised = np.empty_like(noisy)
    for target, frame in zip(denoised, noisy, strict=True):
        try:
            cleaned = bm3d.bm3d(stabiliser.forward(frame) @ MIXING.T, stabiliser.sigma, profile)
        except (ValueError, ArithmeticError, OSError) as error:
            raise StbnError(f"The package bm3d failed: {error}. Leave this rival out.") from error
        target[...] = stabiliser.unbiased_inverse(cleaned @ MIXING)
    return denoised


@dataclass(frozen=True, slots=True)
class RawBm3d:
    """The rival as a `Method`; its level is the ISO, one of CRVD's."""

    name: str = BM3D.name

    def open(self) -> Run:
        version = BM3D.version()

        def run(noisy: np.ndarray, iso: float) -> tuple[np.ndarray, dict[str, Any]]:
            noise = CRVD_NOISE[int(iso)]
            return denoise_raw(noisy, noise), {"version": version, "sigma": noise.stabiliser.sigma}

        return run
