"""What finetuning on a noisy clip gains, in truth and by its own estimate: one frozen noise draw on each clean clip.

    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --noise white10,white30,white50 --minutes 10
    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --noise poisson,channels,white75
    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --noise blurred30

The noise is drawn once (seed 0) and kept as float32 frames, not clipped. Before: what `stbn denoise` makes of them.
After: the same with the model that `stbn finetune` made from these frames alone, both with their default options. PSNR
is the mean over the frames, results clipped to [0, 1]. Rows go to --json as they come, so that nothing is lost,
and `--table FILE...` prints the table of such files.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stbn_cli import FinetuneOptions, finetune, load_denoiser
from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.metrics import psnr
from stbn_cli.synthesis.protocol import protocol_noise

# Variance a x + b of the Poisson-Gaussian noise, and the standard deviations of R, G, B, on the 0-255 scale: at
# middle grey both are about as strong as white noise of sigma 27 to 30.
POISSON_GAIN, POISSON_FLOOR = 0.02, (10.0 / 255.0) ** 2
CHANNEL_SIGMAS = (10.0, 25.0, 45.0)


def add_noise(clean: Tensor, kind: str) -> Tensor:
    """`clean (T, 3, H, W)` on [0, 1] plus noise of a kind: "white30", "blurred30", "poisson", "channels"."""
    unit = protocol_noise(torch.zeros_like(clean), 1.0)
    if kind.startswith("white"):
        return clean + unit * (float(kind.removeprefix("white")) / 255.0)
    if kind.startswith("blurred"):
        # A 3x3 mean lowers the standard deviation to a third: the noise is as strong as its name says before that.
        noise = torch.nn.functional.avg_pool2d(unit, 3, stride=1, padding=1)
        return clean + noise * (float(kind.removeprefix("blurred")) / 255.0)
    if kind == "poisson":
        return clean + unit * (POISSON_GAIN * clean + POISSON_FLOOR).sqrt()
    if kind == "channels":
        return clean + unit * (torch.tensor(CHANNEL_SIGMAS) / 255.0).view(3, 1, 1)
    raise SystemExit(f"no noise is called {kind!r}")


def measure(path: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One clip under one noise: before, after, and what the run believed."""
    clean = load_clean(find_clips([path])[0], options.frames)
    noisy = add_noise(clean, kind).permute(0, 2, 3, 1).contiguous().numpy()
    output = options.folder / f"{path.stem}-{kind}.safetensors"
    result = finetune(
        noisy,
        output,
        model=options.model,
        minutes=options.minutes,
        options=FinetuneOptions(steps=options.steps, from_scratch=options.from_scratch),
        flow=options.flow,
        device=options.device,
        overwrite=True,
        preview=output.with_suffix(".png"),
    )
    before, after = (true_psnr(model, noisy, clean, options) for model in (options.model, output))
    gain = result.gain
    return {
        "clip": path.stem,
        "noise": kind,
        "before": before,
        "after": after,
        "gain": after - before,
        "estimate": gain.decibel if gain is not None and result.improved else 0.0,
        "error": gain.error if gain is not None else 0.0,
        "outcome": str(result.outcome),
        "steps": result.steps,
        "minutes": result.seconds / 60.0,
        "noise_levels": result.noise_levels(),
    }


def true_psnr(model: str | Path, noisy: np.ndarray, clean: Tensor, options: argparse.Namespace) -> float:
    """Mean PSNR in dB over the frames."""
    denoised = load_denoiser(model, flow=options.flow, device=options.device)(noisy)
    estimate = torch.from_numpy(denoised).permute(0, 3, 1, 2).clamp(0.0, 1.0)
    return float(psnr(estimate, clean).mean())


def table(rows: Iterable[dict[str, Any]]) -> str:
    """A Markdown table, and what the rows say together."""
    rows = list(rows)
    lines = [
        "| clip | noise | before | after | gain | own estimate | outcome | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['clip']} | {row['noise']} | {row['before']:.2f} | {row['after']:.2f} | {row['gain']:+.2f} | "
        f"{row['estimate']:+.2f} | {row['outcome']} | {row['steps']} |"
        for row in rows
    ]
    gains = [row["gain"] for row in rows]
    misses = [abs(row["estimate"] - row["gain"]) for row in rows]
    missed = f"{np.mean(misses):.2f} on average, {max(misses):.2f} at most"
    wrong = [row for row in rows if row["estimate"] > 0.1 and row["gain"] <= 0.0]
    lines.append(
        f"\nmean gain {np.mean(gains):.2f} dB, smallest {min(gains):+.3f}; the estimate is off by {missed}; "
        f"{len(wrong)} claims of more than 0.1 dB where there was no gain"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="*", type=Path, help="clean videos or folders of frames")
    parser.add_argument("--noise", default="white10,white30,white50", help="kinds, separated by commas")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--model", default="stbn-xs")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--flow")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/finetuning"), help="for models and pictures"
    )
    parser.add_argument("--json", type=Path, help="append a line a row to this file")
    parser.add_argument(
        "--table", type=Path, nargs="+", help="print the table of such files, measure nothing"
    )
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(line) for path in options.table for line in path.read_text().splitlines()))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in options.clips:
        for kind in options.noise.split(","):
            rows.append(measure(path, kind, options))
            print(json.dumps(rows[-1]), flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
