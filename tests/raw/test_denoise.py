"""Raw clips through the command: denoised, measured, refused where they do not fit; and finetuned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli import FinetuneOptions, finetune, load_denoiser
from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.cli.app import main
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.noise.raw_level import measure_raw
from stbn_cli.raw.bayer import pack, unpack
from stbn_cli.raw.noise import CRVD_NOISE, CRVD_RANGE, add_noise
from stbn_cli.raw.pattern import BayerFormat
from tests.cli.conftest import save_tiny_model
from tests.networks import narrowed
from tests.raw.dngs import DngSpec, write_dng
from tests.raw.test_raw_files import coloured_mosaic

CRVD = BayerFormat("GBRG", 240.0, 4095.0)
SIZE = (97, 130)  # odd: a cell is cut
NAMED = ("--bayer", "gbrg", "--black", "240", "--white", "4095")
SMALL = ("--steps", "1", "--batch-size", "1", "--patch-size", "32", "--train-length", "2")
ISO = 6400


def clean_clip(frames: int = 4) -> np.ndarray:
    """Clean planes (T, 4, h, w) of a moving scene."""
    scene = pack(coloured_mosaic((SIZE[0], SIZE[1] + 2 * frames), noise=0.0), CRVD)
    return np.stack([scene[..., index : index + (SIZE[1] + 1) // 2] for index in range(frames)])


def noisy_clip(clean: np.ndarray) -> np.ndarray:
    """The same with a sensor's noise, (T, 4, h, w)."""
    return add_noise(torch.from_numpy(clean), CRVD_NOISE[ISO], torch.Generator().manual_seed(0)).numpy()


def write_clip(folder: Path, planes: np.ndarray) -> Path:
    folder.mkdir()
    for index, mosaic in enumerate(np.rint(unpack(planes, CRVD, SIZE)).clip(0, 4095).astype(np.uint16)):
        cv2.imwrite(str(folder / f"f{index}.tiff"), mosaic)
    return folder


def read_clip(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in sorted(folder.iterdir())])


