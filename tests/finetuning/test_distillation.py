"""A flow network learns to see in noisy frames what it sees in clean ones, and is kept only if that helps."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.api import load_denoiser
from stbn_cli.checkpoints.flow import load_flow_checkpoint
from stbn_cli.checkpoints.serial import Checkpoint, load_checkpoint, save_checkpoint
from stbn_cli.checkpoints.store import find_flow
from stbn_cli.errors import InputError
from stbn_cli.finetuning import flow_distillation, trainer
from stbn_cli.finetuning.flow_distillation import distil_flow
from stbn_cli.finetuning.flows import BlindFlows
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult
from stbn_cli.flow.estimator import NetworkFlow
from stbn_cli.models.lightflow import LightFlowConfig, LightFlowNet
from tests.cli.conftest import save_tiny_model
from tests.finetuning.runs import finetune_with

SIDE, FRAMES, SPEED = 32, 4, 3  # pixels, and pixels a frame
SIGMA = 40.0  # 0-255 scale
# For what does not depend on how well it sees.
SMALL_FLOW = LightFlowConfig(
    pyramid_channels=(8, 16, 16),
    matching_channels=16,
    radius=2,
    volume_channels=16,
    decoder_channels=(32, 16),
    memory_channels=8,
)


def moving(seed: int, speed: int = SPEED) -> np.ndarray:
    """A clean clip (T, H, W, 3) float32: a detailed texture that moves diagonally."""
    room = SIDE + speed * FRAMES
    coarse = np.random.default_rng(seed).random((room // 6, room // 6, 3))
    scene = cv2.resize(coarse, (room, room), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    starts = [speed * index for index in range(FRAMES)]
    return np.stack([scene[at : at + SIDE, at : at + SIDE] for at in starts]).astype(np.float32)


def noised(clean: np.ndarray, seed: int = 5) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(clean.shape, dtype=np.float32)
    return clean + noise * np.float32(SIGMA / 255)


def frames_of(clip: np.ndarray) -> Tensor:
    return torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous()


def run_of(clip: np.ndarray) -> NoisyRun:
    held_out = torch.zeros(len(clip), 1, *clip.shape[1:3], dtype=torch.bool)
    return NoisyRun("clip", frames_of(clip), held_out)


@pytest.fixture
def flow() -> NetworkFlow:
    """A small random flow network."""
    torch.manual_seed(0)
    return NetworkFlow(LightFlowNet(SMALL_FLOW).eval().requires_grad_(False), "light")


def distance(pupil: NetworkFlow, teacher: NetworkFlow, noisy: np.ndarray, clean: np.ndarray) -> float:
    """Mean distance, in pixels, between the pupil's flow of noisy frames and the teacher's of clean ones."""
    seen, shown = frames_of(noisy), frames_of(clean)
    found = torch.cat([pupil(seen[:-1], seen[1:], SIGMA / 255), pupil(seen[1:], seen[:-1], SIGMA / 255)])
    goal = torch.cat([teacher(shown[:-1], shown[1:], 0.0), teacher(shown[1:], shown[:-1], 0.0)])
    return float((found - goal).abs().mean())


@pytest.fixture(scope="module")
def shipped() -> dict[str, Tensor]:
    """Weights of the flow network that every model can use."""
    return load_flow_checkpoint(find_flow()).weights


def network_of(weights: dict[str, Tensor]) -> NetworkFlow:
    network = LightFlowNet()
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return NetworkFlow(network.eval().requires_grad_(False), "light")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal as files hold them."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].half(), other[name].half()) for name in one
    )


def test_the_pupil_comes_nearer_to_what_the_teacher_sees_in_clean_frames(
    shipped: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_distillation, "LEARNING_RATE", 3e-4)
    clips = [moving(seed) for seed in (0, 1)]
    runs = [run_of(noised(clip)) for clip in clips]
    flow = network_of(shipped)
    asked: list[Tensor] = []

    def denoise(frames: Tensor) -> Tensor:
        asked.append(frames)
        return frames_of(clips[len(asked) - 1])

    pupil = distil_flow(flow, runs, denoise, sigma=SIGMA / 255, steps=6, seed=0, precision=torch.float32)
    assert len(asked) == 2
    assert all(torch.equal(frames, run.noisy) for frames, run in zip(asked, runs, strict=True))
    old, new = (sum(distance(seen, flow, noised(clip), clip) for clip in clips) for seen in (flow, pupil))
    assert new < 0.93 * old
    # Nothing leaks into the network that it began with.
    assert same(flow.network.state_dict(), shipped) and not same(pupil.network.state_dict(), shipped)
    assert pupil.name == flow.name and not pupil.network.training
    assert not any(parameter.requires_grad for parameter in pupil.network.parameters())


def test_distillation_depends_on_the_seed_alone(flow: NetworkFlow) -> None:
    runs = [run_of(noised(moving(0)))]

    def weights_of(seed: int) -> dict[str, Tensor]:
        pupil = distil_flow(
            flow, runs, lambda frames: frames, sigma=SIGMA / 255, steps=2, seed=seed, precision=torch.float32
        )
        return {name: 1e3 * tensor for name, tensor in pupil.network.state_dict().items()}

    first = weights_of(0)
    assert same(first, weights_of(0)) and not same(first, weights_of(1))


def test_runs_of_one_frame_have_no_flow_to_learn(flow: NetworkFlow) -> None:
    asked: list[int] = []

    def denoise(frames: Tensor) -> Tensor:
        asked.append(len(frames))
        return frames

    runs = [run_of(noised(moving(0))), run_of(noised(moving(1))[:1])]
    distil_flow(flow, runs, denoise, sigma=SIGMA / 255, steps=1, seed=0, precision=torch.float32)
    assert asked == [FRAMES]


@pytest.fixture(scope="module")
def noisy() -> list[np.ndarray]:
    return [noised(moving(seed)) for seed in (2, 3, 4)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that learned to use the frames before and after, where the flow says they are."""
    folder = tmp_path_factory.mktemp("taught")
    start = save_tiny_model(folder / "tiny.safetensors", flow="dis")
    clips = [noised(moving(seed), seed) for seed in (10, 11)]
    options = {"steps": 70, "learning_rate": 1e-2, "batch_size": 2, "patch_size": 32, "train_length": 3}
    path = folder / "taught.safetensors"
    finetune_with(clips, path, model=start, sigma=SIGMA, device="cpu", precision="fp32", **options)
    return path


