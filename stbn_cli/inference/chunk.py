"""The steps that denoise a chunk on one device: flow, forward states, backward states and estimates.

The backward pass starts beyond the chunk, at the end of its window. Knows nothing of files, cuts or fallbacks.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.inference.plan import Plan
from stbn_cli.inference.scene import Chunk, PendingFrame, Scene
from stbn_cli.inference.steps import advance_both, advance_state, fuse_states
from stbn_cli.inference.transfer import Transfers
from stbn_cli.models.fused import runs_kernels
from stbn_cli.models.networks import Network
from stbn_cli.models.recurrent import Direction
from stbn_cli.noise.clipping import undo_clipping
from stbn_cli.noise.posterior import MEAN_CHANNELS, posterior_mean, posterior_variance


class NonFiniteError(ArithmeticError):
    """A chunk came out with infinities or NaN: the precision did not suffice."""


def find_flows(flow: FlowEstimator, plan: Plan, chunk: Chunk, transfers: Transfers) -> None:
    """Flows between neighbours of the window, and from its first frame to the one before; each only once.

    Only the backward pass needs those to the next frame.
    """
    frames = chunk.window if chunk.before is None else [chunk.before, *chunk.window]
    missing = [index for index in range(1, len(frames)) if frames[index].to_previous is None]
    if not missing:
        return
    with record_function("stbn.flow"):
        # They are at the end: whatever an earlier chunk looked at has its flows.
        frames = frames[missing[0] - 1 :]
        for start in range(0, len(frames) - 1, plan.flow_batch):
            _find_some(flow, plan, frames[start : start + plan.flow_batch + 1], chunk, transfers)


def _find_some(
    flow: FlowEstimator, plan: Plan, frames: Sequence[PendingFrame], chunk: Chunk, transfers: Transfers
) -> None:
    """Flows between neighbouring `frames`, computed together."""
    sigma = chunk.scene.sigma
    if isinstance(flow, NetworkFlow):
        pictures = torch.cat([frame.on(plan, transfers) for frame in frames])
    else:
        pictures = torch.cat([frame.noisy for frame in frames])  # DIS works in host memory
    to_next: Tensor | None = None
    if isinstance(flow, NetworkFlow) and flow.finds_features_once:
        both = flow.neighbours(_reduced(pictures, plan.flow_scale)[None], sigma / plan.flow_scale)
        to_previous, to_next = (_enlarged(found[0], pictures, plan) for found in both)
    else:
        small = _reduced(pictures, plan.flow_scale)
        to_previous = _enlarged(flow(small[1:], small[:-1], sigma / plan.flow_scale), pictures, plan)
        if not chunk.skip:
            to_next = _enlarged(flow(small[:-1], small[1:], sigma / plan.flow_scale), pictures, plan)
    store = plan.state_device
    for index, (earlier, later) in enumerate(itertools.pairwise(frames)):
        later.to_previous = to_previous[index : index + 1].to(store)
        if to_next is not None:
            earlier.to_next = to_next[index : index + 1].to(store)


def _reduced(pictures: Tensor, scale: int) -> Tensor:
    """Means of `scale` x `scale` pixels; the last row and column may be of fewer."""
    return pictures if scale == 1 else F.avg_pool2d(pictures, scale, ceil_mode=True)


def _enlarged(flow: Tensor, pictures: Tensor, plan: Plan) -> Tensor:
    """The flow of reduced pictures as that of pictures of the hidden states' size."""
    factor = plan.flow_scale // plan.state_scale
    if factor == 1:
        return flow
    height, width = (-(-side // plan.state_scale) for side in pictures.shape[-2:])
    larger = F.interpolate(flow * factor, scale_factor=factor, mode="bilinear")
    return larger[..., :height, :width]


def forward_states(
    network: Network, plan: Plan, chunk: Chunk, state: Tensor | None, transfers: Transfers
) -> list[Tensor]:
    """Hidden states of the chunk's frames, from that of the frame before; None where the scene begins.

    Raises `NonFiniteError`.
    """
    states: list[Tensor] = []
    finite: list[Tensor] = []
    state = _as_planned(state, plan)
    with record_function("stbn.forward"):
        for frame in chunk.window[: chunk.count]:
            noisy = frame.on(plan, transfers)
            level, noisy = chunk.scene.level(noisy), noisy.to(plan.dtype)
            flow = None if state is None else frame.to_previous
            state = advance_state(network, plan, "forward", noisy, level, state, flow)
            finite.append(_is_finite(state))
            states.append(state.to(plan.state_device))
    _check(finite)
    return states


def denoise(
    network: Network, plan: Plan, chunk: Chunk, states: Sequence[Tensor], transfers: Transfers
) -> list[Tensor]:
    """Estimates `(1, C, H, W)` float32 of the chunk's frames on the plan's device, from their forward states.

    Raises `NonFiniteError`.
    """
    estimates: list[Tensor] = []
    state: Tensor | None = None
    waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # noisy, forward and backward state, latest frame first
    for index in reversed(range(len(chunk.window))):
        frame = chunk.window[index]
        noisy = frame.on(plan, transfers)
        with record_function("stbn.backward"):
            flow = None if state is None else frame.to_next
            level = chunk.scene.level(noisy)
            state = advance_state(network, plan, "backward", noisy.to(plan.dtype), level, state, flow)
        if index < chunk.count:
            waiting.append((noisy, states[index], state))
            if len(waiting) == plan.fusion_batch or not index:
                estimates += _estimate(network, plan, chunk.scene, waiting)
                waiting.clear()
    _check([_is_finite(estimate) for estimate in estimates])
    return estimates[::-1]


def denoise_in_pairs(
    network: Network, plan: Plan, chunk: Chunk, state: Tensor | None, transfers: Transfers
) -> tuple[list[Tensor], Tensor]:
    """The estimates and the last forward state: as the two steps above, with both directions in one batch.

    For whole frames that are too small to keep a GPU busy; takes the memory of both directions' states.
    """
    window, count = chunk.window, chunk.count
    pictures = [frame.on(plan, transfers) for frame in window]
    levels = [chunk.scene.level(picture) for picture in pictures]
    noisy = [picture.to(plan.dtype) for picture in pictures]

    def one(direction: Direction, at: int, state: Tensor | None) -> Tensor:
        flow = window[at].to_previous if direction == "forward" else window[at].to_next
        flow = None if state is None else flow
        return advance_state(network, plan, direction, noisy[at], levels[at], state, flow)

    forward: list[Tensor] = []
    backward: list[Tensor] = []
    ahead, back = _as_planned(state, plan), None
    with record_function("stbn.propagate"):
        for step in range(len(window)):
            mirrored = len(window) - 1 - step
            # The first step of either direction may have no state to start from, and the overlap has one direction.
            if 0 < step < count:
                assert ahead is not None and back is not None
                flows = (window[step].to_previous, window[mirrored].to_next)
                frames = (noisy[step], noisy[mirrored])
                told = (levels[step], levels[mirrored])
                ahead, back = advance_both(network, plan, frames, told, (ahead, back), flows)
            else:
                ahead = one("forward", step, ahead) if step < count else ahead
                back = one("backward", mirrored, back)
            if step < count:
                assert ahead is not None
                forward.append(ahead)
            backward.append(back)
    backward = backward[::-1]
    estimates: list[Tensor] = []
    for start in range(0, count, plan.fusion_batch):
        part = slice(start, min(start + plan.fusion_batch, count))
        trios = list(zip(pictures[part], forward[part], backward[part], strict=True))
        estimates += _estimate(network, plan, chunk.scene, trios)
    _check([_is_finite(result) for result in (*estimates, forward[-1])])
    return estimates, forward[-1]


def _estimate(
    network: Network, plan: Plan, scene: Scene, frames: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> list[Tensor]:
    """Estimates `(1, C, H, W)`, their standard deviations behind if the plan says so; computed together.

    frames: noisy picture, forward and backward state of each.
    """
    noisy, forward, backward = (_joined(parts) for parts in zip(*frames, strict=True))
    with record_function("stbn.fuse"):
        outputs = fuse_states(network, plan, forward, backward)
    if network.config.head == "direct":
        difference, log_spread = outputs.float().split(MEAN_CHANNELS, 1)
        return _without_clipping(plan, scene, noisy + difference, noisy, log_spread.exp)
    if network.config.head != "gaussian":
        return list(outputs.float().split(1))
    with record_function("stbn.posterior"):
        sigma = scene.noise.sigma_at(outputs[:, :MEAN_CHANNELS].float())
        if runs_kernels(forward):
            from stbn_cli.models.kernels import posterior

            estimates = posterior.posterior_mean(outputs, noisy, sigma)
        else:
            estimates = posterior_mean(outputs, noisy, sigma)
        return _without_clipping(
            plan, scene, estimates, noisy, lambda: posterior_variance(outputs.float(), noisy, sigma).sqrt()
        )


def _without_clipping(
    plan: Plan, scene: Scene, estimates: Tensor, noisy: Tensor, spread: Callable[[], Tensor]
) -> list[Tensor]:
    """One by one, without what clipped noise did to their mean; standard deviations behind if the plan says so."""
    spreads = spread() if plan.uncertainty else None
    if scene.clipping.any:
        estimates, spreads = undo_clipping(estimates, noisy, scene.clipping, spreads)
    return list((estimates if spreads is None else torch.cat((estimates, spreads), 1)).split(1))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def _as_planned(state: Tensor | None, plan: Plan) -> Tensor | None:
    # The plan may have changed since the chunk before, or another device has computed it.
    return None if state is None else state.to(device=plan.running_device, dtype=plan.dtype)


def _is_finite(tensor: Tensor) -> Tensor:
    return torch.isfinite(tensor).all()


def _check(finite: Sequence[Tensor]) -> None:
    # One question for all: on a GPU every answer has to be waited for.
    if not bool(torch.stack(tuple(finite)).all()):
        raise NonFiniteError
