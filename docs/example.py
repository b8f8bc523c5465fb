"""stbn from Python, step by step: run it whole (`python docs/example.py`), or cell by cell in an editor or notebook.

It takes the demo clip of the repository, writes into a temporary folder, and needs a minute or two on a CPU.
"""

# %% The clip
import tempfile
from pathlib import Path

import av
import numpy as np

import stbn_cli

DEMO = Path(__file__).parent / "demo"
FOLDER = Path(tempfile.mkdtemp(prefix="stbn-example-"))


def read(path: Path, frames: int) -> np.ndarray:
    """The first frames of a video, (T, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        decoded = zip(range(frames), container.decode(video=0), strict=False)
        return np.stack([frame.to_ndarray(format="rgb24") for _, frame in decoded])


def psnr(result: np.ndarray, clean: np.ndarray) -> float:
    """Quality in dB against the clean frames."""
    error = np.mean((result.astype(np.float64) - clean.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


noisy, clean = read(DEMO / "noisy.mp4", 8), read(DEMO / "clean.mp4", 8)
print(f"{len(noisy)} frames, PSNR {psnr(noisy, clean):.1f} dB")

# %% What noise does it have?
found = stbn_cli.analyze(DEMO / "noisy.mp4")
print(*found.verdict.sentences, sep="\n")
print(f"kind {found.verdict.kind}, level {found.level:.1f} on the 0-255 scale")

# %% Denoise an array, with the network for that kind of noise
denoiser = stbn_cli.load_denoiser("auto", noise_kind=found.verdict.kind)
print(f"denoised: PSNR {psnr(denoiser(noisy), clean):.1f} dB")

# %% Leave some grain
gentle = stbn_cli.load_denoiser(
    noise_kind=found.verdict.kind, options=stbn_cli.DenoiserOptions(keep_grain=0.2)
)
print(f"with a fifth of the grain: PSNR {psnr(gentle(noisy), clean):.1f} dB")

# %% Denoise a file: the network is chosen by what is measured in it
done = stbn_cli.denoise_file(
    DEMO / "noisy.mp4", FOLDER / "denoised.mp4", stbn_cli.load_denoiser("auto"), span=stbn_cli.Span(end=0.4)
)
print(f"{done.frames} frames in {done.seconds:.1f} s: {FOLDER / 'denoised.mp4'}")

# %% Finetune on noise that is independent from pixel to pixel (here made so), from the noisy frames alone. Twenty steps
# are a first taste; the default of ten minutes makes many more.
levels = np.array([10.0, 25.0, 45.0])  # red, green, blue
grainy = (clean + levels * np.random.default_rng(0).standard_normal(clean.shape)) / 255
result = stbn_cli.finetune(grainy, FOLDER / "mine.safetensors", options=stbn_cli.FinetuneOptions(steps=20))
print(f"finetuning: {result.outcome}, {result.steps} steps in {result.seconds:.0f} s")

# %% And use what it learned
own = stbn_cli.load_denoiser(FOLDER / "mine.safetensors")
before = stbn_cli.load_denoiser("auto", noise_kind="white")
for name, model in (("shipped", before), ("finetuned", own)):
    print(f"{name} model: PSNR {psnr(255 * np.clip(model(grainy), 0, 1), clean):.2f} dB")
