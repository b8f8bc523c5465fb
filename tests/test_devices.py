"""The table of devices, and what it decides: which is taken, how precise, with how much memory, by which kernels."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli import devices
from stbn_cli.checkpoints.registry import load_registry
from stbn_cli.devices import CPU, CUDA, KINDS, MPS, NAMES, ROCM, XPU, kind_of
from stbn_cli.errors import OptionError
from stbn_cli.flow.dis import DisFlow
from stbn_cli.flow.estimator import FlowEstimator, NoFlow
from stbn_cli.inference import device as choice
from stbn_cli.inference import plan, worker
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.device import (
    emulation_warning,
    is_emulated,
    is_out_of_memory,
    resolve_device,
    resolve_devices,
    resolve_precision,
    usable_memory,
)
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.inference.worker import Worker
from stbn_cli.jobs import model
from stbn_cli.models import kernels
from stbn_cli.models.config import GAUSSIAN_CHANNELS, RECURRENT_SIZES
from stbn_cli.models.expansion import ReceptiveFieldExpansion
from stbn_cli.models.fused import runs_kernels
from stbn_cli.models.kernels.tiles import BLOCK_SHAPES, block_tile, capability_of
from stbn_cli.models.networks import Network
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.models.stbn import STBN
from stbn_cli.training.distributed import Processes
from stbn_cli.training.footage import Footage
from tests.fake_gpus import GIB, set_up_cuda, set_up_mps, set_up_xpu
from tests.networks import TINY

ARC = torch.device("xpu", 0)
CARD = torch.device("cuda", 0)


def test_every_name_has_a_model_for_white_noise() -> None:
    """The defaults by device lie in the registry: what the table knows, that must know too."""
    known = {name for spec in load_registry().values() for name in spec.default_on}
    assert known == set(NAMES) == {kind.name for kind in KINDS}


def test_auto_takes_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_cuda(monkeypatch, count=0)
    assert resolve_device("auto") == torch.device("cpu")
    set_up_mps(monkeypatch)
    assert resolve_device("auto") == torch.device("mps")
    set_up_xpu(monkeypatch)
    assert resolve_device("auto") == torch.device("xpu")
    set_up_cuda(monkeypatch)
    assert resolve_device("auto") == torch.device("cuda")


def test_numbers_count_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_xpu(monkeypatch, count=2)
    assert resolve_device("xpu:1") == torch.device("xpu", 1) and resolve_device("xpu") == torch.device("xpu")
    with pytest.raises(OptionError, match="xpu:2"):
        resolve_device("xpu:2")
    set_up_mps(monkeypatch)
    assert resolve_device("mps:0") == torch.device("mps", 0) and resolve_device("mps") == torch.device("mps")
    with pytest.raises(OptionError, match="mps:1"):
        resolve_device("mps:1")


def test_several_intel_gpus_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_xpu(monkeypatch, count=2)
    set_up_cuda(monkeypatch, count=2)
    for names in ("xpu:0,xpu:1", "cuda:0,xpu:0"):
        with pytest.raises(OptionError, match="cannot share"):
            resolve_devices(names)
    assert len(resolve_devices("cuda:0,cuda:1")) == 2


@pytest.mark.parametrize(
    ("name", "version", "hip", "words"),
    [
        ("xpu", None, None, ("not built for Intel GPUs", "download.pytorch.org/whl/xpu", "--device cpu")),
        ("xpu:1", "20250101", None, ("finds 0 Intel XPU devices", "--device cpu", "stbn doctor")),
        ("cuda", None, None, ("built without CUDA", "README.md", "--device cpu")),
        ("cuda", "12.8", None, ("finds 0 CUDA devices", "--device cpu", "stbn doctor")),
        ("cuda", None, "7.0", ("finds 0 ROCm devices", "--device cpu", "stbn doctor")),
        ("mps", None, None, ("not available here", "--device cpu")),
        ("mps:1", None, None, ("not available here", "--device cpu")),
        ("cpu:3", None, None, ("not available here", "--device cpu")),
        ("hpu", None, None, ("choose auto, cuda[:N], xpu[:N], mps or cpu",)),
        ("intel", None, None, ("choose auto, cuda[:N], xpu[:N], mps or cpu",)),
    ],
)
def test_what_is_not_there_is_one_sentence(
    name: str, version: str | None, hip: str | None, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_cuda(monkeypatch, count=0, hip=hip)
    set_up_xpu(monkeypatch, count=0)
    for build in ("xpu", "cuda"):
        monkeypatch.setattr(torch.version, build, version, raising=False)
    with pytest.raises(OptionError) as caught:
        resolve_device(name)
    message = str(caught.value)
    assert repr(name) in message and all(part in message for part in words)
    assert message.endswith(".") and ". " not in message


def test_a_torch_without_xpu_is_no_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_cuda(monkeypatch, count=0)
    monkeypatch.delattr(torch, "xpu")
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(OptionError, match="not built for Intel"):
        resolve_device("xpu")


def test_devices_that_stbn_does_not_know_have_no_row() -> None:
    with pytest.raises(ValueError, match="meta"):
        kind_of(torch.device("meta"))


def test_amd_is_cuda_to_torch_but_not_to_stbn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of(CARD) is CUDA
    set_up_cuda(monkeypatch, hip="7.0")
    assert kind_of(CARD) is ROCM
    # What only NVIDIA's compilers and numbers mean is not asked: (9, 0) would be large tiles and a register limit.
    assert not is_emulated(torch.bfloat16, CARD) and capability_of(CARD) == (8, 0)
    tiles = (block_tile(*shape, capability_of(CARD)) for shape in BLOCK_SHAPES)
    assert all("maxnreg" not in tile.options() for tile in tiles)


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps"])
def test_gpus_compute_in_fp16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_xpu(monkeypatch)
    set_up_cuda(monkeypatch)
    assert resolve_precision("auto", torch.device(name)) == torch.float16


@pytest.mark.parametrize("native", [True, False])
def test_intel_gpus_tell_whether_they_emulate_bf16(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_xpu(monkeypatch, bfloat16=native)
    assert is_emulated(torch.bfloat16, ARC) != native and not is_emulated(torch.float16, ARC)
    assert (emulation_warning(torch.bfloat16, ARC) is None) == native


def test_the_table_decides_on_bf16_where_the_device_does_not_tell() -> None:
    mps = torch.device("mps")
    assert is_emulated(torch.bfloat16, mps) and not is_emulated(torch.float16, mps)


@pytest.mark.parametrize(
    ("free", "integrated", "host", "planned"),
    [
        (6 * GIB, False, 64 * GIB, 0.85 * 7 * GIB),  # 6, and the one that torch holds and does not use
        (None, False, 64 * GIB, 0.5 * 7 * GIB),  # 8, but for what torch uses
        (None, True, 64 * GIB, 0.5 * 7 * GIB),
        (None, True, 3 * GIB, 0.5 * 3 * GIB),
        (6 * GIB, True, 3 * GIB, 0.5 * 3 * GIB),  # the same memory twice
    ],
)
def test_memory_of_intel_gpus(
    free: int | None, integrated: bool, host: int, planned: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_xpu(monkeypatch, free=free, integrated=integrated)
    monkeypatch.setattr(choice, "free_memory", lambda: host)
    assert usable_memory(ARC) == int(planned)


def test_memory_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "free_memory", lambda: 10 * GIB)
    assert usable_memory(torch.device("mps")) == usable_memory(torch.device("cpu")) == 5 * GIB
    for name, size in (
        ("mem_get_info", (4 * GIB, 9 * GIB)),
        ("memory_reserved", GIB),
        ("memory_allocated", 0),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    assert usable_memory(CARD) == int(0.85 * 5 * GIB)


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (torch.OutOfMemoryError("XPU out of memory."), True),
        (
            RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
            True,
        ),
        (RuntimeError("UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), False),
    ],
)
def test_what_memory_errors_look_like(error: Exception, exhausted: bool) -> None:
    assert is_out_of_memory(error) == exhausted


@pytest.mark.parametrize("name", ["xpu", "mps", "cpu"])
def test_what_could_go_wrong_unseen_is_off_elsewhere(name: str) -> None:
    kind = kind_of(torch.device(name))
    assert kind.kernels == "no" and not (kind.streams or kind.graphs or kind.several or kind.wide_copies)
    assert not kernels.available(torch.device(name))


def test_intel_gpus_find_flow_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(model, "_create_flow", lambda checkpoint, name, device: names.append(name))
    for asked in (None, "dis"):
        model.load_model("stbn-xs", asked, ARC)
    assert names == ["light", "dis"]


def test_processes_that_train_get_a_card_each() -> None:
    processes = Processes(rank=1, count=2, local_rank=1)
    assert [processes.device(name) for name in ("cuda", "cpu", "xpu")] == ["cuda:1", "cpu", "xpu"]


def test_footage_goes_where_its_memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    footage = Footage(clips=[torch.zeros(2, 3, 4, 4, dtype=torch.uint8)])
    assert footage.to("mps") is footage and footage.to("cpu") is footage
    for free in (None, 8):
        set_up_xpu(monkeypatch, free=free)
        assert footage.to("xpu") is footage


def test_no_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    where = devices.with_float64
    assert where(CARD) == CARD and where(torch.device("mps")) == torch.device("cpu")
    for has in (True, False):
        set_up_xpu(monkeypatch, float64=has)
        assert where(ARC) == (ARC if has else torch.device("cpu"))


def test_the_join_of_layers_is_the_same_on_the_host() -> None:
    torch.manual_seed(0)
    layers = ReceptiveFieldExpansion(channels=4, width=8, stages=1, blocks=1, groups=1)
    features = torch.randn(4, 4, 12, 10)
    expected = layers(features, features)
    with torch.inference_mode():
        torch.testing.assert_close(layers(features, features), expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def disguised(monkeypatch: pytest.MonkeyPatch):
    """A function that makes stbn take the CPU for another kind of device."""

    def disguise(kind: devices.DeviceKind) -> None:
        # torch.cpu has none of a GPU's functions.
        shown = dataclasses.replace(kind, float64="yes")
        monkeypatch.setattr(devices, "kind_named", lambda name: shown)
        monkeypatch.setattr(devices, "api_of", lambda kind: torch.xpu)

    return disguise


def clip_of(frames: int) -> np.ndarray:
    return np.random.default_rng(0).random((frames, 44, 61, 3), dtype=np.float32)


def denoiser_of(flow: FlowEstimator | None = None) -> Denoiser:
    torch.manual_seed(4)
    options = EngineOptions(sigma=0.1, scene_cuts=False)
    return Denoiser(
        STBN(TINY).eval(), flow or DisFlow(), options, device=torch.device("cpu"), dtype=torch.float32
    )


def test_the_engine_gives_the_same_as_if_on_an_intel_gpu(disguised, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the arithmetic of one: its plan, chunks in a thread, frames in batches, plain copies."""
    clip = clip_of(7)
    expected = denoiser_of()(clip)
    set_up_xpu(monkeypatch)
    disguised(XPU)
    denoiser = denoiser_of()
    found = denoiser(clip)
    made = denoiser.report.plan
    assert made is not None and made.fusion_batch > 1 and made.chunk == plan.LONGEST_GPU_CHUNK
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_memory_that_runs_out_there_makes_the_plan_smaller(
    disguised, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clip_of(3)
    expected = denoiser_of()(clip)
    set_up_xpu(monkeypatch)
    released: list[bool] = []
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: released.append(True))
    disguised(XPU)
    denoiser, whole = denoiser_of(), worker.denoise_in_pairs

    def fail(*arguments: object) -> None:
        monkeypatch.setattr(worker, "denoise_in_pairs", whole)
        raise RuntimeError("UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)")

    monkeypatch.setattr(worker, "denoise_in_pairs", fail)
    np.testing.assert_allclose(denoiser(clip), expected, atol=5e-6)
    assert denoiser.report.replans == 1 and released


