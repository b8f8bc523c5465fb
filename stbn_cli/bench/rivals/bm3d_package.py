"""BM3D as its authors publish it for Python: the package `bm3d`, frame by frame."""

import importlib
import importlib.util
from importlib.metadata import version
from typing import Any

import numpy as np

from stbn_cli.bench.rivals.method import LibraryMethod, Settings
from stbn_cli.errors import StbnError
from stbn_cli.scale import BYTE_SCALE

PACKAGE = "bm3d"


def _missing() -> str | None:
    if importlib.util.find_spec(PACKAGE):
        return None
    return "The package bm3d is not installed: pip install bm3d (free for non-commercial use only)."


def _options(sigma: float, settings: Settings) -> dict[str, Any]:
    return {
        "sigma_psd": settings["strength"] * sigma / BYTE_SCALE,
        "profile": settings["profile"],
        "nf": settings["domain"],
        "colorspace": "opp",
    }


def _run(noisy: np.ndarray, sigma: float, settings: Settings) -> np.ndarray:
    bm3d = importlib.import_module(PACKAGE)
    options = _options(sigma, settings)
    profile = {"np": bm3d.BM3DProfile, "vn": bm3d.BM3DProfileVN}[options["profile"]]()
    profile.nf = options["nf"]
    denoised = np.empty_like(noisy)
    for target, frame in zip(denoised, noisy, strict=True):
        try:
            target[...] = bm3d.bm3d_rgb(frame, options["sigma_psd"], profile, options["colorspace"])
        except (ValueError, ArithmeticError, OSError) as error:
            raise StbnError(f"The package bm3d failed: {error}. Leave this rival out.") from error
    return denoised


BM3D = LibraryMethod(
    "bm3d",
    "BM3D",
    missing=_missing,
    version=lambda: f"bm3d {version(PACKAGE)}",
    # Found by benchmarks/tune_rivals.py on a frame of 128x128 pixels of five clips (goat, kite-surf, soapbox, tennis,
    # teddy). A domain of 0 leaves out what is for coloured noise: 0.03 dB worse in white noise than the default of 32,
    # and four times as fast.
    tuned={
        10.0: {"strength": 1.08, "profile": "vn", "domain": 0},  # 35.67 dB
        20.0: {"strength": 1.08, "profile": "vn", "domain": 0},  # 32.01 dB
        30.0: {"strength": 1.0, "profile": "vn", "domain": 0},  # 29.98 dB
        40.0: {"strength": 1.0, "profile": "vn", "domain": 0},  # 28.59 dB
        50.0: {"strength": 1.0, "profile": "vn", "domain": 0},  # 27.56 dB
    },
    options=_options,
    run=_run,
)
