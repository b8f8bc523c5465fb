"""A recurrent denoiser without a blind spot, at reduced resolution: for noise that neighbouring pixels share.

Frames are unshuffled to 1/2 (or 1/4) of their size; a hidden state runs through the clip in both directions, aligned by
optical flow; both states of a frame are fused with one coarser level and give the estimate and its standard deviation.
It learns from clean frames, conditioned on the noise level. Knows nothing of devices or files.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.config import IMAGE_CHANNELS, LEVEL_CHANNELS, MEAN_CHANNELS, RecurrentConfig
from stbn_cli.models.fused import convolution
from stbn_cli.models.mirrors import MIRRORS, Mirror
from stbn_cli.models.seen import Seen
from stbn_cli.models.warp import warp_bilinear

Direction: TypeAlias = Literal["forward", "backward"]

MEAN_WINDOW = 5  # pixels of a hidden state, over which the local mean is taken
# What is carried from frame to frame is cut off here, so that no footage can make it grow without end. Usual footage
# stays below 64.
LARGEST_STATE = 128.0
# Added to the level that is the unit of what the network changes: measured levels may be too low. [0, 1] scale.
SMALLEST_UNIT = 0.25 / 255
# The logarithm of the predicted standard deviation over that unit starts here and stays in this range.
FIRST_LOG_SPREAD = -1.0
LOG_SPREAD_RANGE = (-5.0, 2.0)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, channels, H, W)` to the same shape."""
        return convolution(convolution(x, self.first, relu=True), self.second, add=x)


