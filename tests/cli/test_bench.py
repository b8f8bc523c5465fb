"""`stbn bench` as a user meets it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stbn_cli.bench.isolation import MethodFailedError
from tests.conftest import PATIENCE


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of two tiny clips: frames of moving texture."""
    generator = np.random.default_rng(0)
    for name, count in (("lake", 4), ("street", 3)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        texture = cv2.GaussianBlur(generator.random((40, 80, 3)), (0, 0), 2.0)
        texture = (texture - texture.min()) / np.ptp(texture)
        for index in range(count):
            picture = np.rint(255 * texture[:, index : index + 64]).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "clips" / name / f"{index}.png"), picture)
    return tmp_path / "clips"


def test_scores_of_a_model(stbn: Callable, clips: Path, tiny_model_path: Path) -> None:
    outcome = stbn(
        "bench", clips, "--model", tiny_model_path, "--sigma", "10,30", "--json", "--device", "cpu"
    )
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["clips"] == ["lake", "street"]
    assert document["missing"] == [] and document["quoted"] == []
    assert document["seed"] == 0
    assert {"stbn", "torch", "command", "processors"} <= set(document["environment"])
    found = {(row["method"], row["sigma"]): row for row in document["averages"]}
    assert set(found) == {(method, sigma) for method in ("noisy", "tiny") for sigma in (10.0, 30.0)}
    # Clipping takes a little of the noise away: 20 log10(255 / 30) = 18.6 dB is the least.
    assert 18.5 < found["noisy", 30.0]["psnr"] < 20.5
    run = next(score for score in document["scores"] if score["method"] == "tiny")
    assert run["seconds"] > 0
    assert run["details"]["chunk"] == run["frames"] == 4, "whole clip"
    assert [len(run["per_frame"][name]) for name in ("psnr", "ssim", "temporal_error")] == [4, 4, 3]
    assert "lake, sigma 10, tiny" in outcome.err


def test_table_and_files(stbn: Callable, clips: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    table, page, saved = tmp_path / "scores.csv", tmp_path / "report.html", tmp_path / "saved"
    outcome = stbn(
        *(
            "bench",
            clips / "lake",
            "--model",
            tiny_model_path,
            "--sigma",
            "20",
            "--frames",
            "2",
            "--streaming",
        ),
        *("--csv", table, "--report", page, "--save-frames", saved, "--quiet"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "PSNR, dB" in outcome.out and "tiny" in outcome.out
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["clip"], row["sigma"], row["frame"]) for row in rows] == [
        (method, "lake", "20", frame) for method in ("noisy", "tiny") for frame in "01"
    ]
    assert all(float(row["psnr"]) > 5 for row in rows)
    assert "tiny" in page.read_text(encoding="utf-8")
    assert len(list((saved / "lake" / "sigma20" / "tiny").glob("*.png"))) == 2
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_partial_data_sets_say_so(
    stbn: Callable, clips: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips / "lake").rename(clips / "rafting")
    monkeypatch.setenv("STBN_DATA", str(clips))
    outcome = stbn("bench", "set8", "--model", tiny_model_path, "--sigma", "10")
    assert outcome.code == 0, outcome.err
    assert (
        "7 sequences are missing" in outcome.err and "fastdvdnet" in outcome.err and "park_joy" in outcome.err
    )
    assert "tiny*" in outcome.out and "1 of 8" in outcome.out
    quoted = outcome.out.index("Quoted, not measured")
    assert outcome.out.index("32.76") > quoted, "quoted numbers stand in their own table"


def test_folders_of_frames_need_no_pyav(clips: Path, tiny_model_path: Path) -> None:
    code = "import sys; sys.modules['av'] = None; from stbn_cli.cli.app import main; sys.exit(main(sys.argv[1:]))"
    arguments = (
        "bench",
        clips / "lake",
        "--model",
        tiny_model_path,
        "--sigma",
        "10",
        "--frames",
        "2",
        "--json",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["averages"]) == 2


def test_fails_if_the_only_model_failed(
    stbn: Callable, clips: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MethodFailedError("memory ran out")

    monkeypatch.setattr("stbn_cli.bench.isolation.IsolatedMethod.__call__", fail)
    outcome = stbn("bench", clips, "--model", tiny_model_path, "--sigma", "10")
    assert outcome.code == 1 and "Error: No method could be measured: memory ran out" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("set8",), 3, "STBN_DATA"),
        (("set8", "--data", "/nowhere"), 3, "https://"),
        (("/nowhere.mp4",), 3, "nowhere"),
        (("--sigma", "ten"), 2, "--sigma"),
        (("--sigma", "auto"), 2, "--sigma"),
        (("--sigma", "0,10"), 2, "above 0"),
        (("--rivals", "magic"), 2, "nlmeans"),
        (("--model", "none"), 2, "Nothing to measure"),
        (("--model", "unheard-of"), 4, "unheard-of"),
        (("--report", "/nowhere/page.html"), 6, "does not exist"),
    ],
)
def test_refusals(
    stbn: Callable, monkeypatch: pytest.MonkeyPatch, arguments: tuple, code: int, words: str
) -> None:
    monkeypatch.delenv("STBN_DATA", raising=False)
    outcome = stbn("bench", *arguments)
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert outcome.out == ""


def test_existing_files_are_kept_and_the_alias_works(
    stbn: Callable, clips: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("mine")
    arguments = (clips / "street", "--model", tiny_model_path, "--sigma", "30", "--csv", table)
    outcome = stbn("bench", *arguments)
    assert outcome.code == 6 and "--overwrite" in outcome.err
    assert table.read_text() == "mine"
    outcome = stbn("test", *arguments, "--overwrite", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["sigmas"] == [30.0]
    assert table.read_text().startswith("method,")


def test_unreadable_clips_are_refused_before_the_work(
    stbn: Callable, clips: Path, tiny_model_path: Path
) -> None:
    bad = clips / "bad.mkv"
    bad.write_bytes(b"no video")
    outcome = stbn("bench", clips / "lake", bad, "--model", tiny_model_path, "--sigma", "10")
    assert outcome.code == 3 and "bad.mkv" in outcome.err
    assert "frames/s" not in outcome.err


def test_models_of_one_name_are_refused(stbn: Callable, tiny_model_path: Path, tmp_path: Path) -> None:
    other = tmp_path / tiny_model_path.name
    other.write_bytes(tiny_model_path.read_bytes())
    outcome = stbn("bench", "--model", tiny_model_path, "--model", other)
    assert outcome.code == 2 and "Rename" in outcome.err
