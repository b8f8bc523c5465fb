"""`stbn bench crvd` as a user meets it."""

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.parity.vectors import load_vectors
from tests.raw.crvd import write_crvd


@pytest.fixture
def crvd(tmp_path: Path) -> Path:
    return write_crvd(tmp_path, scenes=(7, 9), isos=(1600, 25600), frames=3, outdoor=(1,), size=(32, 48))


def test_an_official_checkpoint_is_measured(stbn: Callable, crvd: Path, tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in load_vectors("raw_c8")[1].items()}
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    imported = stbn("weights", "import", tmp_path / "official.pth", "-o", tmp_path / "official.safetensors")
    assert imported.code == 0, imported.err
    table = tmp_path / "scores.csv"
    outcome = stbn(
        *(
            "bench",
            "crvd",
            "--data",
            crvd,
            "--model",
            tmp_path / "official.safetensors",
            "--model",
            "stbn-raw-xs",
        ),
        *("--frames", "2", "--device", "cpu", "--flow", "dis", "--json", "--csv", table),
    )
    assert outcome.code == 0, outcome.err
    assert "scene8, scene10, scene11" not in outcome.err and "scene8, scene9" not in outcome.err
    assert "missing: scene7-iso1600 (4 of 7 frames), " in outcome.err and "scene8, " in outcome.err
    document = json.loads(outcome.out)
    assert document["measured_on"] == "CRVD" and document["isos"] == [1600, 25600]
    assert document["quoted"][0]["psnr"]["25600"] == 42.91
    found = {(row["method"], row["iso"]): row for row in document["averages"]}
    methods = ("noisy", "official", "stbn-raw-xs")
    assert set(found) == {(method, iso) for method in methods for iso in (1600, 25600)}
    assert found["noisy", 1600]["psnr"] > found["noisy", 25600]["psnr"] + 8
    assert found["stbn-raw-xs", 25600]["psnr"] > found["noisy", 25600]["psnr"] + 2
    assert found["stbn-raw-xs", 25600]["rgb_ssim"] > found["noisy", 25600]["rgb_ssim"]
    assert all(row["partial"] and row["scenes"] == 2 for row in document["averages"])
    details = {score["method"]: score["details"] for score in document["scores"]}
    assert details["stbn-raw-xs"]["noise_floor"] > 0 and details["stbn-raw-xs"]["chunk"] == 2, "whole clip"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 2 and {row["scene"] for row in rows} == {"7", "9"}


def test_the_table_stands_beside_quoted_numbers(
    stbn: Callable, crvd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("bm3d") is None:
        asked = stbn("bench", "crvd", "--data", crvd, "--rivals", "bm3d")
        assert asked.code == 2 and "pip install bm3d" in asked.err
    monkeypatch.setenv("STBN_DATA", str(crvd))
    outcome = stbn("bench", "crvd", "--frames", "1", "--device", "cpu", "--rivals", "none", "--quiet")
    assert outcome.code == 0, outcome.err
    assert "stbn-raw-xs*" in outcome.out and "25 of 25 parts" in outcome.out
    assert outcome.out.index("45.77") > outcome.out.index("Quoted, not measured: PSNR on raw of CRVD")
    assert "not comparable" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--sigma", "10"), 2, "--sigma: crvd is real video"),
        (("--seed", "0"), 2, "--seed: crvd is real video"),
        (("--report", "page.html"), 2, "--report"),
        (("--save-frames", "frames"), 2, "--save-frames"),
        (("--rivals", "opencv"), 2, "bm3d"),
        (("--model", "stbn-xs"), 2, "Nothing to measure"),
        (("other.mkv",), 2, "Give crvd alone"),
    ],
)
def test_what_crvd_has_no_use_for_is_refused(
    stbn: Callable, crvd: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    outcome = stbn("bench", "crvd", *arguments, "--data", crvd)
    assert outcome.code == code and word in outcome.err
