"""OpenCV's non-local means over several frames."""

from typing import Any

import cv2
import numpy as np

from stbn_cli.bench.rivals.method import LibraryMethod, Settings
from stbn_cli.bench.rivals.planes import PlaneCode
from stbn_cli.errors import StbnError

DEPTH = 16
CODES_PER_STEP = 257.0  # 16-bit codes per step of the 0-255 scale
HEADROOM = 4.0  # standard deviations of the noise beyond black and white


def window_around(index: int, frames: int, size: int) -> list[int]:
    """The `size` frames nearest to a frame, which comes in their middle; an odd number, all different.

    Non-local means does not care for the order of its frames: at a clip's ends more of them come from one side.
    """
    size = min(size, frames - 1 + frames % 2)
    near = sorted(range(frames), key=lambda other: abs(other - index))[1:size]
    half = size // 2
    return [*near[:half], index, *near[half:]]


def _code(sigma: float, settings: Settings) -> PlaneCode:
    return PlaneCode(DEPTH, HEADROOM, settings["chroma"], sigma)


def _options(sigma: float, settings: Settings) -> dict[str, Any]:
    return {
        "h": settings["strength"] * _code(sigma, settings).luma_sigma * CODES_PER_STEP,
        "templateWindowSize": settings["patch"],
        "searchWindowSize": settings["window"],
        "temporalWindowSize": settings["frames"],
        "normType": "NORM_L1",
        "planes": f"opponent, {DEPTH} bit",
        "chroma scale": settings["chroma"],
    }


def _run(noisy: np.ndarray, sigma: float, settings: Settings) -> np.ndarray:
    # Planes of 16 bit one by one: 3 dB better than fastNlMeansDenoisingColoredMulti, which sees clipped 8-bit Lab.
    code = _code(sigma, settings)
    codes = code.encode(noisy)
    strength = _options(sigma, settings)["h"]
    denoised = np.empty_like(codes)
    for index in range(len(codes)):
        near = window_around(index, len(codes), settings["frames"])
        for plane in range(3):
            try:
                denoised[index, plane] = cv2.fastNlMeansDenoisingMulti(
                    [codes[other, plane] for other in near],
                    len(near) // 2,
                    len(near),
                    [strength],
                    templateWindowSize=settings["patch"],
                    searchWindowSize=settings["window"],
                    normType=cv2.NORM_L1,
                )
            except cv2.error as error:
                raise StbnError(f"OpenCV's non-local means failed: {error}. Leave this rival out.") from error
    return code.decode(denoised)


OPENCV = LibraryMethod(
    "opencv",
    "OpenCV NL-means, 3 frames",
    missing=lambda: None,  # stbn itself needs OpenCV
    version=lambda: f"OpenCV {cv2.__version__}",
    # Found by benchmarks/tune_rivals.py on three frames of 160x160 pixels of five clips (goat, kite-surf, soapbox,
    # tennis, teddy). Five frames and larger windows are no better, but slower.
    tuned={
        10.0: {"chroma": 1.01, "strength": 0.857, "patch": 5, "window": 11, "frames": 3},  # 34.75 dB
        20.0: {"chroma": 0.933, "strength": 0.857, "patch": 5, "window": 11, "frames": 3},  # 31.06 dB
        30.0: {"chroma": 0.8, "strength": 0.741, "patch": 5, "window": 11, "frames": 3},  # 28.92 dB
        40.0: {"chroma": 0.64, "strength": 0.741, "patch": 5, "window": 11, "frames": 3},  # 27.57 dB
        50.0: {"chroma": 0.64, "strength": 0.741, "patch": 5, "window": 11, "frames": 3},  # 26.51 dB
    },
    options=_options,
    run=_run,
)
