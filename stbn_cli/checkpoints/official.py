"""Turns a file of the published reference implementation into a `Checkpoint`. Executes nothing from it."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stbn_cli.checkpoints.reference import FLOW_PREFIX, convert_reference, strip_wrapper
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo
from stbn_cli.errors import CheckpointError
from stbn_cli.models.pwcnet import PWCNet, convert_pwcnet

STATE_KEY = "state_dict"  # under which the reference's training script keeps the weights
LICENCE = "Imported by the user from an official checkpoint; its authors' licence applies."
FLOW_LICENCE = (
    " The flow weights derive from PWC-Net (CC BY-NC-SA 4.0, non-commercial) and are the user's own: "
    "do not redistribute them."
)


def import_official(path: Path) -> Checkpoint:
    """Read an official `.pth` file: `{"state_dict": ...}` or the state dict itself.

    The flow network comes along where the file holds it (`info.flow` is "pwc"), else the flow is DIS. Raises
    `CheckpointError` naming the first key that is missing, unexpected or of the wrong shape.
    """
    state_dict = _read_state_dict(path)
    config, weights = convert_reference(state_dict)
    flow = {
        name.removeprefix(FLOW_PREFIX): tensor
        for name, tensor in strip_wrapper(state_dict).items()
        if name.startswith(FLOW_PREFIX)
    }
    info = ModelInfo(
        name=path.stem,
        flow="pwc" if flow else "dis",
        licence=LICENCE + (FLOW_LICENCE if flow else ""),
        training={"imported_from": path.name},
    )
    return Checkpoint(config, info, weights, _convert_flow(flow) if flow else {})


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    # The reference's training script saves its parsed arguments beside the weights: a plain record.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"The file {path} does not exist. Check the name and the folder.") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        inside = f" (it holds a {found[1]})" if found else ""
        raise CheckpointError(
            f"{path} holds more than plain tensors{inside}; for safety, stbn loads nothing else. "
            "Give an official STBN .pth file, or save only its state dict."
        ) from error
    except Exception as error:  # the old format's parser meets damaged files with errors of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch file ({reason}). Check that it was downloaded whole."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get(STATE_KEY), Mapping):
        content = content[STATE_KEY]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict. Give an official STBN .pth file."
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds {name!r}, which is not a tensor, among its weights. "
                "Give an official STBN .pth file."
            )
    return content


def _convert_flow(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `PWCNet` from the reference's (names without `pwcnet.`), checked to be complete and fit."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in PWCNet().state_dict().items()}
    converted: dict[str, Tensor] = {}
    for name, tensor in official.items():
        full = FLOW_PREFIX + name
        try:
            ((ours, _),) = convert_pwcnet({name: tensor}).items()
        except KeyError:
            raise CheckpointError(
                f"The checkpoint holds {full!r}, which does not belong to its flow network. "
                "Check that the file is an official STBN model."
            ) from None
        if ours not in expected or tensor.shape != expected[ours]:
            wanted = list(expected.get(ours, ()))
            raise CheckpointError(
                f"The checkpoint's {full!r} has shape {list(tensor.shape)} where {wanted} is expected. "
                "Check that the file is an official STBN model."
            )
        converted[ours] = tensor.detach().clone()
    for ours in expected:
        if ours not in converted:
            raise CheckpointError(
                f"The flow network in the checkpoint is not complete: nothing corresponds to {ours!r}. "
                "Check that the file was downloaded whole."
            )
    return converted
