"""The steps that denoise a chunk on one device: flow, forward states, backward states and estimates.

The backward pass starts beyond the chunk, at the end of its window. Knows nothing of files, cuts or fallbacks.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.inference.chunks import ESTIMATE_STEPS, Chunk, PendingFrame, Scene
from stbn_cli.inference.plan import Plan
from stbn_cli.inference.steps import advance_both, advance_state, fuse_states
from stbn_cli.inference.transfer import Transfers
from stbn_cli.models.config import IMAGE_CHANNELS, MEAN_CHANNELS
from stbn_cli.models.fused import runs_kernels
from stbn_cli.models.networks import Network
from stbn_cli.models.recurrent import Direction
from stbn_cli.models.seen import Seen, joined
from stbn_cli.noise.calibration import CLIPPING_LEFT
from stbn_cli.noise.clipping import undo_clipping
from stbn_cli.noise.posterior import posterior_mean, posterior_variance
from stbn_cli.noise.tones import keep_tones
from stbn_cli.raw.bayer import pseudo_rgb
from stbn_cli.raw.pattern import PLANES

# Noisy picture, what the network takes of it, forward and backward state.
FusionInput: TypeAlias = tuple[Tensor, Seen, Tensor, Tensor]


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
            some = frames[start : start + plan.flow_batch + 1]
            _find_some(flow, plan, some, chunk, transfers)
            chunk.stepped(len(some) - 1)


def _find_some(
    flow: FlowEstimator, plan: Plan, frames: Sequence[PendingFrame], chunk: Chunk, transfers: Transfers
) -> None:
    """Flows between neighbouring `frames`, computed together."""
    sigma = chunk.scene.sigma
    if isinstance(flow, NetworkFlow):
        pictures = torch.cat([frame.on(plan, transfers) for frame in frames])
    else:
        pictures = torch.cat([frame.noisy for frame in frames])  # DIS works in host memory
    if pictures.shape[1] == PLANES:
        pictures = pseudo_rgb(pictures)
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
        before = chunk.before
        for frame in chunk.window[: chunk.count]:
            seen = frame.as_seen_by(network, plan, chunk.scene, transfers)
            neighbour = None if before is None else before.on(plan, transfers)
            state = advance_state(network, plan, "forward", seen, state, neighbour, frame.to_previous)
            before = frame
            finite.append(_is_finite(state))
            states.append(state.to(plan.state_device))
            chunk.stepped(1)
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
    neighbour: Tensor | None = None
    waiting: list[FusionInput] = []  # latest frame first
    for index in reversed(range(len(chunk.window))):
        frame = chunk.window[index]
        noisy, seen = frame.on(plan, transfers), frame.as_seen_by(network, plan, chunk.scene, transfers)
        with record_function("stbn.backward"):
            state = advance_state(network, plan, "backward", seen, state, neighbour, frame.to_next)
            neighbour = noisy
        if index < chunk.count:
            waiting.append((noisy, seen, states[index], state))
            if len(waiting) == plan.fusion_batch or not index:
                estimates += _estimate(network, plan, chunk.scene, waiting)
                chunk.stepped(ESTIMATE_STEPS * len(waiting))
                waiting.clear()
        chunk.stepped(1)
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
    seen = [frame.as_seen_by(network, plan, chunk.scene, transfers) for frame in window]
    before = None if chunk.before is None else chunk.before.on(plan, transfers)

    def one(direction: Direction, at: int, state: Tensor | None) -> Tensor:
        flow, neighbour = window[at].to_previous, pictures[at - 1] if at else before
        if direction == "backward":
            flow, neighbour = window[at].to_next, pictures[at + 1] if at + 1 < len(window) else None
        return advance_state(network, plan, direction, seen[at], state, neighbour, flow)

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
                both = (seen[step], seen[mirrored])
                neighbours = (pictures[step - 1], pictures[mirrored + 1])
                ahead, back = advance_both(network, plan, both, (ahead, back), neighbours, flows)
            else:
                ahead = one("forward", step, ahead) if step < count else ahead
                back = one("backward", mirrored, back)
            if step < count:
                assert ahead is not None
                forward.append(ahead)
            backward.append(back)
            chunk.stepped(2 if step < count else 1)
    backward = backward[::-1]
    estimates: list[Tensor] = []
    for start in range(0, count, plan.fusion_batch):
        part = slice(start, min(start + plan.fusion_batch, count))
        inputs = list(zip(pictures[part], seen[part], forward[part], backward[part], strict=True))
        estimates += _estimate(network, plan, chunk.scene, inputs)
        chunk.stepped(ESTIMATE_STEPS * len(inputs))
    _check([_is_finite(result) for result in (*estimates, forward[-1])])
    return estimates, forward[-1]


def _estimate(network: Network, plan: Plan, scene: Scene, frames: Sequence[FusionInput]) -> list[Tensor]:
    """Estimates `(1, C, H, W)`, their standard deviations behind if the plan says so; computed together."""
    pictures, seen, *states = zip(*frames, strict=True)
    noisy, forward, backward = (_joined(parts) for parts in (pictures, *states))
    with record_function("stbn.fuse"):
        outputs = fuse_states(network, plan, forward, backward, joined(seen))
    if network.config.head == "direct":
        difference, *log_spread = outputs.float().split(MEAN_CHANNELS, 1)
        estimates = noisy + difference
        if scene.exaggerated:
            estimates = keep_tones(estimates, noisy)
        return _without_clipping(plan, scene, estimates, noisy, lambda: log_spread[0].exp(), CLIPPING_LEFT)
    if network.config.head != "gaussian":
        return list(outputs.float().split(1))
    with record_function("stbn.posterior"):
        colours = network.config.image_channels
        sigma = scene.noise.sigma_at(outputs[:, :colours].float())
        estimates = best_posterior_mean(outputs, noisy, sigma, runs_kernels(forward))
        return _without_clipping(
            plan, scene, estimates, noisy, lambda: posterior_variance(outputs.float(), noisy, sigma).sqrt()
        )


def best_posterior_mean(outputs: Tensor, noisy: Tensor, sigma: Tensor, by_kernel: bool) -> Tensor:
    """`noise.posterior.posterior_mean`, by the GPU's kernel where that is wanted and takes as many channels."""
    if by_kernel and noisy.shape[1] == IMAGE_CHANNELS:
        from stbn_cli.models.kernels import posterior

        return posterior.posterior_mean(outputs, noisy, sigma)
    return posterior_mean(outputs, noisy, sigma)


def _without_clipping(
    plan: Plan,
    scene: Scene,
    estimates: Tensor,
    noisy: Tensor,
    spread: Callable[[], Tensor],
    share: float = 1.0,
) -> list[Tensor]:
    """One by one, without this share of what clipped noise did to their mean; standard deviations behind if planned."""
    spreads = spread() if plan.uncertainty else None
    if scene.clipping.any:
        undone, spreads = undo_clipping(estimates, noisy, scene.clipping, spreads)
        estimates = estimates.lerp(undone, share)
    return list((estimates if spreads is None else torch.cat((estimates, spreads), 1)).split(1))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def _as_planned(state: Tensor | None, plan: Plan) -> Tensor | None:
    # The plan may have changed since the chunk before, or another device has computed it.
    return None if state is None else state.to(device=plan.running_device, dtype=plan.dtype)


def _is_finite(tensor: Tensor) -> Tensor:
    # Infinity or NaN anywhere makes the sum one of them. Looking at each value takes ten times as long on a CPU.
    return tensor.sum(dtype=torch.float32).isfinite()


def _check(finite: Sequence[Tensor]) -> None:
    # One question for all: on a GPU every answer has to be waited for.
    if not bool(torch.stack(tuple(finite)).all()):
        raise NonFiniteError
