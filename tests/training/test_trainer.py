"""A run learns, and stopped at any moment it goes on as if it had not been."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints.flow import FlowCheckpoint, load_flow_checkpoint, save_flow_checkpoint
from stbn_cli.checkpoints.serial import ModelInfo, load_checkpoint
from stbn_cli.errors import CheckpointError, InputError, OutputError, StbnError
from stbn_cli.models.blindspot import CentreMaskedConv2d
from stbn_cli.models.config import MODEL_SIZES, STBNConfig
from stbn_cli.models.lightflow import LightFlowNet
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.posterior import gaussian_nll
from stbn_cli.training import trainer as trainer_module
from stbn_cli.training import validation
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.trainer import Trainer
from tests.conftest import PATIENCE
from tests.networks import TINY

OptionsOf = Callable[..., TrainOptions]


def rows_of(options: TrainOptions) -> list[dict]:
    return [json.loads(line) for line in (options.log_dir / "log.jsonl").read_text().splitlines()]


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    for name, tensor in one.task.state_dict().items():
        assert torch.equal(tensor, other.task.state_dict()[name]), name
        assert torch.equal(one.average[name], other.average[name]), name


def test_a_run_learns_logs_and_leaves_a_loadable_model(options_of: OptionsOf) -> None:
    options = options_of(learning_rate=5e-3, epochs=20, validate_every=10)
    result = Trainer(options).run()
    rows = rows_of(options)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert result.finished and result.steps == 40 and losses[-1] < losses[0]
    assert {"gradient_norm", "steps_per_second", "waiting", "learning_rate"} <= set(rows[0])
    validations = [row for row in rows if "psnr" in row]
    assert [row["step"] for row in validations] == [10, 20, 30, 40]
    assert set(validations[-1]["psnr"]) == {"10", "30", "50"}
    assert result.best_score == max(row["mean"] for row in validations)
    for name in ("model.safetensors", "best.safetensors"):
        checkpoint = load_checkpoint(options.log_dir / name)
        assert checkpoint.config == TINY and checkpoint.info.flow == "dis"
        assert checkpoint.info.sigma_range == (5.0, 55.0)
        training = checkpoint.info.training
        assert training["data"] == {"scenes": 1, "frames": 6, "stills": 1}
        assert training["recipe"]["seed"] == 0 and training["validation"]["mean"] == result.best_score
        assert str(options.log_dir.parent) not in json.dumps(training)


# fp16 has the scale of its loss to keep. It is emulated on CPUs, as bf16 is on many: little of it.
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_equals_an_unbroken_one(options_of: OptionsOf, precision: str) -> None:
    options_of = functools.partial(options_of, patch_size=16, validate_every=6)
    whole = Trainer(options_of(log_dir=options_of().log_dir / "whole", precision=precision))
    whole.run()
    broken = Trainer(options_of(precision=precision))
    seen = []

    def stop_after_five(batch):
        seen.append(batch)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return type(broken.task).forward(broken.task, batch)

    broken.model = stop_after_five
    result = broken.run()
    assert result.interrupted and not result.finished and result.steps == 5
    resumed = Trainer(options_of(precision=precision, resume=True))
    assert resumed.step == 5 and resumed.run().finished
    assert_same_weights(whole, resumed)
    assert [row["step"] for row in rows_of(whole.options)] == [
        row["step"] for row in rows_of(resumed.options) if "event" not in row
    ]


# Trains by the options in the file of the first argument; killed at the row of the step that the second one names.
RUN = """
import os, pickle, signal, sys
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.training.trainer import Trainer
from tests.networks import TINY
MODEL_SIZES["stbn-xs"] = TINY
options = pickle.load(open(sys.argv[1], "rb"))
trainer = Trainer(options)
end = int(sys.argv[2])
trainer.run(lambda row: os.kill(os.getpid(), signal.SIGKILL) if row["step"] == end else None)
"""


def test_a_killed_run_loses_nothing_but_time(options_of: OptionsOf, tmp_path: Path) -> None:
    import pickle

    whole = Trainer(options_of(log_dir=tmp_path / "whole", epochs=3, validate_every=3, log_every=1))
    whole.run()
    options = dataclasses.replace(whole.options, log_dir=tmp_path / "killed", epochs=2000)
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "options"), "5"], check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = Trainer(dataclasses.replace(options, epochs=3, resume=True))
    assert resumed.step == 3 < whole.step
    resumed.run()
    assert_same_weights(whole, resumed)
    steps = [row["step"] for row in rows_of(resumed.options) if "loss" in row]
    assert steps == list(range(1, 7)), "no row twice, none missing"


def test_two_processes_train_as_one(options_of: OptionsOf, tmp_path: Path) -> None:
    import pickle

    alone = Trainer(options_of(log_dir=tmp_path / "alone", epochs=2))
    alone.run()
    options = dataclasses.replace(alone.options, log_dir=tmp_path / "two", threads=1)
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with_port = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "options"), "0"],
            env={**with_port, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    both = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    assert both["step"] == alone.step
    # Adam makes much of a rounding error where a gradient is next to nothing, so that single weights may part.
    weights, shared = (
        torch.cat([part.flatten() for part in state.values()])
        for state in (alone.task.state_dict(), both["task"])
    )
    assert (weights - shared).abs().mean() < 2e-5
    assert both["best"] == pytest.approx(alone.best, abs=0.02)


def test_a_batch_that_cannot_be_shared_is_refused(options_of: OptionsOf, monkeypatch) -> None:
    from stbn_cli.training import trainer
    from stbn_cli.training.distributed import Processes

    monkeypatch.setattr(trainer, "join_processes", lambda: Processes(0, 3))
    with pytest.raises(InputError, match="divided"):
        Trainer(options_of())
    assert list(Processes(1, 2).share(8, 3)) == [28, 29, 30, 31]


def test_the_time_limit_stops_cleanly(options_of: OptionsOf) -> None:
    options = options_of(epochs=1000, max_minutes=1e-6)
    result = Trainer(options).run()
    assert not result.finished and result.steps == 1 and not result.interrupted
    assert (options.log_dir / "state.pt").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_keeps_float32_weights(options_of: OptionsOf, precision: str) -> None:
    options = options_of(precision=precision, learning_rate=5e-3, epochs=10, patch_size=16, hold_out=())
    trainer = Trainer(options)
    trainer.run()
    losses = [row["loss"] for row in rows_of(trainer.options) if "loss" in row]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.task.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_blind_spot_is_exact_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = STBN(TINY)
    noisy, flow = torch.rand(1, 3, 3, 20, 22), torch.zeros(1, 3, 2, 20, 22)
    changed = noisy.clone()
    changed[0, 1, :, 9, 12] += 0.7
    with torch.autocast("cpu", dtype), torch.no_grad():
        one, other = network(noisy, 0.1, flow, flow), network(changed, 0.1, flow, flow)
    assert torch.equal(one[0, 1, :, 9, 12], other[0, 1, :, 9, 12])
    assert not torch.equal(one[0, 1, :, 9, 13], other[0, 1, :, 9, 13])
    loss = gaussian_nll(one, noisy, torch.full((1, 1, 1, 1, 1), 0.1))
    assert loss.dtype == torch.float32


def test_the_masked_centre_neither_moves_nor_counts_in_the_gradient(options_of: OptionsOf) -> None:
    trainer = Trainer(options_of(hold_out=()))
    masked = [module for module in trainer.task.modules() if isinstance(module, CentreMaskedConv2d)]
    before = [module.weight[:, :, 1, 1].clone() for module in masked]
    trainer.run()
    assert masked
    for module, centre in zip(masked, before, strict=True):
        assert module.weight.grad is not None and not module.weight.grad[:, :, 1, 1].any()
        assert module.weight.grad.any() and torch.equal(module.weight[:, :, 1, 1], centre)


@pytest.mark.parametrize("kind", ["camera", "compressed"])
def test_models_for_correlated_noise_begin_as_their_start(
    options_of: OptionsOf, tmp_path: Path, kind: str
) -> None:
    """Which is a blind model; one that sees everything cannot be made blind again."""
    Trainer(options_of(epochs=1)).run()
    blind = load_checkpoint(options_of().log_dir / "model.safetensors").build().eval()
    start = options_of().log_dir / "model.safetensors"
    options = options_of(log_dir=tmp_path / kind, noise=kind, initial=start, epochs=2)
    trainer = Trainer(options)
    noisy, flow = torch.rand(1, 2, 3, 20, 22), torch.zeros(1, 2, 2, 20, 22)
    with torch.inference_mode():
        torch.testing.assert_close(
            trainer.task.network(noisy, 0.1, flow, flow), blind(noisy, 0.1, flow, flow)
        )
    result = trainer.run()
    assert result.finished and any("psnr" in row for row in rows_of(options))
    learned = load_checkpoint(options.log_dir / "model.safetensors")
    assert learned.info.noise_kind == kind
    assert not learned.config.blind_spot and learned.config.refinement_blocks
    again = Trainer(
        options_of(log_dir=tmp_path / "on", noise=kind, initial=options.log_dir / "model.safetensors")
    )
    for name, value in again.task.network.state_dict().items():
        torch.testing.assert_close(value, learned.weights[name].float(), msg=name)
    with pytest.raises(InputError, match="another kind"):
        Trainer(options_of(log_dir=tmp_path / "back", initial=options.log_dir / "model.safetensors"))


def test_schedules(options_of: OptionsOf) -> None:
    options = options_of(epochs=10, milestones=(2, 4, 6, 8))  # two steps an epoch
    factors = [options.learning_rate_factor(step) for step in range(options.steps)]
    assert factors == [0.5 ** (step // 4) for step in range(20)]
    cosine = options_of(
        epochs=10, schedule="cosine", warmup_steps=4, learning_rate=1.0, final_learning_rate=0.1
    )
    factors = [cosine.learning_rate_factor(step) for step in range(cosine.steps + 1)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0] and factors[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[3:]))
    timed = dataclasses.replace(cosine, schedule="timed", max_minutes=10.0)
    factors = [timed.learning_rate_factor(4, minutes) for minutes in (0.0, 5.0, 10.0, 11.0)]
    assert factors == pytest.approx([1.0, 0.55, 0.1, 0.1]) and timed.learning_rate_factor(0, 9.0) == 0.25
    with pytest.raises(ValueError, match="--max-minutes"):
        options_of(schedule="timed")


def test_the_rate_follows_the_time(options_of: OptionsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every look at the clock takes a twentieth of a second, so that a step does, too.
    looks = itertools.count()
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: next(looks) / 20))
    options = options_of(epochs=1000, schedule="timed", max_minutes=0.05, learning_rate=1e-3, log_every=1)
    result = Trainer(options).run()
    rows = [row for row in rows_of(options) if "learning_rate" in row]
    rates = [row["learning_rate"] for row in rows]
    assert not result.finished and rates[-1] < rates[0] and rates == sorted(rates, reverse=True)
    assert all(row["minutes_left"] <= 0.1 for row in rows)


def test_residual_blocks_are_an_option_and_stay_with_the_file(options_of: OptionsOf) -> None:
    options = options_of(residual_blocks=3, epochs=1, hold_out=())
    Trainer(options).run()
    config = load_checkpoint(options.log_dir / "model.safetensors").config
    assert config == dataclasses.replace(TINY, blocks=3)
    with pytest.raises(ValueError, match="--num-resblocks"):
        options_of(model="flow-light", residual_blocks=3)


def test_held_out_and_validation_clips_are_not_trained_on(options_of: OptionsOf, footage_dir: Path) -> None:
    shutil.copytree(footage_dir / "clips" / "a", footage_dir / "elsewhere" / "c")
    options = options_of(validation_dirs=(footage_dir / "elsewhere" / "c",))
    from stbn_cli.training.setup import load_training_footage

    footage, clips = load_training_footage(options)
    assert footage.clip_names == ["a"] and len(clips) == 2
    assert clips[0].dtype == torch.float32 and clips[0].max() <= 1


def test_a_raw_model_learns_from_noisy_mosaics(options_of: OptionsOf, tmp_path: Path, monkeypatch) -> None:
    tiny_raw = STBNConfig(
        channels=8, blocks=1, image_channels=4, head="plain", noise_level=False, fusion_channels=16,
        fusion_blocks=1, expansion_channels=32, expansion_stages=1, expansion_blocks=1, head_blocks=1,
    )  # fmt: skip
    monkeypatch.setitem(MODEL_SIZES, "stbn-raw", tiny_raw)
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.random((6, 6)), (160, 160), interpolation=cv2.INTER_CUBIC)
    for name in ("noisy", "held"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for index in range(4):
            mosaic = 240 + 3000 * smooth + random.normal(0, 200, smooth.shape)
            cv2.imwrite(
                str(tmp_path / "raw" / name / f"{index}.tiff"), mosaic.clip(0, 4095).astype(np.uint16)
            )
    trainer = Trainer(
        options_of(
            model="stbn-raw",
            train_dirs=(tmp_path / "raw",),
            still_dirs=(),
            hold_out=("held",),
            epochs=30,
            learning_rate=5e-3,
            patch_size=24,
        )
    )
    trainer.run()
    errors = [row["blind_error"] for row in rows_of(trainer.options) if "blind_error" in row]
    assert errors[-1] < 0.5 * errors[0]
    # Without ever seeing a clean frame it comes near the noise's own variance, which no blind guess can beat.
    assert errors[-1] > 0.8 * (200 / 3855) ** 2
    assert load_checkpoint(trainer.options.log_dir / "best.safetensors").config == tiny_raw


def test_the_flow_network_learns_known_motion(options_of: OptionsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(validation, "FLOW_SCENES", 2)
    options = options_of(
        model="flow-light",
        patch_size=64,
        epochs=15,
        learning_rate=1e-3,
        noise_interval=(0, 30),
        validation_noise=(30,),
        validate_every=30,
    )
    trainer = Trainer(options)
    result = trainer.run()
    rows = rows_of(options)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert result.finished and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    validated = [row for row in rows if "end_point_error" in row][-1]
    assert set(validated["warp_psnr"]) == {"30"}
    checkpoint = load_flow_checkpoint(options.log_dir / "best.safetensors")
    assert (
        checkpoint.info.flow == "light"
        and checkpoint.info.sigma_range == (0, 30)
        and isinstance(checkpoint.build(), LightFlowNet)
    )


def test_distillation_trains_the_flow_network_with_the_denoiser(
    options_of: OptionsOf, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    teacher = LightFlowNet()
    path = tmp_path / "flow.safetensors"
    save_flow_checkpoint(
        path, FlowCheckpoint(ModelInfo("f", "light"), dict(teacher.state_dict())), torch.float32
    )
    options = options_of(
        flow=str(path),
        distillation=True,
        flow_learning_rate=1e-4,
        distillation_weight=1.0,
        patch_size=64,
        epochs=1,
    )
    trainer = Trainer(options)
    trainer.run()
    checkpoint = load_checkpoint(options.log_dir / "best.safetensors")
    assert checkpoint.info.flow == "light" and checkpoint.flow_weights
    pupil = trainer.task.pupil
    moved = [
        (a - b).abs().max().item()
        for a, b in zip(pupil.parameters(), teacher.parameters(), strict=True)
        if a.requires_grad
    ]
    assert max(moved) > 1e-5
    kept = trainer.task._teacher[0].state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in teacher.state_dict().items())
    resumed = Trainer(dataclasses.replace(options, resume=True))
    assert_same_weights(trainer, resumed)
    with pytest.raises(InputError, match="flow network"):
        Trainer(options_of(log_dir=tmp_path / "new", distillation=True, flow="dis"))


def test_files_that_do_not_fit_are_refused(options_of: OptionsOf, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        Trainer(options_of(resume=True))
    Trainer(options_of(epochs=1)).run()
    with pytest.raises(InputError, match="trains 'stbn-xs'"):
        Trainer(options_of(model="flow-light", resume=True, patch_size=64))
    state = options_of().log_dir / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be resumed"):
        Trainer(options_of(resume=True))
    model = options_of().log_dir / "model.safetensors"
    with pytest.raises(InputError, match="another kind"):
        Trainer(options_of(log_dir=tmp_path / "new", model="stbn-published", initial=model))
    with pytest.raises(CheckpointError, match="no flow network"):
        Trainer(options_of(log_dir=tmp_path / "new", flow=str(model)))
    with pytest.raises(InputError, match="no clip called 'park'"):
        Trainer(options_of(log_dir=tmp_path / "new", hold_out=("park",))).run()
    assert Trainer(options_of(log_dir=tmp_path / "new", initial=model)).step == 0
    with pytest.raises(OutputError, match="holds a run already"):
        Trainer(options_of())


def test_a_run_that_diverges_says_so_and_keeps_its_last_state(options_of: OptionsOf) -> None:
    trainer = Trainer(options_of(epochs=100))
    forward = trainer.model

    def diverging(batch):
        return forward(batch) * (float("nan") if trainer.step >= 5 else 1.0)

    trainer.model = diverging
    with pytest.raises(StbnError, match="diverged before step 8"):
        trainer.run()
    assert Trainer(options_of(epochs=100, resume=True)).step == 4
    assert all(parameter.isfinite().all() for parameter in trainer.task.parameters())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "huge"}, "--model"),
        ({"noise_interval": (9, 3)}, "--noise-interval"),
        ({"patch_size": 8}, "--patch-size"),
        ({"train_length": 1}, "--train-length"),
        ({"patches_per_epoch": 1}, "--patches-per-epoch"),
        ({"learning_rate": float("nan")}, "--lr"),
        ({"schedule": "step"}, "--schedule"),
        ({"precision": "fp8"}, "--precision"),
        ({"model": "flow-light", "patch_size": 72}, "multiple of 32"),
        ({"bayer": "RGB"}, "--bayer"),
        ({"initial": Path("x"), "resume": True}, "--resume"),
        ({"model": "stbn-raw"}, "--still-dir"),
        ({"model": "stbn-raw", "still_dirs": (), "distillation": True}, "--distill"),
    ],
)
def test_impossible_options_are_named(options_of: OptionsOf, changes: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        options_of(**changes)
