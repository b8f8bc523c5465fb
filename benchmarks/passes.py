"""What several mirrored passes gain over one, and what they cost, on clean clips under the noises of finetuning.py.

python benchmarks/passes.py motorbike.mkv rafting.mkv bus.mp4 --noise camera1,camera2,camera3,coded8,coded2

The model and its levels are those that `stbn denoise` takes. PSNR is the mean over the frames, results clipped to
[0, 1].
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from finetuning import add_noise, middle

from stbn_cli import DenoiserOptions, load_denoiser
from stbn_cli.analysis.analysis import analyze
from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.metrics import psnr
from stbn_cli.noise import calibration


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path, help="clean videos or folders of frames")
    parser.add_argument("--noise", default="camera1,camera2,camera3", help="kinds, separated by commas")
    parser.add_argument("--passes", default="1,2,4", help="numbers of passes, separated by commas")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--crop", help="WIDTHxHEIGHT of the frames' middle, to be quick")
    parser.add_argument("--same-level", action="store_true", help="let all passes assume one level")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    if options.same_level:
        calibration.MEASUREMENT_ERROR.update(dict.fromkeys(calibration.MEASUREMENT_ERROR, (0.0, 0.0)))
    counts = [int(count) for count in options.passes.split(",")]
    titles = [title for count in counts for title in (f"{count}, PSNR", "s a frame")]
    print(f"| clip | noise | {' | '.join(titles)} |\n|{'---|' * (2 + len(titles))}")
    found: list[list[float]] = []
    for path in options.clips:
        for kind in options.noise.split(","):
            clean = load_clean(find_clips([path])[0], options.frames)
            height, width = (side // 2 * 2 for side in clean.shape[-2:])
            clean, noisy = add_noise(middle(clean[..., :height, :width], options.crop), kind)
            frames = np.ascontiguousarray(noisy.permute(0, 2, 3, 1).numpy())
            noise_kind = analyze(frames).verdict.kind
            row: list[float] = []
            for count in counts:
                chosen = DenoiserOptions(
                    noise_kind=noise_kind, passes=count, device=options.device, precision=options.precision
                )
                denoiser = load_denoiser(options=chosen)
                begun = time.perf_counter()
                estimate = torch.from_numpy(denoiser(frames)).permute(0, 3, 1, 2).clamp(0.0, 1.0)
                seconds = (time.perf_counter() - begun) / len(frames)
                row += [float(psnr(estimate, clean).mean()), seconds]
            found.append(row)
            print(f"| {path.stem} | {kind} | {' | '.join(f'{value:.2f}' for value in row)} |", flush=True)
    print(f"| mean | | {' | '.join(f'{value:.2f}' for value in np.mean(found, 0))} |")


if __name__ == "__main__":
    main()
