"""What each kind of device can do, in one table. Whoever wants to know asks here and not for a device's name.

Imports torch only when asked about a device that is there: the command line takes names and help from here. Which model
is the default on which device is in checkpoints/registry.toml.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

# What NVIDIA's kernels need: asynchronous copies and bfloat16 matrix products begin here.
MINIMUM_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One kind.

    What could go wrong unseen is off until somebody has tried it there: kernels, copies nobody waits for, sharing.
    """

    name: str  # torch's, and that of --device
    title: str  # for people
    precision: str | None = None  # of --precision auto; None: asked of the processor
    # Training and flow networks compute in it in place of half precision, unless `multiplies_bfloat16` says no.
    bfloat16: bool = True
    float64: Literal["yes", "some", "no"] = "yes"
    # The project's own. "proven": only where all of them were compared with PyTorch's on this very device.
    kernels: Literal["tried", "proven", "no"] = "no"
    capability: bool = False  # NVIDIA's compute capability says what a card can do
    flow: Literal["dis", "light"] = "dis"  # in place of DIS: found on the device, nothing waits for the CPU
    queued: bool = False  # the host need not wait: chunks in a thread of their own, small frames in batches
    streams: bool = False  # copies by pinned memory, on streams of their own
    wide_copies: bool = False  # copies that permute move eight bytes no slower than two
    # Whose memory it plans with: its own, the host's, or (integrated Intel GPUs) either.
    memory: Literal["own", "host", "either"] = "own"
    # Of what is free; the rest is for the allocator's slack, the decoder and others. Of the host's memory: that of CPU.
    memory_share: float = 0.85
    exhausted: tuple[str, ...] = ()  # what RuntimeErrors say where memory ran out, if torch does not know it
    numbered: bool = True  # there may be several: cuda:0, cuda:1
    several: bool = False  # which may share one video
    graphs: bool = False  # training steps are recorded, and its optimiser is one kernel
    collective: str = ""  # how several processes that train exchange gradients
    decoder: str = ""  # what FFmpeg calls its decoders, and --hardware
    tested: bool = False  # by the authors


CUDA = DeviceKind(
    name="cuda",
    title="CUDA",
    precision="fp16",
    kernels="tried",
    capability=True,
    flow="light",
    queued=True,
    streams=True,
    wide_copies=True,
    several=True,
    graphs=True,
    collective="nccl",
    decoder="cuda",
    tested=True,
)
# AMD's, which torch calls cuda, with the same functions.
ROCM = DeviceKind(
    name="cuda",
    title="ROCm",
    precision="fp16",
    kernels="proven",
    flow="light",
    queued=True,
    streams=True,
    wide_copies=True,
    several=True,
    graphs=True,
    collective="nccl",
)
# Intel's. fp16 as elsewhere: all of them have it, only recent ones convert bf16 in hardware.
XPU = DeviceKind(
    name="xpu",
    title="Intel XPU",
    precision="fp16",
    float64="some",
    flow="light",
    queued=True,
    memory="either",
    exhausted=(
        "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        "UR_RESULT_ERROR_OUT_OF_HOST_MEMORY",
        "UR_RESULT_ERROR_OUT_OF_RESOURCES",
    ),
)
MPS = DeviceKind(
    name="mps",
    title="Apple GPU",
    precision="fp16",
    bfloat16=False,
    float64="no",
    memory="host",
    exhausted=("MPS backend out of memory",),
    numbered=False,
)
CPU = DeviceKind(
    name="cpu",
    title="CPU",
    memory="host",
    memory_share=0.5,
    exhausted=("not enough memory", "can't allocate memory"),
    numbered=False,
    tested=True,
)
KINDS = (CUDA, ROCM, XPU, MPS, CPU)  # in the order of --device auto
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))
# What --device takes, for people.
CHOICES = ("auto", *dict.fromkeys(f"{kind.name}[:N]" if kind.numbered else kind.name for kind in KINDS))


def kind_named(name: str) -> DeviceKind | None:
    """The kind that torch calls `name` here; None where stbn knows none."""
    import torch

    if name == CUDA.name:
        return CUDA if torch.version.hip is None else ROCM
    return next((kind for kind in KINDS if kind.name == name), None)


