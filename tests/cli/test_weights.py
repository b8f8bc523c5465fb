"""`stbn weights`: listing, finding, importing and verifying models."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli import load_denoiser
from stbn_cli.checkpoints import import_official, save_checkpoint
from stbn_cli.checkpoints.flow import FlowCheckpoint, save_flow_checkpoint
from stbn_cli.checkpoints.serial import ModelInfo, load_checkpoint
from stbn_cli.models.lightflow import LightFlowNet
from tests.parity.vectors import FOLDER, load_vectors


@pytest.fixture
def official_path(tmp_path: Path) -> Path:
    """An 8-channel checkpoint as the reference's data-parallel training saves it, without a flow network."""
    _, state_dict = load_vectors("srgb_c8_even")
    path = tmp_path / "official.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state_dict.items()}}, path)
    return path


def test_import_makes_a_model_that_denoises(stbn, official_path, make_clip) -> None:
    target = official_path.with_name("mine.safetensors")
    result = stbn("weights", "import", official_path, "-o", target, "--name", "mine")
    assert result.code == 0, result.err
    assert result.out == f"{target}\n"
    checkpoint = load_checkpoint(target)
    assert (checkpoint.info.name, checkpoint.info.flow, checkpoint.config.channels) == ("mine", "dis", 8)
    assert stbn("weights", "verify", target).code == 0
    denoised = stbn("denoise", make_clip(frames=3), "-m", target, "-s", "20", "--json")
    assert denoised.code == 0, denoised.err
    assert json.loads(denoised.out)["flow"] == "dis"


