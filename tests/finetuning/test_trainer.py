"""A model learns from noisy frames alone, repeats itself exactly, and is never left worse than it was."""

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.api import load_denoiser
from stbn_cli.checkpoints.serial import load_checkpoint, save_checkpoint
from stbn_cli.errors import CheckpointError, InputError
from stbn_cli.finetuning import selection
from stbn_cli.finetuning.plan import FinetuneSchedule
from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult, Outcome
from stbn_cli.noise.model import LearnedNoise
from tests.cli.conftest import save_tiny_model
from tests.finetuning.runs import finetune_with

SIGMA = 25.0  # 0-255 scale, as all noise levels here
CHANNEL_SIGMAS = (10.0, 20.0, 40.0)
CHANNEL_STEPS = {"steps": 16, "learning_rate": 1e-2}
# Runs of a second or less.
SMALL = {
    "device": "cpu",
    "precision": "fp32",
    "flow": "none",
    "batch_size": 1,
    "patch_size": 32,
    "train_length": 2,
}
BRISK = {"steps": 5, "learning_rate": 5e-3}
SEED = 10


class Lesson(NamedTuple):
    """A finetuning run and what it was made with."""

    start: Path
    output: Path
    clean: list[np.ndarray]
    noisy: list[np.ndarray]
    result: FinetuneResult
    told: list[FinetuneProgress]


