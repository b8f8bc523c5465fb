"""One file format for our models: safetensors tensors with a self-describing JSON header.

The header carries everything needed to run the model: the network's configuration, the flow it was trained with,
the noise range and how it was made. Nothing in the file is executed on loading.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stbn_cli.errors import CheckpointError
from stbn_cli.files import whole_file
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.networks import NETWORKS, Network, NetworkConfig, build, name_of
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.kinds import ALL_KINDS, NoiseKind

FORMAT = "stbn-1"
FLOW_PREFIX = "flow."  # tensors of a flow network that travels with the model
# No model of ours comes near these; a file that claims more is refused before it is given memory.
MAX_TENSOR_BYTES = 2 << 30
MAX_TENSORS = 20_000
MAX_HEADER_CHARACTERS = 4 << 20
MAX_CONFIG_NUMBER = 4096


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a checkpoint says of itself beside the network's shape."""

    name: str  # short name, for people
    flow: str = "dis"  # the flow estimator it was trained with, one of flow.ESTIMATOR_NAMES
    sigma_range: tuple[float, float] = (0.0, 255.0)  # noise levels it was trained for, 0-255 scale
    licence: str = ""
    training: dict[str, Any] = field(default_factory=dict)  # recipe, data, metrics; free form
    noise: dict[str, Any] | None = (
        None  # of the footage it was finetuned on, as `LearnedNoise.describe` gives it
    )
    noise_kind: NoiseKind = "white"  # what noise it was trained for


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded file: configuration, weights and description; the network is built by `build`."""

    config: NetworkConfig
    info: ModelInfo
    weights: dict[str, Tensor]
    flow_weights: dict[str, Tensor] = field(default_factory=dict)

    def build(self) -> Network:
        """A new network with these weights, float32, on the CPU, in evaluation mode."""
        network = build(self.config)
        network.load_state_dict({name: tensor.float() for name, tensor in self.weights.items()})
        return network.eval()

    @property
    def stbn_config(self) -> STBNConfig:
        """The configuration of an STBN. Raises `CheckpointError` if this is another network."""
        if not isinstance(self.config, STBNConfig):
            raise CheckpointError(
                f"The model {self.info.name!r} cannot learn from noisy video alone. Use stbn or stbn-xs."
            )
        return self.config

    def build_stbn(self) -> STBN:
        """`build` for an STBN. Raises `CheckpointError` if this is another network."""
        network = STBN(self.stbn_config)
        network.load_state_dict({name: tensor.float() for name, tensor in self.weights.items()})
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.float16) -> None:
    """Write `checkpoint` to `path` with tensors stored in `dtype`; the file appears whole or not at all."""
    header = {
        "format": FORMAT,
        "network": name_of(checkpoint.config),
        "config": json.dumps(asdict(checkpoint.config), sort_keys=True),
        "info": json.dumps(asdict(checkpoint.info), sort_keys=True),
    }
    tensors = {name: tensor.to(dtype) for name, tensor in checkpoint.weights.items()}
    for name, tensor in checkpoint.flow_weights.items():
        tensors[FLOW_PREFIX + name] = tensor.to(dtype)
    write_tensors(path, tensors, header)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by `save_checkpoint`.

    Raises `CheckpointError` if it cannot be read, is not of our format, or its tensors do not fit its configuration.
    """
    header, tensors = read_tensors(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(path)!r} is a safetensors file, but not an stbn denoiser (format {header.get('format')!r}). "
            "Give a file made by stbn train or stbn weights import."
        )
    config, info = parse_header(path, header)
    if config is None:
        raise CheckpointError(f"The model file {str(path)!r} is damaged: its header has no 'config'.")
    flow_weights = {
        name.removeprefix(FLOW_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(FLOW_PREFIX)
    }
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(FLOW_PREFIX)}
    _check_fit(path, config, weights)
    return Checkpoint(config, info, weights, flow_weights)


