"""The network's steps on whole frames, computed tile by tile where the plan says so.

Hidden states are always whole frames; only the computation is cut. The warp reads from the whole state, so motion
across tile borders loses nothing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stbn_cli.inference.plan import Plan
from stbn_cli.inference.tiles import Tile, blend_weights
from stbn_cli.models.networks import Network
from stbn_cli.models.recurrent import Direction


def advance_state(
    network: Network,
    plan: Plan,
    direction: Direction,
    frame: Tensor,
    sigma: Tensor,
    state: Tensor | None,
    flow: Tensor | None,
) -> Tensor:
    """Hidden state `(1, channels, H, W)` of `frame (1, C, H, W)`, on the plan's running device.

    `state` is the neighbour's, `flow (1, 2, h, w)` leads there; None for both starts the recurrence. States, their flow
    and levels that are maps have 1 / `plan.state_scale` of the frame's size.
    """
    scale = plan.state_scale

    def compute(tile: Tile) -> Tensor:
        small = tile.reduced(scale)
        rows, columns = small.rows.outer, small.columns.outer
        aligned = None
        if state is not None and flow is not None:
            part = flow[..., rows, columns].to(state.device)
            aligned = network.align(state, part, rows.start, columns.start).to(plan.device)
        level = sigma if sigma.shape[-2:] == (1, 1) else sigma[..., rows, columns]
        return network.advance(direction, frame[..., tile.rows.outer, tile.columns.outer], level, aligned)

    return _assemble(compute, plan.propagation_tiles, plan, plan.running_device, scale)


def advance_both(
    network: Network,
    plan: Plan,
    frames: tuple[Tensor, Tensor],
    sigmas: tuple[Tensor, Tensor],
    states: tuple[Tensor, Tensor],
    flows: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """`advance_state` forward for the first of each pair and backward for the second, in one batch.

    For plans without tiles that keep states on the device.
    """
    flow = torch.cat([flow.to(plan.device) for flow in flows if flow is not None])
    aligned = network.align(torch.cat(states), flow)
    both = network.advance_both(frames, sigmas, aligned)
    return both[:1], both[1:]


def fuse_states(network: Network, plan: Plan, forward_state: Tensor, backward_state: Tensor) -> Tensor:
    """Head outputs `(N, outputs, H, W)` on the plan's device from whole-frame hidden states `(N, channels, H, W)`."""

    def compute(tile: Tile) -> Tensor:
        small = tile.reduced(plan.state_scale)
        part = (..., small.rows.outer, small.columns.outer)
        return network.fuse(forward_state[part].to(plan.device), backward_state[part].to(plan.device))

    return _assemble(compute, plan.fusion_tiles, plan, plan.device)


def _assemble(
    compute: Callable[[Tile], Tensor],
    tiles: Sequence[Tile],
    plan: Plan,
    device: torch.device,
    scale: int = 1,
) -> Tensor:
    """Whole-frame result of `compute`, which gives a tile's extent, at 1 / `scale` of the size."""
    if len(tiles) == 1:
        return compute(tiles[0]).to(device)
    whole: Tensor | None = None
    height, width = plan.height // scale, plan.width // scale
    total = torch.zeros(height, width, device=device)
    for full in tiles:
        result = compute(full)
        tile = full.reduced(scale)
        if whole is None:
            shape = (*result.shape[:-2], height, width)
            # Blended sums are kept in float32: half precision would round at every tile.
            dtype = result.dtype if plan.exact_tiles else torch.float32
            whole = torch.zeros(shape, dtype=dtype, device=device)
        if plan.exact_tiles:
            core = result[..., tile.rows.core_in_outer, tile.columns.core_in_outer]
            whole[..., tile.rows.core, tile.columns.core] = core.to(device)
            continue
        weights = blend_weights(tile).to(device)
        part = (..., tile.rows.outer, tile.columns.outer)
        whole[part] += weights * result.to(device)
        total[part] += weights
    assert whole is not None
    return whole if plan.exact_tiles else (whole / total).to(plan.dtype)
