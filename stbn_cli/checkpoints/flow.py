"""Flow networks: built from weights that travel with a denoiser, or kept in a file of their own."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stbn_cli.checkpoints.serial import (
    Checkpoint,
    ModelInfo,
    load_checkpoint,
    parse_header,
    read_tensors,
    write_tensors,
)
from stbn_cli.errors import CheckpointError

FLOW_FORMAT = "stbn-flow-1"


@dataclass(frozen=True, slots=True)
class FlowCheckpoint:
    """A flow network's weights and what they are (`info.flow`: "light" or "pwc"); the network is built by `build`."""

    info: ModelInfo
    weights: dict[str, Tensor]

    def build(self) -> nn.Module:
        """A new network with these weights, float32, on the CPU, in evaluation mode."""
        return build_flow_network(self.info.flow, self.weights, self.info.name)


def build_flow_network(kind: str, weights: Mapping[str, Tensor], owner: str) -> nn.Module:
    """The flow network called `kind` ("light" or "pwc") with `weights`, float32, on the CPU, in evaluation mode.

    Raises `CheckpointError`, which names `owner`, if the weights do not fit.
    """
    if kind == "pwc":
        from stbn_cli.models.pwcnet import PWCNet as FlowNet
    else:
        from stbn_cli.models.lightflow import LightFlowNet as FlowNet
    network = FlowNet()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(
            f"The flow network in {owner!r} does not fit its kind, {kind!r}: the file is damaged or was made by "
            "another version of stbn. Use another flow with --flow dis, or get the file again."
        ) from error
    return network.eval()


def save_flow_checkpoint(path: Path, checkpoint: FlowCheckpoint, dtype: torch.dtype = torch.float16) -> None:
    """Write `checkpoint` to `path` with tensors stored in `dtype`; the file appears whole or not at all."""
    header = {"format": FLOW_FORMAT, "info": json.dumps(asdict(checkpoint.info), sort_keys=True)}
    write_tensors(path, {name: tensor.to(dtype) for name, tensor in checkpoint.weights.items()}, header)


def load_flow_checkpoint(path: Path) -> FlowCheckpoint:
    """Read a file written by `save_flow_checkpoint`. Raises `CheckpointError` if it is none."""
    header, tensors = read_tensors(path)
    if header.get("format") != FLOW_FORMAT:
        raise CheckpointError(
            f"{str(path)!r} holds no flow network (format {header.get('format')!r}). "
            "Give a file made by stbn train --model flow-light."
        )
    _, info = parse_header(path, header)
    checkpoint = FlowCheckpoint(info, tensors)
    checkpoint.build()  # refuses weights that do not fit
    return checkpoint


def load_any_checkpoint(path: Path) -> Checkpoint | FlowCheckpoint:
    """Read a denoiser or a flow network, whichever the file holds. Raises `CheckpointError` if it is neither."""
    header, _ = read_tensors(path)
    return load_flow_checkpoint(path) if header.get("format") == FLOW_FORMAT else load_checkpoint(path)
