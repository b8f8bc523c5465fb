"""Triton kernels for inference on NVIDIA GPUs: each does in one pass what takes PyTorch several.

`residual_block`, `pointwise`, `warp` and `posterior` import triton when they are imported; so import them only once
`available` has said yes. All of them run on tensors without gradient and allocate what they return.
"""

import functools
import importlib.util
import warnings

import torch

from stbn_cli.devices import MINIMUM_CAPABILITY, kind_of

MINIMUM_TRITON = (3, 6)  # what the kernels are tested with


def available(device: torch.device) -> bool:
    """Whether the kernels run on `device`: a CUDA device from capability 8.0 on or one of ROCm, and a working triton.

    Whether they compute the right thing there is another question, which `Worker` asks (`DeviceKind.kernels`).

    With `TRITON_INTERPRET=1` in the environment, which must be set before triton is first imported, they run
    anywhere, slowly: that is for tests. The first call for a GPU launches a kernel, since triton also needs a C
    compiler, which is found out no other way; a warning says why if that fails.
    """
    if not _installed():
        return False
    from triton import knobs

    if knobs.runtime.interpret:
        return True
    kind = kind_of(device)
    if kind.kernels == "no":
        return False
    if kind.capability and torch.cuda.get_device_capability(device) < MINIMUM_CAPABILITY:
        return False
    return _launches(str(device))


def _installed() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= MINIMUM_TRITON


@functools.cache
def _launches(device: str) -> bool:
    from stbn_cli.models.kernels.warp import warp_nearest

    try:
        one = torch.ones(1, 1, 1, 1, device=device)
        return warp_nearest(one, one.new_zeros(1, 2, 1, 1)).item() == 1
    except Exception as error:  # whatever a driver, a compiler or a cache folder can do wrong
        warnings.warn(f"Triton kernels are not used: {error}", stacklevel=3)
        return False
