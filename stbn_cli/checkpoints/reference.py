"""Reads checkpoints of the published reference implementation into our names.

Only the facts of its state dict (names and shapes) are used. Both of its networks are known: the sRGB one with a
Gaussian head and the raw one with a plain head.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from stbn_cli.errors import CheckpointError
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.stbn import STBN

_BRANCHES = {"forward_rnn": "forward_branch", "backward_rnn": "backward_branch"}
_HEADS = {"concat": "fusion", "d2": "head"}
_BLOCK_LAYERS = {"0": "spatial", "2": "pointwise"}
_BRANCH_LAYERS = {"head.0": "head", "tail.0": "squeeze1", "tail.2": "squeeze2", "tail.4": "expand"}
_BODY_LAYERS = {"0": "masked", "2": "mix1", "4": "mix2"}
_BODY_FIRST_BLOCK = 6  # branch body: masked conv, ReLU, 1x1, ReLU, 1x1, ReLU, then the blocks
_EXPANSION = "d.encoder.interpolate"
_EXPANSION_LAYERS = {
    "headConv": "enter",
    "tailConv.0": "leave1",
    "tailConv.1": "leave2",
    "tailConv.2": "leave3",
}
FLOW_PREFIX = "pwcnet."
MASK_SUFFIX = ".mask"


def strip_wrapper(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the `module.` that data-parallel training leaves in front of every name."""
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}


def convert_reference(state_dict: Mapping[str, Tensor]) -> tuple[STBNConfig, dict[str, Tensor]]:
    """Config and state dict of our `STBN` from an official one, of the sRGB or the raw network.

    Names may start with `module.`; mask buffers and the flow network (`pwcnet.*`, see
    `stbn_cli.models.pwcnet.convert_pwcnet`) may be there and are left out. Raises `CheckpointError` naming the first
    key that is missing, not expected, or of the wrong shape.
    """
    official = {
        name: tensor
        for name, tensor in strip_wrapper(state_dict).items()
        if not name.startswith(FLOW_PREFIX) and not name.endswith(MASK_SUFFIX)
    }
    config = _deduce_config(official)
    renamed = {_rename(name, config): (name, tensor) for name, tensor in official.items()}
    # Built on the meta device: only names and shapes are wanted.
    expected = {name: tuple(tensor.shape) for name, tensor in _empty_network(config).state_dict().items()}
    for name, shape in expected.items():
        if name not in renamed:
            raise CheckpointError(
                f"This is not a complete STBN checkpoint: nothing in it corresponds to {name!r}. "
                "Check that the file is an official STBN model and was downloaded whole."
            )
        official_name, tensor = renamed[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"The checkpoint's {official_name!r} has shape {list(tensor.shape)} where {list(shape)} is "
                "expected. Check that the file is an official STBN model."
            )
    for name, (official_name, _) in renamed.items():
        if name not in expected:
            raise CheckpointError(
                f"The checkpoint holds {official_name!r}, which does not belong to STBN. "
                "Check that the file is an official STBN model."
            )
    return config, {name: renamed[name][1].detach().clone() for name in expected}


def _empty_network(config: STBNConfig) -> STBN:
    with torch.device("meta"):
        return STBN(config)


