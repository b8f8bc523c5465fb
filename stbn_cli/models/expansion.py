"""Spatial receptive-field expansion (SRFE) of the two directions' features, after PUCA and the STBN paper.

The published patch-unshuffle keeps 2x2 patches together so that pixel parity survives; on phase-domain features
it is the ordinary pixel-unshuffle by two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.blindspot import PhaseResidualBlock

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

    def forward(self, forward_features: Tensor, backward_features: Tensor) -> Tensor:
        """Two phase-domain tensors `(4 N, C, h, w)` to one of the same shape.

        Odd h or w are padded with zeros and cropped again, which equals the published padding of the picture to
        multiples of four. Padded positions of the input must be zero.
        """
        height, width = forward_features.shape[-2:]
        features = torch.cat((forward_features, backward_features), 1)
        features = F.pad(features, (0, width % SCALE, 0, height % SCALE))
        features = self.enter(F.pixel_unshuffle(features, SCALE))
        for stage in self.stages:
            stage_input = features
            for block in stage:  # type: ignore[attr-defined]
                features = block(features)
            features = features + stage_input
        features = self.leave3(self.leave2(self.leave1(features)))
        return F.pixel_shuffle(features, SCALE)[..., :height, :width]
