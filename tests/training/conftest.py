"""Small footage, and options of runs that take a second."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.virtual_camera import draw_scene, render
from tests.networks import TINY
from tests.training.pictures import photograph


@pytest.fixture
def footage_dir(tmp_path: Path) -> Path:
    """A folder with `clips/` (two folders of frames) and `stills/` (a photograph)."""
    for name in ("a", "b"):
        scene = draw_scene([photograph(seed=ord(name))], 6, 120, np.random.default_rng(1))
        frames = (render(scene)[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        (tmp_path / "clips" / name).mkdir(parents=True)
        for index, frame in enumerate(frames):
            cv2.imwrite(str(tmp_path / "clips" / name / f"{index}.png"), frame[..., ::-1])
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "p.png"), photograph().permute(1, 2, 0).numpy()[..., ::-1])
    return tmp_path


@pytest.fixture
def options_of(footage_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainOptions]:
    """options_of(name=value, ...): a run of 8 steps with the tiny network, called stbn-xs meanwhile."""
    monkeypatch.setitem(MODEL_SIZES, "stbn-xs", TINY)

    def make(**changes: object) -> TrainOptions:
        values: dict[str, object] = {
            "log_dir": footage_dir / "run",
            "train_dirs": (footage_dir / "clips",),
            "still_dirs": (footage_dir / "stills",),
            "hold_out": ("b",),
            "model": "stbn-xs",
            "learning_rate": 2e-3,
            "epochs": 4,
            "batch_size": 2,
            "patches_per_epoch": 4,
            "patch_size": 32,
            "train_length": 3,
            "validate_every": 4,
            "log_every": 2,
            "precision": "fp32",
        }
        return TrainOptions(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
