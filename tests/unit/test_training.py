"""Training: samples are what they claim, a run learns, and a resumed run equals an unbroken one."""

import dataclasses
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.errors import InputError
from stbn_cli.flow.dis import DisFlow
from stbn_cli.flow.estimator import NoFlow
from stbn_cli.models.stbn import MODEL_SIZES
from stbn_cli.models.warp import warp_nearest
from stbn_cli.training import trainer as trainer_module
from stbn_cli.training.library import Library, load_clip, load_library
from stbn_cli.training.motion import render_pan
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.samples import SampleOptions, TrainingSamples
from stbn_cli.training.trainer import Trainer
from tests.networks import TINY


def photograph(height: int = 160, width: int = 200, seed: int = 0) -> np.ndarray:
    """Smooth random texture, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).random((height // 10, width // 10, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(255 * picture, 0, 255).astype(np.uint8)


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """A folder with two clips as folders of frames, and a folder of photographs."""
    for name in ("a", "b"):
        clip = render_pan(photograph(seed=ord(name)), 6, 120, np.random.default_rng(1))
        (tmp_path / "clips" / name).mkdir(parents=True)
        for index, frame in enumerate(clip):
            cv2.imwrite(str(tmp_path / "clips" / name / f"{index}.png"), frame[..., ::-1])
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "p.png"), photograph())
    return tmp_path


@pytest.fixture
def options(footage: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    monkeypatch.setitem(MODEL_SIZES, "stbn-xs", TINY)
    return TrainOptions(
        output=footage / "run",
        clips=(footage / "clips",),
        stills=(footage / "stills",),
        validation=("b",),
        steps=8,
        batch_size=2,
        patch_size=32,
        train_length=3,
        warmup_steps=2,
        validate_every=4,
        log_every=2,
        precision="fp32",
        workers=0,
    )


def sample_options(**changes: object) -> SampleOptions:
    defaults = SampleOptions(frames=4, patch_size=48, sigma_range=(20.0, 20.0), still_share=0.5, seed=3)
    return dataclasses.replace(defaults, **changes)  # type: ignore[arg-type]


def test_samples_depend_on_their_number_alone() -> None:
    library = Library(stills=[photograph()])
    one, other = (TrainingSamples(library, NoFlow(), sample_options()) for _ in range(2))
    other[7]
    for name, tensor in one[5].items():
        assert torch.equal(tensor, other[5][name])
    assert not torch.equal(one[5]["noisy"], one[6]["noisy"])


def test_sample_noise_is_white_and_as_strong_as_it_says() -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    sample = TrainingSamples(Library(stills=[flat]), NoFlow(), sample_options(patch_size=96))[0]
    noise = sample["noisy"] - 128 / 255
    assert float(sample["sigma"]) == pytest.approx(20 / 255)
    assert float(noise.std()) == pytest.approx(20 / 255, rel=0.02)
    assert abs(float((noise[..., 1:] * noise[..., :-1]).mean() / noise.var())) < 0.02
    assert sample["noisy"].min() < 0.3 and torch.isfinite(sample["noisy"]).all()


def test_sample_flow_aligns_neighbouring_frames() -> None:
    library = Library(stills=[photograph(400, 500)])
    samples = TrainingSamples(library, DisFlow(), sample_options(sigma_range=(1.0, 1.0)))
    still, aligned = 0.0, 0.0
    for index in range(6):
        sample = samples[index]
        frames = sample["noisy"]
        for target, source, flow in (
            (frames[1:], frames[:-1], sample["flow_to_previous"][1:]),
            (frames[:-1], frames[1:], sample["flow_to_next"][:-1]),
        ):
            inner = (..., slice(12, -12), slice(12, -12))
            still += float((target - source)[inner].square().mean())
            aligned += float((target - warp_nearest(source, flow))[inner].square().mean())
    assert aligned < 0.5 * still


def test_clips_shorter_than_a_sequence_play_forth_and_back() -> None:
    clip = np.stack([np.full((120, 120, 3), 40 * t, np.uint8) for t in range(3)])
    samples = TrainingSamples(
        Library(clips=[clip]), NoFlow(), sample_options(frames=6, sigma_range=(0.0, 0.0))
    )
    for index in range(5):
        levels = (samples[index]["noisy"].mean((1, 2, 3)) * 255).round().int().tolist()
        assert all(abs(a - b) == 40 for a, b in itertools.pairwise(levels)), levels


def test_library_reads_frames_in_natural_order_and_selects_by_name(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    for index in (1, 2, 10):
        cv2.imwrite(str(tmp_path / "walk" / f"f{index}.png"), np.full((9, 9, 3), index, np.uint8))
    assert load_clip(tmp_path / "walk")[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert load_library([tmp_path], maximum_frames=2).frames == 2
    with pytest.raises(InputError, match="No clip or picture"):
        load_library([tmp_path], leave_out=["walk"])
    with pytest.raises(InputError, match="does not exist"):
        load_library([tmp_path / "nowhere"])


def test_a_run_learns_logs_and_leaves_a_loadable_model(options: TrainOptions) -> None:
    result = Trainer(dataclasses.replace(options, steps=40, learning_rate=5e-3)).run()
    rows = [json.loads(line) for line in (options.output / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert result.finished and result.steps == 40 and losses[-1] < losses[0]
    assert set(rows[-1]["psnr"]) == {"10", "30", "50"} or "psnr" in rows[-2]
    checkpoint = load_checkpoint(options.output / "model.safetensors")
    assert checkpoint.config == TINY and checkpoint.info.flow == "dis"
    assert checkpoint.info.sigma_range == (5.0, 55.0) and checkpoint.info.training["steps"] == 40
    assert (options.output / "best.safetensors").is_file()


def test_a_resumed_run_equals_an_unbroken_one(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trainer(dataclasses.replace(options, output=options.output / "whole"))
    whole.run()
    broken = Trainer(options)
    steps = 0

    def interrupted(loss: object, *args: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return gaussian_nll(loss, *args)  # type: ignore[arg-type]

    gaussian_nll = trainer_module.gaussian_nll
    monkeypatch.setattr(trainer_module, "gaussian_nll", interrupted)
    assert not broken.run().finished
    monkeypatch.setattr(trainer_module, "gaussian_nll", gaussian_nll)
    resumed = Trainer(dataclasses.replace(options, resume=True))
    assert resumed.step == 5
    assert resumed.run().finished
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
        assert torch.equal(whole.ema[name], resumed.ema[name]), name


def test_the_time_limit_stops_cleanly(options: TrainOptions) -> None:
    result = Trainer(dataclasses.replace(options, steps=1000, max_minutes=1e-6)).run()
    assert not result.finished and result.steps == 1
    assert (options.output / "state.pt").is_file()


def test_held_out_clips_are_not_trained_on(options: TrainOptions) -> None:
    library, clips = Trainer(options)._load_data()
    assert library.clip_names == ["a"] and len(clips) == 1


def test_resume_without_a_run_is_an_input_error(options: TrainOptions) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        Trainer(dataclasses.replace(options, resume=True))
