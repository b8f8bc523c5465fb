"""LightFlowNet: shapes, precision, and that it can learn at all."""

import pytest
import torch
import torch.nn.functional as F

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.models.lightflow import LightFlowConfig, LightFlowNet

TINY = LightFlowConfig(
    pyramid_channels=(8, 16, 16),
    matching_channels=16,
    radius=2,
    volume_channels=16,
    decoder_channels=(32, 16),
    memory_channels=8,
)


def textured(height, width, seed=0):
    """Smooth random RGB texture (1, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4 + 1, width // 4 + 1, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return LightFlowNet()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (33, 64), (50, 97)])
@pytest.mark.parametrize("sigma", [None, 0.1, torch.tensor([0.05, 0.2])])
def test_flow_has_the_frames_size(network, height, width, sigma):
    frames = torch.cat([textured(height, width, seed) for seed in range(2)])
    with torch.no_grad():
        flow = network(frames, frames.roll(1, dims=0), sigma)
    assert flow.shape == (2, 2, height, width)
    assert flow.dtype == torch.float32
    assert flow.isfinite().all()


def test_size_is_within_the_budget(network):
    assert sum(p.numel() for p in network.parameters()) <= 2_000_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(network, dtype):
    first, second = textured(48, 80, 0), textured(48, 80, 1)
    # Larger flow head than at the start, so that all levels really warp.
    with torch.no_grad():
        network.decoder.to_flow.weight.mul_(30)
        exact = network(first, second, 0.1)
        half = network.to(dtype)(first.to(dtype), second.to(dtype), 0.1)
    assert exact.abs().max() > 1.0
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    assert (half - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_half_precision_survives_wild_frames(network):
    frames = 50 * torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow = network.half()(*frames.half(), 0.2)
    assert flow.isfinite().all()


def test_gradient_reaches_every_parameter(network):
    first, second = textured(64, 64, 0), textured(64, 64, 1)
    network(first, second, 0.1).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_cached_features_give_the_same_flow(network):
    first, second = textured(40, 56, 0), textured(40, 56, 1)
    with torch.no_grad():
        pyramids = [network.features(frame, 0.1) for frame in (first, second)]
        flow, levels = network.levels_from_features(*pyramids)
        torch.testing.assert_close(flow, network(first, second, 0.1))
    # Padded to 64 x 64: levels 5, 4, 3, 2, 1, each refined twice.
    sides = [2, 2, 4, 4, 8, 8, 16, 16, 32, 32]
    assert [tuple(level.flow.shape) for level in levels] == [(1, 2, side, side) for side in sides]
    assert [tuple(level.log_probabilities.shape) for level in levels] == [(1, 81, s, s) for s in sides]
    torch.testing.assert_close(levels[-1].log_probabilities.exp().sum(1), torch.ones(1, 32, 32))


def test_channels_last_gives_the_same_flow(network):
    frames = [textured(40, 56, seed) for seed in range(2)]
    with torch.no_grad():
        expected = network(*frames, 0.1)
        frames = [frame.contiguous(memory_format=torch.channels_last) for frame in frames]
        flow = network.to(memory_format=torch.channels_last)(*frames, 0.1)
    assert (flow - expected).abs().mean() < 1e-3 * expected.abs().mean()


def test_learns_a_translation():
    torch.manual_seed(0)
    network = LightFlowNet(TINY)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    scene = textured(96, 96)
    dx, dy = 3, -2
    first = scene[:, :, 16:64, 16:64]
    second = scene[:, :, 16 - dy : 64 - dy, 16 - dx : 64 - dx]
    truth = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1)
    errors = []
    for _ in range(60):
        flow = network(first + 0.05 * torch.randn_like(first), second + 0.05 * torch.randn_like(second), 0.05)
        error = (flow - truth).square().sum(dim=1).add(1e-6).sqrt().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 3.0
    assert sum(errors[-5:]) / 5 < 1.0


def test_estimator_passes_sigma_on(network):
    frames = [textured(32, 48, seed) for seed in range(2)]
    estimator = create_flow_estimator("light", network)
    with torch.no_grad():
        expected = network(*frames, 0.2)
    torch.testing.assert_close(estimator(*frames, sigma=0.2), expected)


@pytest.mark.parametrize("wrong", [{"radius": 0}, {"finest_level": 6}, {"decoder_channels": ()}])
def test_config_is_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        LightFlowConfig(**wrong)


def test_neighbours_of_a_clip_are_the_flows_of_its_pairs(network):
    clips = torch.stack([torch.cat([textured(40, 48, 3 * n + t) for t in range(3)]) for n in range(2)])
    sigma = torch.tensor([0.05, 0.2])
    estimator = create_flow_estimator("light", network.double())
    to_previous, to_next = estimate_clip_flows(estimator, clips, sigma)
    for n in range(2):
        for t in range(2):
            pair = clips[n : n + 1, t], clips[n : n + 1, t + 1]
            torch.testing.assert_close(to_next[n, t], estimator(*pair, sigma[n])[0], atol=1e-4, rtol=1e-4)
            back = estimator(*reversed(pair), sigma[n])[0]
            torch.testing.assert_close(to_previous[n, t + 1], back, atol=1e-4, rtol=1e-4)
    assert not to_previous[:, 0].any() and not to_next[:, -1].any()
