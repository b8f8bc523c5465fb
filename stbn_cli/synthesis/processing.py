"""What happens to noise between a sensor and a file: noise reduction, blotches of colour, JPEG, resizing.

Frames are `(T, 3, H, W)` float32 RGB, nominal [0, 1], on the CPU.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.noise.luma import luma_of
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.isp import blurred, gaussian

MOTION_WINDOW = 5  # pixels of the box that decides where a camera's temporal filter sees motion


def grain(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of unit variance `(T, C, H, W)`, white noise blurred by a Gaussian of `std` pixels (0: white)."""
    draw = torch.randn(shape, generator=generator)
    if std <= 0.0:
        return draw
    kernel = gaussian(std, draw)
    return blurred(draw, std) / kernel.square().sum()  # of both directions


def blotchy(
    clean: Tensor,
    luma: NoiseLevelFunction,
    chroma: NoiseLevelFunction,
    luma_size: float,
    chroma_sizes: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Noise to add to `clean`: fine in luma, in blotches in colour, as cameras deliver it.

    Sizes are standard deviations of Gaussians in pixels; colour noise is the mean of two sizes. The level functions
    give the standard deviation of luma, and of red and blue minus luma.
    """
    frames, _, height, width = clean.shape
    brightness = luma_of(clean)
    one = (frames, 1, height, width)
    fine = grain(one, luma_size, generator) * luma.sigma_at(brightness)
    two = (frames, 2, height, width)
    parts = [grain(two, size, generator) for size in chroma_sizes]
    red, blue = ((parts[0] + parts[1]) * 0.5**0.5 * chroma.sigma_at(brightness)).split(1, 1)
    # Green minus luma, so that the luma of the colour noise is zero.
    red_weight, green_weight, blue_weight = LUMA_WEIGHTS
    green = -(red_weight * red + blue_weight * blue) / green_weight
    return fine + torch.cat((red, green, blue), 1)


def spatially_reduced(frames: Tensor, luma_strength: float, chroma_size: float, radius: int) -> Tensor:
    """Noise reduction inside a camera: an edge-keeping filter of luma, and colour blurred by `chroma_size` pixels.

    The filter is He's guided filter (ECCV 2010) of luma by itself; `luma_strength`: standard deviation ([0, 1] scale)
    of what it takes for noise.
    """
    luma = luma_of(frames)
    colour = frames - luma
    if chroma_size > 0.0:
        colour = blurred(colour, chroma_size)
    if luma_strength > 0.0:

        def box(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

        mean = box(luma)
        variance = (box(luma * luma) - mean * mean).clamp_min(0.0)
        slope = variance / (variance + luma_strength**2)
        luma = box(slope) * luma + box((1.0 - slope) * mean)
    return luma + colour


def temporally_reduced(frames: Tensor, share: float, threshold: float) -> Tensor:
    """Recursive averaging over time where the picture rests, `share` of the frame before; `threshold` on [0, 1]."""
    results = [frames[:1]]
    for frame in frames[1:].split(1):
        difference = frame - results[-1]
        moving = F.avg_pool2d(
            luma_of(difference), MOTION_WINDOW, 1, MOTION_WINDOW // 2, count_include_pad=False
        ).abs()
        results.append(frame - difference * share * (1.0 - moving / threshold).clamp(0.0, 1.0))
    return torch.cat(results)


def jpeg(frames: Tensor, quality: int) -> Tensor:
    """`frames` after JPEG (4:2:0) of this quality, each by itself."""
    return _each(frames, lambda picture: _jpeg(picture, quality))


def resized(frames: Tensor, height: int, width: int) -> Tensor:
    """`frames` at another size, bicubic, antialiased."""
    return F.interpolate(frames, (height, width), mode="bicubic", antialias=True, align_corners=False)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    _, coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1]


def _each(frames: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    pictures = (
        (frames * BYTE_SCALE).round().clamp(0.0, BYTE_SCALE).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    )
    results = np.stack([change(picture) for picture in pictures])
    return torch.from_numpy(results).permute(0, 3, 1, 2).float() / BYTE_SCALE
