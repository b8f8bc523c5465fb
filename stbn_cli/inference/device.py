"""Chooses where and how precisely to compute, and asks how much memory is there."""

import ctypes
import os
import platform
import sys
from functools import cache

import torch

from stbn_cli.errors import OptionError
from stbn_cli.machine import free_memory
from stbn_cli.models.kernels import MINIMUM_CAPABILITY

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What a user may limit oneDNN to that multiplies no bfloat16.
_ISAS_WITHOUT_BF16 = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)
# Share of the free memory that the engine plans with: the rest is for the allocator's slack, the decoder and others.
USABLE_SHARE = {"cuda": 0.85, "cpu": 0.5, "mps": 0.5}


def resolve_device(name: str) -> torch.device:
    """Device of `--device`: auto (CUDA, then Apple's MPS, then CPU), cpu, cuda, cuda:N or mps.

    Raises `OptionError` for a name that is not known or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in USABLE_SHARE:
        raise OptionError(f"There is no device {name!r}; choose auto, cpu, cuda, cuda:N or mps.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise OptionError(
            f"The device {name!r} was asked for, but torch finds {found} CUDA device{'s' * (found != 1)}; "
            "use --device cpu, or see stbn doctor."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OptionError("The device 'mps' was asked for, but it is not available here; use --device cpu.")
    return device


def resolve_devices(names: str) -> tuple[torch.device, ...]:
    """Devices of `--device`: one, as `resolve_device` takes it, or several CUDA devices with commas between them.

    Raises `OptionError` as that does, and for several of which not every one is another CUDA device.
    """
    devices = tuple(resolve_device(name.strip()) for name in names.split(","))
    if len(devices) == 1:
        return devices
    # "cuda" is the first one.
    indices = [device.index or 0 for device in devices if device.type == "cuda"]
    if len(set(indices)) < len(devices):
        raise OptionError(
            f"The devices {names!r} cannot share the work: several have to be different CUDA devices, such as "
            "cuda:0,cuda:1."
        )
    return devices


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Data type of `--precision`.

    auto is fp16 on GPUs, bf16 on CPUs that multiply it natively (1.9 times float32's speed for 0.01 dB, stbn-xs), else
    fp32. Raises `OptionError` for a name that is not known.
    """
    if name == "auto":
        if device.type != "cpu":
            return torch.float16
        return (
            torch.bfloat16 if _cpu_has_bf16() and not is_emulated(torch.bfloat16, device) else torch.float32
        )
    if name not in PRECISIONS:
        raise OptionError(f"There is no precision {name!r}; choose auto, {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """What `--precision` calls a data type."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def is_emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `device` computes in `dtype` by way of float32, and so more slowly than in float32; False if unknown."""
    if device.type == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < MINIMUM_CAPABILITY
    if device.type != "cpu" or dtype == torch.float32:
        return False
    if not _onednn_takes(dtype):
        return True
    # On x86, oneDNN takes bfloat16 from AVX-512 on, also where the processor cannot multiply it.
    return dtype == torch.bfloat16 and _cpu_has_bf16() is False


def emulation_warning(dtype: torch.dtype, device: torch.device) -> str | None:
    """The warning for a user who asked for a precision that `device` only emulates; None if it does not."""
    if not is_emulated(dtype, device):
        return None
    where = "This CPU" if device.type == "cpu" else f"The device {device}"
    return (
        f"{where} only emulates {precision_name(dtype)}, which is slower than fp32, on some processors up to a "
        "hundred times: leave --precision at auto, or give fp32."
    )


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Whether torch computes half precision with oneDNN on this CPU, and not with loops of its own."""
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    probe = getattr(torch.ops.mkldnn, name, None)
    return torch.backends.mkldnn.is_available() and probe is not None and probe()


def _cpu_has_bf16() -> bool | None:
    """Whether an x86 CPU has AVX512-BF16 or AMX and oneDNN may use it; None for others, and if torch does not know."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    limits = [os.environ.get(name, "").upper() for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    if any(limit in _ISAS_WITHOUT_BF16 for limit in limits):
        return False
    probes = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(probe() for probe in probes if probe is not None) if any(probes) else None


# mallopt's parameters (malloc.h) and what they are set to: everything from the heap, and none of it given back.
_MALLOC_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 64 << 20)}


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors instead of returning it to the system; False if it cannot.

    The C library maps every large block anew, and the system clears it page by page: a fifth of the time of `stbn-xs`
    on a CPU. Linux with glibc only. It lasts as long as the process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  - other C libraries know neither this nor the settings
        return all(library.mallopt(key, value) == 1 for key, value in _MALLOC_SETTINGS.values())
    except (AttributeError, OSError):
        return False


def usable_memory(device: torch.device) -> int:
    """Bytes of the device's memory that may be planned with."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has cached from earlier work can be used again.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = free_memory()
    return int(free * USABLE_SHARE[device.type])


def is_out_of_memory(error: BaseException) -> bool:
    """CPU allocations fail with a plain RuntimeError that only its text distinguishes."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)
