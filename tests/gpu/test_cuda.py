"""What only a CUDA device can show. Run with: python -m pytest -m gpu"""

import numpy as np
import pytest
import torch

from stbn_cli.flow.dis import DisFlow
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.fused import using_kernels
from stbn_cli.models.kernels import available
from stbn_cli.models.stbn import STBN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIGMA = 0.1
RGB_SIZES = [name for name, config in MODEL_SIZES.items() if config.image_channels == 3]


def denoiser_of(name: str, device: str, dtype: torch.dtype, options: EngineOptions) -> Denoiser:
    torch.manual_seed(0)
    network = STBN(MODEL_SIZES[name])
    return Denoiser(network, DisFlow(), options, device=torch.device(device), dtype=dtype)


def noisy_clip(frames: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, None, :, None]
    noise = SIGMA * random.standard_normal((frames, height, width, 3), dtype=np.float32)
    return (ramp + noise).astype(np.float32)


@pytest.mark.parametrize("name", RGB_SIZES)
def test_half_precision_on_the_gpu_is_near_float32_on_the_cpu(name: str) -> None:
    frames = noisy_clip(3, 95, 121)
    exact = denoiser_of(name, "cpu", torch.float32, EngineOptions(sigma=SIGMA))(frames)
    half = denoiser_of(name, "cuda", torch.float16, EngineOptions(sigma=SIGMA))(frames)
    assert np.abs(half - exact).mean() < 2e-3


@pytest.mark.parametrize("name", RGB_SIZES)
@torch.inference_mode()
def test_blind_spot_holds_in_half_precision(name: str) -> None:
    torch.manual_seed(0)
    network = STBN(MODEL_SIZES[name]).cuda().half().eval()
    noisy = torch.rand(1, 3, 3, 33, 46, device="cuda").half()
    flow = 2 * torch.randn(1, 3, 2, 33, 46, device="cuda")
    with using_kernels(available(noisy.device)):
        before = network(noisy, 0.1, flow, flow)
        for row, column in [(0, 0), (16, 23), (32, 45)]:
            changed = noisy.clone()
            changed[:, 1, :, row, column] += 0.5
            after = network(changed, 0.1, flow, flow)
            assert torch.equal(before[:, 1, :, row, column], after[:, 1, :, row, column])


def test_the_plan_keeps_its_promise_of_memory() -> None:
    denoiser = denoiser_of("stbn", "cuda", torch.float16, EngineOptions(sigma=SIGMA, chunk=4))
    torch.cuda.reset_peak_memory_stats()
    denoiser(noisy_clip(6, 540, 960))
    assert denoiser.report.plan is not None
    assert torch.cuda.max_memory_allocated() < 1.5 * denoiser.report.plan.device_bytes


def test_out_of_memory_shrinks_the_plan() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
    try:
        frames = noisy_clip(3, 1080, 1920)
        denoiser = denoiser_of("stbn", "cuda", torch.float16, EngineOptions(sigma=SIGMA))
        assert np.isfinite(denoiser(frames)).all()
        assert denoiser.report.replans >= 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