def parse_header(path: Path, header: dict[str, str]) -> tuple[NetworkConfig | None, ModelInfo]:
    """The network's configuration, if there is one, and the description. Raises `CheckpointError` if unreadable."""
    try:
        if sum(map(len, header.values())) > MAX_HEADER_CHARACTERS:
            raise ValueError(f"it has more than {MAX_HEADER_CHARACTERS} characters")
        kind = NETWORKS[header.get("network", "stbn")][0]  # headers without it are of STBN
        config = _parse_config(kind, json.loads(header["config"])) if "config" in header else None
        return config, _parse_info(json.loads(header["info"]))
    except (KeyError, TypeError, ValueError, RecursionError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The header of {str(path)!r} cannot be understood ({error}). "
            "The file is damaged or was made by a newer version of stbn: update stbn."
        ) from error


def _parse_config(kind: Any, stated: dict[str, Any]) -> NetworkConfig:
    """Raises TypeError or ValueError for fields that no network has."""
    if not isinstance(stated, dict):
        raise TypeError("the configuration is no table")
    kinds = {item.name: type(item.default) for item in fields(kind)}
    for name, value in stated.items():
        if name in kinds and type(value) is not kinds[name]:
            raise TypeError(f"{name} is {value!r:.40}")
        if isinstance(value, int) and not 0 <= value <= MAX_CONFIG_NUMBER:
            raise ValueError(f"{name} is {value!r:.40}")
    return kind(**stated)


def _parse_info(stated: dict[str, Any]) -> ModelInfo:
    """Raises KeyError, TypeError or ValueError for what describes no model."""
    low, high = (float(level) for level in stated["sigma_range"])
    info = ModelInfo(**{**stated, "sigma_range": (low, high)})
    if not all(isinstance(text, str) for text in (info.name, info.flow, info.licence)):
        raise TypeError("name, flow or licence is no text")
    if info.noise_kind not in ALL_KINDS:
        raise ValueError(f"noise_kind is {info.noise_kind!r:.40}")
    if not isinstance(info.training, dict) or not isinstance(info.noise, dict | None):
        raise TypeError("training or noise is no table")
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"sigma_range is {low:g} to {high:g}")
    return info


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file; it appears whole or not at all. Raises OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        partial.write_bytes(_with_sorted_header(save(contiguous, metadata=header)))


def _with_sorted_header(file: bytes) -> bytes:
    """The same safetensors file with its header sorted: safetensors writes the metadata in another order every time.

    Eight bytes, little endian, hold the header's length; it is padded with blanks to a multiple of eight.
    """
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file.

    Sizes are checked before any tensor is given memory; that they agree with the file's is checked by safetensors.
    Raises `CheckpointError` if it cannot be read, claims too much, or holds values that are no numbers.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"The model file {str(path)!r} is not an ordinary file. Name a .safetensors file."
        )
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            size = path.stat().st_size
            if len(names) > MAX_TENSORS or size > MAX_TENSOR_BYTES:
                raise CheckpointError(
                    f"The model file {str(path)!r} holds {len(names)} tensors in {size} bytes, more than any model of "
                    f"stbn ({MAX_TENSORS} and {MAX_TENSOR_BYTES}). Give another --model."
                )
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"The model file {str(path)!r} does not exist. Check the path.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"The model file {str(path)!r} cannot be read ({error}). It is damaged or not a safetensors file; "
            "an official .pth model has to be converted first: stbn weights import MODEL.pth -o MODEL.safetensors."
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise CheckpointError(
                f"The model file {str(path)!r} is damaged: tensor {name!r:.100} holds values that are not finite "
                "numbers. Get the file again."
            )
    return header, tensors


def _check_fit(path: Path, config: NetworkConfig, weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "does not belong there"
        raise CheckpointError(f"The model file {str(path)!r} is damaged: tensor {name!r} {problem}.")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise CheckpointError(
                f"The model file {str(path)!r} is damaged: tensor {name!r} has shape "
                f"{list(weights[name].shape)} where {list(shape)} is expected."
            )
