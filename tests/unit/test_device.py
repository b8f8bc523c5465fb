"""Devices by name, and the memory of freed tensors."""

import subprocess
import sys

import pytest
import torch

from stbn_cli import api
from stbn_cli.errors import OptionError
from stbn_cli.inference.device import keep_freed_memory, resolve_devices


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
    monkeypatch.setattr(api, "_create_flow", lambda checkpoint, name, device: names.append(name))
    api._load("stbn-xs", asked, torch.device(where))
    assert names == [taken]


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
