"""PSNR of a model on clean clips with white Gaussian noise, by the published protocol.

    python benchmarks/quality.py CLIP... [--model stbn-xs] [--sigma 10,30,50] [--frames 10] [--flow dis]

CLIP is anything OpenCV reads. Noise is seeded with 0 before each clip and level, drawn on the CPU for the whole clip at
once and not clipped; the noise level is known; the estimate is clipped to [0, 1] and not rounded; PSNR is averaged over
frames, then clips. Prints a table, and one JSON document as the last line.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from stbn_cli import __version__, load_denoiser
from stbn_cli.metrics import psnr
from stbn_cli.noise.synthetic import protocol_noise
from stbn_cli.training.footage import load_clip

BYTE = 255.0


def measure(clip: Path, sigma: float, arguments: argparse.Namespace) -> dict[str, object]:
    """Scores of one clip at one noise level (0-255 scale)."""
    clean = torch.from_numpy(load_clip(clip, arguments.frames)).permute(0, 3, 1, 2).float() / BYTE
    noisy = protocol_noise(clean, sigma / BYTE)
    denoiser = load_denoiser(
        arguments.model,
        sigma=sigma,
        flow=arguments.flow,
        device=arguments.device,
        precision=arguments.precision,
        chunk=arguments.chunk or len(clean),
        chunk_overlap=arguments.chunk_overlap,
        tile=arguments.tile,
        scene_cuts=False,
    )
    begun = time.perf_counter()
    denoised = denoiser(noisy.permute(0, 2, 3, 1).numpy())
    seconds = time.perf_counter() - begun
    estimate = torch.from_numpy(denoised).permute(0, 3, 1, 2)
    return {
        "clip": clip.name,
        "sigma": sigma,
        "frames": len(clean),
        "noisy_psnr": float(psnr(noisy, clean).mean()),
        "psnr": float(psnr(estimate, clean).mean()),
        "seconds_per_frame": seconds / len(clean),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--sigma", default="10,30,50", help="noise levels, 0-255 scale")
    parser.add_argument("--frames", type=int, default=85)
    parser.add_argument("--flow", default=None, help="another flow than the model's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--chunk", type=int, default=None, help="frames; default: the whole clip at once")
    parser.add_argument("--chunk-overlap", type=int, default=None)
    parser.add_argument("--tile", type=int, default=0, help="pixels; 0: whole frames")
    arguments = parser.parse_args()
    levels = [float(level) for level in arguments.sigma.split(",")]
    rows = []
    print(f"{'clip':24} {'sigma':>5} {'noisy dB':>9} {'denoised dB':>12} {'s/frame':>8}")
    for sigma in levels:
        for clip in arguments.clips:
            row = measure(clip, sigma, arguments)
            rows.append(row)
            print(
                f"{row['clip']:24} {sigma:5g} {row['noisy_psnr']:9.2f} {row['psnr']:12.2f} "
                f"{row['seconds_per_frame']:8.2f}",
                flush=True,
            )
    means = {f"{level:g}": _mean([row["psnr"] for row in rows if row["sigma"] == level]) for level in levels}
    print("mean:", ", ".join(f"sigma {level}: {score:.2f} dB" for level, score in means.items()))
    context = {"version": __version__, "torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"mean_psnr": means, "rows": rows, "model": arguments.model, **context}))


def _mean(values: list[object]) -> float:
    return sum(float(value) for value in values) / len(values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
