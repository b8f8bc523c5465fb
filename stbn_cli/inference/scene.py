"""One scene's recurrence: frames in, denoised frames out, in chunks, with bounded memory.

The forward hidden state is carried from chunk to chunk, so it is what a whole-clip pass would have; the backward pass
of each chunk starts `chunk_overlap` frames beyond it. Knows nothing of files, cuts or noise estimation.
"""

import itertools
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.inference.plan import Plan
from stbn_cli.inference.steps import advance_state, fuse_states
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.model import NoiseModel
from stbn_cli.noise.posterior import posterior_mean, split_head


@dataclass(slots=True)
class PendingFrame:
    """A frame that waits; flows are filled in once and shared by the chunks that need them."""

    noisy: Tensor  # (1, C, H, W) float32, host memory
    to_previous: Tensor | None = None  # (1, 2, H, W) float32 pixels; None for a scene's first frame
    to_next: Tensor | None = None


class NonFiniteError(ArithmeticError):
    """A chunk came out with infinities or NaN: the precision did not suffice."""


class Scene:
    """The frames between two cuts."""

    def __init__(self, flow: FlowEstimator, noise: NoiseModel, sigma: float, network_sigma: float) -> None:
        self._flow = flow
        self.noise = noise  # what the posterior uses
        self.sigma = sigma  # its level, [0, 1]: what the flow is told
        self.network_sigma = network_sigma  # what the network is told (within its trained range)
        self.pending: deque[PendingFrame] = deque()
        self._state: Tensor | None = None  # forward state of the last finished frame
        self._last: PendingFrame | None = None

    def add(self, noisy: Tensor) -> None:
        """Append a frame `(1, C, H, W)`."""
        self.pending.append(PendingFrame(noisy))

    def process_chunk(self, network: STBN, plan: Plan) -> list[Tensor]:
        """Denoise and drop the first `plan.chunk` pending frames; `(1, C, H, W)` float32 each, in host memory.

        Nothing changes if it raises (out of memory, `NonFiniteError`): the call may be repeated with another plan or
        network.
        """
        count = min(plan.chunk, len(self.pending))
        window = [self.pending[index] for index in range(min(count + plan.chunk_overlap, len(self.pending)))]
        self._find_flows(window, plan)
        level = torch.full((1, 1, 1, 1), self.network_sigma, device=plan.device)
        forward_states = self._forward_states(network, plan, window[:count], level)
        estimates: deque[Tensor] = deque()
        state: Tensor | None = None
        for index in reversed(range(len(window))):
            frame = window[index]
            flow = None if state is None else frame.to_next
            noisy = frame.noisy.to(plan.device)
            state = advance_state(network, plan, "backward", noisy.to(plan.dtype), level, state, flow)
            if index < count:
                outputs = fuse_states(network, plan, forward_states[index], state)
                estimates.appendleft(self._estimate(outputs, noisy, network))
        if not all(bool(torch.isfinite(estimate).all()) for estimate in estimates):
            raise NonFiniteError
        self._state = forward_states[-1]
        for _ in range(count):
            self._last = self.pending.popleft()
        return list(estimates)

    def skip_chunk(self, network: STBN, plan: Plan) -> list[Tensor]:
        """Drop the first `plan.chunk` pending frames as `process_chunk` does, but denoise nothing and return nothing.

        The forward state goes on, bit for bit as there, at a third of the cost.
        """
        count = min(plan.chunk, len(self.pending))
        frames = [self.pending[index] for index in range(count)]
        self._find_flows(frames, plan, to_next=False)
        level = torch.full((1, 1, 1, 1), self.network_sigma, device=plan.device)
        state = self._forward_states(network, plan, frames, level)[-1]
        if not bool(torch.isfinite(state).all()):
            raise NonFiniteError
        self._state = state
        for _ in range(count):
            self._last = self.pending.popleft()
        return []

    def _forward_states(
        self, network: STBN, plan: Plan, frames: list[PendingFrame], level: Tensor
    ) -> list[Tensor]:
        states: list[Tensor] = []
        state = self._state
        if state is not None:
            # The plan may have changed since the last chunk.
            state = state.to(device=plan.state_device, dtype=plan.dtype)
        for frame in frames:
            noisy = frame.noisy.to(device=plan.device, dtype=plan.dtype)
            flow = None if state is None else frame.to_previous
            state = advance_state(network, plan, "forward", noisy, level, state, flow)
            states.append(state)
        return states

    def _estimate(self, outputs: Tensor, noisy: Tensor, network: STBN) -> Tensor:
        if network.config.head != "gaussian":
            return outputs.float().cpu()
        return posterior_mean(outputs, noisy, self.noise.sigma_at(split_head(outputs)[0])).cpu()

    def _find_flows(self, window: list[PendingFrame], plan: Plan, *, to_next: bool = True) -> None:
        """Flows between neighbours of the window, and from its first frame to the one before; each only once.

        Only the backward pass needs those `to_next`.
        """
        frames = window if self._last is None else [self._last, *window]
        for earlier, later in itertools.pairwise(frames):
            if later.to_previous is None:
                pair = earlier.noisy.to(plan.device), later.noisy.to(plan.device)
                later.to_previous = self._flow(pair[1], pair[0], self.sigma).cpu()
                if to_next:
                    earlier.to_next = self._flow(pair[0], pair[1], self.sigma).cpu()