class Branch(nn.Sequential):
    """A hidden state from a frame, its level, the aligned neighbour and that one's aligned state."""

    def __init__(self, config: RecurrentConfig) -> None:
        inputs = 2 * config.frame_channels + MEAN_CHANNELS + LEVEL_CHANNELS + config.channels
        super().__init__(
            nn.Conv2d(inputs, config.channels, 3, padding=1),
            nn.ReLU(),
            *(ResidualBlock(config.channels) for _ in range(config.blocks)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, h, w)` to `(N, channels, h, w)`."""
        enter, _, *blocks = self
        assert isinstance(enter, nn.Conv2d)
        x = convolution(x, enter, relu=True)
        for block in blocks:
            x = block(x)
        return x


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

    def forward(self, x: Tensor, spread: bool = True) -> Tensor:
        """`(N, inputs, h, w)` to `(N, frame_channels, h, w)`, twice as many with `spread`; h and w even."""
        x = self.before(convolution(x, self.enter, relu=True))
        deep = self.middle(convolution(x, self.down, relu=True))
        x = self.after(x + F.pixel_shuffle(convolution(deep, self.up), 2))
        estimate = convolution(x, self.leave)
        if not spread:
            return estimate
        # How wrong the estimate is, is learned beside it: what that needs must not shape what the estimate is made of.
        return torch.cat((estimate, convolution(x.detach(), self.spread)), 1)


class Recurrent(nn.Module):
    """The whole network. `forward` takes a clip; an engine that streams calls `see`, `align`, `advance` and `fuse`."""

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
        standard deviation of luma and colour noise on the same scale, at the state's resolution or broadcast to it;
        `(N, T, 4, h, w)`: of even and of odd passes.
        `flow_to_previous[:, t]` and `flow_to_next[:, t] (N, T, 2, h, w)`: at the state's resolution, in its pixels.
        """
        batch, count = noisy.shape[:2]
        # Frame by frame on the batch axis, all sequences of the first frame before those of the second.
        frames = noisy.transpose(0, 1).flatten(0, 1)
        seen = self.see(frames, level.expand(-1, count, -1, -1, -1).transpose(0, 1).flatten(0, 1))
        times = [slice(batch * t, batch * (t + 1)) for t in range(count)]

        def run(direction: Direction, order: Sequence[int], flow: Tensor) -> list[Tensor]:
            states: dict[int, Tensor] = {}
            before = None
            for t in order:
                aligned = None
                if before is not None:
                    aligned = self.align(states[before], frames[times[before]], flow[:, t])
                states[t] = self.advance(direction, seen.at(times[t]), aligned)
                before = t
            return [states[t] for t in range(count)]

        ahead = run("forward", range(count), flow_to_previous)
        back = run("backward", range(count - 1, -1, -1), flow_to_next)
        outputs = self.fuse(torch.cat(ahead), torch.cat(back), seen)
        difference, spread = outputs.unflatten(0, (count, batch)).transpose(0, 1).chunk(2, 2)
        return noisy + difference, spread

    @torch.no_grad()
    def see(self, noisy: Tensor, level: Tensor) -> Seen:
        """What the layers need to know of frames `(N, 3, H, W)`, whichever direction they are passed in.

        `level` broadcasts to `(N, 2, h, w)`, or to `(N, 4, h, w)`: of even and of odd passes. The maps are the local
        mean and, once or for even and odd passes, the layers' inputs (details in units of the noise, local mean, level)
        and the unit; mean and unit are float32.
        """
        frame, level = noisy.float(), level.float()
        small = F.pixel_unshuffle(frame, self.config.scale)
        mean = _local_mean(small.unflatten(1, (IMAGE_CHANNELS, -1)).mean(2))
        maps = [mean]
        for both in level.split(LEVEL_CHANNELS, 1):
            unit = both.square().sum(1, keepdim=True).sqrt() + SMALLEST_UNIT
            centred = (both + SMALLEST_UNIT).log() * 0.5 + 2.0  # of the order of one
            centred = centred.expand(len(small), -1, *small.shape[-2:])
            details = _normalised(small, mean, unit)
            maps += [self._as_input(torch.cat((details, mean - 0.5, centred), 1)), unit]
        return Seen(frame, tuple(maps), maps[1].dtype)

    def _as_input(self, x: Tensor) -> Tensor:
        return x.to(self.fusion.enter.weight.dtype, memory_format=torch.channels_last)

    def align(
        self, state: Tensor, neighbour: Tensor, flow: Tensor, top: int = 0, left: int = 0
    ) -> tuple[Tensor, ...]:
        """A neighbour's `state (N, state_channels, H, W)` and its frame as the frame sees them that `flow` leads from.

        `neighbour (N, 3, ...)` is the whole frame, float32; it comes back unshuffled. The flow `(N, 2, h, w)` may be
        that of a part of the picture whose first pixel is `(top, left)`; all in pixels of the state. The frame is
        warped at its own resolution: interpolated between unshuffled pixels it would be blurred.
        """
        scale, flow = self.config.scale, flow.float()
        warped = warp_bilinear(state, flow, top, left)
        with torch.no_grad():
            full = F.interpolate(flow * scale, scale_factor=scale, mode="bilinear", align_corners=False)
            frame = warp_bilinear(neighbour, full, scale * top, scale * left)
            return warped, F.pixel_unshuffle(frame, scale)

    def advance(self, direction: Direction, seen: Seen, aligned: tuple[Tensor, ...] | None) -> Tensor:
        """The hidden state `(N, state_channels, h, w)` of frames as `see` gives them: that of each pass in turn.

        `aligned` is what `align` gives of the neighbour; None starts the recurrence.
        """
        mean, levels = seen.maps[0], _levels_of(seen)
        if aligned is None:
            first, _ = levels[0]
            own = first.new_zeros(len(first), self.config.state_channels, *first.shape[-2:])
            neighbours = [inputs[:, : self.config.frame_channels] for inputs, _ in levels]  # itself
        else:
            own, small = aligned
            own = own.clamp(-LARGEST_STATE, LARGEST_STATE)
            with torch.no_grad():
                neighbours = [self._as_input(_normalised(small, mean, unit)) for _, unit in levels]
        states = []
        passes = zip(self._mirrors, own.to(seen.dtype).chunk(self.config.passes, 1), strict=True)
        for number, (mirror, state) in enumerate(passes):
            (inputs, _), neighbour = levels[number % len(levels)], neighbours[number % len(levels)]
            branch = self.forwards if (direction == "forward") != mirror.reversed else self.backwards
            frame = mirror.of_unshuffled(neighbour, self.config.scale)
            states.append(
                mirror.of(branch(torch.cat((mirror.of(state), frame, self._shown(inputs, mirror)), 1)))
            )
        return states[0] if len(states) == 1 else torch.cat(states, 1)

    @property
    def _mirrors(self) -> tuple[Mirror, ...]:
        return MIRRORS[: self.config.passes]

    def _shown(self, inputs: Tensor, mirror: Mirror) -> Tensor:
        """The layers' inputs, as `see` gives them, in a mirror."""
        if not mirror.changes_frames:
            return inputs
        frame, rest = inputs.tensor_split([self.config.frame_channels], 1)
        return torch.cat((mirror.of_unshuffled(frame, self.config.scale), mirror.of(rest)), 1)

    def advance_both(self, seen: tuple[Seen, Seen], aligned: tuple[Tensor, ...]) -> Tensor:
        """`advance` forward for the first and backward for the second of each pair; states stacked as a batch."""
        directions: tuple[Direction, Direction] = ("forward", "backward")
        halves = zip(*(part.chunk(2) for part in aligned), strict=True)
        return torch.cat([self.advance(*inputs) for inputs in zip(directions, seen, halves, strict=True)])

    def fuse(self, forward_state: Tensor, backward_state: Tensor, seen: Seen, spread: bool = True) -> Tensor:
        """Outputs `(N, 6, H, W)` float32 from both hidden states of a frame; the first three without `spread`.

        Those are what has to be added to the noisy frame, the others the logarithm of the standard deviation of what is
        then still wrong.
        """
        levels = _levels_of(seen)
        found = []
        pairs = (
            state.to(seen.dtype).chunk(self.config.passes, 1) for state in (forward_state, backward_state)
        )
        for number, (mirror, ahead, back) in enumerate(zip(self._mirrors, *pairs, strict=True)):
            inputs, unit = levels[number % len(levels)]
            states = (back, ahead) if mirror.reversed else (ahead, back)
            shown = (*(mirror.of(state) for state in states), self._shown(inputs, mirror))
            outputs = mirror.of_unshuffled(
                self.fusion(torch.cat(shown, 1), spread).float(), self.config.scale
            )
            difference, *rest = outputs.split(self.config.frame_channels, 1)
            # In units of the noise: what is learned at one level holds at another, and where there is none little
            # changes.
            parts = [difference * unit]
            parts += [(part + FIRST_LOG_SPREAD).clamp(*LOG_SPREAD_RANGE) + unit.log() for part in rest]
            found.append(parts)
        means = (
            parts[0] if len(parts) == 1 else torch.stack(parts).mean(0) for parts in zip(*found, strict=True)
        )
        pictures = [F.pixel_shuffle(part, self.config.scale) for part in means]
        return torch.cat(pictures, 1) if spread else pictures[0]


def _levels_of(seen: Seen) -> list[tuple[Tensor, Tensor]]:
    """The layers' inputs and the unit: one for all passes, or those of even and of odd ones."""
    return list(zip(seen.maps[1::2], seen.maps[2::2], strict=True))


def _normalised(small: Tensor, mean: Tensor, unit: Tensor) -> Tensor:
    """An unshuffled frame's difference to the local mean in units of the noise; large ones squashed; float32.

    The inverse hyperbolic sine squashes them. `torch.asinh` is ten times as slow on a CPU because it is not vectorised.
    """
    difference = small.float().unflatten(1, (IMAGE_CHANNELS, -1)) - mean[:, :, None]
    difference = difference.flatten(1, 2).div_(unit)
    return (difference * difference).add_(1.0).sqrt_().add_(difference.abs()).log_().copysign_(difference)


def _local_mean(x: Tensor) -> Tensor:
    """The mean of the pixels of `x (N, C, H, W)` around each one, of fewer at the border.

    As `avg_pool2d`, which is ten times as slow on a CPU because it is not vectorised.
    """
    for axis in (2, 3):
        ones = x.new_ones(*(x.shape[axis] if axis == side else 1 for side in range(4)))
        x = _window_sum(x, axis) / _window_sum(ones, axis)
    return x


def _window_sum(x: Tensor, axis: int) -> Tensor:
    """Sums of `MEAN_WINDOW` values around each one along an axis, 2 or 3; nothing lies beyond the border."""
    reach, length = MEAN_WINDOW // 2, x.shape[axis]
    wide = F.pad(x, (0, 0, reach, reach) if axis == 2 else (reach, reach))
    total = wide.narrow(axis, 0, length) + wide.narrow(axis, 1, length)
    for start in range(2, MEAN_WINDOW):
        total += wide.narrow(axis, start, length)
    return total
