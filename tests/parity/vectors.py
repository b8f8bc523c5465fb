"""Golden vectors of the published reference: inputs and outputs with made-up weights (see README.md here)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent


def load_vectors(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The file's tensors, and the made-up state dict under the reference's names."""
    gain = {"pwc": 1.4}.get(name, 0.85)
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        shapes = json.loads(file.metadata()["state_dict_shapes"])
    return tensors, {key: made_up_weight(key, shape, gain) for key, shape in shapes.items()}


def made_up_weight(name: str, shape: list[int], gain: float) -> Tensor:
    if name.endswith(".mask"):
        mask = torch.ones(shape)
        mask[..., 1, 1] = 0.0
        return mask
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = gain / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.05
    return torch.from_numpy((draw * scale).astype(np.float32))
