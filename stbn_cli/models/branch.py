"""One direction's branch: noisy frame, aligned hidden state and noise level in, blind-spot features out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.blindspot import CentreMaskedConv2d, PhaseResidualBlock
from stbn_cli.models.fused import Derived, PointwiseChain, convolve
from stbn_cli.models.phases import to_phases


class PropagationBranch(nn.Module):
    """Frame head (1x1, full resolution), centre-masked 3x3, then phase-domain layers.

    `noise_level`: whether the head has inputs for the noise map (the raw network has none).
    `tail`: the three 1x1 layers of the published network that squeeze to half the channels and back. `blind_spot`:
    whether the masked convolution is masked.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        channels: int,
        state_channels: int,
        blocks: int,
        noise_level: bool,
        tail: bool,
        blind_spot: bool = True,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.state_channels = state_channels
        self.noise_level = noise_level
        inputs = image_channels + state_channels + (image_channels if noise_level else 0)
        self.head = nn.Conv2d(inputs, channels, kernel_size=1)
        self.masked = CentreMaskedConv2d(channels, blind=blind_spot)
        self.mix1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.mix2 = nn.Conv2d(channels, channels, kernel_size=1)
        self.blocks = nn.ModuleList(PhaseResidualBlock(channels) for _ in range(blocks))
        self.out = nn.Conv2d(channels, channels, kernel_size=1) if tail else None
        self.squeeze1 = nn.Conv2d(channels, channels // 2, kernel_size=1) if tail else None
        self.squeeze2 = nn.Conv2d(channels // 2, channels // 2, kernel_size=1) if tail else None
        self.expand = nn.Conv2d(channels // 2, channels, kernel_size=1) if tail else None
        self.mix = PointwiseChain((self.mix1, True), (self.mix2, True))
        self.derived = Derived()
        self._tail = None
        if self.out and self.squeeze1 and self.squeeze2 and self.expand:
            layers = (self.out, True), (self.squeeze1, True), (self.squeeze2, True), (self.expand, False)
            self._tail = PointwiseChain(*layers)

    def forward(self, frame: Tensor, state: Tensor | None, sigma: Tensor, mask: Tensor | None) -> Tensor:
        """Phase-domain features `(4 N, C, ceil(H / 2), ceil(W / 2))` of one frame.

        `frame (N, image_channels, H, W)`; `state (N, state_channels, H, W)`, already aligned to the frame, or
        None for zeros; `sigma` broadcasts to `frame`; `mask` as `valid_mask` gives it.
        """
        features = to_phases(self.masked(self.head_of(frame, state, sigma)))
        return self.after_mix(self.mix(features, mask), mask)

    def after_mix(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """What follows the first two 1x1 layers, in the phase domain."""
        for block in self.blocks:
            features = block(features, mask, overwrite=True)
        return features if self._tail is None else self._tail(features)

    def head_of(self, frame: Tensor, state: Tensor | None, sigma: Tensor) -> Tensor:
        """The 1x1 head and ReLU, with two exact savings: no zero state is read, a constant sigma is a bias."""
        weight, bias = self.head.weight, self.head.bias
        image_end = self.image_channels
        state_end = image_end + self.state_channels
        assert bias is not None
        inputs, used = [frame], [weight[:, :image_end]]
        if state is not None:
            # One precision and layout for the concatenation: autocast would join them in the wider and slower ones.
            inputs = [frame.to(state.dtype).contiguous(memory_format=torch.channels_last), state]
            used.append(weight[:, image_end:state_end])
        offset = None
        if self.noise_level:
            noise_weight = weight[:, state_end:]
            if sigma.shape[-2:] == (1, 1):
                level = sigma.expand(sigma.shape[0], self.image_channels, 1, 1).to(weight.dtype)
                offset = F.conv2d(level, noise_weight)  # (N or 1, C, 1, 1)
            else:
                inputs.append(sigma.expand_as(frame).to(frame.dtype))
                used.append(noise_weight)
        if offset is not None and offset.shape[0] == 1:
            bias, offset = bias + offset.flatten(), None
        joined, weights = torch.cat(inputs, 1), torch.cat(used, 1)
        if offset is None:
            return convolve(joined, weights, bias, relu=True)
        return F.relu(F.conv2d(joined, weights, bias) + offset, inplace=True)
