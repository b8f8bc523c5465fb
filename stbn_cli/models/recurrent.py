"""A recurrent denoiser without a blind spot, at reduced resolution: for noise that neighbouring pixels share.

Frames are unshuffled to 1/2 (or 1/4) of their size; a hidden state runs through the clip in both directions, aligned by
optical flow; both states of a frame are fused with one coarser level and give the estimate and its standard deviation.
It learns from clean frames, conditioned on the noise level. Knows nothing of devices or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.warp import warp_bilinear

Direction: TypeAlias = Literal["forward", "backward"]

IMAGE_CHANNELS = 3
MEAN_CHANNELS = IMAGE_CHANNELS  # of a frame's local mean
LEVEL_CHANNELS = 2  # standard deviation of luma and of chroma noise
MEAN_WINDOW = 5  # pixels of a hidden state, over which the local mean is taken
# Added to the level that is the unit of what the network changes: measured levels may be too low. [0, 1] scale.
SMALLEST_UNIT = 0.25 / 255
# The logarithm of the predicted standard deviation over that unit starts here and stays in this range.
FIRST_LOG_SPREAD = -1.0
LOG_SPREAD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """Shape of the network; the default is the size for ordinary CPUs."""

    scale: int = 2  # pixels of the frame for one of the hidden state, in both directions
    channels: int = 32  # of the hidden state
    blocks: int = 2  # residual blocks in each direction
    fusion_blocks: int = 1  # residual blocks before the coarser level, and as many behind it
    coarse_channels: int = 64  # at half the resolution of the state
    coarse_blocks: int = 4

    head: ClassVar[Literal["direct"]] = "direct"  # outputs are the estimate itself, see `Recurrent.fuse`
    image_channels: ClassVar[int] = IMAGE_CHANNELS
    blind_spot: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scale not in (2, 4):
            raise ValueError(f"expected scale 2 or 4, got {self.scale}")

    @property
    def multiple(self) -> int:
        """Heights and widths that the network computes on are multiples of this."""
        return 2 * self.scale

    @property
    def state_scale(self) -> int:
        """Pixels of a frame, along each axis, for one of a hidden state; flow is found and used at that size."""
        return self.scale

    @property
    def working_channels(self) -> int:
        """Channels that the layers' memory is in proportion to, at the resolution of a hidden state."""
        return max(self.state_channels, self.coarse_channels // 4)

    @property
    def roomy_channels(self) -> int:
        """Of a hidden state on a GPU."""
        return self.state_channels

    @property
    def frame_channels(self) -> int:
        """Of an unshuffled frame."""
        return IMAGE_CHANNELS * self.scale**2

    @property
    def state_channels(self) -> int:
        """Of a hidden state: its own, the noisy frame and the noise level that it carries along."""
        return self.channels + self.frame_channels + LEVEL_CHANNELS

    @property
    def propagation_reach(self) -> int:
        """How far (pixels) a hidden state depends on its frame and on the aligned state before it."""
        return self.scale * (4 + 2 * self.blocks)

    @property
    def fusion_reach(self) -> int:
        """How far (pixels) the estimate depends on the hidden states of its frame."""
        fine = 2 + 4 * self.fusion_blocks
        return self.scale * (fine + 2 * (2 + 2 * self.coarse_blocks)) + self.multiple


# `real-fast` for slow machines, `real` for ordinary CPUs, `real-large` for GPUs: about 18, 64 and 620 thousand
# multiply-adds a pixel.
RECURRENT_SIZES: dict[str, RecurrentConfig] = {
    "real-fast": RecurrentConfig(channels=16, blocks=1, coarse_channels=48, coarse_blocks=3),
    "real": RecurrentConfig(),
    "real-large": RecurrentConfig(channels=96, blocks=3, coarse_channels=160, coarse_blocks=6),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same shape."""
        return x + self.second(F.relu(self.first(x)))


class Branch(nn.Sequential):
    """A hidden state from a frame, its level, the aligned neighbour and that one's aligned state."""

    def __init__(self, config: RecurrentConfig) -> None:
        inputs = 2 * config.frame_channels + MEAN_CHANNELS + LEVEL_CHANNELS + config.channels
        super().__init__(
            nn.Conv2d(inputs, config.channels, 3, padding=1),
            nn.ReLU(),
            *(ResidualBlock(config.channels) for _ in range(config.blocks)),
        )

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes, but for autocast."""
        return next(self.parameters()).dtype


class Fusion(nn.Module):
    """Estimate (as a difference to the frame) and its spread, unshuffled, from both hidden states."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        channels, coarse = config.channels, config.coarse_channels
        inputs = 2 * channels + config.frame_channels + MEAN_CHANNELS + LEVEL_CHANNELS
        self.enter = nn.Conv2d(inputs, channels, 3, padding=1)
        self.before = nn.Sequential(*(ResidualBlock(channels) for _ in range(config.fusion_blocks)))
        self.down = nn.Conv2d(channels, coarse, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(ResidualBlock(coarse) for _ in range(config.coarse_blocks)))
        self.up = nn.Conv2d(coarse, 4 * channels, 1)
        self.after = nn.Sequential(*(ResidualBlock(channels) for _ in range(config.fusion_blocks)))
        self.leave = nn.Conv2d(channels, config.frame_channels, 3, padding=1)
        self.spread = nn.Conv2d(channels, config.frame_channels, 3, padding=1)
        for last in (self.leave, self.spread):
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, h, w)` to `(N, 2 * frame_channels, h, w)`, h and w even."""
        x = self.before(F.relu(self.enter(x)))
        deep = self.middle(F.relu(self.down(x)))
        x = self.after(x + F.pixel_shuffle(self.up(deep), 2))
        # How wrong the estimate is, is learned beside it: what that needs must not shape what the estimate is made of.
        return torch.cat((self.leave(x), self.spread(x.detach())), 1)


class Recurrent(nn.Module):
    """The whole network. `forward` takes a clip; an engine that streams calls the steps `advance`, `align`, `fuse`."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.forwards = Branch(config)
        self.backwards = Branch(config)
        self.fusion = Fusion(config)

    def forward(
        self, noisy: Tensor, level: Tensor, flow_to_previous: Tensor, flow_to_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Estimate and logarithm of its standard deviation, `(N, T, 3, H, W)` each, of a whole clip, float32.

        `noisy (N, T, 3, H, W)`, nominal [0, 1], H and W multiples of `config.multiple`. `level (N, T, 2, h, w)`:
        standard deviation of luma and colour noise on the same scale, at the state's resolution or broadcast to it.
        `flow_to_previous[:, t]` and `flow_to_next[:, t] (N, T, 2, h, w)`: at the state's resolution, in its pixels.
        """
        count = noisy.shape[1]

        def run(direction: Direction, order: Sequence[int], flow: Tensor) -> list[Tensor]:
            states: dict[int, Tensor] = {}
            state = None
            for t in order:
                aligned = None if state is None else self.align(state, flow[:, t])
                state = states[t] = self.advance(
                    direction, noisy[:, t], level[:, t % level.shape[1]], aligned
                )
            return [states[t] for t in range(count)]

        ahead = run("forward", range(count), flow_to_previous)
        back = run("backward", range(count - 1, -1, -1), flow_to_next)
        outputs = self.fuse(torch.stack(ahead, 1).flatten(0, 1), torch.stack(back, 1).flatten(0, 1))
        difference, spread = outputs.unflatten(0, noisy.shape[:2]).chunk(2, 2)
        return noisy + difference, spread

    def advance(
        self, direction: Direction, frame: Tensor, level: Tensor, aligned_state: Tensor | None
    ) -> Tensor:
        """The hidden state `(N, state_channels, h, w)` of a frame `(N, 3, H, W)`.

        `level` broadcasts to `(N, 2, h, w)`; `aligned_state` is the neighbour's as `align` gives it; None starts the
        recurrence.
        """
        own = self.config.channels
        small = F.pixel_unshuffle(frame, self.config.scale)
        level = level.to(small.dtype).expand(len(small), -1, *small.shape[-2:])
        if aligned_state is None:
            nothing = small.new_zeros(len(small), own, *small.shape[-2:])
            aligned_state = torch.cat((nothing, small), 1)
        branch = self.forwards if direction == "forward" else self.backwards
        mean, unit = self._mean(small), _unit(level)
        neighbour = self._normalised(aligned_state[:, own:], mean, unit)
        inputs = (aligned_state[:, :own].to(mean.dtype), neighbour, *self._seen(small, level, mean, unit))
        state = branch(torch.cat(inputs, 1).to(branch.dtype))
        return torch.cat((state, small.to(state.dtype), level.to(state.dtype)), 1)

    def _seen(
        self, small: Tensor, level: Tensor, mean: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What layers see of an unshuffled frame: its details in units of the noise, its local mean, its level."""
        centred = (level.float() + SMALLEST_UNIT).log() * 0.5 + 2.0  # of the order of one
        return self._normalised(small, mean, unit), mean - 0.5, centred

    def _mean(self, small: Tensor) -> Tensor:
        """Local mean `(N, 3, h, w)` float32 of an unshuffled frame."""
        mean = small.float().unflatten(1, (IMAGE_CHANNELS, -1)).mean(2)
        return F.avg_pool2d(mean, MEAN_WINDOW, 1, MEAN_WINDOW // 2, count_include_pad=False)

    def _normalised(self, small: Tensor, mean: Tensor, unit: Tensor) -> Tensor:
        """An unshuffled frame's difference to the local mean in units of the noise; large ones squashed; float32."""
        difference = small.float().unflatten(1, (IMAGE_CHANNELS, -1)) - mean[:, :, None]
        return _squashed(difference.flatten(1, 2) / unit)

    def advance_both(
        self, frames: tuple[Tensor, Tensor], levels: tuple[Tensor, Tensor], aligned_states: Tensor | None
    ) -> Tensor:
        """`advance` forward for the first and backward for the second of each pair; states stacked as a batch."""
        parts = (None, None) if aligned_states is None else aligned_states.chunk(2)
        directions: tuple[Direction, Direction] = ("forward", "backward")
        return torch.cat(
            [self.advance(*inputs) for inputs in zip(directions, frames, levels, parts, strict=True)]
        )

    def align(self, state: Tensor, flow: Tensor, top: int = 0, left: int = 0) -> Tensor:
        """A neighbour's `state (N, state_channels, H, W)` as the frame sees it that `flow (N, 2, h, w)` leads from.

        Its own channels and its frame, without the level. The flow may be that of a part of the picture whose first
        pixel is `(top, left)`; all in pixels of the state. The frame is warped at its own resolution: interpolated
        between unshuffled pixels it would be blurred.
        """
        scale, own = self.config.scale, self.config.channels
        flow = flow.float()
        warped = warp_bilinear(state[:, :own], flow, top, left)
        full = F.interpolate(flow * scale, scale_factor=scale, mode="bilinear", align_corners=False)
        frame = F.pixel_shuffle(state[:, own : own + self.config.frame_channels].detach(), scale)
        frame = warp_bilinear(frame, full, scale * top, scale * left)
        return torch.cat((warped, F.pixel_unshuffle(frame, scale)), 1)

    def fuse(self, forward_state: Tensor, backward_state: Tensor) -> Tensor:
        """Outputs `(N, 6, H, W)` float32 from both hidden states of a frame.

        The first three are what has to be added to the noisy frame, the others the logarithm of the standard deviation
        of what is then still wrong.
        """
        own, carried = self.config.channels, self.config.channels + self.config.frame_channels
        small, level = forward_state[:, own:carried], forward_state[:, carried:]
        mean, unit = self._mean(small), _unit(level)
        seen = self._seen(small, level, mean, unit)
        dtype = self.fusion.enter.weight.dtype
        inputs = (forward_state[:, :own], backward_state[:, :own], *(part.to(dtype) for part in seen))
        difference, spread = (
            self.fusion(torch.cat([part.to(dtype) for part in inputs], 1)).float().chunk(2, 1)
        )
        # In units of the noise: what is learned at one level holds at another, and where there is none little changes.
        spread = (spread + FIRST_LOG_SPREAD).clamp(*LOG_SPREAD_RANGE) + unit.log()
        return F.pixel_shuffle(torch.cat((difference * unit, spread), 1), self.config.scale)


def _squashed(x: Tensor) -> Tensor:
    """The inverse hyperbolic sine: `torch.asinh`, which is five times as slow on a CPU because it is not vectorised."""
    size = x.abs()
    square = size * size
    return torch.log1p(size + square / (1.0 + (1.0 + square).sqrt())).copysign(x)


def _unit(level: Tensor) -> Tensor:
    """What the network's details and changes are measured in: `(N, 1, h, w)` float32, the level of luma and colour."""
    return level.float().square().sum(1, keepdim=True).sqrt() + SMALLEST_UNIT
