"""Picture quality against a clean reference, by the definitions of the published protocol."""

import torch
from torch import Tensor


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, over all its channels and pixels.

    `estimate` and `clean` are `(..., C, H, W)` on the [0, 1] scale; the estimate is clipped to [0, 1] first, nothing
    is rounded. Returns `(...)` float64; infinite where both are equal. The protocol averages over frames, then clips.
    """
    error = estimate.double().clamp(0.0, 1.0) - clean.double()
    return -10.0 * torch.log10(error.square().mean(dim=(-3, -2, -1)))
