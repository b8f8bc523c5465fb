"""`stbn finetune` and `stbn denoise --adapt` on small noisy clips: files, JSON, refusals, interruption."""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.cli.progress import FinetuneDisplay
from stbn_cli.errors import InputError
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.result import FinetuneProgress
from stbn_cli.jobs import adapt
from stbn_cli.jobs.finetune import FinetuneJob
from tests.cli.conftest import Outcome, save_tiny_model
from tests.cli.test_errors import assert_refused
from tests.cli.test_startup import PROBE
from tests.conftest import PATIENCE
from tests.finetuning.test_frame_to_frame import save_recurrent
from tests.networks import TINY

Stbn = Callable[..., Outcome]

SIGMA = 25  # 0-255 scale
SIDE, FRAMES = 48, 3
SMALL = ("--batch-size", 1, "--patch-size", 32, "--train-length", 2, "--precision", "fp32")
KNOWN = ("--sigma", SIGMA)
FFV1 = ("--codec", "ffv1")  # of videos that hold 16 bits
# Enough for the tiny random model to improve.
ENOUGH = ("--steps", 8, "--lr", 5e-3)


def noisy_frames(*, side: int = SIDE, frames: int = FRAMES, blur: bool = False) -> np.ndarray:
    """A texture that moves by a pixel a frame, with noise, (T, side, side, 3) uint16; `blur`: the noise alone."""
    random = np.random.default_rng(0)
    room = side + frames
    scene = cv2.resize(random.random((room // 8, room // 8, 3)), (room, room), interpolation=cv2.INTER_CUBIC)
    clean = np.stack([scene[index : index + side, index : index + side] for index in range(frames)])
    noise = random.standard_normal(clean.shape) * SIGMA / 255
    if blur:
        noise = 3 * np.stack([cv2.blur(frame, (3, 3)) for frame in noise])
    return np.rint(65535 * (0.3 + 0.4 * clean.clip(0, 1) + noise).clip(0, 1)).astype(np.uint16)


def write_frames(folder: Path, frames: np.ndarray) -> Path:
    """16-bit PNG files `000.png`, ..."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), frame)
    return folder


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """A folder of noisy frames."""
    return write_frames(tmp_path / "shots", noisy_frames())


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return all(torch.equal(first[name], second[name]) for name in first)


def pressing_ctrl_c_at(step: int, monkeypatch: pytest.MonkeyPatch, phase: str = "training") -> None:
    """Have the user press Ctrl-C when the display shows this step of finetuning."""
    show = FinetuneDisplay.__call__

    def shown(self: FinetuneDisplay, progress: FinetuneProgress) -> None:
        show(self, progress)
        if (progress.phase, progress.step) == (phase, step):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(FinetuneDisplay, "__call__", shown)


def test_the_finetuned_model_denoises(stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    model, picture = tmp_path / "mine.safetensors", tmp_path / "gain.png"
    arguments = ("--model", tiny_model_path, *SMALL, *KNOWN, *ENOUGH)
    result = stbn("finetune", shots, "-o", model, *arguments, "--preview", picture)
    assert result.code == 0, result.err
    assert result.out == ""
    last = result.err.splitlines()[-1]
    assert (
        str(model) in last
        and "dB" in last
        and "by its own estimate" in last
        and "8 steps on 3 frames" in last
    )
    assert names_in(tmp_path) == {"shots", model.name, picture.name}

    shown = cv2.imread(str(picture))
    assert shown is not None and shown.std() > 0
    height, width = shown.shape[:2]
    assert height >= SIDE and width > 3 * height, "three panels of a square crop"

    denoised = stbn("denoise", shots, "-o", tmp_path / "out.mkv", *FFV1, "--model", model, "--json", "-q")
    assert denoised.code == 0, denoised.err
    document = json.loads(denoised.out)
    assert document["model"] == model.stem and document["warnings"] == []
    (scene,) = document["scenes"]
    assert scene["learned"] and not scene["estimated"] and scene["level"] == pytest.approx(SIGMA, abs=0.01)


def test_json_is_one_document_on_stdout(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    model = tmp_path / "mine.safetensors"
    arguments = ("finetune", shots, "-o", model, "--model", tiny_model_path, *SMALL, *KNOWN, *ENOUGH)
    result = stbn(*arguments, "--json")
    assert result.code == 0, result.err
    for phase in ("reading", "measuring the noise", "finding motion", "training"):
        assert any(phase in line for line in result.err.splitlines())
    document = json.loads(result.out)
    assert document["output"] == str(model) and document["against"] == "tiny"
    assert document["outcome"] == "improved" and document["improved"] and document["finished"]
    assert document["estimated_gain_db"] > 0 and document["standard_error_db"] >= 0
    assert (document["steps"], document["frames"], document["interrupted"]) == (8, FRAMES, False)
    assert document["noise_level"] == pytest.approx(SIGMA)
    assert document["assumed"]["sigma_by_brightness"] == [[pytest.approx(SIGMA)]]
    assert document["noise"]["kind"] in ("white", "sensor") and not document["noise"]["shared_by_neighbours"]
    assert document["explanation"] is None and not document["flow_distilled"]
    (told,) = load_checkpoint(model).info.training["finetuning"]
    assert told["estimated_gain_db"] == document["estimated_gain_db"]

    # Quiet, and from the same seed.
    quiet = stbn(*arguments, "--json", "--quiet", "--overwrite")
    assert (quiet.code, quiet.err) == (0, "")
    again = json.loads(quiet.out)
    assert {**again, "seconds": 0} == {**document, "seconds": 0}


def test_quiet_says_nothing(stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    arguments = ("-o", tmp_path / "m.safetensors", "-m", tiny_model_path, *SMALL, *KNOWN)
    assert stbn("finetune", shots, *arguments, "--steps", 1, "-q") == Outcome(0, "", "")


def test_the_default_output_lies_beside_the_first_clip(
    stbn: Stbn, shots: Path, make_clip: Callable[..., Path], tiny_model_path: Path
) -> None:
    clip = make_clip(width=64, height=48, frames=2, pix_fmt="yuv444p")
    arguments = ("--model", tiny_model_path, *SMALL, "--steps", 1, *KNOWN)
    assert stbn("finetune", clip, shots, *arguments).code == 0
    assert names_in(clip.parent) == {clip.name, shots.name, "clip.finetuned.safetensors"}
    assert stbn("finetune", shots, *arguments).code == 0
    assert "shots.finetuned.safetensors" in names_in(shots.parent) and len(names_in(shots)) == FRAMES
    again = stbn("finetune", shots, *arguments)
    assert_refused(again, 6, "--overwrite")


def test_only_the_part_asked_for_is_learned_from(
    stbn: Stbn, make_clip: Callable[..., Path], tiny_model_path: Path, tmp_path: Path
) -> None:
    clip = make_clip(width=64, height=48, frames=10, pix_fmt="yuv444p")
    arguments = ("-o", tmp_path / "m.safetensors", "-m", tiny_model_path, *SMALL, *KNOWN, "--steps", 1)
    result = stbn("finetune", clip, *arguments, "--start", "0.08", "--end", "0:00.28", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["frames"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("-o", "model.pth"), 2, ".safetensors"),
        (("-o", "no/model.safetensors"), 6, "does not exist"),
        (("--preview", "picture.gif"), 2, ".png"),
        (("--minutes", "0"), 2, "--minutes"),
        (("--minutes", "nan"), 2, "--minutes"),
        (("--sigma", "0"), 2, "noise level"),
        (("--sigma", "256"), 2, "--sigma"),
        (("--sigma", "loud"), 2, "--sigma"),
        (("--lr", "0"), 2, "--lr"),
        (("--patch-size", "8"), 2, "--patch-size"),
        (("--start", "soon"), 2, "--start"),
        (("--device", "abacus"), 2, "abacus"),
        (("--flow", "river"), 2, "river"),
        (("--model", "no-such-model"), 4, "no-such-model"),
        (("--resume",), 3, "no interrupted run"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    stbn: Stbn,
    shots: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(stbn("finetune", shots, "--model", tiny_model_path, *arguments), code, word)
    assert names_in(tmp_path) == {"shots"}


def test_clips_that_cannot_be_are_refused(
    stbn: Stbn, shots: Path, make_clip: Callable[..., Path], tiny_model_path: Path, tmp_path: Path
) -> None:
    model = ("-o", tmp_path / "m.safetensors", "-m", tiny_model_path, *SMALL)
    assert_refused(stbn("finetune", tmp_path / "no.mp4", *model), 3, "no.mp4")
    assert_refused(stbn("finetune", shots, tmp_path / "no.mp4", *model, "--steps", 1), 3, "no.mp4")
    assert_refused(stbn("finetune", make_clip(), *model), 3, "32x24", "at least 32x32")
    assert stbn("finetune").code == 2
    assert not (tmp_path / "m.safetensors").exists()


def test_a_raw_model_is_refused(stbn: Stbn, shots: Path, tmp_path: Path) -> None:
    config = replace(TINY, head="plain", image_channels=4, noise_level=False)
    raw = save_tiny_model(tmp_path / "raw.safetensors", config)
    assert_refused(stbn("finetune", shots, "-m", raw, "-o", tmp_path / "m.safetensors"), 4, "raw pictures")


@pytest.mark.parametrize("kind", ["camera", "compressed"])
def test_models_for_correlated_noise_are_no_start(stbn: Stbn, shots: Path, tmp_path: Path, kind: str) -> None:
    start = save_tiny_model(tmp_path / "start.safetensors", noise_kind=kind)
    done = stbn("finetune", shots, "-m", start, "-o", tmp_path / "out.safetensors", "--steps", "1")
    assert done.code == 2 and f"is for {kind} noise" in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_exist_are_kept_unless_overwrite(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    model, picture = tmp_path / "m.safetensors", tmp_path / "p.jpg"
    model.write_bytes(b"precious")
    arguments = ("finetune", shots, "-o", model, "-m", tiny_model_path, *SMALL, *KNOWN, *ENOUGH)
    assert_refused(stbn(*arguments), 6, "--overwrite")
    assert model.read_bytes() == b"precious"
    model.unlink()
    picture.write_bytes(b"precious")
    assert_refused(stbn(*arguments, "--preview", picture), 6, "--overwrite")
    assert picture.read_bytes() == b"precious" and not model.exists()
    assert stbn(*arguments, "--preview", picture, "--overwrite").code == 0
    assert cv2.imread(str(picture)) is not None and load_checkpoint(model).info.noise is not None


def test_correlated_noise_is_explained_and_nothing_learned(
    stbn: Stbn, tiny_model_path: Path, tmp_path: Path
) -> None:
    shots = write_frames(tmp_path / "blurred", noisy_frames(side=96, frames=4, blur=True))
    model = tmp_path / "m.safetensors"
    result = stbn("finetune", shots, "-o", model, "-m", tiny_model_path, *SMALL, *ENOUGH, "--json", "-q")
    assert result.code == 0
    (warning,) = result.err.splitlines()
    assert warning.startswith("Warning: ") and "spread over neighbouring pixels" in warning
    document = json.loads(result.out)
    assert document["outcome"] == "correlated noise" and not document["improved"] and document["steps"] == 0
    assert document["explanation"] in warning and document["noise_correlation"]["luma"] > 0.3
    assert same_weights(model, tiny_model_path) and load_checkpoint(model).info.name == "tiny"


def test_shared_noise_in_too_few_frames_is_explained_and_nothing_learned(stbn: Stbn, tmp_path: Path) -> None:
    shots = write_frames(tmp_path / "blurred", noisy_frames(side=96, frames=4, blur=True))
    model, start = tmp_path / "m.safetensors", save_recurrent(tmp_path / "start.safetensors")
    result = stbn("finetune", shots, "-o", model, "-m", start, *SMALL, *ENOUGH, "--json", "-q")
    assert result.code == 0
    (warning,) = result.err.splitlines()
    document = json.loads(result.out)
    assert document["outcome"] == "too short" and not document["improved"] and document["steps"] == 0
    assert "six frames" in warning and document["explanation"] in warning
    assert same_weights(model, start) and load_checkpoint(model).info.name == "tiny-real"


def test_ctrl_c_keeps_the_best_so_far_and_the_run_can_go_on(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.safetensors"
    arguments = ("finetune", shots, "-o", model, "-m", tiny_model_path, *SMALL, *KNOWN, *ENOUGH)
    with monkeypatch.context() as patched:
        pressing_ctrl_c_at(5, patched)
        result = stbn(*arguments, "--json")
    assert result.code == 130 and "Traceback" not in result.err
    assert "after 5 steps" in result.err and "--resume" in result.err
    document = json.loads(result.out)
    assert document["interrupted"] and not document["finished"] and document["improved"]
    assert names_in(tmp_path) == {"shots", model.name, "m.resume.pt"}
    assert stbn("denoise", shots, "-o", tmp_path / "out.mkv", "-m", model).code == 0

    assert_refused(stbn(*arguments, "--resume", "--steps", 12), 3, "8 steps planned, not 12")
    with monkeypatch.context() as patched:
        pressing_ctrl_c_at(0, patched, "finding motion")
        assert "--resume still continues the run before" in stbn(*arguments, "--resume").err
    resumed = stbn(*arguments, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    document = json.loads(resumed.out)
    assert document["finished"] and document["steps"] == 8
    assert not (tmp_path / "m.resume.pt").exists()


def test_ctrl_c_before_training_writes_nothing(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressing_ctrl_c_at(0, monkeypatch, phase="measuring the noise")
    result = stbn("finetune", shots, "-o", tmp_path / "m.safetensors", "-m", tiny_model_path, *SMALL, *ENOUGH)
    assert result.code == 130 and "Nothing was written" in result.err
    assert names_in(tmp_path) == {"shots"}


@pytest.fixture
def brief_adapting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stbn denoise --adapt` makes the steps of ENOUGH, however long they take."""
    brief = {"steps": 8, "learning_rate": 5e-3, "batch_size": 1, "patch_size": 32, "train_length": 2}
    monkeypatch.setattr(adapt, "FinetuneOptions", functools.partial(FinetuneOptions, **brief))


def pictures_in(folder: Path) -> list[np.ndarray]:
    return [np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in sorted(folder.iterdir())]


def test_adapting_is_finetuning_and_then_denoising(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path, brief_adapting: None
) -> None:
    common = ("--precision", "fp32", "--model", tiny_model_path, *KNOWN)
    adapted = stbn("denoise", shots, "-o", tmp_path / "adapted/", "--adapt", *common, "--json")
    assert adapted.code == 0, adapted.err
    document = json.loads(adapted.out)
    assert document["adaptation"]["improved"] and document["adaptation"]["steps"] == 8
    assert document["adaptation"]["against"] == "tiny" and document["model"] == "tiny-finetuned"
    assert [scene["learned"] for scene in document["scenes"]] == [True]
    assert "Adapted: " in adapted.err and "training" in adapted.err
    assert names_in(tmp_path) == {"shots", "adapted"}, "the model was for this clip alone"

    model = tmp_path / "m.safetensors"
    assert stbn("finetune", shots, "-o", model, *common, *SMALL[:6], *ENOUGH).code == 0
    assert stbn("denoise", shots, "-o", tmp_path / "twice/", "-m", model, "--precision", "fp32").code == 0
    plain = stbn("denoise", shots, "-o", tmp_path / "plain/", *common, "--json")
    assert plain.code == 0 and "adaptation" not in json.loads(plain.out)
    outputs = [pictures_in(tmp_path / name) for name in ("adapted", "twice", "plain")]
    assert all(np.array_equal(one, other) for one, other in zip(outputs[0], outputs[1], strict=True))
    assert not np.array_equal(outputs[0][0], outputs[2][0])


def test_adapting_takes_the_time_it_is_given(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    arguments = ("-m", tiny_model_path, *KNOWN, "--precision", "fp32", "--adapt", "--adapt-minutes", "0.01")
    result = stbn("denoise", shots, "-o", tmp_path / "out.mkv", *FFV1, *arguments, "--json", "-q")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    improved = document["adaptation"]["improved"]
    if document["adaptation"]["steps"] == 0:
        assert "left no time to learn. Give at least 1 minute." in result.err and result.err.count("\n") == 1
    assert document["model"] == ("tiny-finetuned" if improved else "tiny")
    assert document["scenes"][0]["learned"] is improved
    assert (tmp_path / "out.mkv").stat().st_size > 0


def test_ctrl_c_while_adapting_ends_that_alone(
    stbn: Stbn,
    shots: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    brief_adapting: None,
) -> None:
    pressing_ctrl_c_at(5, monkeypatch)
    arguments = ("--adapt", "-m", tiny_model_path, *KNOWN, "--precision", "fp32", "--json")
    result = stbn("denoise", shots, "-o", tmp_path / "out.mkv", *arguments)
    assert result.code == 0, result.err
    adaptation = json.loads(result.out)["adaptation"]
    assert adaptation["interrupted"] and adaptation["steps"] == 5
    assert "Adapting interrupted; using the best model so far" in result.err
    assert names_in(tmp_path) == {"shots", "out.mkv"}


def test_adapting_to_correlated_noise_denoises_with_the_start(
    stbn: Stbn, tiny_model_path: Path, tmp_path: Path, brief_adapting: None
) -> None:
    shots = write_frames(tmp_path / "blurred", noisy_frames(side=96, frames=4, blur=True))
    common = ("-m", tiny_model_path, *KNOWN, "--precision", "fp32", "--json", "-q")
    result = stbn("denoise", shots, "-o", tmp_path / "adapted/", "--adapt", *common)
    assert result.code == 0 and "spread over neighbouring pixels" in result.err
    document = json.loads(result.out)
    assert document["model"] == "tiny" and any("neighbouring pixels" in text for text in document["warnings"])
    assert document["adaptation"]["outcome"] == "correlated noise"
    assert stbn("denoise", shots, "-o", tmp_path / "plain/", *common).code == 0
    outputs = [pictures_in(tmp_path / name) for name in ("adapted", "plain")]
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))


def test_a_dry_run_adapts_nothing(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(FinetuneJob, "run", lambda *arguments: calls.append(arguments))
    arguments = ("denoise", shots, "-o", tmp_path / "out.mkv", "-m", tiny_model_path, "--dry-run", "--json")
    for options, minutes in (
        ((), None),
        (("--adapt",), 10.0),
        (("--adapt", "--adapt-minutes", "0.5"), 0.5),
    ):
        result = stbn(*arguments, *options)
        assert result.code == 0, result.err
        assert json.loads(result.out)["adapt_minutes"] == minutes
    assert calls == [] and names_in(tmp_path) == {"shots"}


def test_when_adapting_fails_nothing_is_written(
    stbn: Stbn, shots: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("Nothing to learn from.")

    monkeypatch.setattr(FinetuneJob, "run", fail)
    result = stbn("denoise", shots, "-o", tmp_path / "out.mkv", "-m", tiny_model_path, "--adapt")
    assert_refused(result, 3, "Nothing to learn from")
    assert names_in(tmp_path) == {"shots"}


def test_help_is_complete_and_light(stbn: Stbn) -> None:
    text = stbn("finetune", "--help-all").out
    for word in ("--from-scratch", "--resume", "--preview", "stbn finetune clip.mp4"):
        assert word in text
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "finetune", "--help"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]
