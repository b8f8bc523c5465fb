"""What finetuning on a noisy clip gains, in truth and by its own estimate: one frozen noise draw on each clean clip.

    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --noise white10,white30,white50 --minutes 10
    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --noise poisson,channels,white75
    python benchmarks/finetuning.py motorbike.mkv rafting.mkv bus.mp4 --model auto --noise camera1,camera2,camera3

The noise is drawn once (seed 0) and kept as float32 frames, mostly not clipped; coded noise as the file that the coder
wrote. Before: what `stbn denoise` makes of them. After: the same with the model that `stbn finetune` made from these
frames alone, both with their default options. PSNR is the mean over the frames, results clipped to [0, 1]. Rows go to
--json as they come, so that nothing is lost, and `--table FILE...` prints the table of such files.
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
from stbn_cli.analysis.analysis import analyze
from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.metrics import psnr
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.codec import H264, sampled
from stbn_cli.synthesis.isp import CameraPipeline, Grain
from stbn_cli.synthesis.protocol import protocol_noise

# Variance a x + b of the Poisson-Gaussian noise, and the standard deviations of R, G, B, on the 0-255 scale: at
# middle grey both are about as strong as white noise of sigma 27 to 30.
POISSON_GAIN, POISSON_FLOOR = 0.02, (10.0 / 255.0) ** 2
CHANNEL_SIGMAS = (10.0, 25.0, 45.0)


CAMERAS = (
    CameraPipeline(shot=0.008, read=0.008, sharpening=0.5),
    CameraPipeline(shot=0.02, read=0.01, gains=(1.8, 1.6), corrected=False, smoothing=0.5, sharpening=0.8),
    CameraPipeline(shot=0.004, read=0.005),
)
CODED_SIGMA, GRAIN_SIGMA = 20.0, 20.0
# Luma, and differences to blue and to red, on the 0-255 scale.
COLOUR_SIGMAS = (5.0, 25.0, 5.0)


def add_noise(clean: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """`clean (T, 3, H, W)` on [0, 1] as it is to come out, and with noise of a kind.

    "white30", "blurred30", "poisson", "channels", "camera1" to "camera3" (4:2:0), "coded8" (H.264, Mbit/s of 960x540),
    "grain3" (pixels), "colour" (strong in one colour difference).
    """
    unit = protocol_noise(torch.zeros_like(clean), 1.0)
    generator = torch.Generator().manual_seed(0)
    if kind.startswith("white"):
        return clean, clean + unit * (float(kind.removeprefix("white")) / 255.0)
    if kind.startswith("blurred"):
        # A 3x3 mean lowers the standard deviation to a third: the noise is as strong as its name says before that.
        noise = torch.nn.functional.avg_pool2d(unit, 3, stride=1, padding=1)
        return clean, clean + noise * (float(kind.removeprefix("blurred")) / 255.0)
    if kind == "poisson":
        return clean, clean + unit * (POISSON_GAIN * clean + POISSON_FLOOR).sqrt()
    if kind == "channels":
        return clean, clean + unit * (torch.tensor(CHANNEL_SIGMAS) / 255.0).view(3, 1, 1)
    if kind.startswith("camera"):
        camera = CAMERAS[int(kind.removeprefix("camera")) - 1]
        return sampled(camera.deliver(clean, None)), sampled(camera.deliver(clean, generator))
    if kind.startswith("coded"):
        given, coder = before_coding(clean, kind)
        return clean, coder.code(given)[0]
    if kind.startswith("grain"):
        level = NoiseLevelFunction.white(GRAIN_SIGMA / 255.0)
        return clean, Grain(level, float(kind.removeprefix("grain"))).add_to(clean, generator)
    if kind == "colour":
        luma, blue, red = (
            part * (sigma / 255.0) for part, sigma in zip(unit.split(1, 1), COLOUR_SIGMAS, strict=True)
        )
        blue = 3.0 * torch.nn.functional.avg_pool2d(blue, 3, stride=1, padding=1)
        noise = torch.cat((luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue), 1)
        return clean, (clean + noise).clamp(0.0, 1.0)
    raise SystemExit(f"no noise is called {kind!r}")


def before_coding(clean: Tensor, kind: str) -> tuple[Tensor, H264]:
    """What "coded8" is made of: `clean (T, 3, H, W)` with white noise, and the coder."""
    rate = 1e6 * float(kind.removeprefix("coded")) * clean.shape[-1] * clean.shape[-2] / (960 * 540)
    unit = protocol_noise(torch.zeros_like(clean), 1.0)
    return (clean + unit * (CODED_SIGMA / 255.0)).clamp(0.0, 1.0), H264(bitrate=int(rate))


def measure(path: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One clip under one noise: before, after, and what the run believed."""
    clean = load_clean(find_clips([path])[0], options.frames)
    height, width = (side // 2 * 2 for side in clean.shape[-2:])
    clean = middle(clean[..., :height, :width], options.crop)
    file = options.folder / f"{path.stem}-{kind}.mkv"
    if kind.startswith("coded"):
        given, coder = before_coding(clean, kind)
        coder.write(given, file)
        noisy = load_clean(find_clips([file])[0], options.frames)
    else:
        clean, noisy = add_noise(clean, kind)
    noisy = noisy.permute(0, 2, 3, 1).contiguous().numpy()
    clip: np.ndarray | Path = file if kind.startswith("coded") else noisy
    output = options.folder / f"{path.stem}-{kind}.safetensors"
    result = finetune(
        clip,
        output,
        model=options.model,
        minutes=options.minutes,
        options=FinetuneOptions(steps=options.steps, from_scratch=options.from_scratch),
        flow=options.flow,
        device=options.device,
        overwrite=True,
        preview=output.with_suffix(".png"),
    )
    noise_kind = analyze(clip).verdict.kind if options.model == "auto" else None
    before = true_psnr(options.model, noisy, clean, options, noise_kind)
    after = true_psnr(output, noisy, clean, options) if result.improved else before
    gain = result.gain
    return {
        "clip": path.stem,
        "noise": kind,
        "against": result.against,
        "before": before,
        "after": after,
        "gain": after - before,
        "estimate": gain.decibel if gain is not None and result.improved else 0.0,
        "error": gain.error if gain is not None else 0.0,
        "outcome": str(result.outcome),
        "steps": result.steps,
        "minutes": result.seconds / 60.0,
        "noise_levels": result.noise_levels(),
        "run": result.checkpoint.info.training.get("finetuning", []),
    }


def middle(clip: Tensor, size: str | None) -> Tensor:
    """The middle of frames `(T, 3, H, W)`, WIDTHxHEIGHT, both even; None: all of it."""
    if size is None:
        return clip
    width, height = map(int, size.split("x"))
    top, left = ((have - want) // 4 * 2 for have, want in zip(clip.shape[-2:], (height, width), strict=True))
    return clip[..., top : top + height, left : left + width]


def true_psnr(
    model: str | Path,
    noisy: np.ndarray,
    clean: Tensor,
    options: argparse.Namespace,
    noise_kind: NoiseKind | None = None,
) -> float:
    """Mean PSNR in dB over the frames; `noise_kind`: what the model "auto" is to be for."""
    denoiser = load_denoiser(model, flow=options.flow, device=options.device, noise_kind=noise_kind)
    denoised = denoiser(noisy)
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
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--crop", help="WIDTHxHEIGHT of the frames' middle, to be quick")
    parser.add_argument("--model", default="auto")
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
