"""Tests of the Triton kernels without a GPU, by triton's interpreter; `test_triton_kernels` runs them.

Not collected on its own: `TRITON_INTERPRET=1` must be set before triton is imported and changes it for good.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from stbn_cli.flow.estimator import NoFlow
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models import kernels
from stbn_cli.models.blindspot import PhaseResidualBlock
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.correlation import cost_volume
from stbn_cli.models.fused import using_kernels
from stbn_cli.models.kernels import available
from stbn_cli.models.kernels import posterior as posterior_kernel
from stbn_cli.models.kernels import residual_block as block_kernel
from stbn_cli.models.kernels import warp as warp_kernel
from stbn_cli.models.kernels.matching import match
from stbn_cli.models.kernels.pointwise import PointwiseLayer, pack_chain, pointwise_chain
from stbn_cli.models.lightflow import LightFlowConfig, LightFlowNet, _bilinear_warp
from stbn_cli.models.phases import apply_mask, from_phases, to_phases, valid_mask
from stbn_cli.models.stbn import STBN
from stbn_cli.models.warp import warp_nearest
from stbn_cli.noise.posterior import posterior_mean

HALF, BRAIN = torch.float16, torch.bfloat16
# Both results are rounded a few times where the other's is not: each by half a unit in the last place.
UNITS = 4
# Drawn at import, from a seed: what a test gets must not depend on which tests run.
DRAWN = torch.Generator().manual_seed(3)
LEVELS = {
    "number": torch.tensor(0.1).view(1, 1, 1, 1),
    "one each": torch.rand(2, 1, 1, 1, generator=DRAWN) / 5,
    "map": torch.rand(2, 3, 9, 14, generator=DRAWN) / 5,
}


@pytest.fixture(autouse=True)
def product_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter stores bfloat16 as integers and multiplies those; its products of float32 are right."""
    product = interpreter.InterpreterBuilder.create_dot

    def widened(self, a, b, *rest):
        wide = [
            interpreter.TensorHandle((part.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
            if part.dtype == tl.bfloat16
            else part
            for part in (a, b)
        ]
        return product(self, *wide, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)


def assert_near(result: Tensor, expected: Tensor) -> None:
    """Within a few roundings of the largest value: sums of such values cancel."""
    assert result.shape == expected.shape
    scale = expected.abs().max().item()
    assert (result.float() - expected).abs().max().item() <= UNITS * torch.finfo(result.dtype).eps * scale


def test_the_interpreter_is_on() -> None:
    assert available(torch.device("cpu"))


@pytest.mark.parametrize(
    ("channels", "groups", "dtype", "height", "width", "batch"),
    [
        (16, 1, HALF, 33, 17, 2),
        (16, 1, BRAIN, 18, 20, 1),
        (32, 1, HALF, 12, 35, 2),
        (32, 2, BRAIN, 9, 31, 1),
        (64, 1, HALF, 17, 16, 1),
        (64, 2, HALF, 9, 16, 1),
        (128, 1, BRAIN, 9, 9, 1),
        (128, 2, HALF, 5, 8, 1),
        (256, 1, HALF, 4, 4, 1),
        (256, 2, HALF, 5, 6, 1),
    ],
)
@torch.no_grad()
def test_residual_block(
    channels: int, groups: int, dtype: torch.dtype, height: int, width: int, batch: int
) -> None:
    torch.manual_seed(channels + groups)
    block = PhaseResidualBlock(channels, groups)
    block.spatial.weight *= 3
    block.pointwise.weight *= 3
    block = block.to(dtype)
    features = to_phases(torch.randn(batch, channels, height, width)).to(dtype)
    mask = valid_mask(batch, height, width, features)
    packed = block_kernel.pack_residual_block(block.spatial, block.pointwise, dtype)
    result = block_kernel.residual_block(features, packed, mask)
    expected = block.float()(features.float(), None if mask is None else mask.float())
    assert_near(result, expected)
    assert result.permute(0, 2, 3, 1).is_contiguous()
    assert result.dtype == dtype
    if mask is not None:
        assert not result[(mask == 0).expand_as(result)].any()


@torch.no_grad()
def test_residual_block_of_another_layout_and_without_mask() -> None:
    block = PhaseResidualBlock(16).to(HALF)
    features = torch.randn(4, 16, 9, 19, dtype=HALF)[..., 1:]
    packed = block_kernel.pack_residual_block(block.spatial, block.pointwise, HALF)
    assert_near(block_kernel.residual_block(features, packed), block.float()(features.float()))


def test_residual_block_keeps_what_is_not_a_number() -> None:
    block = PhaseResidualBlock(16).to(HALF)
    features = torch.zeros(1, 16, 5, 7, dtype=HALF)
    features[0, 3, 2, 2] = torch.nan
    packed = block_kernel.pack_residual_block(block.spatial, block.pointwise, HALF)
    broken = block_kernel.residual_block(features, packed).isnan().all(1)[0]
    assert broken[1:4, 1:4].all()
    assert broken.sum() == 9


def test_what_no_kernel_can_do_is_refused() -> None:
    assert not block_kernel.supports(8, 1, HALF)
    assert not block_kernel.supports(64, 4, HALF)
    assert not block_kernel.supports(64, 1, torch.float32)
    block = PhaseResidualBlock(16)
    packed = block_kernel.pack_residual_block(block.spatial, block.pointwise, HALF)
    for features in (torch.zeros(1, 32, 4, 4, dtype=HALF), torch.zeros(1, 16, 4, 4)):
        with pytest.raises(ValueError, match="expected 16 channels"):
            block_kernel.residual_block(features, packed)
    with pytest.raises(ValueError, match="mask"):
        block_kernel.residual_block(torch.zeros(4, 16, 4, 4, dtype=HALF), packed, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize(
    "widths", [(131, 128), (64, 64, 32, 32, 64), (70, 16), (67, 64, 64), (35, 32, 9), (16, 16)]
)
@torch.no_grad()
def test_pointwise_chain(widths: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(len(widths))
    layers = [
        PointwiseLayer(
            torch.randn(outputs, inputs, 1, 1).div(inputs**0.5).to(dtype),
            None if number == 1 else torch.randn(outputs).to(dtype),
            relu=number % 2 == 0,
        )
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]
    features = torch.randn(3, widths[0], 7, 11).to(dtype)
    mask = torch.rand(3, 1, 7, 11).round()
    expected = features.float()
    for layer in layers:
        expected = F.conv2d(
            expected, layer.weight.float(), None if layer.bias is None else layer.bias.float()
        )
        expected = (expected.relu() if layer.relu else expected).to(dtype).float()
    chain = pack_chain(layers, dtype)
    assert_near(pointwise_chain(features, chain), expected)
    assert_near(pointwise_chain(features, chain, mask), expected * mask)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
@torch.no_grad()
def test_pointwise_chain_between_picture_and_phases(height: int, width: int) -> None:
    """Bias and ReLU before, a second picture of more channels beside, the result in the first channels of another."""
    torch.manual_seed(height)
    layer = PointwiseLayer(torch.randn(16, 12 + 21, 1, 1).div(4).to(HALF), torch.randn(16).to(HALF))
    last = PointwiseLayer(torch.randn(9, 16, 1, 1).div(4).to(HALF))
    picture, second = torch.randn(2, 12, height, width).to(HALF), torch.randn(2, 24, height, width).to(HALF)
    second = second.contiguous(memory_format=torch.channels_last)
    before = torch.randn(12)
    mask = valid_mask(2, height, width, picture)
    active = (picture.float() + before.view(1, -1, 1, 1)).relu().to(HALF).float()
    inputs = torch.cat((to_phases(active), to_phases(second[:, :21].float())), 1)
    middle = F.conv2d(inputs, layer.weight.float(), layer.bias.float()).to(HALF).float()
    expected = apply_mask(F.conv2d(middle, last.weight.float()), mask)
    chain = pack_chain([layer, last], HALF, second_inputs=21)
    result = pointwise_chain(picture, chain, mask, second=second, before=before, picture=True)
    assert_near(result, expected)
    # Phases in, a picture out.
    into = torch.full((2, 16, height, width), 7.0, dtype=HALF).contiguous(memory_format=torch.channels_last)
    phases = to_phases(active).to(HALF)
    assert pointwise_chain(phases, chain, second=second, into=into) is into
    assert_near(into[:, :9], from_phases(expected, height, width))
    assert (into[:, 9:] == 7.0).all()
    for wrong in (second[..., 1:], second.float(), second.contiguous()):
        with pytest.raises(ValueError, match="expected a picture"):
            pointwise_chain(picture, chain, second=wrong, picture=True)
    with pytest.raises(ValueError, match="second picture"):
        pointwise_chain(picture, chain, picture=True)
    # As many phases where a side is odd, and a picture of another size all the same.
    other = into.new_zeros(2, height + height % 2, width, 16).permute(0, 3, 1, 2)
    if height % 2:
        with pytest.raises(ValueError, match="one size"):
            pointwise_chain(picture, chain, second=second, picture=True, into=other)


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    layers = [PointwiseLayer(torch.zeros(16, 16, 1, 1)), PointwiseLayer(torch.zeros(16, 32, 1, 1))]
    with pytest.raises(ValueError, match="layer 1"):
        pack_chain(layers, HALF)
    with pytest.raises(ValueError, match="at most 128"):
        pack_chain([PointwiseLayer(torch.zeros(129, 16, 1, 1))], HALF)


def hard_flow(batch: int, height: int, width: int) -> Tensor:
    """Many halves, where rounding decides, some positions outside, and values that are no numbers."""
    flow = torch.randint(-30, 30, (batch, 2, height, width)) / 2 + 0.0
    flow[0, 0, 1, 1], flow[0, 1, 2, 2], flow[0, 0, 3, 3], flow[0, 1, 4, 4] = torch.nan, torch.inf, -1e30, 3e9
    return flow


@pytest.mark.parametrize(
    ("channels", "dtype", "height", "width"),
    [(3, torch.float32, 13, 18), (67, HALF, 8, 31), (64, BRAIN, 15, 9), (16, HALF, 14, 12)],
)
def test_warp(channels: int, dtype: torch.dtype, height: int, width: int) -> None:
    torch.manual_seed(channels)
    state = torch.randn(2, channels, height, width).to(dtype)
    flow = hard_flow(2, height, width)
    assert torch.equal(warp_kernel.warp_nearest(state, flow), warp_nearest(state, flow))
    assert torch.equal(warp_kernel.warp_nearest_phases(state, flow), to_phases(warp_nearest(state, flow)))
    part = flow[..., : height - 3, : width - 2]
    expected = warp_nearest(state, part, 2, 1)
    assert torch.equal(warp_kernel.warp_nearest(state, part, 2, 1), expected)
    assert torch.equal(warp_kernel.warp_nearest_phases(state, part, 2, 1), to_phases(expected))
    with pytest.raises(ValueError, match="expected flow"):
        warp_kernel.warp_nearest(state, part, 4, 0)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    "sigma",
    [0.1, *(torch.rand(shape, generator=DRAWN) / 5 for shape in [(3, 7, 11), (2, 1, 1, 1), (2, 3, 7, 11)])],
)
def test_posterior_mean(sigma: Tensor | float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    outputs = torch.randn(2, 9, 7, 11).div(4).to(dtype).contiguous(memory_format=torch.channels_last)
    noisy = torch.rand(2, 3, 7, 11)
    expected = posterior_mean(outputs, noisy, torch.as_tensor(sigma).expand(noisy.shape))
    result = posterior_kernel.posterior_mean(outputs, noisy, sigma)
    assert result.dtype == torch.float32
    # Few pixels have nearly singular matrices, which multiply the roundings: 2.5e-5 at most in 40 drawings.
    assert (result - expected).abs().median() < 2e-7
    assert (result - expected).abs().max() < 3e-5
    with pytest.raises(ValueError, match="expected 9 output channels"):
        posterior_kernel.posterior_mean(noisy, noisy, sigma)


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize(("channels", "height", "width", "radius"), [(32, 3, 70, 4), (12, 7, 9, 2)])
def test_match(channels: int, height: int, width: int, radius: int, dtype: torch.dtype) -> None:
    torch.manual_seed(channels)
    first, second = (torch.randn(2, channels, height, width).to(dtype) for _ in range(2))
    sharpness = torch.tensor(9.0)
    volume, displacement, certainty = match(first, second, sharpness, radius)
    expected = cost_volume(first.float(), second.float(), radius)
    assert_near(volume, expected)
    assert volume.permute(0, 2, 3, 1).is_contiguous()
    probabilities = (sharpness * expected).softmax(1)
    steps = torch.arange(-radius, radius + 1.0)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    means = [(probabilities * way.reshape(1, -1, 1, 1)).sum(1) for way in (columns, rows)]
    torch.testing.assert_close(displacement, torch.stack(means, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(certainty, probabilities.amax(1, keepdim=True))
    with pytest.raises(ValueError, match="two alike"):
        match(first, second[..., 1:], sharpness, radius)


@pytest.mark.parametrize(("channels", "dtype"), [(32, BRAIN), (67, HALF), (3, HALF)])
def test_bilinear_warp(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(channels)
    features = torch.randn(2, channels, 9, 14).to(dtype)
    flow = 6 * torch.randn(2, 2, 9, 14)
    flow[0, 0, 1, 1], flow[0, 1, 2, 2] = 1e30, -1e30
    assert_near(warp_kernel.warp_bilinear(features, flow), _bilinear_warp(features.float(), flow))
    with pytest.raises(ValueError, match="expected flow"):
        warp_kernel.warp_bilinear(features, flow[..., 1:])


@torch.inference_mode()
def test_flow_with_kernels_is_the_same() -> None:
    torch.manual_seed(0)
    config = LightFlowConfig(pyramid_channels=(8, 8), matching_channels=8, decoder_channels=(8, 8), radius=2)
    network = LightFlowNet(config).eval().to(BRAIN)
    texture = F.interpolate(torch.rand(1, 3, 5, 6), (20, 24), mode="bicubic")
    frames = (texture, texture.roll(1, -1), 0.1)
    plain = network(*frames)
    with using_kernels():
        launched = network(*frames)
    assert not torch.equal(launched, plain)  # else no kernel ran
    assert (launched - plain).abs().mean() < 0.05 * plain.abs().mean()


@pytest.fixture(scope="module")
def clip() -> tuple[Tensor, Tensor]:
    """Three noisy frames of odd size, and flow that leaves the picture here and there."""
    random = torch.Generator().manual_seed(5)
    return (
        torch.rand(1, 3, 3, 13, 18, generator=random),
        3 * torch.randn(1, 3, 2, 13, 18, generator=random),
    )


def network_of(dtype: torch.dtype, **changes: Any) -> STBN:
    torch.manual_seed(6)
    changes = {"tail": True, "expansion_blocks": 2, "expansion_groups": 2, **changes}
    return STBN(replace(MODEL_SIZES["stbn-xs"], **changes)).eval().to(dtype)


PUBLISHED = {"carry_frame": False, "mean_residual": False}
RAW = {**PUBLISHED, "image_channels": 4, "head": "plain", "noise_level": False}


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "number"),
        pytest.param({}, "one each", marks=pytest.mark.slow),
        pytest.param(PUBLISHED, "number", marks=pytest.mark.slow),
        (RAW, "number"),
        ({"blind_spot": False}, "map"),
    ],
)
@torch.inference_mode()
def test_states_have_room_and_are_the_same(changes: dict[str, Any], level: str) -> None:
    """Whether they come from the kernels or go to them, in one direction or both."""
    network, exact = network_of(HALF, **changes), network_of(torch.float32, **changes)
    torch.manual_seed(1)
    sigma = LEVELS[level]
    pairs = torch.rand(2, 2, network.config.image_channels, 9, 14)
    flow = torch.randn(4, 2, 9, 14)

    def two_steps(network: STBN, first: bool, second: bool, dtype: torch.dtype) -> Tensor:
        earlier, later = (network.see(frames, sigma) for frames in pairs.to(dtype).contiguous())
        with using_kernels(first):
            states = network.advance_both((earlier, later), None)
        with using_kernels(second):
            return network.advance_both((later, earlier), (warp_nearest(states, flow),))

    expected = two_steps(exact, False, False, torch.float32)
    used = expected.shape[1]
    error = (two_steps(network, False, False, HALF) - expected).abs().mean()
    for first, second in ((True, True), (False, True), (True, False)):
        result = two_steps(network, first, second, HALF)
        assert result.shape[1] == (network.config.padded_state_channels if second else used)
        assert (result[:, :used] - expected).abs().mean() < 1.5 * error
        assert not result[:, used:].any()


def with_kernels(network: STBN, noisy: Tensor, flow: Tensor) -> Tensor:
    with using_kernels():
        return network(noisy.to(HALF), 0.1, flow, flow)


@torch.inference_mode()
def test_the_network_computes_with_kernels_what_it_computes_without(clip: tuple[Tensor, Tensor]) -> None:
    noisy, flow = clip
    network = network_of(HALF)
    launched = with_kernels(network, noisy, flow)
    plain = network(noisy.to(HALF), 0.1, flow, flow)
    exact = network_of(torch.float32)(noisy, 0.1, flow, flow)
    assert not torch.equal(launched, plain)  # else no kernel ran
    # As near to float32 as PyTorch's own half precision is.
    assert (launched - exact).abs().mean() < 1.5 * (plain - exact).abs().mean()


@torch.inference_mode()
def test_the_network_with_kernels_does_not_see_the_pixel_it_predicts(clip: tuple[Tensor, Tensor]) -> None:
    noisy, flow = clip
    network = network_of(HALF)
    before = with_kernels(network, noisy, flow)
    for row, column in [(6, 9), (12, 17)]:
        changed = noisy.clone()
        changed[:, 1, :, row, column] += 0.5
        after = with_kernels(network, changed, flow)
        assert torch.equal(before[:, 1, :, row, column], after[:, 1, :, row, column])
        assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.slow
def test_a_denoiser_chooses_the_kernels_and_does_without_wrong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).random((2, 9, 14, 3), dtype=np.float32)

    def denoised() -> tuple[np.ndarray, list[str]]:
        messages: list[str] = []
        options = EngineOptions(sigma=0.1, chunk=2, chunk_overlap=0)
        denoiser = Denoiser(
            network_of(torch.float32),
            NoFlow(),
            options,
            device=torch.device("cpu"),
            dtype=BRAIN,
            on_message=messages.append,
        )
        return denoiser(frames), messages

    launched, messages = denoised()
    assert not messages
    monkeypatch.setattr(kernels, "available", lambda device: False)
    plain, messages = denoised()
    assert not messages
    assert not np.array_equal(launched, plain)  # else no kernel ran
    assert np.abs(launched - plain).mean() < 0.01
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(warp_kernel, "warp_nearest", lambda state, *rest: torch.zeros_like(state))
    without, messages = denoised()
    assert np.array_equal(without, plain)
    assert ["kernels cannot be used" in message for message in messages] == [True]