def learn(clips: list[np.ndarray], output: Path, model: Path, **options) -> FinetuneResult:
    """A small run with the light flow network; the later of equally named options counts."""
    small = {
        "flow": "light",
        "sigma": SIGMA,
        "steps": 2,
        "learning_rate": 5e-3,
        "batch_size": 1,
        "patch_size": 32,
        "train_length": 3,
        "device": "cpu",
        "precision": "fp32",
    }
    return finetune_with(clips, output, model=model, **{**small, **options})


def scrambled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a flow network that sees motion where there is none."""
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor.float()) * 0.3 for name, tensor in weights.items()}


@pytest.fixture
def teacher_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor]], list[int]]:
    """teacher_says(weights): distillation ends with these from now on; the list grows with each."""

    def prepare(weights: dict[str, Tensor]) -> list[int]:
        calls: list[int] = []

        def distilled(flow: NetworkFlow, *_: object, steps: int, **__: object) -> NetworkFlow:
            calls.append(steps)
            return network_of(weights)

        monkeypatch.setattr(trainer, "distil_flow", distilled)
        monkeypatch.setattr(trainer, "DISTILLATION_QUALITY", 0.5)
        return calls

    return prepare


def with_flow(model: Path, weights: dict[str, Tensor], path: Path) -> Path:
    """The model with a flow network of its own."""
    checkpoint = load_checkpoint(model)
    info = dataclasses.replace(checkpoint.info, flow="light")
    save_checkpoint(path, Checkpoint(checkpoint.config, info, checkpoint.weights, weights))
    return path


def test_the_light_flow_network_travels_with_the_finetuned_model(
    noisy: list[np.ndarray], shipped: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_distillation, "LEARNING_RATE", 3e-4)
    monkeypatch.setattr(trainer, "DISTILLATION_QUALITY", 1.0)
    start, output = save_tiny_model(tmp_path / "tiny.safetensors"), tmp_path / "mine.safetensors"
    phases: list[str] = []
    tell = lambda told: phases.append(told.phase)  # noqa: E731
    result = learn(noisy, output, start, steps=12, learning_rate=1e-2, progress=tell)
    assert result.improved and result.finished and "finding motion in denoised frames" in phases
    checkpoint = load_checkpoint(output)
    assert checkpoint.info.flow == "light"
    assert same(checkpoint.flow_weights, shipped) != result.flow_distilled
    denoiser = load_denoiser(output, device="cpu", precision="fp32")
    assert denoiser.flow_name == "light"
    assert np.isfinite(denoiser(noisy[0])).all()


def test_a_distilled_flow_that_helps_is_kept(
    taught: Path, noisy: list[np.ndarray], shipped: dict[str, Tensor], tmp_path: Path, teacher_says: Callable
) -> None:
    lost = with_flow(taught, scrambled(shipped), tmp_path / "lost.safetensors")
    calls = teacher_says(shipped)
    result = learn(noisy, tmp_path / "out.safetensors", lost, steps=10)
    assert calls == [1], "a tenth of the steps"
    assert result.flow_distilled and result.improved
    checkpoint = load_checkpoint(tmp_path / "out.safetensors")
    assert same(checkpoint.flow_weights, shipped)
    assert checkpoint.info.training["finetuning"][-1]["flow_distilled"] is True


def test_a_distilled_flow_that_does_harm_is_not(
    taught: Path,
    noisy: list[np.ndarray],
    shipped: dict[str, Tensor],
    tmp_path: Path,
    teacher_says: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[NetworkFlow] = []
    find = trainer.find_blind_flows

    def watched(run: NoisyRun, hidden: Tensor, flow: NetworkFlow, sigma: float) -> BlindFlows:
        used.append(flow)
        return find(run, hidden, flow, sigma)

    monkeypatch.setattr(trainer, "find_blind_flows", watched)
    calls = teacher_says(scrambled(shipped))
    result = learn(noisy, tmp_path / "out.safetensors", taught)
    assert calls and not result.flow_distilled
    assert any(same(flow.network.state_dict(), scrambled(shipped)) for flow in used), "it was tried"
    assert same(used[-1].network.state_dict(), shipped), "and the run went on without"


def test_a_start_that_removes_little_is_no_teacher(
    noisy: list[np.ndarray], shipped: dict[str, Tensor], tmp_path: Path, teacher_says: Callable
) -> None:
    calls = teacher_says(shipped)
    untaught = save_tiny_model(tmp_path / "tiny.safetensors")
    assert not learn(noisy, tmp_path / "out.safetensors", untaught, steps=1).flow_distilled
    assert calls == []


def test_distillation_can_be_left_out(
    taught: Path, noisy: list[np.ndarray], shipped: dict[str, Tensor], tmp_path: Path, teacher_says: Callable
) -> None:
    calls = teacher_says(shipped)
    lost = with_flow(taught, scrambled(shipped), tmp_path / "lost.safetensors")
    assert not learn(noisy, tmp_path / "a.safetensors", lost, distillation=False).flow_distilled
    assert not learn(noisy, tmp_path / "b.safetensors", taught, flow="dis").flow_distilled
    assert calls == [] and not load_checkpoint(tmp_path / "b.safetensors").flow_weights


def test_a_resumed_run_keeps_its_distilled_flow(
    taught: Path, noisy: list[np.ndarray], shipped: dict[str, Tensor], tmp_path: Path, teacher_says: Callable
) -> None:
    lost = with_flow(taught, scrambled(shipped), tmp_path / "lost.safetensors")
    calls = teacher_says(shipped)
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert learn(noisy, whole, lost).flow_distilled

    def press(progress: FinetuneProgress) -> None:
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    assert learn(noisy, broken, lost, progress=press).interrupted
    calls.clear()
    with pytest.raises(InputError):
        learn(noisy, broken, lost, distillation=False, resume=True)
    assert learn(noisy, broken, lost, resume=True).flow_distilled
    assert calls == [], "the flow is not distilled again"
    one, other = load_checkpoint(whole), load_checkpoint(broken)
    assert one.info == other.info and same(one.weights, other.weights)
    assert same(one.flow_weights, other.flow_weights) and same(one.flow_weights, shipped)