@pytest.fixture
def stbn(tmp_path: Path, capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """stbn(*arguments): exit code, standard output, standard error."""
    monkeypatch.setenv("STBN_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def test_a_clip_comes_out_cleaner_and_of_its_kind(stbn, tmp_path: Path) -> None:
    clean = clean_clip()
    source = write_clip(tmp_path / "noisy", noisy_clip(clean))
    code, out, err = stbn("denoise", source, "-o", tmp_path / "out", *NAMED, "--json")
    assert code == 0, err
    document = json.loads(out)
    gain, floor = CRVD_NOISE[ISO].in_values(CRVD_RANGE)
    # The scene has no black, so the floor alone says little.
    found = document["raw_noise"]
    assert found["gain"] * 1000 + found["floor"] == pytest.approx(gain * 1000 + floor, rel=0.15)
    assert document["raw_noise"]["estimated"] and document["model"] == "stbn-raw-xs"
    result = read_clip(tmp_path / "out")
    assert result.dtype == np.uint16 and result.shape == (4, *SIZE)
    truth = unpack(clean, CRVD, SIZE)
    before, after = (np.square(clip - truth).mean() for clip in (read_clip(source), result))
    assert 10 * np.log10(before / after) > 5.0
    # Neither lifted nor darkened by more than half a percent of the range.
    assert abs((result - truth).mean()) < 0.005 * 3855


def test_the_noise_may_be_given(stbn, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "noisy", noisy_clip(clean_clip(2)))
    code, out, err = stbn(
        "denoise", source, "-o", tmp_path / "out", *NAMED, "--json", "--raw-noise", "13.5,131"
    )
    assert code == 0, err
    assert json.loads(out)["raw_noise"] == {"gain": 13.5, "floor": 131.0, "estimated": False}
    code, _, err = stbn("denoise", source, "-o", tmp_path / "more", *NAMED, "--raw-noise", "13.5")
    assert code == 2 and "two numbers" in err
    code, out, err = stbn("denoise", source, "-o", tmp_path / "more", *NAMED, "--dry-run")
    assert code == 0 and "GBRG, black 240, white 4095" in out and f"{SIZE[1]}x{SIZE[0]}" in out


def test_a_network_without_a_level_gets_clamped_values(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "plain.safetensors", narrowed(MODEL_SIZES["stbn-raw"]))
    frames = np.moveaxis(noisy_clip(clean_clip(3)), 1, -1) - np.float32(0.2)  # much of it below black
    denoiser = load_denoiser(path, device="cpu", precision="fp32", flow="none")
    result = denoiser(frames)
    network = load_checkpoint(path).build_stbn().eval()
    batch = torch.from_numpy(np.maximum(frames, 0.0)).permute(0, 3, 1, 2)[None]
    still = torch.zeros(1, 3, 2, *batch.shape[-2:])
    with torch.inference_mode():
        expected = network(batch, 0.0, still, still)[0].permute(0, 2, 3, 1).numpy()
    assert result == pytest.approx(expected, abs=1e-5)


def test_models_and_options_that_do_not_fit_are_refused(stbn, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "noisy", noisy_clip(clean_clip(2)))
    rgb = save_tiny_model(tmp_path / "rgb.safetensors")
    raw = save_tiny_model(
        tmp_path / "raw.safetensors", narrowed(MODEL_SIZES["stbn-raw-xs"]), noise_kind="raw"
    )
    code, _, err = stbn("denoise", source, "-o", tmp_path / "out", *NAMED, "-m", rgb)
    assert code == 4 and "not for raw pictures" in err
    grey = tmp_path / "grey"
    grey.mkdir()
    cv2.imwrite(str(grey / "a.png"), np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    code, _, err = stbn("denoise", grey, "-o", tmp_path / "out", "-m", raw, "-s", "20")
    assert code == 4 and "not for RGB video" in err
    code, _, err = stbn("denoise", grey, "-o", tmp_path / "out", "-m", rgb, "-s", "20", "--raw-noise", "1,1")
    assert code == 2 and "--raw-noise" in err
    for option in (("-s", "20"), ("--luma", "50"), ("--keep-grain", "10"), ("--adapt",)):
        code, _, err = stbn("denoise", source, "-o", tmp_path / "out", *NAMED, *option)
        assert code == 2 and option[0].replace("-s", "--sigma") in err.replace("--sigmaigma", "--sigma"), err
    code, _, err = stbn("analyze", source, *NAMED)
    assert code == 3 and err.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


def test_what_has_no_noise_comes_out_as_it_was(stbn, tmp_path: Path) -> None:
    clean = clean_clip(2)
    source = write_clip(tmp_path / "clean", clean)
    code, _, err = stbn("denoise", source, "-o", tmp_path / "out", *NAMED, "--raw-noise", "0,0")
    assert code == 0, err
    assert np.array_equal(read_clip(tmp_path / "out"), read_clip(source))
    # Values far below black too, where nothing is to be removed.
    dark = write_clip(tmp_path / "dark", noisy_clip(clean * 0.0))
    code, _, err = stbn("denoise", dark, "-o", tmp_path / "same", *NAMED, "--strength", "0")
    assert code == 0, err
    assert np.array_equal(read_clip(tmp_path / "same"), read_clip(dark))


def test_darkness_stays_dark(tmp_path: Path) -> None:
    denoiser = load_denoiser("stbn-raw-xs", device="cpu", precision="fp32")
    random = np.random.default_rng(0)
    for deviation in (8.0, 30.0):
        frames = (random.normal(0.0, deviation / CRVD_RANGE, (3, 112, 128, 4))).astype(np.float32)
        result = denoiser(frames)
        assert result.std() < 0.3 * frames.std()
        assert abs(result.mean()) < 0.25 * frames.std()
    with pytest.raises(ValueError, match="floating point"):
        denoiser(np.zeros((1, 16, 16, 4), np.uint16))


def test_levels_and_patterns_that_cannot_be_are_named(stbn, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "noisy", noisy_clip(clean_clip(2)))
    rest = ("--dry-run", "-m", "stbn-raw-xs")
    code, _, err = stbn("denoise", source, "-o", tmp_path / "o", "--bayer", "GBRG", "--black", "3000", *rest)
    assert code == 3 and "far below the black level 3000" in err
    for options, words in (
        (("--bayer", "RGGB", "--black", "240", "--white", "4095"), "really RGGB"),
        (("--bayer", "GBRG", "--black", "240", "--white", "1000"), "above the white level 1000"),
    ):
        code, _, err = stbn("denoise", source, "-o", tmp_path / "o", *options, "-m", "stbn-raw-xs")
        assert code == 0 and words in err, err
        shutil.rmtree(tmp_path / "o")
    for option in (("--white", "70000"), ("--black", "-1"), ("--raw-noise", "1e30,1e30")):
        code, _, err = stbn("denoise", source, "-o", tmp_path / "o", "--bayer", "GBRG", *option)
        assert code == 2 and err.count("Error: ") == 1 and option[0] in err, err
    code, _, err = stbn("denoise", source, "-o", tmp_path / "o", *NAMED, "--start", "9")
    assert code == 3 and "its images last 0.08 s" in err


def test_a_dng_keeps_its_kind(stbn, tmp_path: Path) -> None:
    source = tmp_path / "dngs"
    source.mkdir()
    for name in ("a_001.dng", "a_002.dng"):
        write_dng(source / name, DngSpec(size=(48, 64)))
    code, _, err = stbn("denoise", source, "-o", tmp_path / "out")
    assert code == 0, err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a_001.dng", "a_002.dng"]


def test_the_noise_is_measured_in_the_dark_and_in_the_light() -> None:
    generator = torch.Generator().manual_seed(0)
    for iso, scale in ((1600, 1.0), (25600, 0.15)):
        clean = torch.from_numpy(clean_clip(6)) * scale
        noise = CRVD_NOISE[iso]
        frames = np.moveaxis(add_noise(clean, noise, generator).numpy(), 1, -1)
        found = measure_raw(frames)
        for value in np.quantile(clean.numpy(), (0.1, 0.5, 0.9)):
            expected = float(noise.deviation(np.array([value]))[0])
            assert float(found.deviation(np.array([value]))[0]) == pytest.approx(expected, rel=0.12)
    with pytest.raises(ValueError, match="expected frames"):
        measure_raw(np.zeros((2, 8, 8, 3), np.float32))


def test_a_raw_model_is_finetuned_on_raw_clips_alone(stbn, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "noisy", noisy_clip(clean_clip(4)))
    model = tmp_path / "m.safetensors"
    code, _, err = stbn("finetune", source, "-o", model, *NAMED, *SMALL, "--preview", tmp_path / "p.png")
    assert code == 0, err
    learned = load_checkpoint(model)
    assert learned.config.image_channels == 4 and learned.info.noise_kind == "raw"
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    code, _, err = stbn("denoise", source, "-o", tmp_path / "out", *NAMED, "-m", model)
    assert code == 0, err
    array = np.moveaxis(noisy_clip(clean_clip(3)), 1, -1)
    options = FinetuneOptions(steps=1, batch_size=1, patch_size=32, train_length=2)
    assert finetune(array, options=options).checkpoint.config.image_channels == 4
    plain = save_tiny_model(tmp_path / "plain.safetensors", narrowed(MODEL_SIZES["stbn-raw"]))
    code, _, err = stbn("finetune", source, "-o", tmp_path / "n.safetensors", *NAMED, "-m", plain)
    assert code == 2 and "stbn train" in err
    other = save_tiny_model(tmp_path / "video.safetensors")
    code, _, err = stbn("finetune", source, "-o", tmp_path / "n.safetensors", *NAMED, "-m", other)
    assert code == 4 and "not for raw pictures" in err


def test_shadows_keep_their_colour() -> None:
    denoiser = load_denoiser("stbn-raw-xs", device="cpu", precision="fp32")
    colour = np.array([0.002, 0.004, 0.004, 0.0015], np.float32)
    clean = torch.from_numpy(np.broadcast_to(colour, (3, 112, 128, 4)).copy())
    frames = add_noise(clean, CRVD_NOISE[1600], torch.Generator().manual_seed(0)).numpy()
    result = denoiser(frames)
    assert (result - frames).mean((0, 1, 2)) == pytest.approx(np.zeros(4), abs=1e-5)
    assert result.std((0, 1, 2)).max() < 0.3 * frames.std((0, 1, 2)).min()
