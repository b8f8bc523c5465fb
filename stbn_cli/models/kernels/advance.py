"""How a GPU's kernels advance hidden states: `STBN.advance` in as few passes over memory as it can be done.

States have room for a frame behind them there, and their channels are a multiple of 8: every pixel's row is aligned,
so that warps move sixteen bytes at a time, and the frame head reads state and frame where they lie. What is between
picture and phases is done by the 1x1 convolutions on either side, which read from the one and write into the other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.models.blindspot import PhaseHead
from stbn_cli.models.branch import PropagationBranch
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.fused import Derived, runs_kernels
from stbn_cli.models.phases import from_phases, valid_mask

if TYPE_CHECKING:
    from stbn_cli.models.kernels.pointwise import PackedChain


def advance_with_kernels(
    config: STBNConfig,
    branches: Sequence[PropagationBranch],
    fusion: PhaseHead,
    frames: Sequence[Tensor],
    sigmas: Sequence[Tensor],
    aligned_states: Tensor | None,
    derived: Derived,
) -> Tensor | None:
    """`STBN._advance` where the kernels run, with states of `padded_state_channels`; None where they cannot.

    `aligned_states`, which may lack the room, are overwritten.
    """
    if not runs_kernels(frames[0]):
        return None
    from stbn_cli.models.kernels import layout, pointwise

    dtype = frames[0].dtype
    batch, _, height, width = frames[0].shape
    channels, used, room = config.channels, config.state_channels, config.padded_state_channels
    entry = _entry(fusion, channels, used, room, dtype, derived)
    leave = fusion.exit.packed(dtype)
    if entry is None or leave is None:
        return None
    joined = torch.cat(tuple(frames))
    if aligned_states is not None:
        if aligned_states.shape[1] < room:
            aligned_states = F.pad(aligned_states, (0, 0, 0, 0, 0, room - aligned_states.shape[1]))
        aligned_states = layout.dense(aligned_states)
        aligned_states[:, used : used + config.image_channels] = joined
    mask = valid_mask(batch, height, width, frames[0])
    features = []
    for number, (branch, frame, sigma) in enumerate(zip(branches, frames, sigmas, strict=True)):
        own = None if aligned_states is None else aligned_states[number * batch : (number + 1) * batch]
        hidden = _head(branch, frame, own, sigma, used)
        mix = branch.mix.packed(dtype)
        if hidden is None or mix is None:
            return None
        weight, bias = _masked(branch)
        seen = F.conv2d(hidden, weight, padding=1)
        phases = pointwise.pointwise_chain(seen, mix, mask, before=bias, picture=True)
        features.append(branch.after_mix(phases, mask))
    together = features[0] if len(features) == 1 else torch.cat(features)
    states = layout.pixels_last(len(joined), room, height, width, joined)
    if aligned_states is None:
        states[:, :channels] = from_phases(together, height, width)
    else:
        mask = valid_mask(len(aligned_states), height, width, frames[0])
        together = pointwise.pointwise_chain(together, entry, mask, second=aligned_states)
        for block in fusion.blocks:
            together = block(together, mask, overwrite=True)
        pointwise.pointwise_chain(together, leave, into=states)
    if used > channels:
        states[:, channels:used] = joined
    states[:, used:] = 0.0  # no weight reads it, but zero times infinity is no number
    return states


def _head(
    branch: PropagationBranch, frame: Tensor, state: Tensor | None, sigma: Tensor, used: int
) -> Tensor | None:
    """The frame head and its ReLU; None where no kernel does it. `state` holds the frame behind its channels."""
    from stbn_cli.models.kernels import pointwise

    alike = not branch.noise_level or (sigma.shape[0] == 1 and sigma.shape[-2:] == (1, 1))
    if state is None or not alike:
        return branch.head_of(frame, None if state is None else state[:, :used], sigma)
    head, image = branch.head, branch.image_channels
    layers = [pointwise.PointwiseLayer(head.weight, head.bias, relu=True)]
    if not pointwise.supports(layers, frame.dtype):
        return None
    room = state.shape[1]

    def pack() -> tuple[Any, Tensor, Tensor]:
        weight = head.weight.new_zeros(head.out_channels, room, 1, 1)
        weight[:, :used] = head.weight[:, image : image + used]
        weight[:, used : used + image] = head.weight[:, :image]
        chain = pointwise.pack_chain([pointwise.PointwiseLayer(weight, head.bias, relu=True)], frame.dtype)
        noise = head.weight[:, image + used :].flatten(1).float()
        level = F.pad(noise, (0, 0, 0, chain.biases[0].shape[0] - noise.shape[0]))
        return chain, level, chain.biases[0]

    chain, noise, bias = branch.derived.get("roomy head", (head.weight, head.bias), pack)  # type: ignore[arg-type]
    if branch.noise_level:
        # The same level everywhere is a bias.
        bias = torch.addmv(bias, noise, sigma.expand(1, image, 1, 1).reshape(image).float())
    return pointwise.pointwise_chain(state, replace(chain, biases=(bias,)))


def _masked(branch: PropagationBranch) -> tuple[Tensor, Tensor]:
    """Weight of the centre-masked convolution, and its bias in float32."""
    weight, bias = branch.masked.weight, branch.masked.bias
    assert bias is not None
    return branch.derived.get(
        "masked", (weight, bias), lambda: (weight * branch.masked.centre_mask, bias.float())
    )


def _entry(
    fusion: PhaseHead, channels: int, used: int, room: int, dtype: torch.dtype, derived: Derived
) -> "PackedChain | None":
    """The fusion's first layer, whose second inputs are the whole of an aligned state."""
    from stbn_cli.models.kernels import pointwise

    enter = fusion.enter
    if not pointwise.supports([pointwise.PointwiseLayer(enter.weight)], dtype):
        return None

    def pack() -> Any:
        weight = enter.weight.new_zeros(enter.out_channels, channels + room, 1, 1)
        weight[:, : channels + used] = enter.weight
        return pointwise.pack_chain([pointwise.PointwiseLayer(weight)], dtype, second_inputs=room)

    return derived.get("entry", (enter.weight,), pack)
