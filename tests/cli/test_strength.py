"""`--strength` from 0 to 3, and noise that files cut off at black, with the models in the package."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stbn_cli
from stbn_cli.errors import OptionError

SIGMA = 12.0
MODELS = ["stbn-xs", "real"]


def noisy_frames() -> np.ndarray:
    """A soft picture that drifts, under white noise of `SIGMA`, not clipped; (3, 64, 64, 3) float32."""
    coarse = torch.rand((1, 3, 9, 10), generator=torch.Generator().manual_seed(5)) * 0.6 + 0.2
    picture = F.interpolate(coarse, (64, 72), mode="bicubic")[0].permute(1, 2, 0).numpy()
    clean = np.stack([picture[:, t : t + 64] for t in range(3)])
    return (clean + np.random.default_rng(0).normal(0.0, SIGMA / 255, clean.shape)).astype(np.float32)


def write_clip(path: Path, values: np.ndarray) -> Path:
    """Frames `(T, H, W, 3)` uint8 as lossless RGB."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *values.shape[1:3], "bgr0"
        for frame in values:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


def read_clip(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def denoised(model: str, strength: float, sigma: float | None = SIGMA) -> np.ndarray:
    return stbn_cli.load_denoiser(model, sigma=sigma, strength=strength, precision="fp32")(noisy_frames())


def roughness(frames: np.ndarray) -> float:
    """How far frames are from a smoothed copy of themselves."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return float((planes - F.avg_pool2d(planes, 5, 1, 2, count_include_pad=False)).square().mean())


@pytest.mark.parametrize("model", MODELS)
def test_more_strength_removes_and_smooths_more(model: str) -> None:
    noisy = noisy_frames()
    none, half, whole, twice, most = (denoised(model, strength) for strength in (0.0, 0.5, 1.0, 2.0, 3.0))
    np.testing.assert_array_equal(none, noisy)
    np.testing.assert_allclose(half, (noisy + whole) / 2, atol=1e-6)
    assert roughness(noisy) > roughness(whole) > roughness(twice) > roughness(most)
    changes = [float(np.square(noisy - frames).mean()) for frames in (half, whole, twice)]
    assert changes == sorted(changes)


def test_a_level_that_is_given_is_multiplied_too() -> None:
    np.testing.assert_allclose(denoised("stbn-xs", 2.0), denoised("stbn-xs", 1.0, 2 * SIGMA), atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_shadows_keep_their_brightness(model: str) -> None:
    dark = np.random.default_rng(2).normal(20 / 255, 10 / 255, (2, 64, 64, 3)).astype(np.float32)
    made = stbn_cli.load_denoiser(model, sigma=10.0, strength=3.0)(dark)
    assert abs(255 * float((made - dark).mean())) < 1.0


@pytest.mark.parametrize("sigma", [None, SIGMA])
def test_the_level_that_is_shown_is_that_of_the_noise(sigma: float | None) -> None:
    levels = set()
    for strength in (1.0, 2.5):
        denoiser = stbn_cli.load_denoiser("stbn-xs", sigma=sigma, strength=strength)
        denoiser(noisy_frames())
        levels.add(denoiser.report.scenes[0].level)
    assert len(levels) == 1


def test_strength_on_the_command_line(stbn, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mkv", np.rint(255 * noisy_frames().clip(0, 1)).astype(np.uint8))
    summaries, made = {}, {}
    for strength in ("1", "2"):
        out = tmp_path / f"{strength}.mkv"
        done = stbn("denoise", clip, "-o", out, "-m", "stbn-xs", "--strength", strength, "--json")
        assert done.code == 0, done.err
        summaries[strength], made[strength] = json.loads(done.out), read_clip(out) / np.float32(255)
    assert summaries["2"]["strength"] == 2 and summaries["2"]["scenes"] == summaries["1"]["scenes"]
    assert summaries["2"]["noise"] == summaries["1"]["noise"]
    assert roughness(made["2"]) < roughness(made["1"])
    preview = stbn("preview", clip, "-o", tmp_path / "p.png", "-m", "stbn-xs", "--strength", "2", "--json")
    assert preview.code == 0 and json.loads(preview.out)["full_run"]["strength"] == 2
    for strength in ("3.1", "-1", "nan"):
        assert stbn("denoise", clip, "-m", "stbn-xs", "--strength", strength).code == 2
    with pytest.raises(OptionError, match="strength within 0 to 3, got -1"):
        stbn_cli.load_denoiser("stbn-xs", strength=-1)


@pytest.mark.parametrize("model", MODELS)
def test_blacks_stay_black(stbn, tmp_path: Path, model: str) -> None:
    truth, sigma = 5, 25
    values = truth + np.random.default_rng(1).normal(0.0, sigma, (6, 64, 64, 3))
    noisy = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    assert noisy.mean() > truth + 6  # black cut half of the noise off
    clip, out = write_clip(tmp_path / "dark.mkv", noisy), tmp_path / "out.mkv"
    assert stbn("denoise", clip, "-o", out, "-m", model, "-s", sigma, "--lossless").code == 0
    assert abs(float(read_clip(out).mean()) - truth) < 1.0
