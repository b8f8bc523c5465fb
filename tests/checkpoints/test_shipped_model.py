"""The weights in the package do what the README says, on colours and on a real clip.

The clip may be among the training footage: this checks that the model works, not how well it generalises.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import stbn_cli
from stbn_cli.metrics import psnr
from stbn_cli.synthesis.protocol import protocol_noise
from stbn_cli.training.footage import load_clip

MODELS = ["stbn-xs", "stbn-s", pytest.param("stbn", marks=pytest.mark.slow)]
COLOURS = [
    (0.5, 0.5, 0.5),
    (0.8, 0.1, 0.1),
    (0.1, 0.7, 0.2),
    (0.15, 0.2, 0.8),
    (0.9, 0.9, 0.2),
    (0.08, 0.08, 0.08),
]


def unheard(message: str) -> None:
    """Takes the warning of a CPU that only emulates half precision."""


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("colour", COLOURS)
def test_flat_colours_keep_their_mean_and_lose_their_noise(
    model: str, colour: tuple[float, float, float]
) -> None:
    sigma = 20 / 255
    noise = np.random.default_rng(0).standard_normal((4, 64, 64, 3)).astype(np.float32)
    denoised = stbn_cli.load_denoiser(model, sigma=20)(np.float32(colour) + np.float32(sigma) * noise)
    inner = denoised[:, 8:-8, 8:-8]
    bias = 255 * np.abs(inner.mean(axis=(0, 1, 2)) - colour)
    assert bias.max() < 3, bias
    assert inner.std(axis=(0, 1, 2)).max() < sigma / 4


@pytest.mark.parametrize("model", MODELS)
def test_a_real_clip_gains_at_every_noise_level_and_unknown_noise_costs_little(
    model: str, bikes_clip: Path
) -> None:
    clean = as_tensor(load_clip(bikes_clip, 4)[:, 60:188, 200:376]).float() / 255

    def gain(sigma: int, assumed: float | None) -> float:
        noisy = protocol_noise(clean, sigma / 255)
        denoised = stbn_cli.load_denoiser(model, sigma=assumed)(noisy.permute(0, 2, 3, 1).numpy())
        return float((psnr(as_tensor(denoised), clean) - psnr(noisy, clean)).mean())

    gains = [gain(sigma, sigma) for sigma in (10, 25, 50)]
    assert gains[0] > 4 and gains[1] > 7 and gains[2] > 9, gains
    assert gains[1] - gain(25, None) < 0.2


@pytest.mark.parametrize("model", ["real", "real-fast", "stbn-xs", "stbn-xs-camera"])
def test_long_scenes_end_as_they_begin(model: str, bikes_clip: Path) -> None:
    """What is carried from frame to frame must not grow. Still scenes show it first, after some twenty frames."""
    clean = as_tensor(load_clip(bikes_clip, 1)[:, 92:156, 232:328]).float() / 255
    clean = clean.expand(60, -1, -1, -1)
    noise = torch.nn.functional.avg_pool2d(protocol_noise(torch.zeros_like(clean), 1.0), 3, 1, 1)
    noisy = clean + 30 / 255 * noise
    kind = "camera" if model.startswith("real") else None  # the others know one kind
    denoiser = stbn_cli.load_denoiser(model, sigma=10, noise_kind=kind, precision="fp32")
    denoised = as_tensor(denoiser(noisy.permute(0, 2, 3, 1).numpy()))
    gains = psnr(denoised, clean) - psnr(noisy, clean)
    assert gains[8:].min() > gains[:8].mean() - 3.0, gains


def test_the_large_model_beats_the_small_one(bikes_clip: Path) -> None:
    """Little, since it takes its time on a CPU; the other tests of it are slow ones."""
    clean = as_tensor(load_clip(bikes_clip, 3)[:, 60:156, 220:316]).float() / 255
    noisy = protocol_noise(clean, 25 / 255).permute(0, 2, 3, 1).numpy()
    small, large = (
        psnr(as_tensor(stbn_cli.load_denoiser(model, sigma=25)(noisy)), clean).mean()
        for model in ("stbn-xs", "stbn")
    )
    assert large > small


@pytest.mark.parametrize("model", MODELS)
def test_half_precision_costs_little(model: str, bikes_clip: Path) -> None:
    # Little: where half precision is emulated it takes a hundred times as long.
    clean = as_tensor(load_clip(bikes_clip, 2)[:, 72:136, 232:296]).float() / 255
    noisy = protocol_noise(clean, 25 / 255).permute(0, 2, 3, 1).numpy()
    exact = psnr(as_tensor(stbn_cli.load_denoiser(model, sigma=25, precision="fp32")(noisy)), clean).mean()
    for precision, loss in (("fp16", 0.02), ("bf16", 0.1)):
        half = stbn_cli.load_denoiser(model, sigma=25, precision=precision, on_message=unheard)(noisy)
        assert float(exact - psnr(as_tensor(half), clean).mean()) < loss
