"""Devices by name, the machine's memory and cores, and the memory of freed tensors."""

import os
import subprocess
import sys

import psutil
import pytest
import torch

from stbn_cli.errors import OptionError
from stbn_cli.inference import device
from stbn_cli.inference.device import (
    emulation_warning,
    is_emulated,
    keep_freed_memory,
    resolve_devices,
    resolve_precision,
    usable_memory,
)
from stbn_cli.jobs import model
from stbn_cli.machine import free_memory

CPU = torch.device("cpu")


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_one_device_is_one() -> None:
    assert resolve_devices("cpu") == (torch.device("cpu"),)


def test_several_cards_share_the_work(two_cards: None) -> None:
    assert resolve_devices("cuda:0, cuda:1") == (torch.device("cuda:0"), torch.device("cuda:1"))


@pytest.mark.parametrize("names", ["cuda:0,cuda:0", "cuda,cuda:0", "cpu,cuda:0", "cpu,cpu"])
def test_devices_that_cannot_share_are_refused(names: str, two_cards: None) -> None:
    with pytest.raises(OptionError, match="cannot share"):
        resolve_devices(names)


@pytest.mark.parametrize("names", ["cuda:0,cuda:2", "cuda:0,", "cuda:0;cuda:1"])
def test_devices_that_are_not_there_are_named(names: str, two_cards: None) -> None:
    with pytest.raises(OptionError, match="device"):
        resolve_devices(names)


@pytest.mark.parametrize(
    ("where", "asked", "taken"),
    [("cuda", None, "light"), ("cuda", "dis", "dis"), ("cpu", None, "dis"), ("cpu", "light", "light")],
)
def test_cards_find_flow_themselves(
    where: str, asked: str | None, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(model, "_create_flow", lambda checkpoint, name, device: names.append(name))
    model.load_model("stbn-xs", asked, torch.device(where))
    assert names == [taken]


@pytest.mark.parametrize(
    ("instructions", "onednn", "chosen", "emulated"),
    [
        (True, True, torch.bfloat16, False),
        (True, False, torch.float32, True),  # oneDNN is limited to older instructions, or not built in
        (False, True, torch.float32, True),  # AVX-512 alone
        (False, False, torch.float32, True),
        (None, True, torch.float32, False),  # not x86, or a torch that does not know
        (None, False, torch.float32, True),
    ],
)
def test_what_is_only_emulated_is_not_chosen(
    instructions: bool | None,
    onednn: bool,
    chosen: torch.dtype,
    emulated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: instructions)
    monkeypatch.setattr(device, "_onednn_takes", lambda dtype: onednn)
    assert resolve_precision("auto", CPU) == chosen
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert is_emulated(torch.bfloat16, CPU) == emulated
    assert is_emulated(torch.float16, CPU) != onednn
    assert emulation_warning(chosen, CPU) is None and emulation_warning(torch.float32, CPU) is None
    warning = emulation_warning(torch.bfloat16, CPU)
    assert (warning is not None and "bf16" in warning and "--precision" in warning) == emulated


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_that_the_user_sets_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(device, "_onednn_takes", lambda dtype: True)
    assert resolve_precision("auto", CPU) == torch.bfloat16
    monkeypatch.setenv(name, "avx512_core")
    assert resolve_precision("auto", CPU) == torch.float32 and is_emulated(torch.bfloat16, CPU)
    monkeypatch.setenv(name, "AVX512_CORE_BF16")
    assert resolve_precision("auto", CPU) == torch.bfloat16


def test_the_probes_of_this_torch_answer() -> None:
    """They are not public: if torch renames them, this must be seen."""
    assert all(isinstance(device._onednn_takes(dtype), bool) for dtype in (torch.bfloat16, torch.float16))
    known = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 7)
    if known and device.platform.machine().lower() in ("x86_64", "amd64"):
        assert device._cpu_has_bf16() is not None


@pytest.mark.parametrize(("capability", "emulated"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_cards_before_ampere_emulate_bf16(
    capability: tuple[int, int], emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    card = torch.device("cuda:0")
    assert is_emulated(torch.bfloat16, card) == emulated and not is_emulated(torch.float16, card)
    warning = emulation_warning(torch.bfloat16, card)
    assert (warning is not None and "cuda:0" in warning) == emulated


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to cores here")
def test_only_the_cores_of_this_process_count() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from stbn_cli.machine import available_cores; print(available_cores())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1"]


def test_free_memory_is_what_the_system_tells() -> None:
    total = psutil.virtual_memory().total
    assert 0 < free_memory() < total and 0 < usable_memory(CPU) < total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is that of glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    # In a process of its own: it lasts.
    program = (
        "import resource, torch; from stbn_cli.inference.device import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(40): torch.ones(10 << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "usual = faults(); kept = keep_freed_memory(); print(int(kept), usual, faults())"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    kept, usual, faults = (int(part) for part in output.split())
    if not kept:
        pytest.skip("another C library")
    assert faults < usual / 2


def test_asking_again_changes_nothing() -> None:
    assert keep_freed_memory() == keep_freed_memory()
