"""LightFlowNet: a small coarse-to-fine flow network for noisy frames.

The recipe of PWC-Net (Sun et al., CVPR 2018: pyramid, warping, cost volume) at a small part of its cost, with
one decoder shared by all levels (as IRR-PWC, Hur and Roth, CVPR 2019), a softmax over the cost volume as its first
answer, the noise level as an input, and the learned convex upsampling of RAFT (Teed and Deng, ECCV 2020). Default
size: 332 thousand parameters, 3.2 thousand multiply-adds a pixel for a frame's features and 72 thousand for a flow.
Knows nothing of files or devices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.correlation import cost_volume
from stbn_cli.models.fused import runs_kernels

# Frames enter the network as (value - centre) * gain, noise levels as sigma * gain: both of order one.
FRAME_CENTRE = 0.5
FRAME_GAIN = 2.0
SIGMA_GAIN = 10.0
# Assumed where the noise level is not given: the middle of the range the denoisers are made for.
UNKNOWN_SIGMA = 30 / 255
LEAKY_SLOPE = 0.1
# Mean square, relative to the whole frame's, below which a pixel's features are not blown up to unit size.
FLATNESS = 5e-2
SMALLEST_VARIANCE = 1e-6  # keeps empty frames finite
# Flow enters the decoder in units of this many pixels of the level.
FLOW_UNIT = 4.0
# Scale of the initial flow head relative to the usual initialisation: the first flows are almost the matches.
INITIAL_FLOW_SCALE = 0.01
# First factor on the correlations (-1 .. 1) before the softmax over displacements; learned from there.
INITIAL_SHARPNESS = 20.0
STEM_KERNEL = 5
# Neighbours (3x3) that the convex upsampling mixes.
UPSAMPLING_TAPS = 9


@dataclass(frozen=True, slots=True)
class LightFlowConfig:
    """Size of a `LightFlowNet`."""

    # Channels of the pyramid: level 1 is half resolution, every further one halves it again.
    pyramid_channels: tuple[int, ...] = (16, 32, 64, 64, 64)
    # Level at which the flow ends (1: half resolution); upsampled from there. Each finer level took a third off the
    # error: 0.99, 0.65 and 0.59 pixels at a quarter of the way through training.
    finest_level: int = 1
    # Channels of the normalised features that are compared, equal at all levels.
    matching_channels: int = 32
    # Largest displacement of the cost volume in pixels of the level.
    radius: int = 4
    # Channels to which a 1x1 layer reduces the cost volume.
    volume_channels: int = 32
    # 3x3 layers of the shared decoder.
    decoder_channels: tuple[int, ...] = (64, 48, 48)
    # Times that a level's flow is refined, each time with the second frame warped anew.
    iterations: int = 2
    # Channels handed from one level's decoder to the next finer one.
    memory_channels: int = 16

    def __post_init__(self) -> None:
        sizes = (
            *self.pyramid_channels,
            *self.decoder_channels,
            self.matching_channels,
            self.radius,
            self.volume_channels,
            self.memory_channels,
            self.iterations,
        )
        if not self.decoder_channels or min(sizes) < 1:
            raise ValueError(f"expected positive sizes, got {self}")
        if not 1 <= self.finest_level <= len(self.pyramid_channels):
            raise ValueError(
                f"expected finest_level in 1..{len(self.pyramid_channels)}, got {self.finest_level}"
            )


class LightFlowPyramid(NamedTuple):
    """What the network keeps of a batch of frames; compute it once for every frame of a stream."""

    # Finest first: (N, matching_channels, H', W') of levels finest_level, finest_level + 1, ...
    levels: tuple[Tensor, ...]
    # Height and width of the frames before padding.
    size: tuple[int, int]


class FlowLevel(NamedTuple):
    """What one step of the decoder finds, for training."""

    # (N, 2, H', W') float32 in pixels of the full resolution, after this step.
    flow: Tensor
    # The same before this step: where the comparison was centred.
    start: Tensor
    # (N, (2 radius + 1)^2, H', W') logarithms of the probability of each displacement from there; None where only the
    # flow is wanted.
    log_probabilities: Tensor | None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "FlowLevel":
        """`change` of each tensor."""
        known = self.log_probabilities
        return FlowLevel(change(self.flow), change(self.start), None if known is None else change(known))


class LightFlowNet(nn.Module):
    """Flow between two noisy frames, in pixels. Works in float32, bfloat16 and float16."""

    # `NetworkFlow` asks: the noise level is an input.
    takes_sigma = True

    def __init__(self, config: LightFlowConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LightFlowConfig()
        channels = config.pyramid_channels
        self.stem = nn.Conv2d(3, channels[0], STEM_KERNEL, stride=2, padding=STEM_KERNEL // 2)
        self.sigma_bias = nn.Linear(1, channels[0])
        self.pyramid = nn.ModuleList([_conv(channels[0], channels[0])])
        for coarse, fine in zip(channels[1:], channels[:-1], strict=True):
            self.pyramid.append(nn.Sequential(_conv(fine, coarse, stride=2), _conv(coarse, coarse)))
        self.matching = nn.ModuleList(
            nn.Conv2d(c, config.matching_channels, 1) for c in channels[config.finest_level - 1 :]
        )
        self.decoder = _SharedDecoder(config)
        self.upsampler = nn.Conv2d(config.decoder_channels[-1], UPSAMPLING_TAPS * 4**config.finest_level, 1)

    @property
    def multiple_of(self) -> int:
        """Frame sides are padded to a multiple of this inside."""
        return 2 ** len(self.config.pyramid_channels)

    def forward(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first: (N, 3, H, W) RGB in nominal [0, 1], noisy, H and W >= 1.
            second: as `first`.
            sigma: noise std on [0, 1], a number or one per clip (N,); None: `UNKNOWN_SIGMA`.

        Returns:
            (N, 2, H, W) float32 flow (dx, dy) in pixels: `second` at (col + dx, row + dy) shows what `first`
            shows at (col, row).
        """
        return self.flow_from_features(self.features(first, sigma), self.features(second, sigma))

    def features(self, frames: Tensor, sigma: float | Tensor | None = None) -> LightFlowPyramid:
        """Pyramid of frames (N, 3, H, W), any float dtype; `sigma` as in `forward`.

        Frames need not have the network's type: centred first, they lose less when they are rounded to it.
        """
        height, width = frames.shape[-2:]
        dtype = self.stem.weight.dtype
        pad = (0, -width % self.multiple_of, 0, -height % self.multiple_of)
        x = (F.pad(frames, pad, mode="replicate") - FRAME_CENTRE) * FRAME_GAIN
        level_of_noise = torch.as_tensor(
            UNKNOWN_SIGMA if sigma is None else sigma, dtype=dtype, device=frames.device
        ).reshape(-1, 1)
        bias = self.sigma_bias(level_of_noise * SIGMA_GAIN)
        x = F.leaky_relu(self.stem(x.to(dtype)) + bias[:, :, None, None], LEAKY_SLOPE)
        levels = []
        for number, level in enumerate(self.pyramid, start=1):
            x = level(x)
            if number >= self.config.finest_level:
                levels.append(_normalised(self.matching[number - self.config.finest_level](x)))
        return LightFlowPyramid(tuple(levels), (height, width))

    def flow_from_features(self, first: LightFlowPyramid, second: LightFlowPyramid) -> Tensor:
        """Flow (N, 2, H, W) float32 between frames given by their pyramids; see `forward`."""
        return self.levels_from_features(first, second)[0]

    def levels_from_features(
        self, first: LightFlowPyramid, second: LightFlowPyramid
    ) -> tuple[Tensor, list[FlowLevel]]:
        """The flow as `flow_from_features` gives it, and what each step of each level found, coarsest first.

        Levels are (H' / 2^k, W' / 2^k), k from the coarsest level to `finest_level`, H' and W' being the sides padded
        (right, bottom) to `multiple_of`.
        """
        batch, _, height, width = first.levels[-1].shape
        flow = first.levels[-1].new_zeros(batch, 2, height, width, dtype=torch.float32)
        memory = first.levels[-1].new_zeros(batch, self.config.memory_channels, height, width)
        hidden = memory
        levels: list[FlowLevel] = []
        for index in reversed(range(len(first.levels))):
            own, other = first.levels[index], second.levels[index]
            unit = 2 ** (self.config.finest_level + index)
            if flow.shape[-2:] != own.shape[-2:]:
                flow, memory = 2 * _doubled(flow), _doubled(memory)
            for _ in range(self.config.iterations):
                # Each step answers for itself: through the warp, gradients grew hundredfold.
                start = flow.detach()
                residual, log_probabilities, memory, hidden = self.decoder(own, other, start, memory)
                flow = start + residual
                levels.append(FlowLevel(flow * unit, start * unit, log_probabilities))
        height, width = first.size
        full = _convex_upsampling(levels[-1].flow, self.upsampler(hidden), 2**self.config.finest_level)
        return full[:, :, :height, :width], levels


