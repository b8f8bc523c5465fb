"""STBN as a network: noise level forms, sizes, the recurrence's public steps, wrong shapes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.phases import from_phases, to_phases
from stbn_cli.models.stbn import STBN
from stbn_cli.models.warp import warp_nearest
from tests.networks import TINY


@pytest.fixture
def network() -> STBN:
    torch.manual_seed(1)
    return STBN(TINY).eval()


def test_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        network = STBN(MODEL_SIZES["stbn-published"])

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(network.forward_branch) == count(network.backward_branch) == 264_640
    assert count(network.fusion) == 845_056
    assert count(network.expansion) == 7_676_928
    assert count(network.head) == 86_848


def test_named_sizes_have_their_channels() -> None:
    assert {name: config.channels for name, config in MODEL_SIZES.items()} == {
        "stbn": 64,
        "stbn-published": 64,
        "stbn-raw": 64,
        "stbn-s": 32,
        "stbn-xs": 16,
        "stbn-raw-xs": 16,
    }


@torch.inference_mode()
def test_every_form_of_a_constant_sigma_is_the_same(network: STBN) -> None:
    noisy, flow = torch.rand(2, 3, 3, 12, 14), torch.zeros(2, 3, 2, 12, 14)
    expected = network(noisy, 0.2, flow, flow)
    forms = [torch.tensor([0.2, 0.2]), torch.full((2, 3), 0.2), torch.full((2, 3, 1, 1, 1), 0.2)]
    for sigma in [*forms, torch.full_like(noisy, 0.2)]:
        torch.testing.assert_close(network(noisy, sigma, flow, flow), expected, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_each_clip_and_frame_uses_its_own_sigma(network: STBN) -> None:
    noisy, flow = torch.rand(2, 2, 3, 12, 12), torch.zeros(2, 2, 2, 12, 12)
    both = network(noisy, torch.tensor([0.1, 0.3]), flow, flow)
    second = network(noisy[1:], 0.3, flow[1:], flow[1:])
    torch.testing.assert_close(both[1:], second, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(both[:1], network(noisy[:1], 0.3, flow[:1], flow[:1]))


@torch.inference_mode()
def test_forward_is_made_of_the_public_steps(network: STBN) -> None:
    noisy, sigma = torch.rand(1, 3, 3, 13, 15), torch.full((1, 1, 1, 1), 0.1)
    to_previous, to_next = 2 * torch.randn(1, 3, 2, 13, 15), 2 * torch.randn(1, 3, 2, 13, 15)
    forward, backward = [], []
    state = None
    for t in range(3):
        state = network.propagate_forward(noisy[:, t], sigma, state, to_previous[:, t])
        forward.append(state)
    state = None
    for t in (2, 1, 0):
        state = network.propagate_backward(noisy[:, t], sigma, state, to_next[:, t])
        backward.insert(0, state)
    steps = torch.stack([network.fuse(f, b) for f, b in zip(forward, backward, strict=True)], 1)
    whole = network(noisy, 0.1, to_previous, to_next)
    torch.testing.assert_close(whole, steps, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("height", [8, 9, 10, 11])
@torch.inference_mode()
def test_any_size_from_eight_pixels(network: STBN, height: int) -> None:
    noisy, flow = torch.rand(1, 2, 3, height, 19), torch.zeros(1, 2, 2, height, 19)
    assert network(noisy, 0.1, flow, flow).shape == (1, 2, 9, height, 19)


def test_wrong_shapes_are_named(network: STBN) -> None:
    noisy, flow = torch.rand(1, 2, 3, 12, 12), torch.zeros(1, 2, 2, 12, 12)
    with pytest.raises(ValueError, match="at least 8x8"):
        network(noisy[..., :7, :], 0.1, flow[..., :7, :], flow[..., :7, :])
    with pytest.raises(ValueError, match="flow_to_next"):
        network(noisy, 0.1, flow, flow[..., :5])
    with pytest.raises(ValueError, match="sigma"):
        network(noisy, torch.rand(3), flow, flow)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=30)
def test_phases_come_back(height: int, width: int, batch: int) -> None:
    picture = torch.rand(batch, 3, height, width)
    phases = to_phases(picture)
    assert phases.shape == (4 * batch, 3, -(-height // 2), -(-width // 2))
    assert torch.equal(from_phases(phases, height, width), picture)


def test_dilated_convolution_is_dense_in_the_phase_domain() -> None:
    picture, weight = torch.rand(2, 3, 10, 12), torch.rand(5, 3, 3, 3)
    dilated = F.conv2d(picture, weight, padding=2, dilation=2)
    dense = from_phases(F.conv2d(to_phases(picture), weight, padding=1), 10, 12)
    torch.testing.assert_close(dense, dilated)


@pytest.mark.parametrize("spread", [0.4, 3.0, 40.0])
def test_warp_equals_grid_sample(spread: float) -> None:
    """Also for flows that leave the frame, and on a part of the picture."""
    generator = torch.Generator().manual_seed(int(spread))
    features = torch.rand(2, 4, 21, 30, generator=generator)
    flow = spread * torch.randn(2, 2, 21, 30, generator=generator)
    flow[:, :, ::3] = (flow[:, :, ::3] * 2).round() / 2  # halfway between pixels, too
    columns = torch.arange(30.0) + flow[:, 0]
    rows = torch.arange(21.0).view(-1, 1) + flow[:, 1]
    grid = torch.stack((2 * columns / 29 - 1, 2 * rows / 20 - 1), -1)
    expected = F.grid_sample(features, grid, mode="nearest", padding_mode="zeros", align_corners=True)
    assert torch.equal(warp_nearest(features, flow), expected)
    assert torch.equal(
        warp_nearest(features, flow[..., 4:15, 8:20], top=4, left=8), expected[..., 4:15, 8:20]
    )


def test_warp_reads_zeros_for_a_broken_flow() -> None:
    flow = torch.zeros(1, 2, 8, 8)
    flow[0, 0, 2, 3] = float("nan")
    warped = warp_nearest(torch.ones(1, 1, 8, 8), flow)
    assert warped[0, 0, 2, 3] == 0 and warped.sum() == 63
