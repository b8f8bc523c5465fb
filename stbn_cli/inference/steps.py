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
from stbn_cli.models.seen import Seen


def advance_state(
    network: Network,
    plan: Plan,
    direction: Direction,
    seen: Seen,
    state: Tensor | None,
    neighbour: Tensor | None,
    flow: Tensor | None,
) -> Tensor:
    """Hidden state `(1, channels, h, w)` of a frame, on the plan's running device.

    `state` is that of the neighbour, a frame `(1, C, H, W)` to which `flow (1, 2, h, w)` leads; None for all three
    starts the recurrence. States and their flow have 1 / `plan.state_scale` of the frame's size.
    """
    scale = plan.state_scale
    if state is not None and neighbour is not None:
        neighbour = neighbour.to(state.device)

    def compute(tile: Tile) -> Tensor:
        small = tile.reduced(scale)
        rows, columns = small.rows.outer, small.columns.outer
        aligned = None
        if state is not None and neighbour is not None and flow is not None:
            part = flow[..., rows, columns].to(state.device)
            found = network.align(state, neighbour, part, rows.start, columns.start)
            aligned = tuple(values.to(plan.device) for values in found)
        return network.advance(direction, seen.part(rows, columns, scale), aligned)

    return _assemble(compute, plan.propagation_tiles, plan, plan.running_device, scale)


def advance_both(
    network: Network,
    plan: Plan,
    seen: tuple[Seen, Seen],
    states: tuple[Tensor, Tensor],
    neighbours: tuple[Tensor, Tensor],
    flows: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """`advance_state` forward for the first of each pair and backward for the second, in one batch.

    For plans without tiles that keep states on the device.
    """
    flow = torch.cat([flow.to(plan.device) for flow in flows if flow is not None])
    aligned = network.align(torch.cat(states), torch.cat(neighbours), flow)
    both = network.advance_both(seen, aligned)
    return both[:1], both[1:]


def fuse_states(
    network: Network, plan: Plan, forward_state: Tensor, backward_state: Tensor, seen: Seen
) -> Tensor:
    """Head outputs `(N, outputs, H, W)` on the plan's device from whole-frame hidden states `(N, channels, h, w)`."""

    def compute(tile: Tile) -> Tensor:
        small = tile.reduced(plan.state_scale)
        rows, columns = small.rows.outer, small.columns.outer
        ahead, back = (state[..., rows, columns].to(plan.device) for state in (forward_state, backward_state))
        return network.fuse(ahead, back, seen.part(rows, columns, plan.state_scale), plan.uncertainty)

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
