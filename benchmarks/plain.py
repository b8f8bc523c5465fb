"""The published structure of STBN in plain eager PyTorch: what this project's own form is measured against.

Full resolution, dilated convolutions, the default memory layout, the whole clip at once with the hidden states of all
frames kept, a flow of its own for each pair and direction, `grid_sample` for the warp, general 3x3 inverses for the
posterior. It takes the weights of an `STBN` and gives the same numbers. Source of the structure: arXiv 2412.11820.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.models.blindspot import PhaseHead, PhaseResidualBlock
from stbn_cli.models.branch import PropagationBranch
from stbn_cli.models.config import GAUSSIAN_CHANNELS, MEAN_CHANNELS
from stbn_cli.models.expansion import ReceptiveFieldExpansion
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.levels import Sigma, broadcast_sigma
from stbn_cli.noise.posterior import VARIANCE_FLOOR

DILATION = 2  # a pixel's parity is kept
PATCH = 2  # pixels on a side that the patch-unshuffle keeps together
BLOCK = 4  # pixels on a side of what it splits into patches


class PlainSTBN(nn.Module):
    """The same function as `STBN.forward`, with copies of its weights, on the device and in the precision of these.

    Raises `ValueError` for a network without a blind spot.
    """

    def __init__(self, network: STBN) -> None:
        super().__init__()
        if not network.config.blind_spot:
            raise ValueError("only networks with a blind spot have a plain form")
        self.config = network.config
        self.forward_branch = _Branch(network.forward_branch)
        self.backward_branch = _Branch(network.backward_branch)
        self.fusion = _Head(network.fusion)
        self.expansion = _Expansion(network.expansion)
        self.head = _Head(network.head)
        self.mean_kernel: Tensor | None
        mean_kernel = None if network.blind_mean is None else network.blind_mean.kernel.detach().clone()
        self.register_buffer("mean_kernel", mean_kernel)

    def forward(self, noisy: Tensor, sigma: Sigma, flow_to_previous: Tensor, flow_to_next: Tensor) -> Tensor:
        """Head outputs `(N, T, outputs, H, W)`; the arguments are those of `STBN.forward`."""
        frames = noisy.shape[1]
        level = broadcast_sigma(sigma, noisy).to(noisy.dtype).expand_as(noisy)
        forward_states: list[Tensor] = []
        backward_states: list[Tensor] = []
        state = None
        for t in range(frames):
            state = self._advance(
                self.forward_branch, noisy[:, t], level[:, t], state, flow_to_previous[:, t]
            )
            forward_states.append(state)
        state = None
        for t in reversed(range(frames)):
            state = self._advance(self.backward_branch, noisy[:, t], level[:, t], state, flow_to_next[:, t])
            backward_states.insert(0, state)
        return torch.stack(
            [self._fuse(*pair) for pair in zip(forward_states, backward_states, strict=True)], 1
        )

    def _advance(
        self, branch: "_Branch", frame: Tensor, level: Tensor, state: Tensor | None, flow: Tensor
    ) -> Tensor:
        """The hidden state `(N, state_channels, H, W)` of a frame from its neighbour's."""
        if state is None:
            nothing = frame.new_zeros(len(frame), self.config.state_channels, *frame.shape[-2:])
            features = branch(frame, nothing, level)
        else:
            aligned = warp(state, flow)
            features = self.fusion(torch.cat((branch(frame, aligned, level), aligned), 1))
        return torch.cat((features, frame), 1) if self.config.carry_frame else features

    def _fuse(self, forward_state: Tensor, backward_state: Tensor) -> Tensor:
        """Head outputs `(N, outputs, H, W)` of a frame from both its hidden states."""
        channels, colours = self.config.channels, self.config.image_channels
        forward_features, backward_features = forward_state[:, :channels], backward_state[:, :channels]
        features = self.expansion(forward_features, backward_features)
        if self.config.feature_skip:
            features = features + forward_features + backward_features
        outputs = self.head(features)
        if self.mean_kernel is None:
            return outputs
        mean = _mean_around(forward_state[:, channels:], self.mean_kernel)
        return torch.cat((outputs[:, :colours] + mean, outputs[:, colours:]), 1)


