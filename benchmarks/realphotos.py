"""How well real photographs of known truth are measured and denoised, each as a clip of one frame.

    python benchmarks/realphotos.py CC15 POLYU                                   # everything automatic
    python benchmarks/realphotos.py CC15 --model real --factors 0.7,1,1.4,2      # one model, told more or less noise
    python benchmarks/realphotos.py CC15 POLYU --every 6 --rivals nlmeans        # every sixth picture, beside a rival

Folders hold pairs NAME_real.*, NAME_mean.*: a shot, and the mean of many. Every rival stands at the best of several
strengths. PSNR in dB of the picture rounded to 8 bits, standard deviations on the 0-255 scale, as medians over what was
measured. One line for every picture on stderr, one JSON document of means on stdout.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from levels import frames_of, levels_of, pairs
from torch import Tensor

import stbn_cli
from stbn_cli.api import LoadedDenoiser
from stbn_cli.bench.rivals.registry import RIVALS
from stbn_cli.checkpoints.registry import AUTO
from stbn_cli.metrics import psnr
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.model import SceneNoise
from stbn_cli.scale import BYTE_SCALE

RIVAL_SIGMAS = (2, 4, 6, 9, 13)  # 0-255 scale


def score(frames: np.ndarray, clean: Tensor) -> float:
    shown = torch.from_numpy(frames).permute(0, 3, 1, 2).clamp(0, 1)
    return float(psnr((shown * BYTE_SCALE).round() / BYTE_SCALE, clean).mean())


@cache
def denoiser_for(model: str, kind: NoiseKind | None) -> LoadedDenoiser:
    return stbn_cli.load_denoiser(model, noise_kind=kind if model == AUTO else None)


def scaled(noise: SceneNoise, factor: float) -> SceneNoise:
    levels = noise.levels and tuple(tuple(factor * value for value in row) for row in noise.levels)
    return replace(noise, model=noise.model.scaled(factor), level=factor * noise.level, levels=levels)


def denoised(denoiser: LoadedDenoiser, frames: np.ndarray, noise: SceneNoise) -> np.ndarray:
    plan = denoiser.plan_for(*frames.shape[1:3])
    return np.stack(list(denoiser.stream_scene(iter(frames), noise, plan)))


def row_of(name: str, noisy: Tensor, clean: Tensor, setting: argparse.Namespace) -> dict[str, Any]:
    frames = frames_of(noisy)
    found = stbn_cli.analyze(frames)
    denoiser = denoiser_for(setting.model, found.verdict.kind)
    noise = denoiser.scene_noise(list(frames))
    row: dict[str, Any] = {
        "name": name,
        "kind": found.verdict.kind,
        "shared": found.verdict.shared,
        "true": BYTE_SCALE * levels_of(noisy - clean)[2],
        "measured": found.level,
        "told": BYTE_SCALE * noise.level,
        "noisy": score(frames, clean),
    }
    for factor in setting.factors:
        key = "denoised" if factor == 1.0 else f"told {factor:g} times"
        row[key] = score(denoised(denoiser, frames, scaled(noise, factor)), clean)
    for rival in setting.rivals:
        made = [score(RIVALS[rival].denoise(frames, sigma), clean) for sigma in RIVAL_SIGMAS]
        row[f"{rival}, best"] = max(made)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument(
        "--model", default=AUTO, help="what `stbn denoise --model` takes; auto: the kind's own"
    )
    parser.add_argument("--every", type=int, default=1, help="look at every so many pictures")
    parser.add_argument("--first", type=int, default=0, help="of them, from this one on")
    parser.add_argument(
        "--factors", default="1", type=lambda text: [float(part) for part in text.split(",")], metavar="F,..."
    )
    parser.add_argument("--rivals", default=[], type=lambda text: text.split(","), metavar="NAME,...")
    setting = parser.parse_args()
    summary = {}
    for folder in setting.folders:
        rows = []
        for index, (name, noisy, clean) in enumerate(pairs(folder)):
            if index % setting.every == setting.first:
                rows.append(row_of(name, noisy, clean, setting))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        ratios = [row["measured"] / row["true"] for row in rows]
        kinds = [row["kind"] for row in rows]
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        summary[folder.name] = {
            "pictures": len(rows),
            "shared by neighbours": sum(row["shared"] for row in rows),
            "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "measured over true, median": float(np.median(ratios)),
            **{key: float(np.mean([row[key] for row in rows])) for key in numbers},
        }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
