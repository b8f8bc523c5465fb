"""`stbn train`: a few steps on a few pictures, and what it refuses."""

import inspect
import json
import os
import signal
from dataclasses import MISSING, fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.cli.train import train
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.raw.pattern import BayerFormat
from stbn_cli.training.optimisation import Optimisation
from stbn_cli.training.options import Recipe, TrainOptions
from tests.networks import TINY, narrowed
from tests.raw.crvd import write_crvd
from tests.raw.dngs import DngSpec, write_dng

SHORT = (
    *("--model", "stbn-xs", "--precision", "fp32", "--device", "cpu", "--log-every", "1"),
    *("--batch-size", "1", "--patches-per-epoch", "2", "--patch-size", "16", "--train-length", "2"),
)


@pytest.fixture
def stills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one photograph; "stbn-xs" is the tiny network meanwhile."""
    monkeypatch.setitem(MODEL_SIZES, "stbn-xs", TINY)
    folder = tmp_path / "stills"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "photo.png"), picture)
    return folder


def test_trains_saves_and_resumes(stbn, stills, tmp_path) -> None:
    run = tmp_path / "run"
    arguments = ("train", "--still-dir", stills, "-o", run, *SHORT)
    reference = ("--milestones", "1", "3", "--gamma", "0.3", "--keep-epochs")
    result = stbn(*arguments, *reference, "--epochs", "1")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document == {
        "log_dir": str(run),
        "steps": 2,
        "finished": True,
        "interrupted": False,
        "best_score": None,
    }
    assert "Step 1" in result.err and "loss" in result.err
    assert (run / "model.safetensors").is_file() and (run / "epoch-1.safetensors").is_file()
    assert not (run / "best.safetensors").exists(), "nothing was validated"
    result = stbn(*arguments, "--epochs", "2", "--resume")
    assert json.loads(result.out)["steps"] == 4


def test_ctrl_c_saves_and_exits_with_130(stbn, stills, tmp_path, monkeypatch) -> None:
    step = Optimisation.descend

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Optimisation, "descend", interrupted)
    result = stbn("train", "--still-dir", stills, "-o", tmp_path / "run", *SHORT)
    assert result.code == 130 and "--resume" in result.err
    assert json.loads(result.out)["finished"] is False
    assert (tmp_path / "run" / "state.pt").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ([], 2, "--train-dir"),
        (["--train-dir", "/no/such/folder"], 3, "/no/such/folder"),
        (["--train-dir", ".", "--model", "huge"], 2, "huge"),
        (["--train-dir", ".", "--precision", "fp8"], 2, "fp8"),
        (["--train-dir", ".", "--patch-size", "4"], 2, "--patch-size"),
        (["--train-dir", ".", "--noise-interval", "50", "5"], 2, "--noise-interval"),
        (["--train-dir", ".", "--gamma", "1.5"], 2, "--gamma"),
        (["--train-dir", ".", "--milestones", "2,x"], 2, "--milestones"),
        (["--train_dir", ".", "--patch_size", "4"], 2, "--patch-size"),
        (["--train-dir", ".", "--resume"], 3, "--resume"),
    ],
)
def test_refusals(stbn, tmp_path, arguments, code, word) -> None:
    result = stbn("train", "-o", tmp_path / "run", "--device", "cpu", *arguments)
    assert result.code == code and result.out == ""
    assert word in result.err and "Traceback" not in result.err


@pytest.mark.parametrize("given", ["DAVIS", "DAVIS/JPEGImages"])
def test_validation_on_training_clips_is_refused(stbn, tmp_path, given) -> None:
    clip = tmp_path / "DAVIS" / "JPEGImages" / "480p" / "golf"
    clip.mkdir(parents=True)
    for number in range(2):
        cv2.imwrite(str(clip / f"{number}.png"), np.full((32, 32, 3), 40 * number, np.uint8))
    arguments = ("--train-dir", tmp_path / given, "--validation-dir", clip.parent)
    result = stbn("train", "-o", tmp_path / "run", "--device", "cpu", *arguments)
    assert result.code == 3 and "golf is in the training folders too" in result.err


def test_milestones_in_one_go(stbn, stills, tmp_path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("stbn_cli.cli.train._run", seen.append)
    for words in (["2", "4", "6"], ["2,4,6"], ["2", "--milestones", "4", "6"]):
        stbn("train", "--still-dir", stills, "-o", tmp_path, "--milestones", *words, "--seed", "1")
    assert [options.milestones for options in seen] == [(2, 4, 6)] * 3


def test_defaults_are_those_of_the_trainer() -> None:
    parameters = inspect.signature(train).parameters
    for option in fields(TrainOptions):
        if option.name in ("log_dir", "device"):
            continue
        default = parameters[option.name].default
        assert option.default is not MISSING
        by_model = option.name in {field.name for field in fields(Recipe)}
        assert default == option.default or (
            default is None and (by_model or isinstance(option.default, tuple))
        ), option.name


def test_raw_models_have_the_published_recipe_of_their_own(stbn, stills, tmp_path, monkeypatch) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr("stbn_cli.cli.train._run", seen.append)
    raw = ("train", "--train-dir", tmp_path, "-o", tmp_path, "--model", "stbn-raw")
    stbn(*raw)
    stbn(*raw, "--epochs", "3", "--lr", "2e-4", "--bayer", "rggb", "--black", "60", "--white", "1023")
    stbn("train", "--train-dir", tmp_path, "-o", tmp_path)
    recipes = [[getattr(options, field.name) for field in fields(Recipe)] for options in seen]
    assert recipes == [[1e-4, 200, 16, 80, 7], [2e-4, 3, 16, 80, 7], [3e-4, 10, 4, 96, 8]]
    assert seen[0].mosaics == BayerFormat("GBRG", 240, 4095)
    assert seen[1].mosaics == BayerFormat("RGGB", 60, 1023)
    outcome = stbn(*raw, "--bayer", "xtrans")
    assert outcome.code == 2 and "RGGB" in outcome.err


@pytest.mark.parametrize("kind", ["crvd", "dng"])
def test_a_raw_model_learns_from_what_cameras_and_data_sets_give(
    stbn, tmp_path, monkeypatch, kind: str
) -> None:
    monkeypatch.setitem(MODEL_SIZES, "stbn-raw", narrowed(MODEL_SIZES["stbn-raw"]))
    if kind == "crvd":
        data, held = write_crvd(tmp_path, scenes=(7, 8), frames=3), "scene8"
    else:
        data, held = tmp_path / "dng", "two"
        for name in ("one", "two"):
            (data / name).mkdir(parents=True)
            for index in range(3):
                write_dng(data / name / f"{index}.dng", DngSpec(seed=index))
    run = ("train", "--model", "stbn-raw", "--train-dir", data, "-o", tmp_path / "run", "--device", "cpu")
    few = ("--batch-size", "1", "--patch-size", "16", "--train-length", "2")
    outcome = stbn(*run, *few, "--patches-per-epoch", "2", "--epochs", "1", "--hold-out", held)
    assert outcome.code == 0, outcome.err
    trained = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert trained.info.noise_kind == "raw" and trained.config.image_channels == 4
    assert all(torch.isfinite(weight).all() for weight in trained.weights.values())
