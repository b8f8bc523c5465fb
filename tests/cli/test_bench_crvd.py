"""`stbn bench crvd` as a user meets it."""

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stbn_cli.bench.isolation import Measurement, MethodFailedError
from stbn_cli.bench.methods import Method
from stbn_cli.bench.rivals.raw_bm3d import denoise_raw
from stbn_cli.raw.noise import CRVD_NOISE, add_noise
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
    assert "missing: scene7-iso1600 (4 of 7 frames), scene7-iso3200, " in outcome.err
    assert (
        "(4 of 7 frames), scene8, scene9-iso1600" in outcome.err and ", scene10, scene11. CRVD" in outcome.err
    )
    document = json.loads(outcome.out)
    assert document["measured_on"] == "CRVD" and document["isos"] == [1600, 25600]
    assert document["quoted"][0]["psnr"]["25600"] == 42.91
    found = {(row["method"], row["iso"]): row for row in document["averages"]}
    methods = ("noisy", "official", "stbn-raw-xs")
    assert set(found) == {(method, iso) for method in methods for iso in (1600, 25600)}
    assert found["noisy", 1600]["psnr"] > found["noisy", 25600]["psnr"] + 8
    assert found["stbn-raw-xs", 25600]["psnr"] > found["noisy", 25600]["psnr"] + 1
    assert found["stbn-raw-xs", 25600]["rgb_ssim"] > found["noisy", 25600]["rgb_ssim"]
    assert all(row["partial"] and row["scenes"] == 2 for row in document["averages"])
    details = {score["method"]: score["details"] for score in document["scores"]}
    assert details["stbn-raw-xs"]["noise_gain"] > 0 and details["stbn-raw-xs"]["chunk"] == 2, "whole clip"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 2 and {row["scene"] for row in rows} == {"7", "9"}


class InProcess:
    """Stands in for `IsolatedMethods`: half of every value, at once."""

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, method: Method, noisy: np.ndarray, level: float) -> Measurement:
        if level == 25600:
            raise MethodFailedError("It broke.")
        return Measurement(0.5 * noisy, 1.0, None, None, {})


def test_the_table_stands_beside_quoted_numbers(
    stbn: Callable, crvd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stbn_cli.bench.crvd.IsolatedMethods", InProcess)
    monkeypatch.setenv("STBN_DATA", str(crvd))
    outcome = stbn("bench", "crvd", "--frames", "1", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "ISO 25600: It broke." in outcome.err
    assert "stbn-raw-xs*" in outcome.out and "25 of 25 parts" in outcome.out
    assert outcome.out.index("45.77") > outcome.out.index("Quoted, not measured: PSNR on raw of CRVD")
    assert "not comparable" in outcome.out


@pytest.mark.skipif(importlib.util.find_spec("bm3d") is not None, reason="the package is there")
def test_bm3d_that_is_not_there(stbn: Callable, crvd: Path) -> None:
    asked = stbn("bench", "crvd", "--data", crvd, "--rivals", "bm3d")
    assert asked.code == 2 and "pip install bm3d" in asked.err


def test_bm3d_is_told_the_noise_of_the_iso(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package: what it gets is white, and what it gives comes back without bias."""
    seen: list[float] = []

    def smoothed(planes: np.ndarray, sigma: float, profile: object) -> np.ndarray:
        seen.append(float(planes.std((0, 1)).mean() / sigma))
        return np.broadcast_to(planes.mean((0, 1)), planes.shape)

    package = SimpleNamespace(bm3d=smoothed, BM3DProfileVN=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "bm3d", package)
    for iso, noise in CRVD_NOISE.items():
        clean = torch.tensor([0.05, 0.2, 0.21, 0.1]).expand(1, 128, 128, 4)
        noisy = add_noise(clean, noise, torch.Generator().manual_seed(iso)).numpy()
        denoised = denoise_raw(noisy, noise)
        assert seen[-1] == pytest.approx(1.0, abs=0.03)
        assert np.allclose(denoised, clean, atol=4 * noise.deviation(0.21 * np.ones(1))[0] / 128)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--sigma", "10"), 2, "--sigma: crvd is real video"),
        (("--seed", "0"), 2, "--seed: crvd is real video"),
        (("--report", "page.html"), 2, "--report"),
        (("--save-frames", "frames"), 2, "--save-frames"),
        (("--rivals", "opencv"), 2, "bm3d"),
        (("other.mkv",), 2, "Give crvd alone"),
    ],
)
def test_what_crvd_has_no_use_for_is_refused(
    stbn: Callable, crvd: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    outcome = stbn("bench", "crvd", *arguments, "--data", crvd)
    assert outcome.code == code and word in outcome.err


def test_a_folder_of_crvd_is_recognised(stbn: Callable, crvd: Path) -> None:
    for folder in (crvd, crvd / "indoor_raw_noisy"):
        outcome = stbn("bench", folder)
        assert outcome.code == 3 and f"stbn bench crvd --data {folder}" in outcome.err