class _Branch(nn.Module):
    """Frame, aligned state and noise map in, features `(N, C, H, W)` out."""

    def __init__(self, branch: PropagationBranch) -> None:
        super().__init__()
        self.noise_level = branch.noise_level
        self.head = _copy(branch.head)
        self.masked = _copy(branch.masked)
        with torch.no_grad():
            self.masked.weight[..., 1, 1] = 0.0
        self.mix1, self.mix2 = _copy(branch.mix1), _copy(branch.mix2)
        self.blocks = _blocks(branch.blocks)
        tail = (branch.out, branch.squeeze1, branch.squeeze2, branch.expand)
        self.tail = nn.ModuleList(_copy(layer) for layer in tail if layer is not None)

    def forward(self, frame: Tensor, state: Tensor, level: Tensor) -> Tensor:
        inputs = (frame, state, level) if self.noise_level else (frame, state)
        features = F.relu(self.head(torch.cat(inputs, 1)))
        features = F.relu(self.masked(features))
        features = F.relu(self.mix2(F.relu(self.mix1(features))))
        features = self.blocks(features)
        for index, layer in enumerate(self.tail, 1):
            features = layer(features)
            if index < len(self.tail):
                features = F.relu(features)
        return features


class _Block(nn.Module):
    """Dilated residual block."""

    def __init__(self, block: PhaseResidualBlock) -> None:
        super().__init__()
        self.spatial = _dilate(block.spatial)
        self.pointwise = _copy(block.pointwise)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.pointwise(F.relu(self.spatial(features)))


class _Head(nn.Module):
    """Temporal fusion, or the output head."""

    def __init__(self, head: PhaseHead) -> None:
        super().__init__()
        self.layers = nn.Sequential(_copy(head.enter), _blocks(head.blocks), _copy(head.leave))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class _Expansion(nn.Module):
    """Spatial receptive-field expansion at half resolution, patches of 2x2 pixels kept together."""

    def __init__(self, expansion: ReceptiveFieldExpansion) -> None:
        super().__init__()
        self.enter = _dilate(expansion.enter)
        self.stages = nn.ModuleList(_blocks(stage) for stage in expansion.stages)
        self.leave = nn.Sequential(
            _dilate(expansion.leave1), _copy(expansion.leave2), _copy(expansion.leave3)
        )

    def forward(self, forward_features: Tensor, backward_features: Tensor) -> Tensor:
        height, width = forward_features.shape[-2:]
        both = [
            patch_unshuffle(F.pad(features, (0, -width % BLOCK, 0, -height % BLOCK)))
            for features in (forward_features, backward_features)
        ]
        features = self.enter(torch.cat(both, 1))
        for stage in self.stages:
            features = stage(features) + features
        return patch_shuffle(self.leave(features))[..., :height, :width]