class _SharedDecoder(nn.Module):
    """Residual flow of one level, in pixels of that level, whatever the level.

    The residual is a share of the expected displacement under a softmax over the cost volume, and a correction. Left
    to the layers alone, matching is not found in hundreds of steps: the flow stays zero.
    """

    displacements: Tensor

    def __init__(self, config: LightFlowConfig) -> None:
        super().__init__()
        self.radius = config.radius
        steps = torch.arange(-config.radius, config.radius + 1, dtype=torch.float32)
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        displacements = torch.stack((columns.flatten(), rows.flatten()))
        self.register_buffer("displacements", displacements, persistent=False)
        self.sharpness = nn.Parameter(torch.tensor(math.log(INITIAL_SHARPNESS)))
        self.reduction = _conv((2 * config.radius + 1) ** 2, config.volume_channels, kernel=1)
        inputs = config.volume_channels + config.matching_channels + config.memory_channels + 5
        layers = []
        for outputs in config.decoder_channels:
            layers.append(_conv(inputs, outputs))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.to_flow = nn.Conv2d(
            inputs, 3, 3, padding=1
        )  # correction, and the match's share before a sigmoid
        self.to_memory = _conv(inputs, config.memory_channels, kernel=1)
        with torch.no_grad():
            self.to_flow.weight.mul_(INITIAL_FLOW_SCALE)
            nn.init.zeros_(self.to_flow.bias)  # pyright: ignore[reportArgumentType] - it has a bias

    def forward(
        self, own: Tensor, other: Tensor, flow: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        log_probabilities = None
        if runs_kernels(own):
            from stbn_cli.models.kernels import matching, warp

            warped = warp.warp_bilinear(other, flow)
            volume, match, certainty = matching.match(own, warped, self.sharpness.float().exp(), self.radius)
        else:
            volume = cost_volume(own, _bilinear_warp(other, flow), self.radius)
            match, certainty, log_probabilities = self._match(volume)
        known = torch.cat((flow / FLOW_UNIT, match / FLOW_UNIT, certainty), dim=1).to(own.dtype)
        x = self.layers(torch.cat([self.reduction(volume), own, memory, known], dim=1))
        correction, share = self.to_flow(x).float().split((2, 1), dim=1)
        return correction + torch.sigmoid(share) * match, log_probabilities, self.to_memory(x), x

    def _match(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Expected displacement, largest probability, and logarithms of all; in float32 even under autocast."""
        with torch.autocast(volume.device.type, enabled=False):
            # Along the last axis, where the volume lies in memory.
            scores = volume.permute(0, 2, 3, 1).float() * self.sharpness.float().exp()
            log_probabilities = scores.log_softmax(dim=-1)
            probabilities = log_probabilities.exp()
            match = (probabilities @ self.displacements.float().T).permute(0, 3, 1, 2)
            certainty = probabilities.amax(dim=-1)[:, None]
        return match, certainty, log_probabilities.permute(0, 3, 1, 2)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE)
    return nn.Sequential(layer, nn.LeakyReLU(LEAKY_SLOPE))


def _normalised(features: Tensor) -> Tensor:
    """Centre every channel over the frame, then scale every pixel to mean square one, flat ones to less.

    Without the centring all pixels look alike, and matches are found by strength. In float32: squares overflow.
    """
    x = features.float()
    x = x - x.mean(dim=(2, 3), keepdim=True)
    x = x * torch.rsqrt(x.square().mean(dim=(1, 2, 3), keepdim=True) + SMALLEST_VARIANCE)
    return (x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + FLATNESS)).to(features.dtype)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _bilinear_warp(features: Tensor, flow: Tensor) -> Tensor:
    """Features (N, C, H, W) at the targets of `flow` (N, 2, H, W) float32 pixels, edges repeated outside.

    Sampled in float32: half precision cannot address a single pixel of a wide frame.
    """
    height, width = features.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32) + 0.5
    rows = torch.arange(height, device=flow.device, dtype=torch.float32) + 0.5
    x = (columns + flow[:, 0]) * (2 / width) - 1
    y = (rows[:, None] + flow[:, 1]) * (2 / height) - 1
    sampled = F.grid_sample(
        features.float(), torch.stack([x, y], -1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.to(features.dtype)


def _convex_upsampling(flow: Tensor, logits: Tensor, factor: int) -> Tensor:
    """Enlarge flow (N, 2, H, W) `factor` times: every fine pixel mixes the 3x3 coarse ones around it."""
    batch, _, height, width = flow.shape
    weights = logits.float().view(batch, 1, UPSAMPLING_TAPS, factor, factor, height, width).softmax(dim=2)
    side = math.isqrt(UPSAMPLING_TAPS)
    padded = F.pad(flow, (side // 2,) * 4, mode="replicate")
    shifted = [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(side) for dx in range(side)]
    neighbours = torch.stack(shifted, 2)[:, :, :, None, None]
    fine = (weights * neighbours).sum(dim=2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, factor * height, factor * width)