def _deduce_config(official: Mapping[str, Tensor]) -> STBNConfig:
    head = _require(official, "forward_rnn.head.0.weight")
    output = _last_layer(official, "d2.convs")
    channels = head.shape[0]
    outputs = output.shape[0]
    # Inputs are image + state (+ noise map of the image's size); the raw network has no map, and a plain head of
    # as many outputs as the image has channels.
    extra = head.shape[1] - channels
    plain = extra == outputs
    if not plain and (extra % 2 or outputs <= extra // 2):
        raise CheckpointError(
            f"This checkpoint is of another network: 'forward_rnn.head.0.weight' takes {head.shape[1]} channels and "
            f"the head gives {outputs}, as in the reference's bdc_flow, which has no noise map. "
            "Give a checkpoint of bdc_2_unify or BR_d_c_raw."
        )
    blocks = _count(official, r"forward_rnn\.branch1\.body\.(\d+)\.body\.0\.weight")
    stages = _count(official, rf"{re.escape(_EXPANSION)}\.body\.(\d+)\.body\.0\.body\.body\.0\.weight")
    expansion_blocks = _count(
        official, rf"{re.escape(_EXPANSION)}\.body\.0\.body\.(\d+)\.body\.body\.0\.weight"
    )
    expansion_width = _require(official, f"{_EXPANSION}.headConv.weight").shape[0]
    grouped = _require(official, f"{_EXPANSION}.body.0.body.0.body.body.0.weight")
    return STBNConfig(
        channels=channels,
        blocks=blocks,
        image_channels=extra if plain else extra // 2,
        head="plain" if plain else "gaussian",
        noise_level=not plain,
        fusion_channels=_require(official, "concat.convs.0.weight").shape[0],
        fusion_blocks=_count(official, r"concat\.convs\.(\d+)\.body\.0\.weight"),
        expansion_channels=expansion_width,
        expansion_stages=stages,
        expansion_blocks=expansion_blocks,
        expansion_groups=expansion_width // grouped.shape[1],
        head_blocks=_count(official, r"d2\.convs\.(\d+)\.body\.0\.weight"),
    )


def _require(official: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in official:
        raise CheckpointError(
            f"This is not an official STBN checkpoint: {name!r} is missing. "
            "Give the .pth file that the STBN authors published, or one trained with their code."
        )
    return official[name]


def _last_layer(official: Mapping[str, Tensor], prefix: str) -> Tensor:
    indices = [int(found[1]) for name in official if (found := re.match(rf"{prefix}\.(\d+)\.", name))]
    return _require(official, f"{prefix}.{max(indices, default=0)}.weight")


def _count(official: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in official if (found := re.fullmatch(pattern, name))})


def _rename(name: str, config: STBNConfig) -> str:
    """Our name of an official one; a name of no known part is returned as it is."""
    part, _, rest = name.partition(".")
    if part in _BRANCHES:
        return _rename_branch(_BRANCHES[part], rest, config)
    if part in _HEADS:
        blocks = config.fusion_blocks if part == "concat" else config.head_blocks
        return _rename_head(_HEADS[part], rest, blocks) or name
    if name.startswith(_EXPANSION + "."):
        return _rename_expansion(name.removeprefix(_EXPANSION + ".")) or name
    return name


def _rename_branch(ours: str, rest: str, config: STBNConfig) -> str:
    layer, _, kind = rest.rpartition(".")
    if layer in _BRANCH_LAYERS:
        return f"{ours}.{_BRANCH_LAYERS[layer]}.{kind}"
    body = layer.removeprefix("branch1.body.")
    if body in _BODY_LAYERS:
        return f"{ours}.{_BODY_LAYERS[body]}.{kind}"
    if body == str(_BODY_FIRST_BLOCK + config.blocks):
        return f"{ours}.out.{kind}"
    if found := re.fullmatch(r"(\d+)\.body\.([02])", body):
        return f"{ours}.blocks.{int(found[1]) - _BODY_FIRST_BLOCK}.{_BLOCK_LAYERS[found[2]]}.{kind}"
    return f"{ours}.{rest}"


def _rename_head(ours: str, rest: str, blocks: int) -> str | None:
    if found := re.fullmatch(r"convs\.(\d+)\.body\.([02])\.(\w+)", rest):
        return f"{ours}.blocks.{int(found[1]) - 1}.{_BLOCK_LAYERS[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"convs\.(\d+)\.(\w+)", rest):
        layer = {0: "enter", blocks + 1: "leave"}.get(int(found[1]))
        return f"{ours}.{layer}.{found[2]}" if layer else None
    return None


def _rename_expansion(rest: str) -> str | None:
    if found := re.fullmatch(r"body\.(\d+)\.body\.(\d+)\.body\.body\.([02])\.(\w+)", rest):
        return f"expansion.stages.{found[1]}.{found[2]}.{_BLOCK_LAYERS[found[3]]}.{found[4]}"
    layer, _, kind = rest.rpartition(".")
    return f"expansion.{_EXPANSION_LAYERS[layer]}.{kind}" if layer in _EXPANSION_LAYERS else None