def patch_unshuffle(picture: Tensor) -> Tensor:
    """`(N, C, H, W)` to `(N, 4 C, H / 2, W / 2)`; H and W are multiples of 4.

    Of every block of 4x4 pixels the patch (i, j) of 2x2 pixels goes to channel `4 c + 2 i + j`, its pixels unmixed.
    """
    batch, channels, height, width = picture.shape
    parts = picture.reshape(batch, channels, height // BLOCK, 2, PATCH, width // BLOCK, 2, PATCH)
    parts = parts.permute(0, 1, 3, 6, 2, 4, 5, 7)  # both patch numbers next to the channel
    return parts.reshape(batch, 4 * channels, height // 2, width // 2)


def patch_shuffle(features: Tensor) -> Tensor:
    """Undo `patch_unshuffle`: `(N, 4 C, h, w)` to `(N, C, 2 h, 2 w)`."""
    batch, channels, height, width = features.shape
    parts = features.reshape(batch, channels // 4, 2, 2, height // PATCH, PATCH, width // PATCH, PATCH)
    parts = parts.permute(0, 1, 4, 2, 5, 6, 3, 7)
    return parts.reshape(batch, channels // 4, 2 * height, 2 * width)


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """`features (N, C, H, W)` sampled where `flow (N, 2, H, W)`, pixels, points; nearest neighbour, zeros outside."""
    height, width = features.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    grid = torch.stack((2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1), -1)
    return F.grid_sample(
        features, grid.to(features.dtype), mode="nearest", padding_mode="zeros", align_corners=True
    )


def plain_posterior(outputs: Tensor, noisy: Tensor, sigma: Sigma) -> Tensor:
    """Final estimate `(N, T, 3, H, W)` of head outputs `(N, T, 9, H, W)`, with the inverses written as inverses.

    `(S^-1 + I/v)^-1 (S^-1 mu + y/v)`, S the prior covariance plus 1e-5, v the noise variance plus 1e-5. Float32 loses
    digits in the first inverse where S is badly conditioned; `stbn_cli.noise.posterior` does not.
    """
    if outputs.shape[-3] != GAUSSIAN_CHANNELS:
        raise ValueError(f"expected {GAUSSIAN_CHANNELS} output channels, got {outputs.shape[-3]}")
    pixels = outputs.float().movedim(-3, -1)
    mean, entries = pixels[..., :MEAN_CHANNELS], pixels[..., MEAN_CHANNELS:]
    factor = entries.new_zeros(*entries.shape[:-1], 3, 3)
    factor[..., 0, :] = entries[..., :3]
    factor[..., 1, :2] = entries[..., 3:5]
    factor[..., 2, 0] = entries[..., 5]
    identity = torch.eye(3, device=outputs.device)
    # Without asking the device whether each inverse exists: it does.
    prior_precision = torch.linalg.inv_ex(factor.mT @ factor + VARIANCE_FLOOR * identity).inverse
    level = broadcast_sigma(sigma, noisy).expand_as(noisy).movedim(-3, -1)[..., None]
    noise_precision = 1.0 / (level.square() + VARIANCE_FLOOR)
    evidence = prior_precision @ mean[..., None] + noise_precision * noisy.float().movedim(-3, -1)[..., None]
    estimate = torch.linalg.inv_ex(prior_precision + noise_precision * identity).inverse @ evidence
    return estimate[..., 0].movedim(-1, -3)


def plain_flows(estimator: FlowEstimator, noisy: Tensor, sigma: float | None = None) -> tuple[Tensor, Tensor]:
    """`flow_to_previous` and `flow_to_next` of `noisy (N, T, 3, H, W)`, each `(N, T, 2, H, W)`: one pair at a time."""
    frames = noisy.unbind(1)
    nowhere = noisy.new_zeros(len(noisy), 2, *noisy.shape[-2:], dtype=torch.float32)
    to_previous = [nowhere] + [estimator(frames[t], frames[t - 1], sigma) for t in range(1, noisy.shape[1])]
    to_next = [estimator(frames[t], frames[t + 1], sigma) for t in range(noisy.shape[1] - 1)] + [nowhere]
    return torch.stack(to_previous, 1), torch.stack(to_next, 1)


@torch.inference_mode()
def plain_denoise(network: PlainSTBN, estimator: FlowEstimator, noisy: Tensor, sigma: float) -> Tensor:
    """Flow, network and posterior of a whole clip `(N, T, 3, H, W)` on one device; the estimate `(N, T, 3, H, W)`."""
    outputs = network(noisy, sigma, *plain_flows(estimator, noisy, sigma))
    if network.config.head != "gaussian":
        return outputs
    # Frame by frame: millions of little matrices are enough for one call.
    frames = zip(outputs.split(1, 1), noisy.split(1, 1), strict=True)
    return torch.cat([plain_posterior(*frame, sigma) for frame in frames], 1)


def _mean_around(frame: Tensor, kernel: Tensor) -> Tensor:
    """Weighted mean of each pixel's surroundings `(N, C, H, W)`; what lies outside the picture does not count."""
    channels, padding = frame.shape[1], kernel.shape[-1] // 2
    weights = kernel.to(frame.dtype).repeat(channels, 1, 1, 1)
    total = F.conv2d(frame, weights, padding=padding, groups=channels)
    return total / F.conv2d(torch.ones_like(frame), weights, padding=padding, groups=channels)


def _copy(layer: nn.Conv2d, dilation: int = 1) -> nn.Conv2d:
    """A plain convolution with the layer's weights in the default memory layout, zero-padded to keep the size."""
    size = layer.kernel_size[0]
    copy = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        size,
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        copy.weight.copy_(layer.weight)
        if copy.bias is not None and layer.bias is not None:
            copy.bias.copy_(layer.bias)
    return copy.requires_grad_(False)


def _dilate(layer: nn.Conv2d) -> nn.Conv2d:
    """The phase domain's dense 3x3 convolution as the dilated one that it stands for."""
    return _copy(layer, DILATION)


def _blocks(blocks: nn.Module) -> nn.Sequential:
    """Residual blocks of a module list."""
    return nn.Sequential(*(_Block(block) for block in blocks.children()))  # type: ignore[arg-type]
