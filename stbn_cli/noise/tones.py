"""Keeps the brightness of pictures that were denoised as if their noise were stronger than it is."""

from torch import Tensor

KNOTS = 17  # of brightness, evenly spaced from 0 to 1
# Of the rows and columns that the means are taken of; odd, so that all places of a mosaic count alike.
STEP = 3
FEW = 8  # so many pixels around a knot are trusted by half


def keep_tones(estimate: Tensor, noisy: Tensor) -> Tensor:
    """`estimate (N, 3, H, W)` moved so that nothing is removed on average from values of about the same brightness.

    Of `noisy` frames, by frame and channel; float32, nominal [0, 1]. A network that learned from noise cut off at black
    takes shadows down by what that adds, and far too much of it if its conditioning level is above the noise's.
    """
    position = estimate.clamp(0.0, 1.0) * (KNOTS - 1)
    removed = (noisy - estimate)[..., ::STEP, ::STEP]
    moved = estimate.clone()
    for knot in range(KNOTS):
        near = (1.0 - (position - knot).abs()).clamp_min_(0.0)
        some = near[..., ::STEP, ::STEP]
        total, count = (part.sum((2, 3), keepdim=True) for part in (some * removed, some))
        moved += near * (total / (count + FEW))
    return moved
