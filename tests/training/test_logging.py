"""What a run writes down."""

import json
from pathlib import Path

import pytest
import torch

from stbn_cli.training.logging import Journal


def test_rows_after_the_state_are_dropped_and_a_torn_line_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0)
    for step in (1, 2, 3):
        journal.write({"step": step, "loss": 1.0 / step})
    journal.close()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    journal = Journal(tmp_path, 2)
    journal.write({"step": 3, "loss": 9.0})
    journal.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_tensorboard_shows_scalars_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path, 0)
    journal.write({"step": 5, "minutes": 0.5, "psnr": {"10": 30.0, "50": 20.0}, "event": "interrupted"})
    journal.show("noisy and denoised", torch.rand(3, 8, 16), 5)
    journal.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"minutes", "psnr/10", "psnr/50"}
    assert events.Scalars("psnr/10")[0].value == 30.0 and events.Scalars("psnr/10")[0].step == 5
    assert events.Tags()["images"] == ["noisy and denoised"]


def test_runs_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    journal = Journal(tmp_path, 0)
    journal.write({"step": 1, "loss": 1.0})
    journal.show("picture", torch.rand(3, 8, 8), 1)
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
