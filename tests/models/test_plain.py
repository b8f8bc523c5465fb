"""The benchmark's plain form of the network gives the numbers of STBN: else its times would compare unlike things."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stbn_cli.flow.dis import DisFlow
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.posterior import posterior_mean
from tests.networks import TINY

FILE = Path(__file__).parents[2] / "benchmarks" / "plain.py"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="source distributions come without benchmarks/")

TOLERANCE = 1e-4
# The published layers at a few channels, and the options that the named sizes differ in.
PUBLISHED = STBNConfig(
    channels=8,
    blocks=2,
    fusion_channels=16,
    fusion_blocks=1,
    expansion_channels=16,
    expansion_stages=2,
    expansion_blocks=1,
    head_blocks=1,
)
CONFIGS = {
    "published": PUBLISHED,
    "small": TINY,
    "feature_skip": dataclasses.replace(PUBLISHED, feature_skip=True),
    "carry_frame": dataclasses.replace(PUBLISHED, carry_frame=True),
    "mean_residual": dataclasses.replace(PUBLISHED, carry_frame=True, mean_residual=True),
    "raw": dataclasses.replace(PUBLISHED, image_channels=4, head="plain", noise_level=False),
}
SIZES = [(16, 24), (18, 22), (13, 15), (17, 12)]


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """benchmarks/plain.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("plain_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lively(config: STBNConfig) -> STBN:
    """A random network in which every layer matters: the usual start lets most of them fade into rounding."""
    torch.manual_seed(3)
    network = STBN(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.7)
    return network


def clip(channels: int, size: tuple[int, int], frames: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with flows to the previous and the next frame that point here and there, and out of the picture."""
    generator = torch.Generator().manual_seed(4)
    noisy = torch.rand(1, frames, channels, *size, generator=generator)
    to_previous, to_next = 3 * torch.randn(2, 1, frames, 2, *size, generator=generator)
    return noisy, to_previous, to_next


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_output_equals_the_network(plain: ModuleType, name: str, size: tuple[int, int]) -> None:
    network = lively(CONFIGS[name])
    noisy, to_previous, to_next = clip(CONFIGS[name].image_channels, size)
    expected = network(noisy, 0.1, to_previous, to_next)
    actual = plain.PlainSTBN(network)(noisy, 0.1, to_previous, to_next)
    assert expected.std() > 0.01
    assert (actual - expected).abs().max() < TOLERANCE


@torch.inference_mode()
def test_noise_maps_and_several_clips(plain: ModuleType) -> None:
    network = lively(PUBLISHED)
    noisy, flow = torch.rand(2, 2, 3, 12, 16), torch.zeros(2, 2, 2, 12, 16)
    for sigma in (torch.tensor([0.05, 0.4]), 0.3 * torch.rand(2, 2, 3, 12, 16)):
        expected = network(noisy, sigma, flow, flow)
        assert (plain.PlainSTBN(network)(noisy, sigma, flow, flow) - expected).abs().max() < TOLERANCE


def test_weights_are_copies_in_the_default_layout(plain: ModuleType) -> None:
    network = lively(PUBLISHED).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    noisy, to_previous, to_next = clip(3, (12, 16))
    copy = plain.PlainSTBN(network)
    before = copy(noisy, 0.1, to_previous, to_next)
    assert all(parameter.is_contiguous() for parameter in copy.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(copy(noisy, 0.1, to_previous, to_next), before)


def test_patches_come_back(plain: ModuleType) -> None:
    picture = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    patches = plain.patch_unshuffle(picture)
    assert patches.shape == (2, 12, 4, 6)
    assert torch.equal(plain.patch_shuffle(patches), picture)
    # Patch (1, 0) of channel 2, from the second block in the row.
    assert torch.equal(patches[1, 4 * 2 + 2, :2, 2:4], picture[1, 2, 2:4, 4:6])


def test_posterior_equals_the_closed_form(plain: ModuleType) -> None:
    torch.manual_seed(5)
    outputs, noisy = 0.1 * torch.randn(1, 2, 9, 11, 14), torch.rand(1, 2, 3, 11, 14)
    # The anti-diagonal (a2, a4, a5) away from zero keeps the prior's inverse accurate in float32.
    outputs[:, :, [5, 7, 8]] = 0.15 + 0.1 * torch.rand(1, 2, 3, 11, 14)
    for sigma in (0.02, 0.2):
        expected = posterior_mean(outputs, noisy, torch.full((1, 1, 1, 1, 1), sigma))
        assert (plain.plain_posterior(outputs, noisy, sigma) - expected).abs().max() < TOLERANCE
        assert (expected - noisy).abs().mean() > 1e-3


def test_flows_lead_to_the_neighbours(plain: ModuleType) -> None:
    """Each pair and direction by a call of its own, the ends empty."""
    torch.manual_seed(6)
    noisy = torch.rand(1, 3, 3, 64, 64)
    estimator = DisFlow()
    to_previous, to_next = plain.plain_flows(estimator, noisy, 0.1)
    assert torch.equal(to_previous[:, 2], estimator(noisy[:, 2], noisy[:, 1]))
    assert torch.equal(to_next[:, 0], estimator(noisy[:, 0], noisy[:, 1]))
    assert not to_previous[:, 0].any() and not to_next[:, 2].any()


def test_the_whole_chain(plain: ModuleType) -> None:
    """Flow, network and posterior in one, against the project's own parts."""
    network = lively(TINY)
    noisy = torch.rand(1, 3, 3, 64, 72)
    to_previous, to_next = plain.plain_flows(DisFlow(), noisy, 0.1)
    with torch.inference_mode():
        outputs = network(noisy, 0.1, to_previous, to_next)
    expected = posterior_mean(outputs, noisy, torch.full((1, 1, 1, 1, 1), 0.1))
    actual = plain.plain_denoise(plain.PlainSTBN(network), DisFlow(), noisy, 0.1)
    # Where a prior is badly conditioned the general inverse is off: most pixels, not all.
    assert ((actual - expected).abs() < 1e-3).float().mean() > 0.99