class Stub(STBN):
    """Its kernels add `fault` to what PyTorch computes."""

    fault = 0.0

    def propagate_forward(self, frame, sigma, previous_state, flow_to_previous) -> Tensor:
        return frame.mean(1, keepdim=True).expand(-1, self.config.state_channels, -1, -1)

    def propagate_backward(self, frame, sigma, next_state, flow_to_next) -> Tensor:
        return self.propagate_forward(frame, sigma, None, None)

    def fuse(self, forward_state, backward_state, seen=None, spread=True) -> Tensor:
        outputs = forward_state[:, :1].expand(-1, GAUSSIAN_CHANNELS, -1, -1)
        return outputs + self.fault if runs_kernels(forward_state) else outputs


def uses_kernels(network: Network, messages: list[str], flow: FlowEstimator | None = None) -> bool:
    return Worker(
        network,
        flow or NoFlow(),
        EngineOptions(),
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        workers=1,
        on_message=messages.append,
    )._kernels


@pytest.mark.parametrize(
    ("kind", "fault", "posterior_fault", "used"),
    [
        (CUDA, 0.0, 0.0, True),
        (CUDA, 0.5, 0.0, False),
        (CUDA, 0.0, 0.5, True),  # the posterior is not asked
        (ROCM, 0.0, 0.0, True),
        (ROCM, 0.5, 0.0, False),
        (ROCM, 0.0, 0.5, False),
    ],
)
def test_kernels_are_used_where_they_are_right(
    kind, fault: float, posterior_fault: float, used: bool, disguised, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stbn_cli.noise.posterior import posterior_mean

    def by_kernel(outputs: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        return posterior_mean(outputs, noisy, sigma) + posterior_fault

    module = SimpleNamespace(posterior_mean=by_kernel)
    monkeypatch.setitem(sys.modules, "stbn_cli.models.kernels.posterior", module)
    monkeypatch.setattr(kernels, "posterior", module, raising=False)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(worker, "Transfers", lambda device: SimpleNamespace(device=device))
    disguised(kind)
    network, messages = Stub(TINY).eval(), []
    network.fault = fault
    assert uses_kernels(network, messages) == used
    assert bool(messages) != used and all("GPU kernels" in message for message in messages)


@pytest.mark.parametrize(("kind", "used"), [(CUDA, True), (ROCM, False)])
def test_kernels_that_nothing_proves_are_off(
    kind, used: bool, disguised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recurrent network uses none but those of its flow, and DIS has none."""
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(worker, "Transfers", lambda device: SimpleNamespace(device=device))
    disguised(kind)
    network, messages = Recurrent(next(iter(RECURRENT_SIZES.values()))).eval(), []
    assert uses_kernels(network, messages) == used and not messages


@pytest.mark.parametrize(
    ("hip", "capability", "has"), [(None, (8, 0), True), (None, (7, 5), False), ("7.0", (7, 5), True)]
)
def test_where_kernels_are_tried(
    hip: str | None, capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_cuda(monkeypatch, hip=hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(kernels, "_installed", lambda: True)
    monkeypatch.setattr(kernels, "_launches", lambda device: True)
    triton = SimpleNamespace(knobs=SimpleNamespace(runtime=SimpleNamespace(interpret=False)))
    monkeypatch.setitem(sys.modules, "triton", triton)
    assert kernels.available(CARD) == has


def test_the_table_is_one_row_for_each_kind() -> None:
    assert len(set(KINDS)) == len(KINDS) == 5 and KINDS[-1] is CPU and MPS in KINDS
    assert all(kind.numbered or kind.memory == "host" for kind in KINDS)
