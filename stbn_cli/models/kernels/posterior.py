"""`stbn_cli.noise.posterior.posterior_mean` in one kernel; float32 throughout, as there.

PyTorch writes some fifty intermediate maps; this reads 9 head outputs, 3 colours and at most 3 noise levels per pixel
and writes 3 colours: about 60 bytes and 60 operations, bound by memory.
"""

# What `triton.jit` makes of a function no type checker knows, and its constants are upper case.
# pyright: reportCallIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from stbn_cli.models.config import GAUSSIAN_CHANNELS
from stbn_cli.noise.posterior import CHANNEL_AXIS, VARIANCE_FLOOR

PIXELS = 512  # of one program
WARPS = 4


def posterior_mean(outputs: Tensor, noisy: Tensor, sigma: Tensor | float) -> Tensor:
    """The prior of the head fused with the noisy pixel, `(..., 3, H, W)` float32.

    `outputs (..., 9, H, W)` and `noisy (..., 3, H, W)` of any floating type and memory format; `sigma` is a number or
    broadcasts to `noisy`. Raises `ValueError` for another number of channels.
    """
    if outputs.shape[CHANNEL_AXIS] != GAUSSIAN_CHANNELS:
        raise ValueError(f"expected {GAUSSIAN_CHANNELS} output channels, got {outputs.shape[CHANNEL_AXIS]}")
    level = torch.as_tensor(sigma, dtype=torch.float32, device=noisy.device).expand(noisy.shape)
    *_, colours, height, width = noisy.shape
    if noisy.ndim != 4:  # a view where strides allow
        outputs = outputs.reshape(-1, GAUSSIAN_CHANNELS, height, width)
        level = level.reshape(-1, colours, height, width)
    pictures = noisy.reshape(-1, colours, height, width)
    result = torch.empty_like(pictures, dtype=torch.float32)
    batch = len(pictures)
    if result.numel():
        with torch.cuda.device_of(noisy):
            _posterior_mean[(triton.cdiv(height * width, PIXELS), batch)](
                outputs,
                pictures,
                level,
                result,
                height * width,
                width,
                *outputs.stride(),
                *pictures.stride(),
                *level.stride(),
                *result.stride(),
                FLOOR=VARIANCE_FLOOR,
                PIXELS=PIXELS,
                num_warps=WARPS,
                enable_fp_fusion=True,
            )
    return result.reshape(noisy.shape)


@triton.jit
def _three(pointer, channel_stride, mask):
    """The three colours of pixels, float32."""
    first = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(pointer + channel_stride, mask=mask, other=0.0).to(tl.float32)
    third = tl.load(pointer + 2 * channel_stride, mask=mask, other=0.0).to(tl.float32)
    return first, second, third


@triton.jit(do_not_specialize=["pixels", "width"])
def _posterior_mean(
    outputs,
    noisy,
    sigma,
    result,
    pixels,
    width,
    outputs_n,
    outputs_c,
    outputs_h,
    outputs_w,
    noisy_n,
    noisy_c,
    noisy_h,
    noisy_w,
    sigma_n,
    sigma_c,
    sigma_h,
    sigma_w,
    result_n,
    result_c,
    result_h,
    result_w,
    FLOOR: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """`PIXELS` consecutive pixels of one picture; names as in stbn_cli.noise.posterior."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    real = pixel < pixels
    image = tl.program_id(1).to(tl.int64)
    row = (pixel // width).to(tl.int64)
    column = pixel % width
    head = outputs + image * outputs_n + row * outputs_h + column * outputs_w
    mean0, mean1, mean2 = _three(head, outputs_c, real)
    a0, a1, a2 = _three(head + 3 * outputs_c, outputs_c, real)
    a3, a4, a5 = _three(head + 6 * outputs_c, outputs_c, real)
    y0, y1, y2 = _three(noisy + image * noisy_n + row * noisy_h + column * noisy_w, noisy_c, real)
    s0, s1, s2 = _three(sigma + image * sigma_n + row * sigma_h + column * sigma_w, sigma_c, real)
    v0 = s0 * s0 + FLOOR
    v1 = s1 * s1 + FLOOR
    v2 = s2 * s2 + FLOOR

    d0 = a0 * a0 + a3 * a3 + a5 * a5 + (v0 + FLOOR)
    m01 = a0 * a1 + a3 * a4
    m02 = a0 * a2
    m11 = a1 * a1 + a4 * a4 + (v1 + FLOOR)
    m12 = a1 * a2
    m22 = a2 * a2 + (v2 + FLOOR)
    l10 = tl.div_rn(m01, d0)
    l20 = tl.div_rn(m02, d0)
    d1 = m11 - l10 * m01
    l21 = tl.div_rn(m12 - l20 * m01, d1)
    d2 = m22 - l20 * m02 - l21 * l21 * d1

    r0 = y0 - mean0
    z1 = y1 - mean1 - l10 * r0
    z2 = y2 - mean2 - l20 * r0 - l21 * z1
    x2 = tl.div_rn(z2, d2)
    x1 = tl.div_rn(z1, d1) - l21 * x2
    x0 = tl.div_rn(r0, d0) - l10 * x1 - l20 * x2

    target = result + image * result_n + row * result_h + column * result_w
    tl.store(target, y0 - v0 * x0, mask=real)
    tl.store(target + result_c, y1 - v1 * x1, mask=real)
    tl.store(target + 2 * result_c, y2 - v2 * x2, mask=real)
