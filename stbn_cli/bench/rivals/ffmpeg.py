"""FFmpeg's denoising filters, each with its options for white noise of a known level.

They see luma and colour differences of an orthonormal transform (planes.py) at the depth that they take: RGB planes
are 1 to 2 dB worse with every one of them. Strengths are relative to the noise's level in the luma's codes on the
0-255 scale, in which filters take their options at any depth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stbn_cli.bench.rivals.libavfilter import Filter, filter_version, missing_filter, run_filters
from stbn_cli.bench.rivals.method import LibraryMethod, Settings
from stbn_cli.bench.rivals.planes import PlaneCode
from stbn_cli.scale import BYTE_SCALE

# What the filters take at least and at most.
MIN_NLMEANS, MAX_FFTDNOIZ, MAX_SINGLE = 1.0, 100.0, 0.3


def nlmeans(level: float, settings: Settings) -> list[Filter]:
    """Non-local means of each plane, frame by frame; 8 bit only."""
    # The filter compares sums over patches: the strength grows with their side.
    strength = max(settings["strength"] * level * settings["patch"] / 7, MIN_NLMEANS)
    return [Filter("nlmeans", {"s": strength, "p": settings["patch"], "r": settings["window"]})]


def fftdnoiz(level: float, settings: Settings) -> list[Filter]:
    """Wiener filter of the Fourier transforms of overlapping blocks, over three frames."""
    # Its sigma is a power.
    strength = min(settings["strength"] * level**2, MAX_FFTDNOIZ)
    blocks = {"block": settings["block"], "overlap": settings["overlap"]}
    return [Filter("fftdnoiz", {"sigma": strength, **blocks, "prev": 1, "next": 1})]


def atadenoise(level: float, settings: Settings) -> list[Filter]:
    """Average over nine frames of each pixel, up to where it changes too much."""
    single, total = (
        min(settings["single"] * level / BYTE_SCALE, MAX_SINGLE),
        settings["total"] * level / BYTE_SCALE,
    )
    thresholds = {
        f"{plane}{which}": value for which, value in (("a", single), ("b", total)) for plane in range(3)
    }
    return [Filter("atadenoise", {**thresholds, "s": 9, "a": "s"})]


def vaguedenoiser(level: float, settings: Settings) -> list[Filter]:
    """Wavelet shrinkage, frame by frame."""
    shrinkage = {"method": "soft", "type": "bayes", "nsteps": 5, "percent": settings["percent"]}
    return [Filter("vaguedenoiser", {"threshold": settings["strength"] * level, **shrinkage})]


def hqdn3d(level: float, settings: Settings) -> list[Filter]:
    """Recursive low passes in space and time that give way to edges."""
    names = ("luma_spatial", "chroma_spatial", "luma_tmp", "chroma_tmp")
    return [Filter("hqdn3d", {name: settings[name] * level for name in names})]


def bm3d(level: float, settings: Settings) -> list[Filter]:
    """Both stages of BM3D, frame by frame.

    Without matching of blocks (the filter's default): grouping them makes this implementation 2 to 3 dB worse. What
    remains are shrunk cosine transforms of overlapping blocks of 16x16.
    """
    shared = {"bstep": settings["step"]}
    basic = Filter("bm3d", {"sigma": settings["basic"] * level, **shared})
    final = {"sigma": settings["final"] * level, "estim": "final", "ref": 1, **shared}
    return [basic, Filter("bm3d", final, guided=True)]


@dataclass(frozen=True, slots=True)
class _FilterMethod:
    """A chain of filters at the depth that it takes."""

    depth: int
    headroom: float  # standard deviations of the noise beyond black and white
    chain: Callable[[float, Settings], list[Filter]]  # level of the noise in the luma's codes, settings

    def _code(self, sigma: float, settings: Settings) -> PlaneCode:
        return PlaneCode(self.depth, self.headroom, settings["chroma"], sigma)

    def options(self, sigma: float, settings: Settings) -> dict[str, Any]:
        """See LibraryMethod."""
        chain = self.chain(self._code(sigma, settings).luma_sigma, settings)
        shown = {
            f"{item.name} {name}" if item is not chain[0] else name: value
            for item in chain
            for name, value in item.options.items()
        }
        return {**shown, "planes": f"opponent, {self.depth} bit", "chroma scale": settings["chroma"]}

    def run(self, noisy: np.ndarray, sigma: float, settings: Settings) -> np.ndarray:
        """See LibraryMethod."""
        code = self._code(sigma, settings)
        chain = self.chain(code.luma_sigma, settings)
        return code.decode(run_filters(code.encode(noisy), self.depth, chain))


def _method(
    name: str,
    title: str,
    chain: Callable[[float, Settings], list[Filter]],
    *,
    depth: int,
    headroom: float,
    tuned: Mapping[float, Settings],
) -> LibraryMethod:
    filter_name = chain.__name__
    made = _FilterMethod(depth, headroom, chain)
    return LibraryMethod(
        name,
        title,
        missing=lambda: missing_filter(filter_name),
        version=lambda: filter_version(filter_name),
        tuned=tuned,
        options=made.options,
        run=made.run,
    )


# Found by benchmarks/tune_rivals.py on five clips (goat, kite-surf, soapbox, tennis, teddy), 256x256 pixels; 1 frame of
# each where a filter sees frames one by one, else 4 to 8. The kinds of shrinkage and windows that are not listed lost.
FFMPEG_METHODS: Sequence[LibraryMethod] = (
    _method(
        "nlmeans",
        "FFmpeg nlmeans",
        nlmeans,
        depth=8,
        headroom=4.0,
        tuned={
            10.0: {"chroma": 0.864, "strength": 0.881, "patch": 3, "window": 9},  # 34.04 dB
            20.0: {"chroma": 0.691, "strength": 0.881, "patch": 3, "window": 9},  # 30.25 dB
            30.0: {"chroma": 0.8, "strength": 0.756, "patch": 5, "window": 11},  # 28.09 dB
            40.0: {"chroma": 0.691, "strength": 0.756, "patch": 5, "window": 11},  # 26.71 dB
            50.0: {"chroma": 0.64, "strength": 0.756, "patch": 5, "window": 11},  # 25.64 dB
        },
    ),
    _method(
        "fftdnoiz",
        "FFmpeg fftdnoiz",
        fftdnoiz,
        depth=16,
        headroom=6.0,
        tuned={
            10.0: {"chroma": 0.691, "strength": 0.266, "block": 32, "overlap": 0.7},  # 34.69 dB
            20.0: {"chroma": 0.64, "strength": 0.323, "block": 32, "overlap": 0.7},  # 30.56 dB
            30.0: {"chroma": 0.64, "strength": 0.357, "block": 32, "overlap": 0.7},  # 28.33 dB
            40.0: {"chroma": 0.593, "strength": 0.403, "block": 32, "overlap": 0.7},  # 26.82 dB
            50.0: {"chroma": 0.5, "strength": 0.436, "block": 32, "overlap": 0.7},  # 25.70 dB
        },
    ),
    _method(
        "atadenoise",
        "FFmpeg atadenoise",
        atadenoise,
        depth=16,
        headroom=4.0,
        tuned={
            10.0: {"chroma": 0.593, "single": 2.65, "total": 3.06},  # 30.28 dB
            20.0: {"chroma": 0.597, "single": 3.09, "total": 3.84},  # 25.29 dB
            30.0: {"chroma": 0.516, "single": 3.34, "total": 3.84},  # 22.43 dB
            40.0: {"chroma": 0.516, "single": 4.17, "total": 3.84},  # 20.43 dB
            50.0: {"chroma": 0.478, "single": 4.17, "total": 3.84},  # 18.90 dB
        },
    ),
    _method(
        "vaguedenoiser",
        "FFmpeg vaguedenoiser",
        vaguedenoiser,
        depth=16,
        headroom=4.0,
        tuned={
            10.0: {"chroma": 0.8, "strength": 1.29, "percent": 90.0},  # 33.48 dB
            20.0: {"chroma": 0.8, "strength": 1.29, "percent": 95.0},  # 29.42 dB
            30.0: {"chroma": 0.8, "strength": 1.39, "percent": 95.0},  # 27.33 dB
            40.0: {"chroma": 0.8, "strength": 1.39, "percent": 95.0},  # 25.96 dB
            50.0: {"chroma": 0.864, "strength": 1.5, "percent": 95.0},  # 24.96 dB
        },
    ),
    _method(
        "hqdn3d",
        "FFmpeg hqdn3d",
        hqdn3d,
        depth=16,
        headroom=4.0,
        tuned={
            10.0: {
                "chroma": 1.08,
                "luma_spatial": 2.22,
                "chroma_spatial": 4.02,
                "luma_tmp": 0.985,
                "chroma_tmp": 0.786,
            },  # 32.73 dB
            20.0: {
                "chroma": 0.933,
                "luma_spatial": 2.57,
                "chroma_spatial": 4.34,
                "luma_tmp": 0.985,
                "chroma_tmp": 0.629,
            },  # 28.41 dB
            30.0: {
                "chroma": 0.864,
                "luma_spatial": 2.78,
                "chroma_spatial": 4.69,
                "luma_tmp": 0.985,
                "chroma_tmp": 0.503,
            },  # 26.13 dB
            40.0: {
                "chroma": 0.8,
                "luma_spatial": 3.0,
                "chroma_spatial": 4.69,
                "luma_tmp": 0.985,
                "chroma_tmp": 0.402,
            },  # 24.62 dB
            50.0: {
                "chroma": 0.741,
                "luma_spatial": 3.24,
                "chroma_spatial": 4.69,
                "luma_tmp": 0.912,
                "chroma_tmp": 0.402,
            },  # 23.54 dB
        },
    ),
    _method(
        "ffmpeg-bm3d",
        "FFmpeg bm3d",
        bm3d,
        depth=12,
        headroom=4.0,
        tuned={
            10.0: {"chroma": 0.933, "basic": 4.0, "final": 432.0, "step": 2},  # 34.96 dB with step 3
            20.0: {"chroma": 0.933, "basic": 4.0, "final": 400.0, "step": 2},  # 31.00 dB
            30.0: {"chroma": 0.864, "basic": 4.0, "final": 400.0, "step": 2},  # 28.92 dB; step 2: 29.06 dB
            40.0: {"chroma": 0.864, "basic": 4.0, "final": 400.0, "step": 2},  # 27.53 dB
            50.0: {"chroma": 0.864, "basic": 4.0, "final": 432.0, "step": 2},  # 26.52 dB
        },
    ),
)
