"""Training on a CUDA device: batches are made there, a run learns, and goes on where it stopped."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints.flow import FlowCheckpoint, save_flow_checkpoint
from stbn_cli.checkpoints.serial import ModelInfo
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.lightflow import LightFlowNet
from stbn_cli.models.stbn import STBN
from stbn_cli.training.dataset import SequenceSource
from stbn_cli.training.graph import GradientGraph
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.setup import load_training_footage, sequence_options
from stbn_cli.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    coarse = np.random.default_rng(0).random((30, 30, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (300, 300), interpolation=cv2.INTER_CUBIC)
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "p.png"), np.clip(255 * picture, 0, 255).astype(np.uint8))
    for name in ("a", "b"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for t in range(6):
            frame = np.ascontiguousarray(picture[2 * t : 2 * t + 200, t : t + 220])
            cv2.imwrite(
                str(tmp_path / "clips" / name / f"{t}.png"), np.clip(255 * frame, 0, 255).astype(np.uint8)
            )
    torch.manual_seed(0)
    checkpoint = FlowCheckpoint(ModelInfo("f", "light"), dict(LightFlowNet().state_dict()))
    save_flow_checkpoint(tmp_path / "flow.safetensors", checkpoint)
    return TrainOptions(
        log_dir=tmp_path / "run",
        still_dirs=(tmp_path / "stills",),
        train_dirs=(tmp_path / "clips",),
        hold_out=("b",),
        validate_every=20,
        model="stbn-xs",
        device="cuda",
        flow=str(tmp_path / "flow.safetensors"),
        learning_rate=2e-3,
        epochs=1,
        batch_size=4,
        patches_per_epoch=160,
        patch_size=64,
        train_length=4,
        log_every=5,
    )


@pytest.mark.parametrize("changes", [{}, {"precision": "fp16"}, {"distillation": True}, {"compile": True}])
def test_a_run_learns_on_the_device(options: TrainOptions, changes: dict) -> None:
    trainer = Trainer(dataclasses.replace(options, **changes))
    result = trainer.run()
    rows = [json.loads(line) for line in (options.log_dir / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert result.finished and np.isfinite(losses).all() and losses[-1] < losses[0]
    resumed = Trainer(dataclasses.replace(options, **changes, resume=True, epochs=2))
    assert resumed.step == 40 and resumed.run().steps == 80


def test_a_recorded_step_gives_the_gradients_of_a_plain_one(options: TrainOptions) -> None:
    """Also for batches other than the one that was recorded."""
    plain = Trainer(dataclasses.replace(options, precision="fp32"))
    footage, _ = load_training_footage(options)
    source = SequenceSource(footage, sequence_options(options, plain.task.margin), plain.device)
    recorded = GradientGraph(plain.task, plain._gradients_of)
    for step in range(3):
        batch = plain.task.prepare(source, range(4 * step, 4 * step + 4))
        loss = plain._gradients_of(batch)
        expected = [parameter.grad.clone() for parameter in plain.task.network.parameters()]
        torch.testing.assert_close(recorded(batch), loss)
        for parameter, gradient in zip(plain.task.network.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    with pytest.raises(ValueError, match="one shape"):
        recorded(batch._replace(sigma=batch.sigma[1:]))


def test_the_flow_network_learns_on_the_device(options: TrainOptions) -> None:
    result = Trainer(dataclasses.replace(options, model="flow-light")).run()
    assert result.finished


@pytest.mark.parametrize("name", ["stbn", "stbn-xs"])
def test_the_blind_spot_is_exact_under_autocast_on_the_device(name: str) -> None:
    torch.manual_seed(0)
    network = STBN(MODEL_SIZES[name]).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    noisy, flow = torch.rand(2, 3, 3, 32, 32, device="cuda"), torch.zeros(2, 3, 2, 32, 32, device="cuda")
    changed = noisy.clone()
    changed[0, 1, :, 9, 12] += 0.7
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        one, other = network(noisy, 0.1, flow, flow), network(changed, 0.1, flow, flow)
    assert torch.equal(one[0, 1, :, 9, 12], other[0, 1, :, 9, 12])
