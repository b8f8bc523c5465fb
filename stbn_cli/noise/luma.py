"""Learning from luma alone, for noise that red, green and blue share.

Grey footage has the same noise in all channels. They are no independent observations then, and a network that takes
them for such trusts them too much; luma is one observation.

Not for 4:2:0 video: its colours' noise is correlated with luma's noise of the same pixel, and lies in its neighbours
(tried: 0.06 dB gained where 0.7 dB were claimed).
"""

import torch
from torch import Tensor

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.noise.posterior import CHANNEL_AXIS, factor_rows, split_head


def luma_of(colours: Tensor) -> Tensor:
    """BT.601 luma `(..., 1, H, W)` of `colours (..., 3, H, W)`."""
    return (colours * weights_like(colours)).sum(CHANNEL_AXIS, keepdim=True)


def weights_like(colours: Tensor) -> Tensor:
    """The weights of luma `(3, 1, 1)`."""
    return colours.new_tensor(LUMA_WEIGHTS).view(-1, 1, 1)


def draw_given_luma(outputs: Tensor, noisy: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy colours as the network that gave `outputs` expects them where the luma is that of `noisy`.

    Drawn from `N(mu, S + V)` under the condition on the luma: a draw `s` of the distribution itself, moved along
    `(S + V) w` until its luma fits (conditional simulation). Who learns from these learns what the luma says, and keeps
    all else as that network has it. Shapes as in `gaussian_nll`; `generator` on the CPU.
    """
    mean, covariance = split_head(outputs)
    draws = torch.randn((2, *mean.shape), generator=generator).to(mean.device)
    variance = sigma.float().square().expand_as(mean)
    coloured = torch.zeros_like(mean)  # A^T z
    for row, normal in zip(factor_rows(outputs), draws[0].unbind(CHANNEL_AXIS), strict=True):
        coloured[..., : len(row), :, :] += torch.stack([entry * normal for entry in row], CHANNEL_AXIS)
    drawn = mean + coloured + variance.sqrt() * draws[1]
    rows = (
        sum(covariance.at(row, column) * weight for column, weight in enumerate(LUMA_WEIGHTS))
        for row in range(len(LUMA_WEIGHTS))
    )
    along = torch.stack([*rows], CHANNEL_AXIS)  # type: ignore[list-item]
    along = along + variance * weights_like(mean)
    return drawn + along / luma_of(along) * (luma_of(noisy.float()) - luma_of(drawn))
