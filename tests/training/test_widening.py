"""A larger network begins as what a smaller one computes, and has something to learn with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
from stbn_cli.models.config import MODEL_SIZES, SHORT_PATHS, STBNConfig
from stbn_cli.models.stbn import STBN
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.setup import create_task
from stbn_cli.training.widening import can_widen, widen

SMALL = STBNConfig(
    channels=4,
    blocks=1,
    tail=False,
    fusion_channels=6,
    fusion_blocks=1,
    expansion_channels=8,
    expansion_stages=1,
    expansion_blocks=2,
    expansion_groups=1,
    head_blocks=1,
    **SHORT_PATHS,
)
LARGE = [
    SMALL,
    replace(SMALL, channels=7, blocks=2, fusion_channels=9, fusion_blocks=2, head_blocks=3),
    replace(SMALL, expansion_channels=16, expansion_groups=2, expansion_stages=3, expansion_blocks=4),
    replace(SMALL, channels=10, tail=True, expansion_channels=20, expansion_groups=2, expansion_stages=2),
]


def clip() -> tuple[torch.Tensor, float, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    flow = 2 * torch.randn(1, 3, 2, 13, 18, generator=random)
    return torch.rand(1, 3, 3, 13, 18, generator=random), 0.1, flow, -flow


@pytest.mark.parametrize("config", LARGE)
def test_the_widened_network_computes_the_same(config: STBNConfig) -> None:
    torch.manual_seed(0)
    small, large = STBN(SMALL), STBN(config)
    widen(small, large)
    result = large(*clip())
    torch.testing.assert_close(result, small(*clip()), atol=1e-5, rtol=1e-5)
    # Whatever is new can be learned: at the second step, since its way out begins with zeros.
    optimiser = torch.optim.SGD(large.parameters(), 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        large(*clip()).square().mean().backward()
        optimiser.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in large.parameters())


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, channels=3),
        replace(SMALL, blocks=0),
        replace(SMALL, feature_skip=False),
        replace(SMALL, channels=6, tail=True),  # a bottleneck of three channels
        replace(SMALL, expansion_channels=12, expansion_groups=2),  # groups of six
    ],
)
def test_what_does_not_fit_is_refused(config: STBNConfig) -> None:
    assert not can_widen(SMALL, config)
    with pytest.raises(ValueError, match="does not fit"):
        widen(STBN(SMALL), STBN(config))


def test_every_named_size_begins_as_the_smaller_ones() -> None:
    names = ("stbn-xs", "stbn-s", "stbn")
    fits = {(a, b) for a in names for b in names if can_widen(MODEL_SIZES[a], MODEL_SIZES[b])}
    assert fits >= {("stbn-xs", "stbn-s"), ("stbn-xs", "stbn"), ("stbn-s", "stbn")}
    assert not any(names.index(a) > names.index(b) for a, b in fits)


def test_training_begins_from_a_smaller_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = STBN(MODEL_SIZES["stbn-xs"])
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, Checkpoint(small.config, ModelInfo("stbn-xs", "none"), small.state_dict(), {}))
    options = TrainOptions(log_dir=tmp_path / "run", model="stbn-s", initial=path, flow="none")
    small = small.half().float()  # as the file has it
    for noise in ("white", "camera"):  # which sees all pixels, and is refined
        task = create_task(replace(options, noise=noise), torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            torch.testing.assert_close(task.network(*clip()), small(*clip()), atol=1e-4, rtol=1e-4)
