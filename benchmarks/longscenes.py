"""Whether models last: PSNR over long scenes and over their last frames, on clean clips under noise of finetuning.py.

python benchmarks/longscenes.py motorbike.mkv bus.mp4 --model real --model runs/real/best.safetensors

A network that carries a state through a scene may lose it after more frames than it was trained on. With `--still` the
first frame of each clip is shown all the time, under new noise. PSNR is the mean over the frames, results clipped to
[0, 1]; all models get the same frames, in float32.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from finetuning import add_noise, middle

from stbn_cli import DenoiserOptions, load_denoiser
from stbn_cli.analysis.analysis import analyze
from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.metrics import psnr

LAST = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path, help="clean videos or folders of frames")
    parser.add_argument("--model", action="append", required=True, help="names or files, to compare")
    parser.add_argument("--noise", default="camera1,blurred30", help="kinds, separated by commas")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--crop", default="160x128", help="WIDTHxHEIGHT of the frames' middle")
    parser.add_argument("--still", action="store_true")
    options = parser.parse_args()
    models = options.model
    titles = [f"{Path(model).stem}, {part}" for model in models for part in ("all frames", f"last {LAST}")]
    print(f"| clip | noise | {' | '.join(titles)} |\n|{'---|' * (2 + len(titles))}")
    rows = []
    for path in options.clips:
        clean = load_clean(find_clips([path])[0], 1 if options.still else options.frames)
        height, width = (side // 2 * 2 for side in clean.shape[-2:])
        clean = middle(clean[..., :height, :width], options.crop)
        if options.still:
            clean = clean.expand(options.frames, -1, -1, -1)
        for kind in options.noise.split(","):
            truth, noisy = add_noise(clean, kind)
            frames = np.ascontiguousarray(noisy.permute(0, 2, 3, 1).numpy())
            row = []
            for model in models:
                kind_of_noise = analyze(frames).verdict.kind if model == "auto" else None
                chosen = DenoiserOptions(model, noise_kind=kind_of_noise, device="cpu", precision="fp32")
                estimate = load_denoiser(options=chosen)(frames)
                found = psnr(torch.from_numpy(estimate).permute(0, 3, 1, 2), truth)
                row += [float(found.mean()), float(found[-LAST:].mean())]
            rows.append(row)
            print(f"| {path.stem} | {kind} | {' | '.join(f'{value:.2f}' for value in row)} |", flush=True)
    print(f"| mean | | {' | '.join(f'{value:.2f}' for value in np.mean(rows, 0))} |")


if __name__ == "__main__":
    main()
