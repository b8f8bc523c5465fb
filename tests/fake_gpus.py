"""GPUs that are not there: torch's answers about them, for tests of what stbn makes of those."""

from types import SimpleNamespace

import pytest
import torch

GIB = 2**30


def set_up_xpu(
    monkeypatch: pytest.MonkeyPatch,
    *,
    count: int = 1,
    free: int | None = 6 * GIB,
    integrated: bool = False,
    float64: bool = True,
    bfloat16: bool = True,
) -> None:
    """Intel GPUs of 8 GiB, of which torch holds 2 and uses 1; `free`: None if the driver does not tell."""
    properties = SimpleNamespace(
        name="Intel(R) Arc(TM) A770 Graphics",
        total_memory=8 * GIB,
        is_integrated_gpu=integrated,
        has_fp64=float64,
        has_bfloat16_conversions=bfloat16,
    )

    def memory(device: object) -> tuple[int, int]:
        if free is None:
            raise RuntimeError("The device doesn't support querying the available free memory.")
        return free, 8 * GIB

    answers = {
        "device_count": lambda: count,
        "is_available": lambda: count > 0,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": memory,
        "memory_reserved": lambda device=None: 2 * GIB,
        "memory_allocated": lambda device=None: 1 * GIB,
        "empty_cache": lambda: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.xpu, name, answer)


def set_up_cuda(monkeypatch: pytest.MonkeyPatch, *, count: int = 1, hip: str | None = None) -> None:
    """NVIDIA's cards, or AMD's with a version of HIP."""
    properties = SimpleNamespace(name="AMD Radeon" if hip else "NVIDIA H200", total_memory=140 * GIB)
    answers = {
        "device_count": lambda: count,
        "is_available": lambda: count > 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.version, "hip", hip)


def set_up_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
