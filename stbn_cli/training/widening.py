"""A larger network that begins as what a smaller one has learned (after Net2Net, Chen et al., ICLR 2016).

The channels of the smaller one keep their weights and see nothing of the new ones, which begin at random and are heard
as soon as training wants it; new residual blocks begin as nothing.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from stbn_cli.models.blindspot import PhaseHead, PhaseResidualBlock
from stbn_cli.models.branch import PropagationBranch
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.expansion import SCALE, ReceptiveFieldExpansion
from stbn_cli.models.stbn import STBN

# The bottleneck at a branch's end has ReLUs, and features have signs: they pass it with this added, and it is taken off
# afterwards. Those of `stbn-s` reach from -1.6 to 1.3 on a noisy clip, one in a thousand of a channel to -0.9; more
# would cost digits in half precision.
TAIL_OFFSET = 1.0
UNWIDENED = ("image_channels", "head", "noise_level", "feature_skip", "carry_frame", "mean_residual")


def can_widen(small: STBNConfig, large: STBNConfig) -> bool:
    """Whether `widen` takes a network of one shape to the other."""
    if any(getattr(small, name) != getattr(large, name) for name in UNWIDENED):
        return False
    if small.refinement_blocks or small.tail:
        return False
    sizes = ("channels", "blocks", "fusion_channels", "fusion_blocks", "expansion_channels")
    sizes += ("expansion_stages", "expansion_blocks", "head_blocks")
    grows = all(getattr(small, name) <= getattr(large, name) for name in sizes)
    fits = small.expansion_groups == 1 and small.expansion_channels <= (
        large.expansion_channels // large.expansion_groups
    )
    squeezed = not large.tail or small.channels <= large.channels // 2
    return grows and fits and squeezed and (small.blind_spot or not large.blind_spot)


@torch.no_grad()
def widen(small: STBN, large: STBN) -> None:
    """Give `large`, newly made, weights by which it computes what `small` does, to rounding.

    Raises `ValueError` for shapes that `can_widen` refuses.
    """
    if not can_widen(small.config, large.config):
        raise ValueError(f"a network of shape {small.config} does not fit into {large.config}")
    old, new, carried = small.config.channels, large.config.channels, small.config.state_channels
    colours = small.config.image_channels
    features = torch.arange(old)
    # A state is its features and, behind them, the frame that it carries.
    state = torch.cat((features, new + torch.arange(carried - old)))
    for one, other in (
        (small.forward_branch, large.forward_branch),
        (small.backward_branch, large.backward_branch),
    ):
        behind = colours + large.config.state_channels
        level = behind + torch.arange(one.head.in_channels - colours - carried)
        _widen_branch(one, other, torch.cat((torch.arange(colours), colours + state, level)), features)
    _widen_head(small.fusion, large.fusion, torch.cat((features, new + state)), features)
    _widen_expansion(small.expansion, large.expansion, features, new)
    _widen_head(small.head, large.head, features, torch.arange(small.config.output_channels))


@torch.no_grad()
def from_rgb(small: STBN, large: STBN) -> None:
    """Give `large`, newly made for Bayer planes, weights by which both greens are treated as `small` treats green.

    Both have the same shape but for the planes, a Gaussian head and the frame carried along. Raises `ValueError` where
    they have not.
    """
    if replace(large.config, image_channels=small.config.image_channels) != small.config or not (
        small.config.carry_frame and small.config.head == "gaussian"
    ):
        raise ValueError(f"a network of shape {small.config} does not lead to {large.config}")
    planes = torch.tensor([0, 1, 1, 2])  # the colour that each plane shows
    shares = torch.tensor([1.0, 0.5, 0.5, 1.0])  # inputs are summed
    colours, channels = small.config.image_channels, small.config.channels

    def spread(weight: Tensor, start: int) -> Tensor:
        return weight[:, start + planes] * shares.view(1, -1, 1, 1)

    state = {name: value.clone() for name, value in small.state_dict().items()}
    for branch in ("forward_branch", "backward_branch"):
        weight = state[f"{branch}.head.weight"]
        carried = colours + channels
        parts = (
            spread(weight, 0),
            weight[:, colours:carried],
            spread(weight, carried),
            spread(weight, carried + colours),
        )
        state[f"{branch}.head.weight"] = torch.cat(parts, 1)
    # The frame lies behind the features and the state.
    weight = state["fusion.enter.weight"]
    state["fusion.enter.weight"] = torch.cat((weight[:, : 2 * channels], spread(weight, 2 * channels)), 1)
    # The head: means, then the factor's rows, which green's column belongs to twice; what is new begins at random.
    old, new = state["head.leave.weight"], large.head.leave.weight
    rows = [[colours + column for column in range(3)], [colours + 3, colours + 4], [colours + 5]]
    outputs = planes.tolist()
    outputs += [rows[0][plane] for plane in outputs[:4]] + [rows[1][plane] for plane in outputs[:3]]
    outputs += [rows[2][0]]
    state["head.leave.weight"] = torch.cat((old[outputs], new[len(outputs) :]))
    large.load_state_dict(state)


def _widen_branch(
    small: PropagationBranch, large: PropagationBranch, inputs: Tensor, features: Tensor
) -> None:
    _place(small.head, large.head, features, inputs)
    for name in ("masked", "mix1", "mix2"):
        _place(getattr(small, name), getattr(large, name), features, features)
    _widen_blocks(small.blocks, large.blocks, features)
    if large.out and large.squeeze1 and large.squeeze2 and large.expand:
        for layer in (large.out, large.squeeze1, large.squeeze2, large.expand):
            _pass_on(layer, features)
        assert large.out.bias is not None and large.expand.bias is not None
        large.out.bias[features] = TAIL_OFFSET
        large.expand.bias[features] = -TAIL_OFFSET


def _widen_head(small: PhaseHead, large: PhaseHead, inputs: Tensor, outputs: Tensor) -> None:
    width = torch.arange(small.enter.out_channels)
    _place(small.enter, large.enter, width, inputs)
    _widen_blocks(small.blocks, large.blocks, width)
    _place(small.leave, large.leave, outputs, width)


def _widen_expansion(
    small: ReceptiveFieldExpansion, large: ReceptiveFieldExpansion, features: Tensor, channels: int
) -> None:
    width = torch.arange(small.enter.out_channels)
    _place(small.enter, large.enter, width, _unshuffled(torch.cat((features, channels + features))))
    for stage, blocks in enumerate(large.stages):
        _widen_blocks(small.stages[stage] if stage < len(small.stages) else (), blocks, width)  # type: ignore[arg-type]
    _place(small.leave1, large.leave1, width, width)
    # A new stage of blocks that do nothing adds its input to itself.
    large.leave1.weight[width] *= 0.5 ** (len(large.stages) - len(small.stages))
    _place(small.leave2, large.leave2, width, width)
    _place(small.leave3, large.leave3, _unshuffled(features), width)


def _widen_blocks(
    small: nn.ModuleList | tuple[()], large: nn.ModuleList | nn.Module, channels: Tensor
) -> None:
    for number, block in enumerate(large):  # type: ignore[arg-type]
        assert isinstance(block, PhaseResidualBlock)
        if number < len(small):
            _place(small[number].spatial, block.spatial, channels, channels)  # type: ignore[union-attr]
            _place(small[number].pointwise, block.pointwise, channels, channels)  # type: ignore[union-attr]
        else:
            for parameter in block.pointwise.parameters():
                parameter.zero_()


def _unshuffled(channels: Tensor) -> Tensor:
    """Channels after a pixel-unshuffle."""
    return (channels[:, None] * SCALE**2 + torch.arange(SCALE**2)).flatten()


def _place(small: nn.Conv2d, large: nn.Conv2d, rows: Tensor, columns: Tensor) -> None:
    """The old weights at the outputs `rows` and inputs `columns`; these outputs hear no other input."""
    large.weight[rows] = 0.0
    large.weight[rows[:, None], columns] = small.weight
    if small.bias is not None and large.bias is not None:
        large.bias[rows] = small.bias


def _pass_on(layer: nn.Conv2d, channels: Tensor) -> None:
    """A 1x1 layer that leaves these channels as they are."""
    layer.weight[channels] = 0.0
    layer.weight[channels, channels] = 1.0
    if layer.bias is not None:
        layer.bias[channels] = 0.0
