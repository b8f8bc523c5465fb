"""Chooses where and how precisely to compute, and asks how much memory is there."""

import ctypes
import os
import platform
import sys
from functools import cache

import torch

from stbn_cli import devices
from stbn_cli.devices import CPU, CUDA, KINDS, XPU, DeviceKind, kind_named, kind_of
from stbn_cli.errors import OptionError
from stbn_cli.machine import free_memory

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


def resolve_device(name: str) -> torch.device:
    """Device of `--device`: a name of `devices.NAMES`, cuda:N, xpu:N, or auto: the first kind that is there.

    auto prefers CUDA (which ROCm is to torch), then Intel's XPU, then Apple's MPS. Raises `OptionError` for a name that
    is not known or a device that is not there.
    """
    if name == "auto":
        return torch.device(next(devices.found_kinds()).name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    kind = None if device is None else kind_named(device.type)
    if device is None or kind is None:
        *names, last = devices.CHOICES
        raise OptionError(f"There is no device {name!r}; choose {', '.join(names)} or {last}.")
    if (device.index or 0) >= devices.count(kind):
        raise OptionError(f"The device {name!r} was asked for, but {_what_is_missing(kind)}.")
    return device


def _what_is_missing(kind: DeviceKind) -> str:
    """Why there is no such device, and what to do."""
    if not kind.numbered:
        return "it is not available here; use --device cpu"
    if kind is XPU and getattr(torch.version, "xpu", None) is None:
        return (
            "this torch is not built for Intel GPUs; install torch from https://download.pytorch.org/whl/xpu, or use "
            "--device cpu"
        )
    if kind is CUDA and torch.version.cuda is None:
        return (
            "this torch is built without CUDA; install its CUDA build for an NVIDIA GPU (see README.md), or use "
            "--device cpu"
        )
    found = devices.count(kind)
    return (
        f"torch finds {found} {kind.title} device{'s' * (found != 1)}; use --device cpu, or see stbn doctor"
    )


def resolve_devices(names: str) -> tuple[torch.device, ...]:
    """Devices of `--device`: one, as `resolve_device` takes it, or several CUDA devices with commas between them.

    Raises `OptionError` as that does, and for several of which not every one is another CUDA device.
    """
    chosen = tuple(resolve_device(name.strip()) for name in names.split(","))
    if len(chosen) == 1:
        return chosen
    # "cuda" is the first one.
    indices = {device.index or 0 for device in chosen if kind_of(device).several}
    if len(indices) < len(chosen):
        raise OptionError(
            f"The devices {names!r} cannot share the work: several have to be different CUDA devices, such as "
            "cuda:0,cuda:1."
        )
    return chosen


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Data type of `--precision`.

    auto is fp16 on GPUs, bf16 on CPUs that multiply it natively (1.9 times float32's speed for 0.01 dB, stbn-xs), else
    fp32. Raises `OptionError` for a name that is not known.
    """
    if name == "auto":
        if (usual := kind_of(device).precision) is not None:
            return PRECISIONS[usual]
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
    if device.type != "cpu":
        return dtype == torch.bfloat16 and not devices.multiplies_bfloat16(device)
    if dtype == torch.float32:
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
    kind, free = kind_of(device), devices.free_on(device)
    if free is not None:
        api = devices.api_of(kind)
        # What torch has cached from earlier work can be used again.
        free += api.memory_reserved(device) - api.memory_allocated(device)
        return int(free * kind.memory_share)
    # The host's, as far as the device reaches.
    free, reached = free_memory(), devices.addressable_memory(device)
    return int((free if reached is None else min(free, reached)) * CPU.memory_share)


def is_out_of_memory(error: BaseException) -> bool:
    """Some allocations, all those on a CPU, fail with a plain RuntimeError that only its text distinguishes."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for kind in KINDS for words in kind.exhausted)
