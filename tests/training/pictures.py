"""Textures that stand in for photographs."""

import cv2
import numpy as np
import torch
from torch import Tensor


def photograph(height: int = 160, width: int = 200, seed: int = 0, cell: int = 10) -> Tensor:
    """Smooth random texture, uint8 (3, H, W)."""
    coarse = np.random.default_rng(seed).random((height // cell, width // cell, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(np.clip(255 * picture, 0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
