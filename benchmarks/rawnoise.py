"""How well the noise of raw clips is measured: standard deviations found, over the true ones, by sensitivity and light.

    python benchmarks/rawnoise.py bus.mp4 motorbike.mkv rafting.mkv

Clean clips are turned raw (`synthesis.raw`), with the noise of CRVD's sensor. The ratios are those at the darkest 5 %,
the middle and the brightest 5 % of the values.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.noise.raw_level import measure_raw
from stbn_cli.raw.noise import add_noise
from stbn_cli.synthesis.raw import RawCamera, noise_at

PLACES = (0.05, 0.5, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path, help="clean videos or folders of frames")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--iso", default="400,1600,6400,25600")
    parser.add_argument("--exposure", default="1,0.2", help="the value of white")
    options = parser.parse_args()
    isos, exposures = ([float(part) for part in text.split(",")] for text in (options.iso, options.exposure))
    print("| clip | exposure | ISO | dark | middle | bright |\n|---|---|---|---|---|---|")
    ratios = []
    for path in options.clips:
        clean = load_clean(find_clips([path])[0], options.frames)
        for exposure in exposures:
            planes = RawCamera(exposure=exposure, pattern="GBRG").unprocess(clean)
            values = np.quantile(planes.numpy(), PLACES)
            for iso in isos:
                noise = noise_at(iso)
                noisy = add_noise(planes, noise, torch.Generator().manual_seed(0))
                found = measure_raw(noisy.permute(0, 2, 3, 1).numpy())
                ratios.append(found.deviation(values) / noise.deviation(values))
                shown = " | ".join(f"{ratio:.2f}" for ratio in ratios[-1])
                print(f"| {path.stem} | {exposure:g} | {iso:g} | {shown} |", flush=True)
    wrong = np.abs(np.log(ratios))
    print(
        f"\nwithin 10 %: {100 * (wrong < np.log(1.1)).mean():.0f} % of {wrong.size}; worst {np.exp(wrong.max()):.2f}"
    )


if __name__ == "__main__":
    main()
