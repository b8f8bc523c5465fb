"""Our checkpoint files: what is saved comes back, and damaged ones are named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stbn_cli.checkpoints import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from stbn_cli.errors import CheckpointError
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.stbn import STBN

CONFIG = STBNConfig(
    channels=8,
    blocks=1,
    fusion_channels=8,
    fusion_blocks=1,
    expansion_channels=16,
    expansion_stages=1,
    expansion_blocks=1,
    head_blocks=1,
)
INFO = ModelInfo("tiny", "pwc", (5.0, 55.0), "CC0-1.0", {"steps": 3, "recipe": {"seed": 0}})


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(CONFIG, INFO, STBN(CONFIG).state_dict(), {"layer.weight": torch.ones(2, 2)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(tmp_path, checkpoint, dtype) -> None:
    path = tmp_path / "new" / "model.safetensors"
    save_checkpoint(path, checkpoint, dtype)
    loaded = load_checkpoint(path)
    assert loaded.config == CONFIG and loaded.info == INFO
    assert loaded.weights.keys() == checkpoint.weights.keys()
    for name, tensor in loaded.weights.items():
        assert torch.equal(tensor, checkpoint.weights[name].to(dtype))
    assert loaded.flow_weights.keys() == {"layer.weight"}
    network = loaded.build()
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_missing_and_damaged_files(tmp_path, checkpoint) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


def test_files_of_others(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not an stbn denoiser"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_tensors_have_to_fit_the_configuration(tmp_path, checkpoint, change: str) -> None:
    weights = dict(checkpoint.weights)
    name = "head.leave.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "stranger.weight"
        weights[name] = torch.zeros(3)
    else:
        weights[name] = weights[name][:1]
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, replace(checkpoint, weights=weights))
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)


@pytest.mark.parametrize("config", ["{", '{"channels": 8, "unknown": 1}', '{"head": "round"}', "[]"])
def test_headers_that_cannot_be_understood(tmp_path: Path, config: str) -> None:
    path = tmp_path / "model.safetensors"
    info = json.dumps({"name": "x", "sigma_range": [5, 55]})
    save_file({"x": torch.zeros(2)}, path, metadata={"format": "stbn-1", "config": config, "info": info})
    with pytest.raises(CheckpointError, match="header"):
        load_checkpoint(path)
