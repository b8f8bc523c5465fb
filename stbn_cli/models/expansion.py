"""Spatial receptive-field expansion (SRFE) of the two directions' features, after PUCA and the STBN paper.

The published patch-unshuffle keeps 2x2 patches together so that pixel parity survives; on phase-domain features
it is the ordinary pixel-unshuffle by two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.devices import with_float64
from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.fused import Derived, convolve, is_inference, runs_onednn

SCALE = 2


class ReceptiveFieldExpansion(nn.Module):
    """Works at half the phase resolution, a quarter of the picture's, on `width` channels.

    `stages` times (`blocks` residual blocks of `groups` groups, then the stage's input added again).
    """

    def __init__(self, *, channels: int, width: int, stages: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * channels * SCALE**2, width, kernel_size=3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList(PhaseResidualBlock(width, groups) for _ in range(blocks)) for _ in range(stages)
        )
        self.leave1 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.leave2 = nn.Conv2d(width, width, kernel_size=1)
        self.leave3 = nn.Conv2d(width, channels * SCALE**2, kernel_size=1)
        self._derived = Derived()

    def forward(self, forward_features: Tensor, backward_features: Tensor) -> Tensor:
        """Two phase-domain tensors `(4 N, C, h, w)` to one of the same shape.

        Odd h or w are padded with zeros and cropped again, which equals the published padding of the picture to
        multiples of four. Padded positions of the input must be zero.
        """
        height, width = forward_features.shape[-2:]
        features = torch.cat((forward_features, backward_features), 1)
        features = F.pad(features, (0, width % SCALE, 0, height % SCALE))
        features = self._enter(features)
        for stage in self.stages:
            stage_input = features
            for index, block in enumerate(stage):  # type: ignore[arg-type]
                features = block(features, overwrite=index > 0)
            features = features + stage_input
        return F.pixel_shuffle(self._leave(features), SCALE)[..., :height, :width]

    def _enter(self, features: Tensor) -> Tensor:
        """Pixel-unshuffle and 3x3 convolution: one 6x6 convolution of stride 2, where copying is what costs."""
        if not runs_onednn(features):
            return self.enter(F.pixel_unshuffle(features, SCALE))
        weight = self._derived.get("enter", (self.enter.weight,), self._strided_weight)
        return convolve(features, weight, self.enter.bias, stride=SCALE, padding=SCALE)

    def _strided_weight(self) -> Tensor:
        """Tap (y, x) of unshuffled channel (c, i, j) is tap (2 y + i, 2 x + j) of channel c."""
        weight = self.enter.weight.unflatten(1, (-1, SCALE, SCALE))
        weight = weight.permute(0, 1, 4, 2, 5, 3).flatten(2, 3).flatten(3, 4)
        return weight.contiguous(memory_format=torch.channels_last)

    def _leave(self, features: Tensor) -> Tensor:
        """Three convolutions without anything between them: for inference, one."""
        if not is_inference(features):
            return self.leave3(self.leave2(self.leave1(features)))
        layers = (self.leave1, self.leave2, self.leave3)
        weights = [weight for layer in layers for weight in layer.parameters()]
        weight, bias = self._derived.get("leave", weights, self._joined_leave)
        return convolve(features, weight, bias, padding=1)

    def _joined_leave(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the product of the three layers, multiplied in float64."""
        like = self.leave1.weight
        where = with_float64(like.device)

        def exact(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
            assert layer.bias is not None
            return layer.weight.to(where).double(), layer.bias.to(where).double()

        weight, bias = exact(self.leave1)
        for layer in (self.leave2, self.leave3):
            matrix, own = exact(layer)
            matrix = matrix.flatten(1)
            weight, bias = torch.einsum("oc,cikl->oikl", matrix, weight), matrix @ bias + own
        return weight.to(like).contiguous(memory_format=torch.channels_last), bias.to(like)
