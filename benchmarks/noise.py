"""How well noise is measured, and what knowing it is worth.

    python benchmarks/noise.py estimate CLIP [CLIP ...]    # levels, noise-level functions, correlation lengths
    python benchmarks/noise.py denoise CLIP [CLIP ...]     # everything automatic against the truth, and against rivals
    python benchmarks/noise.py figure CLIP --output noise.png    # crops beside each other

Noise is made over the first frames of clean clips by `stbn_cli.synthesis`, always the same draw. `estimate` takes each
clip as it is, darkened, between bars, and standing still. `denoise` crops the middle of the frames. PSNR in dB. One
JSON document on stdout, one line for every measurement on stderr. `--rivals nlmeans,hqdn3d,bm3d` needs FFmpeg and the
package bm3d; each rival, and the white-noise model, is shown at the best of several strengths. Beside it stands
what was tried and is not in stbn: the white-noise model on each pixel parity alone, and after variance stabilisation.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import stbn_cli
from stbn_cli.analysis.analysis import analyze
from stbn_cli.api import LoadedDenoiser
from stbn_cli.bench.rivals.registry import RIVALS
from stbn_cli.checkpoints.registry import has_model
from stbn_cli.metrics import psnr
from stbn_cli.noise.correlation import RELATED, measure_correlation
from stbn_cli.noise.level_function import estimate_noise
from stbn_cli.noise.model import NoiseLevelFunction, SceneNoise
from stbn_cli.synthesis.codec import H264, sampled
from stbn_cli.synthesis.isp import CameraPipeline, Grain, gaussian
from stbn_cli.synthesis.sensor import SensorNoise, poisson_gaussian
from stbn_cli.training.footage import load_clip

SIGMAS = (2, 5, 10, 20, 30, 50, 75)
SENSORS = {
    "shot 0.01, read 5": poisson_gaussian(0.01, 5 / 255),
    "shot 0.02, read 3, 8 bits": poisson_gaussian(0.02, 3 / 255, clipped=True),
    "shot 0.005, read 2, 8 bits": poisson_gaussian(0.005, 2 / 255, clipped=True),
    "shot 0.01 0.004 0.02, read 5 3 8": poisson_gaussian((0.01, 0.004, 0.02), (5 / 255, 3 / 255, 8 / 255)),
}
GRAINS = (0.0, 0.6, 0.8, 1.0, 1.3)  # pixels
CAMERAS = {
    "corrected demosaicing, sharpened": CameraPipeline(shot=0.008, read=0.008, sharpening=0.5),
    "bilinear, smoothed, sharpened": CameraPipeline(
        shot=0.02, read=0.01, gains=(1.8, 1.6), corrected=False, smoothing=0.5, sharpening=0.8
    ),
    "corrected demosaicing": CameraPipeline(shot=0.004, read=0.005),
}
BITRATES = (2, 4, 8)  # Mbit/s of 960x540 at 25 frames a second
CODED_SIGMA = 20
STRENGTHS = "0.5,0.7,1,1.4,2,2.8"  # of the white-noise model and of rivals, over the true level
LEAD = 16  # frames that are coded before those that are measured
WIDTH, HEIGHT = 320, 256  # of the crop
FIGURE_CRF = 27.0
FIGURE_CROP = (slice(60, 180), slice(90, 230))  # rows and columns of the middle
CURVE_POINTS = 2001  # of a variance-stabilising transformation


def load(path: str, frames: int) -> Tensor:
    """(T, 3, H, W) on [0, 1], of even size."""
    clip = torch.from_numpy(load_clip(Path(path), frames)).permute(0, 3, 1, 2).float() / 255
    height, width = (side // 2 * 2 for side in clip.shape[-2:])
    return clip[..., :height, :width]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def frames_of(clip: Tensor) -> np.ndarray:
    return clip.permute(0, 2, 3, 1).contiguous().numpy()


def tell(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def variants(clip: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """Name, clean frames, rows of the bars at either side."""
    yield "", clip, 0
    yield " dark", clip * 0.2, 0
    yield " letterboxed", clip, clip.shape[-2] // 9
    yield " static", clip[:1].expand_as(clip), 0


def barred(noisy: Tensor, bar: int) -> np.ndarray:
    if bar:
        noisy = noisy.clone()
        noisy[..., :bar, :] = 0.0
        noisy[..., -bar:, :] = 0.0
    return frames_of(noisy)


def function_error(noise: SensorNoise, clean: Tensor, found: NoiseLevelFunction, bar: int) -> float:
    """Largest relative error of the standard deviation over the brightness that is there, and hardly clipped."""
    picture = clean[..., bar : clean.shape[-2] - bar, :]
    worst = 0.0
    for channel in range(3):
        low, high = np.quantile(picture[:, channel].numpy(), (0.05, 0.95))
        if noise.clipped:
            margin = 1.6 * np.sqrt(noise.model.variances_at(np.array([low]))[channel, 0])
            low, high = max(low, margin), min(high, 1 - margin)
        shown = np.linspace(low, max(low, high), 20)
        truth, estimate = (model.variances_at(shown)[channel] for model in (noise.model, found))
        worst = max(worst, float(np.abs(np.sqrt(estimate / truth) - 1).max()))
    return worst


def length_of(size: float) -> float:
    """Correlation length of grain, from its kernel."""
    kernel = gaussian(size, torch.zeros(1)).numpy() if size else np.ones(1)
    lags = np.correlate(kernel, kernel, "full")[len(kernel) - 1 :]
    lags = np.append(lags / lags[0], 0.0)
    first = int(np.argmax(lags < RELATED))
    return first - 1 + (lags[first - 1] - RELATED) / (lags[first - 1] - lags[first])


def estimate(arguments: argparse.Namespace) -> dict[str, Any]:
    levels, functions, lengths = [], [], []
    for path in arguments.clips:
        for name, clean, bar in variants(load(path, arguments.frames)):
            clip = Path(path).stem + name
            for sigma in SIGMAS:
                for clipped in (False, True):
                    noise = SensorNoise(NoiseLevelFunction.white(sigma / 255), clipped)
                    found = estimate_noise(barred(noise.add_to(clean, generator()), bar))
                    error = found.scene_noise.level * 255 / sigma - 1
                    levels.append(tell({"clip": clip, "sigma": sigma, "8 bits": clipped, "error": error}))
            for label, noise in SENSORS.items():
                found = estimate_noise(barred(noise.add_to(clean, generator()), bar))
                error = function_error(noise, clean, found.model, bar)
                functions.append(tell({"clip": clip, "noise": label, "largest error": error}))
            if name:
                continue
            for size in GRAINS:
                noisy = Grain(NoiseLevelFunction.white(20 / 255), size).add_to(clean, generator())
                found_length, true = measure_correlation(frames_of(noisy)).length, length_of(size)
                lengths.append(tell({"clip": clip, "grain": size, "length": found_length, "true": true}))
    errors = np.abs([row["error"] for row in levels])
    summary = {
        "level, median error": float(np.median(errors)),
        "level, worst error": float(errors.max()),
        "level, share within 15 %": float((errors <= 0.15).mean()),
        "function, largest error": max(row["largest error"] for row in functions),
        "function, share within 10 %": float(np.mean([row["largest error"] <= 0.1 for row in functions])),
        "length, share within half a pixel": float(
            np.mean([abs(row["length"] - row["true"]) <= 0.5 for row in lengths])
        ),
    }
    return {"summary": summary, "levels": levels, "functions": functions, "lengths": lengths}


def middle(clip: Tensor) -> Tensor:
    top, left = (clip.shape[-2] - HEIGHT) // 4 * 2, (clip.shape[-1] - WIDTH) // 4 * 2
    return clip[..., max(top, 0) : top + HEIGHT, max(left, 0) : left + WIDTH]


def score(denoised: np.ndarray, clean: Tensor) -> float:
    return float(psnr(torch.from_numpy(denoised).permute(0, 3, 1, 2), clean).mean())


def automatic(noisy: Tensor, kind: str | None = None, file: Path | None = None) -> tuple[str, np.ndarray]:
    """The kind that is found in whole frames (or that is named), and their middle as `stbn denoise` makes it.

    `file`: where they come from, which tells of a coder.
    """
    frames = frames_of(noisy)
    found = kind or analyze(file or frames).verdict.kind
    denoiser = denoiser_for(found)
    noise = denoiser.scene_noise(list(frames))
    return found, told(middle(noisy), noise, found)


def denoiser_for(kind: str) -> LoadedDenoiser:
    return stbn_cli.load_denoiser(noise_kind=kind if has_model("cpu", kind) else "white")  # type: ignore[arg-type]


def told(noisy: Tensor, noise: SceneNoise, kind: str) -> np.ndarray:
    denoiser = denoiser_for(kind)
    plan = denoiser.plan_for(*noisy.shape[-2:])
    return np.stack(list(denoiser.stream_scene(iter(frames_of(noisy)), noise, plan)))


def shuffled(white: LoadedDenoiser, noisy: np.ndarray) -> np.ndarray:
    """Each of the four pixel parities as a clip of its own: neighbours, which share their noise, are parted."""
    result = np.empty_like(noisy)
    for row in range(2):
        for column in range(2):
            part = (slice(None), slice(row, None, 2), slice(column, None, 2))
            result[part] = white(np.ascontiguousarray(noisy[part]))
    return result


def stabilised(noisy: Tensor, model: NoiseLevelFunction) -> np.ndarray:
    """Through the white-noise model after a curve that makes the noise the same everywhere, and back.

    The generalised Anscombe transformation for any variance function: the integral of one over the standard deviation,
    and its algebraic inverse.
    """
    shown = np.linspace(0.0, 1.0, CURVE_POINTS)
    density = 1.0 / np.sqrt(model.variances_at(shown))
    steps = np.diff(shown) * (density[:, 1:] + density[:, :-1]) / 2
    curves = np.concatenate((np.zeros((3, 1)), steps.cumsum(axis=1)), axis=1)
    frames, moved = frames_of(noisy), np.empty_like(frames_of(noisy))
    scales = curves[:, -1]
    for channel, (curve, scale) in enumerate(zip(curves, scales, strict=True)):
        values = frames[..., channel]
        inside = np.interp(values, shown, curve)
        beyond = np.where(
            values < 0, values * density[channel, 0], np.maximum(values - 1, 0) * density[channel, -1]
        )
        moved[..., channel] = (inside + beyond) / scale
    truth = NoiseLevelFunction(tuple((float(scale) ** -2,) for scale in scales))
    denoised = told(
        torch.from_numpy(moved).permute(0, 3, 1, 2), SceneNoise(truth, truth.level(noisy)), "white"
    )
    for channel, (curve, scale) in enumerate(zip(curves, scales, strict=True)):
        denoised[..., channel] = np.interp(denoised[..., channel] * scale, curve, shown)
    return denoised


def white_at_best(
    noisy: np.ndarray, clean: Tensor, sigmas: list[float], way: Callable[..., np.ndarray] | None = None
) -> tuple[float, np.ndarray]:
    """The white-noise model at that of `sigmas` (0-255 scale) that is best, in a `way` of its own if there is one."""
    white = stbn_cli.load_denoiser("stbn-xs")
    best = (-np.inf, noisy)
    for sigma in sigmas:
        white.options = replace(white.options, sigma=sigma / 255)
        denoised = white(noisy) if way is None else way(white, noisy)
        best = max(best, (score(denoised, clean), denoised), key=lambda pair: pair[0])
    return best


def against_rivals(
    whole: Tensor, reference: Tensor, kind: str, setting: argparse.Namespace, file: Path | None = None
) -> dict[str, Any]:
    clean, noisy = middle(reference), frames_of(middle(whole))
    level = 255 * float((middle(whole) - clean).square().mean().sqrt())
    sigmas = [float(factor) * level for factor in setting.strengths.split(",")]
    best = {
        "white, best sigma": white_at_best(noisy, clean, sigmas)[0],
        "white, pixels shuffled": white_at_best(noisy, clean, sigmas, shuffled)[0],
    }
    for name in filter(None, setting.rivals.split(",")):
        best[name] = max(score(RIVALS[name].denoise(noisy, sigma), clean) for sigma in sigmas)
    found, denoised = automatic(whole, file=file)
    named = denoised if found == kind else automatic(whole, kind)[1]
    return {
        "level": level,
        "noisy": score(noisy, clean),
        **best,
        "found": found,
        "automatic": score(denoised, clean),
        kind: score(named, clean),
    }


def independent_rows(clip: Tensor, setting: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """White and Poisson-Gaussian noise: everything automatic, told the truth, and what else was tried."""
    whole, clean = measured(clip), middle(measured(clip))
    white = {f"white {sigma}": SensorNoise(NoiseLevelFunction.white(sigma / 255)) for sigma in (10, 30)}
    for label, noise in (white | SENSORS).items():
        noisy = noise.add_to(whole, generator())
        kind = "white" if noise.model.is_white else "sensor"
        truth = SceneNoise(noise.model, noise.model.level(clean))
        found, denoised = automatic(noisy)
        row = {
            "noise": label,
            "found": found,
            "noisy": score(frames_of(middle(noisy)), clean),
            "automatic": score(denoised, clean),
            "told": score(told(middle(noisy), truth, kind), clean),
        }
        if kind == "sensor":
            row["white, told"] = score(told(middle(noisy), truth, "white"), clean)
            row["white, stabilised"] = score(stabilised(middle(noisy), noise.model), clean)
        yield row


def camera_rows(clip: Tensor, setting: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Noise through cameras and 4:2:0."""
    for label, camera in CAMERAS.items():
        shown = sampled(camera.deliver(measured(clip), None))
        noisy = sampled(camera.deliver(measured(clip), generator()))
        yield {"noise": label, **against_rivals(noisy, shown, "camera", setting)}


