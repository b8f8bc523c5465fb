"""BM3D, V-BM3D and DFTTest as plugins of VapourSynth, through its Python module; pip installs all of them.

They work on 32-bit floating point, so that nothing is clipped.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from stbn_cli.bench.rivals.method import LibraryMethod, Settings
from stbn_cli.bench.rivals.planes import from_opponent, to_opponent
from stbn_cli.errors import StbnError

MODULE = "vapoursynth"
OPPONENT_MATRIX = 100  # the bm3d plugin's number for its own opponent colours


def run_plugin(clip: np.ndarray, format_name: str, build: Callable[[Any, Any], Any]) -> np.ndarray:
    """Send pictures of three planes, `(T, 3, H, W)` float32, through a graph of VapourSynth's filters.

    `format_name` is what the planes are to VapourSynth, RGBS or YUV444PS; `build(core, source)` makes the node whose
    frames are returned, of the same shape. Raises StbnError if a filter fails.
    """
    vs = importlib.import_module(MODULE)
    frames, _, height, width = clip.shape
    blank = vs.core.std.BlankClip(width=width, height=height, length=frames, format=getattr(vs, format_name))

    def fill(n: int, f: Any) -> Any:
        frame = f.copy()
        for index in range(3):
            np.asarray(frame[index])[...] = clip[n, index]
        return frame

    filtered = np.empty_like(clip)
    try:
        node = build(vs.core, blank.std.ModifyFrame(blank, fill))
        for target, frame in zip(filtered, node.frames(close=True), strict=True):
            for index in range(3):
                target[index] = np.asarray(frame[index])
    except (vs.Error, RuntimeError, ValueError) as error:
        raise StbnError(f"VapourSynth failed: {error}. Leave this rival out.") from error
    return filtered


def _missing(namespace: str, packages: str, module: str = MODULE) -> str | None:
    try:
        plugin_found = hasattr(importlib.import_module(MODULE).core, namespace)
    except ImportError:
        return f"VapourSynth's Python module is not here: pip install vapoursynth {packages} (Python 3.12 or newer)."
    if plugin_found and importlib.util.find_spec(module):
        return None
    return f"VapourSynth lacks the plugin {namespace}: pip install {packages}."


def _version(package: str) -> str:
    try:
        plugin = f", {package} {version(package)}"
    except PackageNotFoundError:  # a plugin from elsewhere, which states none
        plugin = ""
    core = importlib.import_module(MODULE).core
    return f"VapourSynth R{core.core_version.release_major}{plugin}"


def _bm3d_options(sigma: float, settings: Settings) -> dict[str, Any]:
    level = settings["strength"] * sigma
    options = {"sigma": [level, settings["chroma"] * level], "profile": settings["profile"]}
    return options | ({"radius": settings["radius"]} if "radius" in settings else {})


def _run_bm3d(noisy: np.ndarray, sigma: float, settings: Settings) -> np.ndarray:
    options = _bm3d_options(sigma, settings) | {"matrix": OPPONENT_MATRIX}

    def spatial(core: Any, source: Any) -> Any:
        opponent = core.bm3d.RGB2OPP(source, sample=1)
        basic = core.bm3d.Basic(opponent, **options)
        return core.bm3d.OPP2RGB(core.bm3d.Final(opponent, basic, **options), sample=1)

    def temporal(core: Any, source: Any) -> Any:
        def whole(stack: Any) -> Any:
            return core.bm3d.VAggregate(stack, radius=options["radius"], sample=1)

        opponent = core.bm3d.RGB2OPP(source, sample=1)
        basic = whole(core.bm3d.VBasic(opponent, **options))
        return core.bm3d.OPP2RGB(whole(core.bm3d.VFinal(opponent, basic, **options)), sample=1)

    build = temporal if "radius" in options else spatial
    filtered = run_plugin(noisy.transpose(0, 3, 1, 2), "RGBS", build)
    return np.ascontiguousarray(filtered.transpose(0, 2, 3, 1))


def _dfttest_options(sigma: float, settings: Settings) -> dict[str, Any]:
    # Its sigma is a power.
    return {
        "sigma": settings["strength"] * sigma**2,
        "tbsize": settings["frames"],
        "sosize": settings["overlap"],
    }


def _run_dfttest(noisy: np.ndarray, sigma: float, settings: Settings) -> np.ndarray:
    dfttest2 = importlib.import_module("dfttest2")
    options = _dfttest_options(sigma, settings)
    scale = np.array((1.0, settings["chroma"], settings["chroma"]), np.float32)[:, None, None]
    planes = np.stack([to_opponent(frame) * scale for frame in noisy])
    filtered = run_plugin(planes, "YUV444PS", lambda _core, source: dfttest2.DFTTest(source, **options))
    return np.stack([from_opponent(frame / scale) for frame in filtered])


# Found by benchmarks/tune_rivals.py on five clips (goat, kite-surf, soapbox, tennis, teddy): BM3D on a frame of 128x128
# pixels, V-BM3D on seven of 96x96, DFTTest on six of 256x256.
VAPOURSYNTH_METHODS: Sequence[LibraryMethod] = (
    LibraryMethod(
        "vs-bm3d",
        "VapourSynth BM3D",
        missing=lambda: _missing("bm3d", "vapoursynth-bm3d"),
        version=lambda: _version("vapoursynth-bm3d"),
        # The same at 10, 20, 30, 40 and 50: 35.68, 31.98, 29.96, 28.56 and 27.52 dB.
        tuned={30.0: {"strength": 0.926, "chroma": 1.25, "profile": "high"}},
        options=_bm3d_options,
        run=_run_bm3d,
    ),
    LibraryMethod(
        "vs-vbm3d",
        "VapourSynth V-BM3D",
        missing=lambda: _missing("bm3d", "vapoursynth-bm3d"),
        version=lambda: _version("vapoursynth-bm3d"),
        # The same at 10, 20, 30, 40 and 50: 36.87, 33.29, 31.34, 30.02 and 29.01 dB. A radius of 6 gains 0.02 dB and
        # takes half as much memory again, which is gigabytes at HD.
        tuned={30.0: {"strength": 0.926, "chroma": 1.17, "profile": "vn", "radius": 4}},
        options=_bm3d_options,
        run=_run_bm3d,
    ),
    LibraryMethod(
        "vs-dfttest",
        "VapourSynth DFTTest",
        missing=lambda: _missing("dfttest2_cpu", "dfttest2 vapoursynth-dfttest2-cpu", module="dfttest2"),
        version=lambda: _version("vapoursynth-dfttest2-cpu"),
        tuned={
            10.0: {"strength": 2.0, "chroma": 0.741, "frames": 3, "overlap": 14},  # 35.55 dB
            20.0: {"strength": 2.24, "chroma": 0.741, "frames": 3, "overlap": 14},  # 31.56 dB
            30.0: {"strength": 2.5, "chroma": 0.741, "frames": 3, "overlap": 14},  # 29.40 dB
            40.0: {"strength": 2.59, "chroma": 0.686, "frames": 3, "overlap": 14},  # 27.97 dB
            50.0: {"strength": 2.8, "chroma": 0.686, "frames": 3, "overlap": 14},  # 26.90 dB
        },
        options=_dfttest_options,
        run=_run_dfttest,
    ),
)
