"""How `stbn compare` judges denoisers whose faults are known: the table of docs/experiments/quality.md.

    python benchmarks/residuals.py CLIP... [--frames 4] [--noise 8,30,camera]

CLIP is a clean video. White noise (a standard deviation on the 0-255 scale) or a camera's (variance 1.5 x + 9 at level
x) is added and clipped to 8 bits. Prints a line for each clip, noise and denoiser, and one JSON document as the last
line.
"""

import argparse
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stbn_cli import load_denoiser
from stbn_cli.analysis.analysis import analyze
from stbn_cli.compare.residual import ResidualStatistics
from stbn_cli.compare.verdict import judge
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.reader import open_video

CAMERA, CAMERA_GAIN, CAMERA_OFFSET, CAMERA_TYPICAL = "camera", 1.5, 9.0, 12.0


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, BYTE_SCALE).astype(np.uint8)


def denoised(noisy: np.ndarray, clean: np.ndarray, sigma: float) -> dict[str, np.ndarray]:
    """Frames (T, H, W, 3) uint8 by the name of what made them."""
    network = bytes_of(BYTE_SCALE * load_denoiser("auto")(noisy.astype(np.float32) / BYTE_SCALE))
    strength = 1.5 * sigma
    values = noisy.astype(np.float32)
    return {
        "just the noise": clean,
        "stbn": network,
        "stbn, half": bytes_of((values + network) / 2),
        "gauss 0.7": np.stack([cv2.GaussianBlur(frame, (0, 0), 0.7) for frame in noisy]),
        "gauss 1.5": np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in noisy]),
        "median 5": np.stack([cv2.medianBlur(frame, 5) for frame in noisy]),
        "nlmeans 1.5": np.stack(
            [cv2.fastNlMeansDenoisingColored(frame, None, strength, strength, 5, 13) for frame in noisy]
        ),
        "mean of 3": np.concatenate(
            (noisy[:1], bytes_of((values[:-2] + values[1:-1] + values[2:]) / 3), noisy[-1:])
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--noise", default="8,30,camera")
    arguments = parser.parse_args()
    verdicts: dict[str, Counter[str]] = {}
    for path in arguments.clips:
        frames = [frame.rgb for frame in islice(open_video(path), arguments.frames)]
        clean = bytes_of(BYTE_SCALE * np.stack(frames))
        for noise in arguments.noise.split(","):
            std = np.sqrt(CAMERA_GAIN * clean + CAMERA_OFFSET) if noise == CAMERA else float(noise)
            noisy = bytes_of(clean + np.random.default_rng(5).standard_normal(clean.shape) * std)
            for name, result in denoised(
                noisy, clean, CAMERA_TYPICAL if noise == CAMERA else float(noise)
            ).items():
                statistics = ResidualStatistics()
                # The first and the last frame have no mean of three.
                pairs = [part[1:-1].astype(np.float32) / BYTE_SCALE for part in (noisy, result)]
                for a, b in zip(*pairs, strict=True):
                    statistics.add(a, b)
                residual = statistics.summary()
                a, b = (analyze(part) for part in pairs)
                verdict = judge(residual, a.level, b.level, reliable=a.typical.noise.reliable)
                verdicts.setdefault(name, Counter())[verdict.kind] += 1
                print(
                    f"{path.stem:20} {noise:7} {name:15} {verdict.kind:19} "
                    f"detail {residual.detail_correlation or 0:6.2f} ratio {residual.edge_ratio or 0:6.2f} "
                    f"coarsest {residual.whiteness.coarsest or 0:6.2f} level {residual.level:6.2f}",
                    flush=True,
                )
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main()