@pytest.fixture(scope="session")
def full_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported checkpoint with every key and shape of an official one, its flow network too; weights made up."""
    shapes = json.loads((FOLDER / "official_state_dict_bdc_2_unify.json").read_text())
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.5 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.01
        mask = name.endswith(".mask")
        weights[name] = torch.ones(shape) if mask else scale * torch.randn(shape, generator=generator)
    folder = tmp_path_factory.mktemp("official")
    torch.save({"state_dict": weights}, folder / "official.pth")
    checkpoint = import_official(folder / "official.pth")
    (folder / "official.pth").unlink()
    save_checkpoint(folder / "official.safetensors", checkpoint)
    return folder / "official.safetensors"


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", "fp32"), ("cpu", "bf16"), pytest.param("cuda", "fp16", marks=pytest.mark.gpu)],
)
def test_full_official_checkpoint_denoises(stbn, full_model_path, make_clip, device, precision) -> None:
    clip, engine = make_clip(frames=2), ("--device", device, "--precision", precision)
    result = stbn("denoise", clip, "-m", full_model_path, "-s", "20", "--json", *engine)
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert (document["flow"], document["precision"]) == ("pwc", precision)


def test_full_official_checkpoint_elsewhere(stbn, full_model_path, make_clip, tmp_path) -> None:
    clip = make_clip(frames=2)
    result = stbn("preview", clip, "-m", full_model_path, "-s", "20", "-o", tmp_path / "p.png")
    assert result.code == 0, result.err
    result = stbn("bench", clip, "-m", full_model_path, "-s", "20", "--device", "cpu", "--precision", "fp32")
    assert result.code == 0, result.err
    run = ("--model", "stbn-published", "--initial", full_model_path, "--device", "cpu", "--patch-size", "16")
    once = ("--train-length", "2", "--batch-size", "1", "--patches-per-epoch", "1", "--epochs", "1")
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "photo.png"), picture)
    result = stbn("train", "--still-dir", tmp_path / "stills", "-o", tmp_path / "run", *run, *once)
    assert result.code == 0, result.err
    frames = np.random.default_rng(0).random((2, 24, 32, 3), np.float32)
    denoised = load_denoiser(full_model_path, sigma=20, device="cpu", precision="fp32")(frames)
    assert denoised.shape == frames.shape and np.isfinite(denoised).all()


def test_import_keeps_what_exists(stbn, official_path) -> None:
    target = official_path.with_suffix(".safetensors")
    target.write_bytes(b"precious")
    result = stbn("weights", "import", official_path)
    assert result.code == 6 and "--overwrite" in result.err
    assert target.read_bytes() == b"precious"
    assert stbn("weights", "import", official_path, "--overwrite").code == 0


def test_import_of_what_is_no_checkpoint(stbn, tmp_path) -> None:
    text = tmp_path / "text.pth"
    text.write_text("hello")
    for source, word in ((text, "text.pth"), (tmp_path / "none.pth", "does not exist")):
        result = stbn("weights", "import", source)
        assert result.code == 4 and word in result.err and "Traceback" not in result.err
    assert stbn("weights", "import", text, "-o", tmp_path / "x.pth").code == 6
    assert stbn("weights", "import", text, "-o", tmp_path / "no" / "x.safetensors").code == 6


def test_path_prints_where_the_file_is(stbn, tiny_model_path) -> None:
    result = stbn("weights", "path", tiny_model_path)
    assert (result.code, result.out) == (0, f"{tiny_model_path}\n")
    assert stbn("weights", "path", "no-such-model").code == 4


def test_verify_tells_damaged_files(stbn, tiny_model_path, tmp_path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_model_path.read_bytes()[:-100])
    result = stbn("weights", "verify", tiny_model_path, cut)
    assert result.code == 4
    assert f"{tiny_model_path}: ok" in result.out and f"{cut}: FAILED" in result.out
    assert "1 of 2" in result.err


def test_list_and_path_know_the_registry(stbn, small_registry) -> None:
    result = stbn("weights", "list")
    assert result.code == 0
    line = next(line for line in result.out.splitlines() if line.startswith("small "))
    assert "5-55" in line and "ready" in line and " all " in line
    rows = json.loads(stbn("weights", "list", "--json").out)
    assert [row["name"] for row in rows] == ["small", "remote"]
    assert rows[0]["source"] == "bundled only" and "/" in rows[1]["source"]
    assert rows[1]["file"] == "downloaded on first use" and rows[1]["kind"] == "denoiser"
    assert stbn("weights", "path", "small").out == f"{small_registry}\n"
    assert stbn("weights", "path").out == f"{small_registry}\n"
    assert stbn("weights", "verify").code == 0


def test_flow_networks_are_found_and_verified_but_are_no_models(
    stbn, small_registry, make_clip, monkeypatch
) -> None:
    from stbn_cli.checkpoints import registry, store

    file = small_registry.with_name("flow.safetensors")
    info = ModelInfo("light-flow", "light", licence="CC0-1.0")
    save_flow_checkpoint(file, FlowCheckpoint(info, dict(LightFlowNet().state_dict())))
    row = replace(
        registry.load_registry()["small"],
        name="light-flow",
        kind="flow",
        file=file.name,
        sha256=store.sha256_of(file),
        size=file.stat().st_size,
        default_on=(),
    )
    monkeypatch.setitem(registry.load_registry(), row.name, row)
    assert stbn("weights", "path", "light-flow").out == f"{file}\n"
    result = stbn("weights", "verify")
    assert result.code == 0 and f"light-flow: ok ({file})" in result.out
    refused = stbn("denoise", make_clip(frames=2), "-m", "light-flow")
    assert refused.code == 4 and "Error: 'light-flow' is an optical-flow network" in refused.err
    file.write_bytes(b"damaged")
    result = stbn("weights", "verify", "light-flow")
    assert result.code == 4 and "it has 7 bytes instead of" in result.out


def test_default_model_denoises(stbn, small_registry, make_clip) -> None:
    result = stbn("denoise", make_clip(), "-s", "20", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["model_file"] == str(small_registry)


def test_doctor(stbn, small_registry) -> None:
    result = stbn("doctor", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["problems"] == []
    assert document["versions"]["torch"] == torch.__version__
    assert document["devices"]["auto"] and document["encoders"]["h264"]
    assert document["models"]["small"] == str(small_registry)
    assert stbn("doctor").out.splitlines()[-1] == "Everything that stbn needs works here."
    small_registry.write_bytes(b"damaged")
    broken = stbn("doctor")
    assert broken.code == 1 and "damaged" in broken.err and "torch  " in broken.out
