"""Official checkpoints: both networks convert, and what does not fit is named. See also tests/parity."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stbn_cli.checkpoints import convert_reference, import_official, load_checkpoint, save_checkpoint
from stbn_cli.errors import CheckpointError
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.pwcnet import PWCNet
from stbn_cli.models.stbn import STBN
from tests.parity.vectors import FOLDER, load_vectors

RAW = STBNConfig(image_channels=4, head="plain", noise_level=False)


def official(name: str) -> dict[str, Tensor]:
    """The state dict of an official checkpoint, names and shapes only."""
    shapes = json.loads((FOLDER / f"official_state_dict_{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def small() -> dict[str, Tensor]:
    """An 8-channel one without a flow network, with `module.` in front of every name."""
    return {f"module.{name}": tensor for name, tensor in load_vectors("srgb_c8_even")[1].items()}


@pytest.mark.parametrize(("name", "config"), [("bdc_2_unify", STBNConfig()), ("BR_d_c_raw", RAW)])
def test_official_networks_convert(name: str, config: STBNConfig) -> None:
    found, weights = convert_reference(official(name))
    assert found == config
    with torch.device("meta"):
        expected = STBN(config).state_dict()
    assert {key: tensor.shape for key, tensor in weights.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }


def test_module_prefix_and_flow_make_no_difference() -> None:
    plain = {name.removeprefix("module."): tensor for name, tensor in small().items()}
    _, expected = convert_reference(plain)
    _, converted = convert_reference({**small(), "module.pwcnet.netOne.0.weight": torch.zeros(1)})
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("module.forward_rnn.head.0.weight", "forward_rnn.head.0.weight"),
        ("module.concat.convs.0.weight", "concat.convs.0.weight"),
        ("module.backward_rnn.tail.4.bias", "backward_branch.expand.bias"),
    ],
)
def test_missing_key_is_named(missing: str, named: str) -> None:
    state_dict = small()
    del state_dict[missing]
    with pytest.raises(CheckpointError, match=named):
        convert_reference(state_dict)


def test_unexpected_key_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"holds 'discriminator\.0\.weight'"):
        convert_reference({**small(), "module.discriminator.0.weight": torch.zeros(1)})


def test_misshapen_key_is_named() -> None:
    state_dict = small()
    name = "module.forward_rnn.tail.4.weight"
    state_dict[name] = state_dict[name][:, :-1]
    with pytest.raises(
        CheckpointError, match=r"'forward_rnn\.tail\.4\.weight' has shape .* where .* is expected"
    ):
        convert_reference(state_dict)


def test_a_network_without_noise_map_is_refused() -> None:
    state_dict = small()
    for branch in ("forward_rnn", "backward_rnn"):
        name = f"module.{branch}.head.0.weight"
        state_dict[name] = state_dict[name][:, :-3]
    with pytest.raises(CheckpointError, match="bdc_flow"):
        convert_reference(state_dict)


def with_flow() -> dict[str, Tensor]:
    """The small network with a whole flow network of zeros."""
    shapes = {name: t.shape for name, t in official("bdc_2_unify").items() if ".pwcnet." in name}
    return {**small(), **{name: torch.zeros(shape) for name, shape in shapes.items()}}


def test_import_with_flow(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    # As the reference's training script saves it: arguments beside the weights.
    torch.save({"state_dict": with_flow(), "args": argparse.Namespace(lr=1e-4), "epoch": 3}, path)
    checkpoint = import_official(path)
    assert checkpoint.info.flow == "pwc" and checkpoint.info.name == "official"
    assert "non-commercial" in checkpoint.info.licence
    save_checkpoint(tmp_path / "ours.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "ours.safetensors")
    PWCNet().load_state_dict(loaded.flow_weights)


@pytest.mark.parametrize("wrapped", [True, False])
def test_import_without_flow(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "official.pth"
    torch.save({"state_dict": small()} if wrapped else small(), path)
    checkpoint = import_official(path)
    assert checkpoint.info.flow == "dis" and not checkpoint.flow_weights
    assert "non-commercial" not in checkpoint.info.licence
    assert checkpoint.config.channels == 8


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_flow_network_that_does_not_fit(tmp_path: Path, change: str) -> None:
    state_dict = with_flow()
    name = "module.pwcnet.netTwo.netUpflow.weight"
    named = "pwcnet.netTwo.netUpflow.weight"
    if change == "missing":
        del state_dict[name]
        named = "upsample_flow.weight"
    elif change == "unexpected":
        named = "pwcnet.netTen.weight"
        state_dict[f"module.{named}"] = torch.zeros(1)
    else:
        state_dict[name] = torch.zeros(1)
    path = tmp_path / "official.pth"
    torch.save(state_dict, path)
    with pytest.raises(CheckpointError, match=named):
        import_official(path)


class Stranger:
    """A class that a file must not be able to bring to life."""


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_import_of_a_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "official.pth"
    torch.save({"state_dict": small()}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"downloaded whole|plain tensors"):
        import_official(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"state_dict": Stranger()}, "Stranger"),
        ([1, 2], "list"),
        ({"weight": 1.0}, "not a tensor"),
        ({}, "is missing"),
    ],
)
def test_import_of_other_files(tmp_path: Path, content: object, word: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=word):
        import_official(path)
