"""Picture quality against a clean reference, by the definitions of the published protocol."""

import numpy as np
import torch
from torch import Tensor

from stbn_cli.models.warp import warp_nearest
from stbn_cli.scale import BYTE_SCALE

# Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004, section III-B.
SSIM_WINDOW = 11  # pixels
SSIM_STD = 1.5  # pixels, of the Gaussian window
SSIM_K1, SSIM_K2 = 0.01, 0.03
UNIFORM_WINDOW = 7  # pixels, of the window in which all pixels count the same


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, over all its channels and pixels.

    `estimate` and `clean` are `(..., C, H, W)` on the [0, 1] scale; the estimate is clipped to [0, 1] first, nothing
    is rounded. Returns `(...)` float64; infinite where both are equal. The protocol averages over frames, then clips.
    """
    error = estimate.double().clamp(0.0, 1.0) - clean.double()
    return -10.0 * torch.log10(error.square().mean(dim=(-3, -2, -1)))


def ssim(estimate: Tensor, clean: Tensor, *, uniform: bool = False) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each frame, the mean over its channels and pixels.

    `estimate` and `clean` are `(..., C, H, W)` on the [0, 1] scale, at least 11x11; the estimate is clipped to [0, 1]
    first. Gaussian window of 11x11 and std 1.5, sample covariance (n / (n - 1), n = 121), K1 0.01, K2 0.03, range 1:
    scikit-image's defaults and the published numbers'. Windows that reach beyond the picture do not count.
    uniform: a window of 7x7 that weighs all pixels alike, as numbers on CRVD are measured; 7x7 pixels are enough then.
    Returns `(...)` float64, 1 where both are equal. Raises `ValueError` for smaller pictures.
    """
    window = UNIFORM_WINDOW if uniform else SSIM_WINDOW
    if min(clean.shape[-2:]) < window:
        size = f"{clean.shape[-1]}x{clean.shape[-2]}"
        raise ValueError(f"SSIM needs at least {window}x{window} pixels, got {size}")
    x, y = estimate.float().clamp(0.0, 1.0), clean.float()
    parts = (x, y, x * x, y * y, x * y)
    mean_x, mean_y, square_x, square_y, product = (_windowed(part, uniform) for part in parts)
    unbiased = window**2 / (window**2 - 1)
    variance_x, variance_y = unbiased * (square_x - mean_x.square()), unbiased * (square_y - mean_y.square())
    covariance = unbiased * (product - mean_x * mean_y)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    likeness = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    scale = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return (likeness / scale).mean(dim=(-3, -2, -1), dtype=torch.float64)


def temporal_error(estimate: Tensor, clean: Tensor, flow_to_previous: Tensor) -> Tensor:
    """How much the error changes from frame to frame along the motion, on the 0-255 scale; 0: no flicker at all.

    The motion-compensated frame difference of the estimate minus that of the clean clip,
    `(x_t - warp(x_(t-1))) - (c_t - warp(c_(t-1)))`, root mean square over channels and the pixels whose motion starts
    inside the frame before. White noise of standard deviation s has sqrt(2) s; an error that stays with the
    picture, such as a constant blur, has 0.

    `estimate` and `clean (T, C, H, W)` on the [0, 1] scale, the estimate is clipped to [0, 1]; `flow_to_previous
    (T, 2, H, W)` pixels, of the clean clip (entry 0 is not used). Returns `(T - 1,)` float64, NaN for a frame
    without such pixels.
    """
    error = estimate.float().clamp(0.0, 1.0) - clean.float()
    inside = torch.ones_like(error[:-1, :1])
    warped = warp_nearest(torch.cat((error[:-1], inside), 1), flow_to_previous[1:])
    change = (error[1:] - warped[:, :-1]).square().mean(dim=1, keepdim=True)
    counted = warped[:, -1:]
    total = (change * counted).sum(dim=(1, 2, 3), dtype=torch.float64)
    return BYTE_SCALE * (total / counted.sum(dim=(1, 2, 3), dtype=torch.float64)).sqrt()


def _windowed(pictures: Tensor, uniform: bool) -> Tensor:
    """Means over the windows that lie inside the picture; float32, in host memory."""
    import cv2

    height, width = pictures.shape[-2:]
    window = UNIFORM_WINDOW if uniform else SSIM_WINDOW
    border, size = window // 2, (window, window)
    planes = pictures.reshape(-1, height, width).cpu().numpy()
    means = np.stack(
        [cv2.blur(plane, size) if uniform else cv2.GaussianBlur(plane, size, SSIM_STD) for plane in planes]
    )
    inside = torch.from_numpy(means[:, border : height - border, border : width - border])
    return inside.reshape(*pictures.shape[:-2], *inside.shape[-2:])
