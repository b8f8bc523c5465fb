"""STBN, the spatiotemporal blind-spot network (arXiv 2412.11820), computed in the phase domain.

`STBN.forward` processes a whole clip; it is built from the public steps `propagate_forward`,
`propagate_backward` and `fuse`, which a streaming engine calls itself. Knows nothing of devices or files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stbn_cli.models.blindspot import BlindMean, PhaseHead
from stbn_cli.models.branch import PropagationBranch
from stbn_cli.models.config import MINIMUM_SIZE, STBNConfig
from stbn_cli.models.expansion import ReceptiveFieldExpansion
from stbn_cli.models.fused import Derived
from stbn_cli.models.kernels.advance import advance_with_kernels
from stbn_cli.models.phases import from_phases, to_phases, valid_mask
from stbn_cli.models.recurrent import Direction
from stbn_cli.models.refinement import Refinement
from stbn_cli.models.seen import Seen
from stbn_cli.models.warp import warp_nearest
from stbn_cli.noise.levels import Sigma, broadcast_sigma


class STBN(nn.Module):
    """Predicts every pixel of every frame from its neighbours in space and time (blind: never from itself)."""

    def __init__(self, config: STBNConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels

        def branch() -> PropagationBranch:
            return PropagationBranch(
                image_channels=config.image_channels,
                channels=channels,
                state_channels=config.state_channels,
                blocks=config.blocks,
                noise_level=config.noise_level,
                tail=config.tail,
                blind_spot=config.blind_spot,
            )

        self.forward_branch = branch()
        self.backward_branch = branch()
        self.fusion = PhaseHead(
            channels + config.state_channels, config.fusion_channels, channels, config.fusion_blocks
        )
        self.expansion = ReceptiveFieldExpansion(
            channels=channels,
            width=config.expansion_channels,
            stages=config.expansion_stages,
            blocks=config.expansion_blocks,
            groups=config.expansion_groups,
        )
        self.head = PhaseHead(channels, channels, config.output_channels, config.head_blocks)
        self.blind_mean = BlindMean() if config.mean_residual else None
        self._derived = Derived()
        self.refinement = None
        if config.refinement_blocks:
            self.refinement = Refinement(
                channels=channels,
                colours=config.image_channels,
                outputs=config.output_channels,
                width=config.refinement_channels,
                blocks=config.refinement_blocks,
            )

    def forward(self, noisy: Tensor, sigma: Sigma, flow_to_previous: Tensor, flow_to_next: Tensor) -> Tensor:
        """Head outputs `(N, T, outputs, H, W)` of a whole clip.

        `noisy (N, T, C, H, W)`, H and W at least 8, nominal [0, 1]. `sigma`: the noise's standard deviation on the
        same scale: a number, `(N,)`, `(N, T)`, or a map that broadcasts to `noisy`. `flow_to_previous[:, t]
        (N, T, 2, H, W)` leads from frame t to t - 1 in pixels (entry 0 is not used), `flow_to_next[:, t]` from t to
        t + 1 (the last entry is not used). Raises `ValueError` for shapes that do not fit.
        """
        self._check(noisy, flow_to_previous, flow_to_next)
        frames = noisy.shape[1]
        level = broadcast_sigma(sigma, noisy).expand(-1, frames, -1, -1, -1)
        forward_states: list[Tensor] = []
        backward_states: list[Tensor] = []
        states = None  # of both directions, one batch: what they share is computed together
        for t in range(frames):
            mirrored = frames - 1 - t
            flow = torch.cat((flow_to_previous[:, t], flow_to_next[:, mirrored]))
            states = self._advance(
                ("forward", "backward"),
                (noisy[:, t], noisy[:, mirrored]),
                (level[:, t], level[:, mirrored]),
                _align(None if states is None else _as_computed(states), flow),
            )
            forward_state, backward_state = states.chunk(2)
            forward_states.append(forward_state)
            backward_states.append(backward_state)
        outputs = self.fuse(
            torch.stack(forward_states, 1).flatten(0, 1), torch.stack(backward_states[::-1], 1).flatten(0, 1)
        )
        return outputs.unflatten(0, noisy.shape[:2])

    def propagate_forward(
        self, frame: Tensor, sigma: Tensor, previous_state: Tensor | None, flow_to_previous: Tensor | None
    ) -> Tensor:
        """The forward hidden state `(N, state_channels, H, W)` of a frame `(N, C, H, W)`.

        `sigma` broadcasts to `frame`; `previous_state` is the state of the frame before and `flow_to_previous
        (N, 2, H, W)` leads there; `previous_state=None` starts the recurrence (first frame, or after a cut).
        """
        aligned = _align(previous_state, flow_to_previous)
        return self._advance(("forward",), (frame,), (sigma,), aligned)

    def propagate_backward(
        self, frame: Tensor, sigma: Tensor, next_state: Tensor | None, flow_to_next: Tensor | None
    ) -> Tensor:
        """The backward hidden state of a frame; as `propagate_forward`, seen from the frame after."""
        aligned = _align(next_state, flow_to_next)
        return self._advance(("backward",), (frame,), (sigma,), aligned)

    def see(self, noisy: Tensor, level: Tensor) -> Seen:
        """What the branches need to know of frames `(N, C, H, W)`; `level` broadcasts to them."""
        dtype = self.forward_branch.head.weight.dtype
        return Seen(noisy.to(dtype), (level,), dtype)

    def advance(self, direction: Direction, seen: Seen, aligned: tuple[Tensor, ...] | None) -> Tensor:
        """A frame's hidden state from its neighbour's, which is already warped to the frame; None starts anew."""
        state = None if aligned is None else aligned[0]
        return self._advance((direction,), (seen.frame,), seen.maps, state)

    def advance_both(self, seen: tuple[Seen, Seen], aligned: tuple[Tensor, ...] | None) -> Tensor:
        """`advance` forward for the first and backward for the second of each pair; states stacked as a batch."""
        frames, levels = zip(*((one.frame, *one.maps) for one in seen), strict=True)
        states = None if aligned is None else aligned[0]
        return self._advance(("forward", "backward"), frames, levels, states)

    def _advance(
        self,
        directions: Sequence[Direction],
        frames: Sequence[Tensor],
        sigmas: Sequence[Tensor],
        aligned_states: Tensor | None,
    ) -> Tensor:
        """`advance` for one or both directions; states are stacked on the batch axis in the order of `directions`."""
        both = {"forward": self.forward_branch, "backward": self.backward_branch}
        branches = [both[direction] for direction in directions]
        advanced = advance_with_kernels(
            self.config, branches, self.fusion, frames, sigmas, aligned_states, self._derived
        )
        if advanced is not None:
            return advanced
        if aligned_states is not None:
            aligned_states = aligned_states[:, : self.config.state_channels]  # kernels leave room behind them
        batch, _, height, width = frames[0].shape
        mask = valid_mask(batch, height, width, frames[0])
        parts = [None] * len(frames) if aligned_states is None else aligned_states.chunk(len(frames))
        features = torch.cat(
            [
                branch(frame, part, sigma, mask)
                for branch, frame, part, sigma in zip(branches, frames, parts, sigmas, strict=True)
            ]
        )
        if aligned_states is not None:
            mask = valid_mask(len(aligned_states), height, width, frames[0])
            features = self.fusion(torch.cat((features, to_phases(aligned_states)), 1), mask)
        states = from_phases(features, height, width)
        return torch.cat((states, torch.cat(tuple(frames))), 1) if self.config.carry_frame else states

    def align(
        self, state: Tensor, neighbour: Tensor, flow: Tensor, top: int = 0, left: int = 0
    ) -> tuple[Tensor, ...]:
        """A neighbour's state as the frame sees it that `flow` leads from; as `warp_nearest`."""
        return (warp_nearest(state, flow, top, left),)

    def fuse(
        self, forward_state: Tensor, backward_state: Tensor, seen: Seen | None = None, spread: bool = True
    ) -> Tensor:
        """Head outputs `(N, outputs, H, W)` from both hidden states `(N, state_channels, H, W)` of one frame."""
        batch, _, height, width = forward_state.shape
        mask = valid_mask(batch, height, width, forward_state)
        # Without the frame that a state may carry: it holds the very pixel to predict.
        forward_phases = to_phases(_as_computed(forward_state[:, : self.config.channels]))
        backward_phases = to_phases(_as_computed(backward_state[:, : self.config.channels]))
        features = self.expansion(forward_phases, backward_phases)
        if self.config.feature_skip:
            features = features + forward_phases + backward_phases
        outputs = from_phases(self.head(features, mask), height, width)
        colours = self.config.image_channels
        carried = slice(self.config.channels, self.config.channels + colours)
        frame = forward_state[:, carried].detach()  # no parameter lies behind it
        if self.blind_mean is not None:
            mean = outputs[:, :colours].float() + self.blind_mean(frame)
            outputs = torch.cat((mean, outputs[:, colours:].float()), 1)
        if self.refinement is not None:
            outputs = outputs.float() + self.refinement(features, frame.float(), outputs[:, :colours].float())
        return outputs

    def _check(self, noisy: Tensor, flow_to_previous: Tensor, flow_to_next: Tensor) -> None:
        if noisy.ndim != 5 or noisy.shape[2] != self.config.image_channels:
            raise ValueError(
                f"expected noisy (N, T, {self.config.image_channels}, H, W), got {tuple(noisy.shape)}"
            )
        batch, frames, _, height, width = noisy.shape
        if min(height, width) < MINIMUM_SIZE:
            raise ValueError(f"expected at least {MINIMUM_SIZE}x{MINIMUM_SIZE} pixels, got {height}x{width}")
        for name, flow in (("flow_to_previous", flow_to_previous), ("flow_to_next", flow_to_next)):
            if flow.shape != (batch, frames, 2, height, width):
                raise ValueError(
                    f"expected {name} {(batch, frames, 2, height, width)}, got {tuple(flow.shape)}"
                )


def _as_computed(states: Tensor) -> Tensor:
    """States in the precision that autocast computes in; float32 frames carried along would keep them in float32."""
    if not torch.is_autocast_enabled(states.device.type):
        return states
    return states.to(torch.get_autocast_dtype(states.device.type))


def _align(state: Tensor | None, flow: Tensor | None) -> Tensor | None:
    if state is None:
        return None
    if flow is None:
        raise ValueError("a hidden state needs the flow that leads to its frame")
    return warp_nearest(state, flow)
