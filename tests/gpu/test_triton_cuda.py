"""The Triton kernels on a real GPU against PyTorch there. Run with: python -m pytest -m gpu"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.checkpoints.flow import load_flow_checkpoint
from stbn_cli.checkpoints.store import find_flow
from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.correlation import cost_volume
from stbn_cli.models.fused import using_kernels
from stbn_cli.models.kernels import available
from stbn_cli.models.kernels.tiles import BLOCK_SHAPES
from stbn_cli.models.lightflow import _bilinear_warp
from stbn_cli.models.phases import to_phases, valid_mask
from stbn_cli.models.warp import warp_nearest
from stbn_cli.noise.posterior import posterior_mean

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
UNITS = 4  # roundings by which results may differ


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    if not available(torch.device("cuda")):
        pytest.skip("no Triton kernels for this GPU")


def assert_near(result: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    assert (result.double() - expected).abs().max().item() <= UNITS * torch.finfo(result.dtype).eps * scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), sorted(BLOCK_SHAPES))
@pytest.mark.parametrize(("height", "width"), [(135, 241), (96, 128), (9, 8)])
@torch.no_grad()
def test_residual_block(channels: int, groups: int, dtype: torch.dtype, height: int, width: int) -> None:
    from stbn_cli.models.kernels.residual_block import pack_residual_block, residual_block

    torch.manual_seed(channels)
    block = PhaseResidualBlock(channels, groups)
    block.spatial.weight *= 3
    block.pointwise.weight *= 3
    block = block.to("cuda", dtype)
    features = to_phases(torch.randn(2, channels, height, width, device="cuda")).to(dtype)
    mask = valid_mask(2, height, width, features)
    packed = pack_residual_block(block.spatial, block.pointwise, dtype)
    results = [residual_block(features, packed, mask) for _ in range(3)]
    expected = block.double()(features.double(), None if mask is None else mask.double())
    assert_near(results[0], expected)
    assert all(torch.equal(result, results[0]) for result in results)  # a race would show sooner or later


def test_more_elements_than_32_bits_can_count() -> None:
    from stbn_cli.models.kernels.residual_block import pack_residual_block, residual_block

    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB")
    block = PhaseResidualBlock(64).to("cuda", torch.float16)
    packed = pack_residual_block(block.spatial, block.pointwise, torch.float16)
    features = torch.zeros(5, 64, 2160, 3840, device="cuda", dtype=torch.float16)
    features = features.contiguous(memory_format=torch.channels_last)  # 2.65e9 elements
    corner = torch.randn(64, 16, 16, device="cuda").half()
    features[-1, :, -16:, -16:] = corner
    result = residual_block(features, packed)[-1:, :, -15:, -15:]
    expected = residual_block(features[-1:, :, -32:, -32:], packed)[..., -15:, -15:]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("widths", [(131, 128), (64, 64, 32, 32, 64), (70, 16), (67, 64, 64), (64, 9)])
def test_pointwise_chain(widths: tuple[int, ...], dtype: torch.dtype) -> None:
    from stbn_cli.models.kernels.pointwise import PointwiseLayer, pack_chain, pointwise_chain

    torch.manual_seed(0)
    layers = [
        PointwiseLayer(
            torch.randn(b, a, 1, 1, device="cuda").div(a**0.5).to(dtype),
            torch.randn(b, device="cuda").to(dtype),
            relu=True,
        )
        for a, b in itertools.pairwise(widths)
    ]
    features = torch.randn(4, widths[0], 67, 121, device="cuda").to(dtype)
    expected = features.double()
    for layer in layers:
        assert layer.bias is not None
        expected = F.conv2d(expected, layer.weight.double(), layer.bias.double()).relu().to(dtype).double()
    assert_near(pointwise_chain(features, pack_chain(layers, dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("channels", "height", "width"), [(67, 135, 241), (64, 540, 960), (3, 33, 20)])
def test_warp(channels: int, dtype: torch.dtype, height: int, width: int) -> None:
    from stbn_cli.models.kernels.warp import warp_nearest as warp
    from stbn_cli.models.kernels.warp import warp_nearest_phases

    torch.manual_seed(0)
    state = torch.randn(2, channels, height, width, device="cuda").to(dtype)
    flow = torch.randint(-60, 60, (2, 2, height, width), device="cuda") / 2  # halves: rounding decides
    assert torch.equal(warp(state, flow), warp_nearest(state, flow))
    assert torch.equal(warp_nearest_phases(state, flow), to_phases(warp_nearest(state, flow)))
    part = flow[..., : height - 5, : width - 2]
    assert torch.equal(warp_nearest_phases(state, part, 3, 1), to_phases(warp_nearest(state, part, 3, 1)))


def test_posterior_mean() -> None:
    from stbn_cli.models.kernels.posterior import posterior_mean as kernel

    torch.manual_seed(0)
    outputs = torch.randn(2, 9, 135, 241, device="cuda").div(4)
    noisy = torch.rand(2, 3, 135, 241, device="cuda")
    for sigma in (torch.tensor(0.1, device="cuda"), torch.rand(3, 135, 241, device="cuda")):
        expected = posterior_mean(outputs, noisy, sigma.expand_as(noisy))
        # PyTorch contracts and divides as it likes there: 4e-6 was seen.
        assert (kernel(outputs, noisy, sigma) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("height", "width"), [(270, 480), (17, 30), (5, 7)])
def test_match(height: int, width: int, dtype: torch.dtype) -> None:
    from stbn_cli.models.kernels.matching import match

    torch.manual_seed(0)
    first, second = (torch.randn(2, 32, height, width, device="cuda").to(dtype) for _ in range(2))
    volume, displacement, certainty = match(first, second, torch.tensor(9.0, device="cuda"), 4)
    expected = cost_volume(first.double(), second.double(), 4)
    assert_near(volume, expected)
    probabilities = (9 * expected).softmax(1)
    steps = torch.arange(-4.0, 5.0, device="cuda")
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    for index, way in enumerate((columns, rows)):
        mean = (probabilities * way.reshape(1, -1, 1, 1)).sum(1)
        assert (displacement[:, index] - mean).abs().max() < 1e-4
    assert (certainty - probabilities.amax(1, keepdim=True)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bilinear_warp(dtype: torch.dtype) -> None:
    from stbn_cli.models.kernels.warp import warp_bilinear

    torch.manual_seed(0)
    features = torch.randn(2, 32, 135, 241, device="cuda").to(dtype)
    flow = 20 * torch.randn(2, 2, 135, 241, device="cuda")
    assert_near(warp_bilinear(features, flow), _bilinear_warp(features.float(), flow))


@torch.inference_mode()
def test_flow_with_kernels_is_that_without() -> None:
    network = load_flow_checkpoint(find_flow()).build().to("cuda", torch.bfloat16)
    texture = F.interpolate(torch.rand(1, 3, 20, 30, device="cuda"), (160, 240), mode="bicubic")
    frames = (texture, texture.roll(3, -1), 0.1)
    plain = network(*frames)
    with using_kernels():
        launched = network(*frames)
    assert (launched - plain).abs().mean() < 0.05 * plain.abs().mean()
