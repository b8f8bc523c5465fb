"""Half precision on a processor that only emulates it: never chosen, and a warning where it is asked for."""

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import stbn_cli
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.inference import device
from stbn_cli.jobs import adapt
from stbn_cli.models.config import MODEL_SIZES
from tests.finetuning.runs import finetune_with
from tests.networks import TINY

WARNING = "only emulates bf16"
# A step and a few frames: where half precision really is emulated, it takes its time.
LITTLE = {"sigma": 25, "steps": 1, "batch_size": 1, "patch_size": 32, "train_length": 2}
LITTLE_WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in LITTLE.items()]


@pytest.fixture
def emulating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU for whose half precision torch leaves oneDNN."""
    monkeypatch.setattr(device, "_onednn_takes", lambda dtype: False)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder with two noisy pictures."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(np.random.default_rng(0).integers(60, 190, (2, 48, 48, 3), np.uint8)):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("denoise", "{frames}", "-o", "{out}/", "-m", "{model}", "-s", "20"),
        ("denoise", "{frames}", "-o", "{out}/", "-m", "{model}", "-s", "25", "--adapt"),
        ("preview", "{frames}", "-o", "{out}.png", "-m", "{model}", "-s", "20"),
        ("bench", "{out}.mkv", "-m", "{model}", "--sigma", "20"),  # which is not there: no need to measure
        ("finetune", "{frames}", "-o", "{out}.safetensors", "-m", "{model}", *LITTLE_WORDS),
        (
            *("train", "--still-dir", "{frames}", "-o", "{out}", "--model", "stbn-xs", "--epochs", "1"),
            *("--batch-size", "1", "--patches-per-epoch", "1", "--patch-size", "16", "--train-length", "2"),
        ),
    ],
    ids=["denoise", "adapt", "preview", "bench", "finetune", "train"],
)
def test_asking_for_it_is_warned_of_once(
    stbn: Callable, emulating: None, frames: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch, command
) -> None:
    monkeypatch.setitem(MODEL_SIZES, "stbn-xs", TINY)
    monkeypatch.setattr(adapt, "FinetuneOptions", functools.partial(FinetuneOptions, **LITTLE))
    words = [word.format(frames=frames, out=tmp_path / "out", model=tiny_model_path) for word in command]
    asked = stbn(*words, "--device", "cpu", "--precision", "bf16")
    assert asked.code == (3 if command[0] == "bench" else 0), asked.err
    lines = [line for line in asked.err.splitlines() if WARNING in line]
    assert len(lines) == 1 and lines[0].startswith("Warning: ") and "--precision" in lines[0]


def test_it_is_never_chosen(
    stbn: Callable, emulating: None, frames: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    arguments = ("-o", tmp_path / "out/", "-m", tiny_model_path, "-s", "20", "--device", "cpu", "--json")
    result = stbn("denoise", frames, *arguments)
    assert json.loads(result.out)["precision"] == "fp32" and "emulates" not in result.err
    assert "fp32 by default" in json.loads(stbn("doctor", "--json").out)["devices"]["cpu"]


def test_python_is_warned_too(emulating: None, frames: Path, tiny_model_path: Path) -> None:
    messages: list[str] = []
    arguments = {"device": "cpu", "precision": "bf16"}
    stbn_cli.load_denoiser(tiny_model_path, **arguments, on_message=messages.append)
    stbn_cli.load_denoiser(tiny_model_path, device="cpu", precision="fp32", on_message=messages.append)
    clip = np.stack([cv2.imread(str(path)) for path in sorted(frames.iterdir())])
    learning = {"model": tiny_model_path, **LITTLE}
    finetune_with(clip, **learning, **arguments, on_message=messages.append)
    assert len(messages) == 2 and all(WARNING in text for text in messages)
    # Nobody asked for bf16 here, which is what else fp16 becomes.
    finetune_with(clip, **learning, device="cpu", precision="fp16", on_message=messages.append)
    assert len(messages) == 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stbn_cli.load_denoiser(tiny_model_path, **arguments)
    assert [WARNING in str(warning.message) for warning in caught] == [True]
    assert caught[0].filename == __file__
