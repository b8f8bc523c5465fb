"""Layers that never look at the pixel they predict.

The centre-masked 3x3 convolution reaches only offsets that are not (even, even); everything after it works on
one pixel parity at a time (see `phases`), so it moves by even offsets and can never come back to the centre.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.fused import Derived, PointwiseChain, convolve, residual_block


class CentreMaskedConv2d(nn.Conv2d):
    """3x3 convolution, zero padded, whose centre weight does not act whatever its value is.

    The mask is applied at use: the stored weight is never changed and the gradient of the centre is exactly zero.
    `blind`: False lets the centre act, for networks that learn from clean frames and may see the pixel itself.
    """

    centre_mask: Tensor

    def __init__(self, channels: int, *, blind: bool = True) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)
        mask = torch.ones(1, 1, 3, 3)
        if blind:
            mask[..., 1, 1] = 0.0
        self.register_buffer("centre_mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C, H, W)`, after a ReLU."""
        return convolve(input, self.weight * self.centre_mask, self.bias, padding=1, relu=True)


class BlindMean(nn.Module):
    """Gaussian mean of the pixels around each pixel, without the pixel itself; no parameters.

    A network that predicts the difference to it keeps the colour of flat areas, rare colours included, without having
    to learn the identity. Pixels outside the picture do not count. Always float32: half precision has too few digits
    for a colour.
    """

    kernel: Tensor

    def __init__(self, radius: int = 4, std: float = 2.2) -> None:
        super().__init__()
        # On the CPU wherever the layers are: on "meta", where shapes are compared, it would import a compiler.
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device="cpu")
        profile = torch.exp(-0.5 * (offsets / std).square())
        kernel = profile[:, None] * profile[None, :]
        kernel[radius, radius] = (
            0.0  # exactly: subtracting the centre afterwards would leave its rounding errors
        )
        self.radius = radius
        self._kept: tuple[object, Tensor] | None = None
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape, float32."""
        channels = frame.shape[1]
        kernel = self.kernel.float()
        with torch.autocast(frame.device.type, enabled=False):
            weighted = F.conv2d(
                frame.float(), kernel.expand(channels, -1, -1, -1), padding=self.radius, groups=channels
            )
            return weighted / self._weights(frame, kernel)

    def _weights(self, frame: Tensor, kernel: Tensor) -> Tensor:
        """Sum of the weights inside the picture `(1, 1, H, W)`; kept, since frames of a clip have one size."""
        height, width = frame.shape[-2:]
        key = height, width, frame.device
        if self._kept is None or self._kept[0] != key:
            ones = torch.ones(1, 1, height, width, device=frame.device)
            self._kept = key, F.conv2d(ones, kernel, padding=self.radius)
        return self._kept[1]


class PhaseResidualBlock(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution, added to the input; on phase-domain features.

    The paper's dilated residual block: its dilation of 2 is the phase domain's step of one.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(channels, channels, kernel_size=1)
        self._derived = Derived()

    def forward(self, features: Tensor, mask: Tensor | None = None, *, overwrite: bool = False) -> Tensor:
        """`(4 N, C, h, w)` to the same shape; positions outside `mask` come out zero.

        `overwrite`: the caller does not need `features` any more.
        """
        return residual_block(
            features, self.spatial, self.pointwise, mask, self._derived, overwrite=overwrite
        )


class PhaseHead(nn.Module):
    """1x1 convolution without bias, residual blocks, 1x1 convolution without bias; on phase-domain features.

    Serves as temporal fusion (2 C to C channels) and as the output head (C to 9 or to the image channels).
    """

    def __init__(self, inputs: int, channels: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, channels, kernel_size=1, bias=False)
        self.blocks = nn.ModuleList(PhaseResidualBlock(channels) for _ in range(blocks))
        self.leave = nn.Conv2d(channels, outputs, kernel_size=1, bias=False)
        self._entry, self.exit = PointwiseChain((self.enter, False)), PointwiseChain((self.leave, False))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(4 N, inputs, h, w)` to `(4 N, outputs, h, w)`."""
        features = self._entry(features, mask)
        for block in self.blocks:
            features = block(features, mask, overwrite=True)
        return self.exit(features)