def kind_of(device: "torch.device") -> DeviceKind:
    """The device's row of the table. Raises `ValueError` for one that is not in it."""
    kind = kind_named(device.type)
    if kind is None:
        raise ValueError(f"stbn does not know devices of type {device.type!r}")
    return kind


def api_of(kind: DeviceKind) -> Any:
    """torch's module for a kind that is `numbered`: torch.cuda, or torch.xpu, which has the same functions."""
    import torch

    return getattr(torch, kind.name)


def count(kind: DeviceKind) -> int:
    """How many of this kind torch finds."""
    import torch

    if kind is CPU:
        return 1
    if kind is MPS:
        return int(torch.backends.mps.is_available())
    return api_of(kind).device_count() if hasattr(torch, kind.name) else 0


def is_available(kind: DeviceKind) -> bool:
    """Whether torch can compute there."""
    import torch

    if not kind.numbered:
        return count(kind) > 0
    return hasattr(torch, kind.name) and api_of(kind).is_available()


def found_kinds() -> Iterator[DeviceKind]:
    """Those that torch can compute on, the best first; CPU always."""
    kinds = (kind_named(name) for name in NAMES)
    return (kind for kind in kinds if kind is not None and is_available(kind))


def found_devices() -> Iterator["torch.device"]:
    """Every device that is there, CPU first."""
    import torch

    for kind in sorted(found_kinds(), key=lambda kind: kind is not CPU):
        for index in range(count(kind)):
            yield torch.device(kind.name, index) if kind.numbered else torch.device(kind.name)


def device_name(device: "torch.device") -> str:
    """What its maker calls it."""
    kind = kind_of(device)
    return api_of(kind).get_device_properties(device).name if kind.numbered else kind.title


def total_memory(device: "torch.device") -> int | None:
    """Bytes of the memory of a device that is `numbered`; None for others, who have the host's."""
    kind = kind_of(device)
    return api_of(kind).get_device_properties(device).total_memory if kind.numbered else None


def free_on(device: "torch.device") -> int | None:
    """Free bytes of the device's own memory; None where it is the host's, or the driver does not tell."""
    kind = kind_of(device)
    if kind.memory == "host":
        return None
    api = api_of(kind)
    if kind.memory == "own":
        return api.mem_get_info(device)[0]
    if getattr(api.get_device_properties(device), "is_integrated_gpu", False):
        return None
    try:
        return api.mem_get_info(device)[0]
    except (AttributeError, RuntimeError):  # torch before 2.6, and drivers that keep it to themselves
        return None


def addressable_memory(device: "torch.device") -> int | None:
    """Bytes that torch could still take of a device that is `numbered`, whoever else uses it; None for others."""
    kind, total = kind_of(device), total_memory(device)
    return None if total is None else total - api_of(kind).memory_allocated(device)


def release_memory(device: "torch.device") -> None:
    """Give memory that torch has cached back, where it has a cache of its own on the device."""
    kind = kind_of(device)
    if kind.memory != "host":
        api_of(kind).empty_cache()


def synchronise(device: "torch.device") -> None:
    """Until the device has done what was asked of it."""
    import torch

    kind = kind_of(device)
    if kind.numbered:
        api_of(kind).synchronize(device)
    elif kind is MPS:
        torch.mps.synchronize()


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether a GPU computes in bfloat16 without the way by float32; what the table says if unknown."""
    kind = kind_of(device)
    if kind.capability:
        return api_of(kind).get_device_capability(device) >= MINIMUM_CAPABILITY
    if kind is XPU:
        return getattr(api_of(kind).get_device_properties(device), "has_bfloat16_conversions", True)
    return kind.bfloat16


def with_float64(device: "torch.device") -> "torch.device":
    """Where the device's tensors go for arithmetic in float64: nowhere, or to the host, since it has none."""
    import torch

    kind = kind_named(device.type)
    has = kind is None or kind.float64 == "yes"
    if kind is not None and kind.float64 == "some":
        has = getattr(api_of(kind).get_device_properties(device), "has_fp64", False)
    return device if has else torch.device(CPU.name)
