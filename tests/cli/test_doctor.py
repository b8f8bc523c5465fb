"""What `stbn doctor` says of the devices that are there."""

import json

import pytest

from tests.fake_gpus import set_up_cuda, set_up_xpu


def test_every_device_that_is_there_has_its_row(stbn, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_xpu(monkeypatch, count=2)
    devices = json.loads(stbn("doctor", "--json").out)["devices"]
    assert list(devices) == ["auto", "cpu", "xpu:0", "xpu:1"] and devices["auto"] == "xpu"
    assert devices["xpu:1"] == (
        "Intel(R) Arc(TM) A770 Graphics, 8.0 GiB, fp16 by default, light flow, Intel XPU: untested so far"
    )
    lines = [line for line in stbn("doctor").out.splitlines() if line.startswith("  xpu:")]
    assert len(lines) == 2 and all(len(line) < 125 for line in lines)


@pytest.mark.parametrize(
    ("hip", "words"),
    [
        (None, "GPU kernels, light flow, several at once, decoding"),
        ("7.0", "GPU kernels if they prove right, light flow, several at once, ROCm: untested so far"),
    ],
)
def test_cards_of_both_makers(hip: str | None, words: str, stbn, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_cuda(monkeypatch, hip=hip)
    found = json.loads(stbn("doctor", "--json").out)["devices"]["cuda:0"]
    assert found.startswith(("NVIDIA H200, 140.0 GiB, fp16", "AMD Radeon, 140.0 GiB, fp16"))
    assert found.endswith(f"fp16 by default, {words}")


def test_a_device_that_is_not_there_is_refused(stbn, make_clip) -> None:
    refused = stbn("denoise", make_clip(frames=2), "--device", "xpu")
    assert refused.code == 2 and "built for Intel GPUs" in refused.err and len(refused.err.splitlines()) <= 3
    assert "xpu[:N]" in stbn("denoise", "--help-all").out