def coded_rows(clip: Tensor, setting: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """White noise coded by H.264."""
    noisy = SensorNoise(NoiseLevelFunction.white(CODED_SIGMA / 255), clipped=True).add_to(clip, generator())
    for megabits in BITRATES:
        rate = megabits * 1_000_000 * clip.shape[-1] * clip.shape[-2] // (960 * 540)
        coder = H264(bitrate=rate)
        coded, size = coder.code(noisy)
        made = size * 8 * 25 / len(clip) * 960 * 540 / (clip.shape[-1] * clip.shape[-2]) / 1e6
        label = f"sigma {CODED_SIGMA}, {megabits} Mbit/s ({made:.1f})"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "coded.mp4"
            coder.write(noisy, file)
            yield {
                "noise": label,
                **against_rivals(measured(coded), measured(clip), "compressed", setting, file),
            }


def clean_rows(clip: Tensor, setting: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Clean frames, against themselves."""
    kind, kept = automatic(measured(clip))
    yield {"noise": "none", "found": kind, "kept": score(kept, middle(measured(clip)))}


PARTS = {"independent": independent_rows, "camera": camera_rows, "coded": coded_rows, "clean": clean_rows}


def measured(clip: Tensor) -> Tensor:
    """The frames of a clip that are looked at."""
    return clip[LEAD:] if len(clip) > LEAD else clip


def denoise(arguments: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for path in arguments.clips:
        clip = load(path, LEAD + arguments.frames)
        for part in arguments.parts.split(","):
            rows += [tell({"clip": Path(path).stem, **row}) for row in PARTS[part](clip, arguments)]
    return {"rows": rows}


def figure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Crops of a frame: noisy, by the white-noise model at its best, by the model for the kind, and clean."""
    from matplotlib.figure import Figure

    (path,) = arguments.clips
    clip = load(path, LEAD + arguments.frames)
    camera, shown = CAMERAS["bilinear, smoothed, sharpened"], clip[LEAD:]
    coded, _ = H264(crf=FIGURE_CRF).code(
        SensorNoise(NoiseLevelFunction.white(CODED_SIGMA / 255), clipped=True).add_to(clip, generator())
    )
    cases = {
        "camera": (sampled(camera.deliver(shown, generator())), sampled(camera.deliver(shown, None))),
        "compressed": (coded[LEAD:], shown),
    }
    drawing = Figure(figsize=(10, 5.2), layout="constrained")
    scores: dict[str, Any] = {}
    for row, (kind, (noisy, clean)) in enumerate(cases.items()):
        level = 255 * float((noisy - clean).square().mean().sqrt())
        sigmas = [float(factor) * level for factor in arguments.strengths.split(",")]
        _, best = white_at_best(frames_of(middle(noisy)), middle(clean), sigmas)
        _, own = automatic(noisy, kind)
        pictures = {
            f"{kind} noise": frames_of(middle(noisy)),
            "white-noise model, best sigma": best,
            f"{kind} model": own,
            "without noise": frames_of(middle(clean)),
        }
        for column, (title, frames) in enumerate(pictures.items()):
            decibel = score(frames, middle(clean)) if column < 3 else None
            scores[f"{kind}: {title}"] = decibel
            place = drawing.add_subplot(2, 4, 4 * row + column + 1)
            crop = frames[len(frames) // 2][FIGURE_CROP]
            place.imshow(np.clip(crop, 0.0, 1.0), interpolation="nearest")
            place.set_title(title + (f", {decibel:.1f} dB" if decibel else ""), fontsize=8)
            place.set_axis_off()
    drawing.savefig(arguments.output, dpi=150)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("estimate", "denoise", "figure"))
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--rivals", default="")
    parser.add_argument("--parts", default=",".join(PARTS), help="of `denoise`")
    parser.add_argument("--strengths", default=STRENGTHS)
    parser.add_argument("--output", type=Path, default=Path("noise.png"))
    arguments = parser.parse_args()
    result = {"estimate": estimate, "denoise": denoise, "figure": figure}[arguments.what](arguments)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
