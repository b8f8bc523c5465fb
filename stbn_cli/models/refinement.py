"""What a network may do that need not be blind: look at all pixels at once, the predicted one included.

The phases keep the four pixel parities apart, which is what makes STBN blind. A network that learns from clean frames
does not need that. Here they are channels of one picture at half the resolution, so that neighbours meet.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.fused import convolution
from stbn_cli.models.phases import PHASES, from_phases, to_phases


class Refinement(nn.Module):
    """3x3 convolution, residual blocks, 1x1 convolution on all parities together: a correction of the head's outputs.

    It begins as nothing at all, so that a network learns on from what it was without.
    """

    def __init__(self, *, channels: int, colours: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(PHASES * (channels + 2 * colours), width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(PhaseResidualBlock(width) for _ in range(blocks))
        self.leave = nn.Conv2d(width, PHASES * outputs, kernel_size=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor, noisy: Tensor, mean: Tensor) -> Tensor:
        """Correction `(N, outputs, H, W)` of what the head makes of `features (4 N, C, h, w)`, in the phase domain.

        `noisy (N, colours, H, W)` is the frame, `mean` likewise what is predicted for it.
        """
        height, width = noisy.shape[-2:]
        pictures = to_phases(torch.cat((noisy - mean, mean), 1)).to(features.dtype)
        joined = _phases_as_channels(torch.cat((features, pictures), 1))
        hidden = convolution(joined, self.enter, relu=True)
        for block in self.blocks:
            hidden = block(hidden, overwrite=True)
        correction = convolution(hidden, self.leave)
        return from_phases(_channels_as_phases(correction), height, width)


def _phases_as_channels(phases: Tensor) -> Tensor:
    """`(4 N, C, h, w)` to `(N, 4 C, h, w)`."""
    picture = rearrange(phases.permute(0, 2, 3, 1), "(n p) h w c -> n h w (c p)", p=PHASES)
    return picture.permute(0, 3, 1, 2)


def _channels_as_phases(picture: Tensor) -> Tensor:
    """Undo `_phases_as_channels`."""
    phases = rearrange(picture.permute(0, 2, 3, 1), "n h w (c p) -> (n p) h w c", p=PHASES)
    return phases.permute(0, 3, 1, 2)
