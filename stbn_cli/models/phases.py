"""Phase domain: the four pixel parities of a picture stacked on the batch axis (space-to-batch).

After the centre-masked convolution every layer of STBN moves by even offsets only, so pixels of different
parity never meet again. Stacking the parities once turns each 3x3 convolution of dilation 2 into a dense one
of dilation 1, which is the fast path of every convolution library. Results are equal, not approximate.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stbn_cli.devices import kind_named

PHASES = 4  # 2 x 2 pixel parities
WORD = 8  # bytes


def to_phases(picture: Tensor) -> Tensor:
    """Split `(N, C, H, W)` into its parities: `(4 N, C, ceil(H / 2), ceil(W / 2))`.

    Batch index `4 n + 2 i + j` holds the pixels of rows `2 r + i` and columns `2 c + j`. An odd height or width
    is padded with one zero row or column; `valid_mask` marks those positions.
    """
    height, width = picture.shape[-2:]
    if height % 2 or width % 2:
        picture = F.pad(picture, (0, width % 2, 0, height % 2))
    # Working on the channels-last view makes this one copy that keeps the memory format.
    pixels = _words(picture.permute(0, 2, 3, 1))
    phases = rearrange(pixels, "n (h i) (w j) c -> (n i j) h w c", i=2, j=2)
    return _elements(phases, picture.dtype).permute(0, 3, 1, 2)


def from_phases(phases: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_phases`: `(4 N, C, h, w)` to `(N, C, height, width)`; padding is cropped."""
    pixels = _words(phases.permute(0, 2, 3, 1))
    picture = rearrange(pixels, "(n i j) h w c -> n (h i) (w j) c", i=2, j=2)
    return _elements(picture, phases.dtype).permute(0, 3, 1, 2)[..., :height, :width]


def _words(pixels: Tensor) -> Tensor:
    """`pixels (N, H, W, C)` as words of eight bytes, where nothing is to be learned from them and they lie so.

    PyTorch's kernels for copies that permute move one element after the other on a GPU, and elements of two bytes no
    faster than those of eight. On a CPU it makes no difference.
    """
    kind = kind_named(pixels.device.type)
    if kind is None or not kind.wide_copies or torch.is_grad_enabled() or pixels.is_complex():
        return pixels
    elements = WORD // pixels.element_size()
    whole = all(
        size % elements == 0 for size in (pixels.shape[-1], pixels.storage_offset(), *pixels.stride()[:-1])
    )
    return pixels.view(torch.int64) if whole and pixels.stride(-1) == 1 else pixels


def _elements(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo `_words`."""
    return words if words.dtype == dtype else words.view(dtype)  # a view of its own type has no gradient


def valid_mask(batch: int, height: int, width: int, like: Tensor) -> Tensor | None:
    """Mask `(4 batch, 1, ceil(height / 2), ceil(width / 2))` of real pixels; None where all are real.

    A padded row must read as zero to every convolution, as the zero padding at the border of the full picture
    would; but a bias or an earlier layer makes it non-zero, so it is multiplied away.
    """
    if height % 2 == 0 and width % 2 == 0:
        return None
    ones = torch.ones((batch, 1, height, width), dtype=like.dtype, device=like.device)
    return to_phases(ones)


def apply_mask(features: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of phase-domain features; a no-op for `mask=None`."""
    return features if mask is None else features * mask
