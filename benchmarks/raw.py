"""Raw models against BM3D on clips turned raw, with the noise of CRVD's sensor.

    python benchmarks/raw.py CLIP... [--iso 1600,6400,25600] [--model auto ...] [--frames 8] [--crop 240x128] [--tell]

Clips become packed GBRG planes (`RawCamera`), and get CRVD's calibrated noise with seed 0. Rows: the noisy planes; BM3D
on mixed planes after the generalised Anscombe transform, which is told the noise; each model, which measures it, and
with --tell the same told the noise. PSNR in dB on planes rounded to 12 bits, as on CRVD, a mean over frames, and
processor seconds a frame on one thread, loading left out. The crop is taken from the middle of the planes.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from stbn_cli import DenoiserOptions, load_denoiser
from stbn_cli.bench.crvd import as_stored
from stbn_cli.bench.rivals.bm3d_package import BM3D
from stbn_cli.bench.rivals.raw_bm3d import denoise_raw
from stbn_cli.metrics import psnr
from stbn_cli.raw.noise import CRVD_NOISE, PoissonGaussian, add_noise
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.raw import RawCamera
from stbn_cli.training.footage import load_clip

SEED = 0
Denoise = Callable[[np.ndarray, PoissonGaussian], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--iso", default="6400", help="separated by commas, of CRVD's")
    parser.add_argument("--model", action="append", help="default: auto")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--crop", help="WIDTHxHEIGHT of the planes; default: all")
    parser.add_argument(
        "--tell", action="store_true", help="a second row for each model that is told the noise"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods: dict[str, Denoise] = {"noisy": lambda noisy, _: noisy}
    if reason := BM3D.missing():
        print(f"BM3D is left out: {reason}")
    else:
        methods["bm3d"] = denoise_raw
    for model in options.model or ["auto"]:
        methods[Path(model).stem] = _model(model, told=False)
        if options.tell:
            methods[f"{Path(model).stem}, told"] = _model(model, told=True)
    totals: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for path in options.clips:
        frames = torch.from_numpy(load_clip(path, options.frames)).permute(0, 3, 1, 2).float() / BYTE_SCALE
        clean = _cropped(RawCamera(pattern="GBRG").unprocess(frames), options.crop)
        for iso in map(int, options.iso.split(",")):
            noise = CRVD_NOISE[iso]
            # As 12 bits hold it: cut at white, not at black.
            noisy = add_noise(clean, noise, torch.Generator().manual_seed(SEED)).clamp_max(1.0)
            for name, denoise in methods.items():
                packed = noisy.permute(0, 2, 3, 1).contiguous().numpy()
                begun = time.process_time()
                planes = torch.from_numpy(denoise(packed, noise)).permute(0, 3, 1, 2)
                seconds = (time.process_time() - begun) / len(clean)
                decibels = float(psnr(as_stored(planes), as_stored(clean)).mean())
                totals.setdefault((iso, name), []).append((decibels, seconds))
                size = f"{len(clean)} frames of {clean.shape[-1]}x{clean.shape[-2]}"
                print(
                    f"{path.stem}, {size}, ISO {iso}, {name}: {decibels:.2f} dB, {seconds:.2f} s", flush=True
                )
    print("\nMeans over clips\nISO    method          dB      gain   s/frame  BM3D's time over it")
    for (iso, name), found in totals.items():
        decibels, seconds = (fmean(column) for column in zip(*found, strict=True))
        base = fmean(value for value, _ in totals[iso, "noisy"])
        rival = fmean(value for _, value in totals.get((iso, "bm3d"), [(0.0, float("nan"))]))
        ratio = "" if name in ("noisy", "bm3d") or "bm3d" not in methods else f"{rival / seconds:8.1f}"
        print(f"{iso:<6} {name:<14} {decibels:6.2f}  {decibels - base:+6.2f}  {seconds:8.2f} {ratio}")


def _model(model: str, *, told: bool) -> Denoise:
    denoiser = load_denoiser(model, noise_kind="raw", device="cpu", options=DenoiserOptions(scene_cuts=False))

    def denoise(noisy: np.ndarray, noise: PoissonGaussian) -> np.ndarray:
        stated = (noise.gain, noise.floor) if told else None
        denoiser.requested = replace(denoiser.requested, raw_noise=stated)
        return denoiser(noisy)

    return denoise


def _cropped(planes: torch.Tensor, crop: str | None) -> torch.Tensor:
    height, width = planes.shape[-2:]
    wide, high = (width, height) if crop is None else map(int, crop.split("x"))
    top, left = max(0, (height - high) // 2), max(0, (width - wide) // 2)
    return planes[..., top : top + high, left : left + wide].contiguous()


if __name__ == "__main__":
    main()