def textured(seed: int, cell: int, side: int = 48, frames: int = 3) -> np.ndarray:
    """A clean clip (T, side, side, 3) float32: a smooth random texture that moves by a pixel a frame."""
    room = side + frames
    coarse = np.random.default_rng(seed).random((room // cell, room // cell, 3))
    scene = cv2.resize(coarse, (room, room), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    clip = [scene[index : index + side, index : index + side] for index in range(frames)]
    return (0.2 + 0.6 * np.stack(clip)).astype(np.float32)


def white(shape: tuple[int, ...], sigma: float | tuple[float, ...] = SIGMA, seed: int = SEED) -> np.ndarray:
    """White Gaussian noise, float32; `sigma` of all channels or of each."""
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return noise * np.asarray(sigma, np.float32) / np.float32(255)


def noised(clean: np.ndarray, sigma: float | tuple[float, ...] = SIGMA, seed: int = SEED) -> np.ndarray:
    return clean + white(clean.shape, sigma, seed)


def learn(clips: np.ndarray | list[np.ndarray], output: Path, model: Path, **options) -> FinetuneResult:
    """A small run; the later of equally named options counts."""
    return finetune_with(clips, output, model=model, **{**SMALL, **BRISK, **options})


def denoise(model: Path, clips: list[np.ndarray], **options) -> list[np.ndarray]:
    denoiser = load_denoiser(model, device="cpu", precision="fp32", **options)
    return [denoiser(clip) for clip in clips]


def psnr(found: list[np.ndarray], clean: list[np.ndarray]) -> float:
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(found, clean, strict=True)]
    return float(-10 * np.log10(np.mean(errors)))


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def same_models(one: Path, other: Path) -> bool:
    """Whether two files are the same, byte for byte."""
    return one.read_bytes() == other.read_bytes()


def interrupt_at(step: int, phase: str = "training") -> Callable[[FinetuneProgress], None]:
    """A progress callback that presses Ctrl-C."""

    def press(progress: FinetuneProgress) -> None:
        if (progress.phase, progress.step) == (phase, step):
            os.kill(os.getpid(), signal.SIGINT)

    return press


def state_of(output: Path) -> Path:
    return output.with_suffix(".resume.pt")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """A tiny random model that learned from two detailed clips with a known noise level."""
    folder = tmp_path_factory.mktemp("lesson")
    start, output = save_tiny_model(folder / "tiny.safetensors"), folder / "taught.safetensors"
    clean = [textured(seed, cell=5) for seed in (0, 1)]
    noisy = [noised(clip) for clip in clean]
    options = {"sigma": SIGMA, "steps": 50, "learning_rate": 1e-2, "batch_size": 2}
    told: list[FinetuneProgress] = []
    return Lesson(
        start, output, clean, noisy, learn(noisy, output, start, **options, progress=told.append), told
    )


@pytest.fixture(scope="module")
def taught(lesson: Lesson) -> Path:
    """That model, as if it had been trained by others: it knows of no footage."""
    checkpoint = load_checkpoint(lesson.output)
    info = dataclasses.replace(checkpoint.info, name="taught", training={}, noise=None)
    path = lesson.output.with_name("forgetful.safetensors")
    save_checkpoint(path, dataclasses.replace(checkpoint, info=info))
    return path


@pytest.fixture(scope="module")
def smooth_clips() -> list[np.ndarray]:
    """Clean clips unlike those of the lesson."""
    return [textured(seed, cell=14, side=72, frames=5) for seed in (10, 30)]


@pytest.fixture(scope="module")
def channel_lesson(
    taught: Path, smooth_clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Lesson:
    """What the taught model learned from clips with a noise level of its own in each channel, none of them told."""
    output = tmp_path_factory.mktemp("channels") / "mine.safetensors"
    noisy = [noised(clip, CHANNEL_SIGMAS) for clip in smooth_clips]
    result = learn(noisy, output, taught, **CHANNEL_STEPS)
    return Lesson(taught, output, smooth_clips, noisy, result, [])


def test_learning_brings_noisy_frames_nearer_to_the_truth(lesson: Lesson) -> None:
    assert lesson.result.outcome is Outcome.IMPROVED and lesson.result.improved
    assert lesson.result.finished and not lesson.result.interrupted and lesson.result.steps == 50
    assert lesson.result.gain is not None and lesson.result.gain.is_certain
    start = psnr(denoise(lesson.start, lesson.noisy, sigma=SIGMA), lesson.clean)
    assert psnr(denoise(lesson.output, lesson.noisy), lesson.clean) > max(
        start + 3, psnr(lesson.noisy, lesson.clean) + 3
    )


def test_footage_unlike_the_training_is_learned(channel_lesson: Lesson) -> None:
    assert channel_lesson.result.improved
    start, output, clean, noisy, *_ = channel_lesson
    assert psnr(denoise(output, noisy), clean) > psnr(denoise(start, noisy), clean) + 1


def test_the_same_seed_and_steps_give_the_same_model(lesson: Lesson, tmp_path: Path) -> None:
    one, again, other = (tmp_path / f"{name}.safetensors" for name in ("one", "again", "other"))
    for path, seed in ((one, 3), (again, 3), (other, 4)):
        assert learn(lesson.noisy, path, lesson.start, sigma=SIGMA, seed=seed).improved
    assert same_models(one, again) and not same_weights(one, other)


def test_integers_are_the_frames_that_they_stand_for(lesson: Lesson, tmp_path: Path) -> None:
    coded = [np.rint(clip.clip(0, 1) * 65535).astype(np.uint16) for clip in lesson.noisy]
    floats = [clip.astype(np.float32) / np.float32(65535) for clip in coded]
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    assert learn(coded, one, lesson.start, sigma=SIGMA, steps=4).improved
    assert learn(floats, other, lesson.start, sigma=SIGMA, steps=4).improved
    assert same_models(one, other)


def test_a_resumed_run_equals_an_unbroken_one(channel_lesson: Lesson, tmp_path: Path) -> None:
    start, whole, _, noisy, unbroken, _ = channel_lesson
    assert unbroken.improved and not state_of(whole).exists()
    broken = tmp_path / "broken.safetensors"
    # After the first look, while the noise is still being learned.
    result = learn(noisy, broken, start, **CHANNEL_STEPS, progress=interrupt_at(3))
    assert result.interrupted and not result.finished and result.steps == 3
    assert load_checkpoint(broken).config == load_checkpoint(start).config
    assert state_of(broken).is_file() and not same_models(whole, broken)
    resumed = learn(noisy, broken, start, **CHANNEL_STEPS, resume=True)
    assert resumed.finished and not resumed.interrupted and resumed.steps == unbroken.steps
    assert same_models(whole, broken)
    assert resumed.gain == unbroken.gain and resumed.noise == unbroken.noise
    assert list(tmp_path.iterdir()) == [broken]


def test_a_resumed_run_needs_what_it_began_with(lesson: Lesson, taught: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    options = {"sigma": SIGMA, "steps": 6}
    with pytest.raises(InputError, match="no interrupted run"):
        learn(lesson.noisy, output, taught, **options, resume=True)
    assert learn(lesson.noisy, output, taught, **options, progress=interrupt_at(4)).interrupted
    state = state_of(output).read_bytes()
    refusals: list[tuple[list[np.ndarray], Path, dict]] = [
        (lesson.noisy[:1], taught, {}),
        ([clip + np.float32(0.01) for clip in lesson.noisy], taught, {}),
        (lesson.noisy, lesson.start, {}),
        (lesson.noisy, taught, {"seed": 1}),
        (lesson.noisy, taught, {"sigma": None}),
        (lesson.noisy, taught, {"learning_rate": 1e-3}),
        (lesson.noisy, taught, {"from_scratch": True}),
    ]
    for clips, model, changes in refusals:
        with pytest.raises(InputError, match="other clips, options or another model"):
            learn(clips, output, model, **{**options, **changes}, resume=True)
        assert state_of(output).read_bytes() == state
    assert learn(lesson.noisy, output, taught, **options, resume=True).finished


def test_a_damaged_state_is_refused(lesson: Lesson, taught: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    learn(lesson.noisy, output, taught, sigma=SIGMA, progress=interrupt_at(2))
    whole = state_of(output).read_bytes()
    content = torch.load(state_of(output), weights_only=True)
    for raw in (b"", b"not a state", whole[:1000], whole[: len(whole) // 2]):
        state_of(output).write_bytes(raw)
        with pytest.raises(InputError, match="damaged"):
            learn(lesson.noisy, output, taught, sigma=SIGMA, resume=True)
    for changes in ({"version": 99}, {"schedule": {}}):
        torch.save({**content, **changes}, state_of(output))
        with pytest.raises(InputError, match="another version"):
            learn(lesson.noisy, output, taught, sigma=SIGMA, resume=True)
    for part in content["training"]:
        rest = {name: value for name, value in content["training"].items() if name != part}
        torch.save({**content, "training": rest}, state_of(output))
        with pytest.raises(InputError, match="does not fit"):
            learn(lesson.noisy, output, taught, sigma=SIGMA, resume=True)


def test_ctrl_c_before_the_first_step_writes_nothing(lesson: Lesson, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn(
            lesson.noisy, tmp_path / "m.safetensors", lesson.start, progress=interrupt_at(0, phase="reading")
        )
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_run_had_found_is_kept(lesson: Lesson, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    options = {"sigma": SIGMA, "steps": 30, "learning_rate": 1e-2}
    result = learn(lesson.noisy, output, lesson.start, **options, progress=interrupt_at(18))
    assert result.interrupted and result.improved and result.steps == 18
    assert load_checkpoint(output).info.training["finetuning"][-1]["kept_step"] < 18
    start = psnr(denoise(lesson.start, lesson.noisy, sigma=SIGMA), lesson.clean)
    assert psnr(denoise(output, lesson.noisy), lesson.clean) > start + 1


def test_training_that_diverges_leaves_the_model_as_it_was(
    lesson: Lesson, taught: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.safetensors"
    result = learn(lesson.noisy, output, taught, sigma=SIGMA, learning_rate=1.0)
    assert result.outcome is Outcome.NO_GAIN and not result.improved and result.steps == 5
    assert same_weights(output, taught)
    info, start = load_checkpoint(output).info, load_checkpoint(taught).info
    assert (info.name, info.noise, info.flow) == (start.name, start.noise, start.flow)
    for one, other in zip(denoise(output, lesson.noisy), denoise(taught, lesson.noisy), strict=True):
        assert np.array_equal(one, other)


def test_training_that_diverges_while_the_noise_is_learned_changes_no_weights(
    channel_lesson: Lesson, tmp_path: Path
) -> None:
    start, _, _, noisy, *_ = channel_lesson
    result = learn(noisy, tmp_path / "m.safetensors", start, learning_rate=1.0)
    assert result.finished and np.isfinite(result.noise.variances).all()
    assert same_weights(tmp_path / "m.safetensors", start)


def test_harm_done_late_does_not_undo_what_was_gained(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.safetensors"
    monkeypatch.setattr(FinetuneSchedule, "learning_rate_at", lambda self, step: 5e-3 if step < 6 else 1.0)
    result = learn(lesson.noisy, output, lesson.start, sigma=SIGMA, steps=8)
    assert result.improved and result.steps == 8
    assert 0 < load_checkpoint(output).info.training["finetuning"][-1]["kept_step"] <= 6
    start = psnr(denoise(lesson.start, lesson.noisy, sigma=SIGMA), lesson.clean)
    assert psnr(denoise(output, lesson.noisy), lesson.clean) > start + 1


def test_a_network_that_predicts_the_noise_is_given_up(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the noise were much stronger than it is: better predictions are too good to be true.
    monkeypatch.setattr(selection, "IDENTITY_FACTOR", 100.0)
    steps: list[int] = []
    clip = noised(textured(0, cell=14, side=96))
    output = tmp_path / "m.safetensors"
    tell = lambda told: steps.append(told.step)  # noqa: E731
    result = learn(clip, output, lesson.start, sigma=SIGMA, steps=20, learning_rate=1e-2, progress=tell)
    assert result.correlation is not None and result.correlation.reliable
    assert result.outcome is Outcome.IDENTITY and not result.improved
    assert 0 < result.steps == max(steps) < 20, "it ends at a look"
    assert same_weights(output, lesson.start) and not state_of(output).exists()


def test_nothing_is_learned_from_spatially_correlated_noise(taught: Path, tmp_path: Path) -> None:
    clean = textured(2, cell=14, side=96, frames=6)
    phases: set[str] = set()

    def outcome_of(noise: np.ndarray) -> FinetuneResult:
        phases.clear()
        output = tmp_path / "m.safetensors"
        tell = lambda told: phases.add(told.phase)  # noqa: E731
        return learn(clean + noise, output, taught, sigma=SIGMA, steps=1, overwrite=True, progress=tell)

    noise = white(clean.shape)
    assert outcome_of(noise).outcome is not Outcome.CORRELATED_NOISE and "training" in phases
    result = outcome_of(np.stack([cv2.blur(frame, (3, 3)) for frame in noise]) * 3)
    assert result.outcome is Outcome.CORRELATED_NOISE and "training" not in phases
    assert result.steps == 0 and result.gain is None and not result.improved
    assert result.correlation is not None and result.correlation.luma > 0.3
    assert same_weights(tmp_path / "m.safetensors", taught)
    assert load_checkpoint(tmp_path / "m.safetensors").info.noise is None


def test_noise_that_differs_between_channels_is_learned(channel_lesson: Lesson) -> None:
    _, output, clean, noisy, result, _ = channel_lesson
    description = load_checkpoint(output).info.noise
    assert description is not None
    learned = LearnedNoise.from_description(description)
    assert learned.model == result.noise and not learned.model.is_white
    brightness = torch.from_numpy(np.concatenate(clean)).permute(0, 3, 1, 2)
    found = learned.model.variance_at(brightness).expand_as(brightness).mean(dim=(0, 2, 3)).sqrt() * 255
    assert found.tolist() == pytest.approx(list(CHANNEL_SIGMAS), rel=0.2)
    rms = float(np.sqrt(np.mean(np.square(CHANNEL_SIGMAS))))
    assert result.level == pytest.approx(rms, rel=0.2)
    assert [len(row) for row in result.noise_levels()] == [len(result.noise.variances[0])] * 3

    denoiser = load_denoiser(output, device="cpu", precision="fp32")
    denoiser(noisy[0])
    (scene,) = denoiser.report.scenes
    assert scene.learned and not scene.estimated and 255 * scene.sigma == pytest.approx(rms, rel=0.2)
    assert not denoiser.report.messages


def test_a_given_noise_level_takes_the_place_of_the_learned_noise(
    channel_lesson: Lesson, tmp_path: Path
) -> None:
    _, output, _, noisy, *_ = channel_lesson
    checkpoint = load_checkpoint(output)
    forgetful = tmp_path / "forgetful.safetensors"
    save_checkpoint(
        forgetful,
        dataclasses.replace(checkpoint, info=dataclasses.replace(checkpoint.info, noise=None)),
    )
    told, expected = denoise(output, noisy[:1], sigma=30), denoise(forgetful, noisy[:1], sigma=30)
    assert np.array_equal(told[0], expected[0])
    assert not np.array_equal(told[0], denoise(output, noisy[:1])[0]), "the learned noise is another one"
    denoiser = load_denoiser(output, sigma=30, device="cpu", precision="fp32")
    denoiser(noisy[0])
    assert not denoiser.report.scenes[0].learned
    assert 255 * denoiser.report.scenes[0].sigma == pytest.approx(30)


def test_other_footage_is_noticed(channel_lesson: Lesson) -> None:
    messages: list[str] = []
    denoiser = load_denoiser(
        channel_lesson.output, device="cpu", precision="fp32", on_message=messages.append
    )
    denoiser(channel_lesson.noisy[1])
    assert messages == []
    denoiser(noised(channel_lesson.clean[1], 80.0))
    assert len(messages) == 1 and "other footage" in messages[0]


@pytest.mark.parametrize(
    "noise",
    [
        {},
        {"variances": [[0.01]]},
        {"variances": [[0.01]], "told": 2.0},
        {"variances": [[0.01], [0.01]], "told": 0.1},
        {"variances": [[-0.01]], "told": 0.1},
        {"variances": 7, "told": 0.1},
        {"variances": [["much"]], "told": 0.1},
    ],
)
def test_a_damaged_noise_in_the_header_is_refused(lesson: Lesson, tmp_path: Path, noise: dict) -> None:
    checkpoint = load_checkpoint(lesson.start)
    path = tmp_path / "m.safetensors"
    save_checkpoint(
        path, dataclasses.replace(checkpoint, info=dataclasses.replace(checkpoint.info, noise=noise))
    )
    with pytest.raises(CheckpointError, match="noise in the header"):
        load_denoiser(path, device="cpu")
    with pytest.raises(CheckpointError, match="noise in the header"):
        learn(lesson.noisy, tmp_path / "out.safetensors", path)


def test_from_scratch_is_compared_with_the_noisy_frames(lesson: Lesson, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    options = {"sigma": SIGMA, "steps": 20, "learning_rate": 1e-2, "from_scratch": True}
    result = learn(lesson.noisy, output, lesson.start, **options)
    assert result.improved and result.gain is not None and result.against == "the noisy frames"
    true = psnr(denoise(output, lesson.noisy), lesson.clean) - psnr(lesson.noisy, lesson.clean)
    assert true > 3 and result.gain.decibel == pytest.approx(true, abs=3)
    assert load_checkpoint(output).info.training["finetuning"][-1]["from"] == "random weights"

    # The weights of the model do not matter.
    checkpoint = load_checkpoint(lesson.start)
    changed = {name: tensor * 0.98 for name, tensor in checkpoint.weights.items()}
    save_checkpoint(tmp_path / "changed.safetensors", dataclasses.replace(checkpoint, weights=changed))
    learn(lesson.noisy, tmp_path / "other.safetensors", tmp_path / "changed.safetensors", **options)
    assert same_weights(output, tmp_path / "other.safetensors")


def test_the_header_tells_how_the_model_was_made(lesson: Lesson, tmp_path: Path) -> None:
    info = load_checkpoint(lesson.output).info
    (told,) = info.training["finetuning"]
    assert info.name == "tiny-finetuned" and info.flow == "none"
    assert (told["from"], told["seed"], told["steps"], told["planned_steps"]) == ("tiny", 0, 50, 50)
    assert told["outcome"] == "improved" and told["frames"] == 6 and told["noise_known"]
    assert told["estimated_gain_db"] > 0 and told["noise_level"] == pytest.approx(SIGMA)
    text = json.dumps(told)
    assert "/" not in text and lesson.output.parent.name not in text and ".safetensors" not in text
    assert not re.search(r"\d\d:\d\d|20\d\d-\d\d", text), "a time of day would make every file another one"

    again = tmp_path / "again.safetensors"
    learn(lesson.noisy, again, lesson.output, sigma=SIGMA, seed=8)
    history = load_checkpoint(again).info.training["finetuning"]
    assert [part["seed"] for part in history] == [0, 8] and history[0] == told
    assert history[1]["from"] == "tiny-finetuned" and load_checkpoint(again).info.name == "tiny-finetuned"


def test_clips_of_different_sizes_are_learned_together(lesson: Lesson, tmp_path: Path) -> None:
    clips = [lesson.noisy[0][:, :40], lesson.noisy[1][:2, :, :36], lesson.noisy[0][:1]]
    output = tmp_path / "m.safetensors"
    result = learn(clips, output, lesson.start, sigma=SIGMA, steps=16, learning_rate=1e-2)
    assert result.frames == 6 and result.improved
    shown = [lesson.clean[0][:, :40], lesson.clean[1][:2, :, :36], lesson.clean[0][:1]]
    assert psnr(denoise(output, clips), shown) > psnr(denoise(lesson.start, clips, sigma=SIGMA), shown) + 1


def test_a_single_frame_is_enough(lesson: Lesson, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    result = learn(lesson.noisy[0][:1], output, lesson.start, sigma=SIGMA, train_length=8)
    assert result.frames == 1 and result.finished
    assert result.correlation is not None and not result.correlation.reliable
    assert np.isfinite(denoise(output, [lesson.noisy[0][:1]])[0]).all()


def test_a_run_out_of_time_still_leaves_a_model(lesson: Lesson, tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    result = learn(lesson.noisy, output, lesson.start, sigma=SIGMA, steps=None, minutes=1e-6)
    assert not result.finished and not result.interrupted and not state_of(output).exists()
    assert result.improved or same_weights(output, lesson.start)


def test_progress_is_told_in_order(lesson: Lesson) -> None:
    assert list(dict.fromkeys(part.phase for part in lesson.told)) == [
        "measuring the noise",
        "reading",
        "finding motion",
        "training",
    ]
    training = [part for part in lesson.told if part.phase == "training"]
    assert [part.step for part in training] == list(range(1, 51)) and training[-1].steps == 50
    assert training[-1].gain is not None and training[-1].gain.decibel > 0
    assert all(part.seconds_left is None for part in lesson.told), "steps take as long as they take"


@pytest.mark.parametrize(
    ("clip", "word"),
    [
        (np.zeros((2, 31, 64, 3), np.float32), "at least 32x32"),
        (np.full((2, 40, 40, 3), np.nan, np.float32), "not finite"),
        (np.full((2, 40, 40, 3), 0.5, np.float32), "hardly any noise"),
    ],
)
def test_clips_that_cannot_be_learned_from_are_refused(
    lesson: Lesson, tmp_path: Path, clip: np.ndarray, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        learn(clip, tmp_path / "m.safetensors", lesson.start)
    with pytest.raises(InputError, match="no clip"):
        learn([], tmp_path / "m.safetensors", lesson.start)
    assert list(tmp_path.iterdir()) == []


def test_without_an_output_the_result_holds_the_model(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = finetune_with(lesson.noisy, model=lesson.start, sigma=SIGMA, **SMALL, **BRISK)
    assert list(tmp_path.iterdir()) == []
    assert result.improved and result.checkpoint.info.name == "tiny-finetuned"
    save_checkpoint(tmp_path / "own.safetensors", result.checkpoint)
    assert load_denoiser(tmp_path / "own.safetensors", device="cpu").info == result.checkpoint.info
