"""Noise added on purpose, for training and for measuring quality."""

import torch
from torch import Tensor


def protocol_noise(clean: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """`clean (T, 3, H, W)` plus white Gaussian noise of standard deviation `sigma` ([0, 1] scale), not clipped.

    One normal draw of the whole float32 clip on the CPU after seeding, as the published measurements have it: the same
    seed gives the same noise everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(clean.shape, dtype=torch.float32).normal_(mean=0.0, std=sigma, generator=generator)
    return clean.float() + noise.to(clean.device)
