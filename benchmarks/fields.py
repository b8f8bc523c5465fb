"""What denoising by fields gains: interlaced clips made of clean ones, denoised as fields and as whole pictures.

    python benchmarks/fields.py CLIP [CLIP ...] [--sigma 30] [--frames 8] [--model auto]

Two frames of a clip give one interlaced picture: the upper field of the first, the lower of the second. White Gaussian
noise is added, and the pictures are denoised once by fields and once as they are. PSNR in dB against the clean
interlaced pictures. One JSON document on stdout.
"""

import argparse
import json
from itertools import islice

import numpy as np
import torch

import stbn_cli
from stbn_cli.metrics import psnr
from stbn_cli.video.fields import rows_by_field, rows_woven
from stbn_cli.video.reader import open_video


def interlaced(path: str, count: int) -> np.ndarray:
    """(count, H, W, 3) float32 of twice as many frames of a clip, cut to an even height."""
    with open_video(path) as reader:
        frames = [frame.rgb for frame in islice(reader, 2 * count)]
    height = len(frames[0]) // 2 * 2
    pictures = []
    for first, second in zip(frames[0::2], frames[1::2], strict=False):
        picture = first[:height].copy()
        picture[1::2] = second[1:height:2]
        pictures.append(picture)
    return np.stack(pictures)


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(N, 3, H, W)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--sigma", type=float, default=30.0, help="0-255 scale")
    parser.add_argument("--frames", type=int, default=8, help="interlaced pictures of each clip")
    parser.add_argument("--model", default="auto")
    arguments = parser.parse_args()
    denoiser = stbn_cli.load_denoiser(arguments.model, sigma=arguments.sigma)
    rows = []
    for path in arguments.clips:
        clean = interlaced(path, arguments.frames)
        noise = np.random.default_rng(0).normal(0, arguments.sigma / 255, clean.shape)
        noisy = (clean + noise).astype(np.float32)
        whole = denoiser(noisy)
        parted = denoiser(np.stack([rows_by_field(picture) for picture in noisy]))
        parted = np.stack([rows_woven(picture) for picture in parted])
        scores = {"noisy": noisy, "as pictures": whole, "by fields": parted}
        row = {
            name: round(float(psnr(as_tensor(found), as_tensor(clean)).mean()), 3)
            for name, found in scores.items()
        }
        rows.append({"clip": path.rpartition("/")[2], **row})
    print(json.dumps({"sigma": arguments.sigma, "frames": arguments.frames, "clips": rows}, indent=2))


if __name__ == "__main__":
    main()
