"""The project's most important property: no output of the network sees the pixel it predicts."""

import pytest
import torch
from torch import Tensor

from stbn_cli.models.blindspot import BlindMean
from stbn_cli.models.config import MODEL_SIZES, STBNConfig
from stbn_cli.models.stbn import STBN
from tests.networks import narrowed

FRAMES = 3
POSITIONS = [(0, 0), (0, -1), (-1, 0), (-1, -1), (7, 10), (8, 11), (7, 11)]


def random_clip(
    height: int, width: int, dtype: torch.dtype, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noisy = torch.rand(1, FRAMES, channels, height, width, generator=generator).to(dtype)
    flows = 3.0 * torch.randn(2, 1, FRAMES, 2, height, width, generator=generator)
    return noisy, flows[0], flows[1]


def network_of(config: STBNConfig, dtype: torch.dtype) -> STBN:
    torch.manual_seed(3)
    return STBN(config).eval().to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize("size", [(16, 24), (17, 23)], ids=["even", "odd"])
@pytest.mark.parametrize("name", MODEL_SIZES)
@torch.inference_mode()
def test_outputs_do_not_see_their_own_pixel(name: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    config, change = MODEL_SIZES[name], 0.5
    if dtype != torch.float32:
        # Narrow, since most CPUs emulate one or the other, a hundred times as slowly; and for all to see it, a large
        # change.
        config, change = narrowed(config), 100.0
    network = network_of(config, dtype)
    noisy, to_previous, to_next = random_clip(*size, dtype, config.image_channels)
    before = network(noisy, 0.1, to_previous, to_next)
    for row, column in POSITIONS:
        changed = noisy.clone()
        changed[:, 1, :, row, column] += change
        after = network(changed, 0.1, to_previous, to_next)
        assert torch.equal(before[:, 1, :, row, column], after[:, 1, :, row, column])
        assert not torch.equal(before, after), "the change reached nothing: the test would prove nothing"


@torch.inference_mode()
def test_neighbours_of_every_parity_and_other_frames_are_seen() -> None:
    """Blind, but for the centre alone: offsets with an odd part in this frame, any pixel in the others."""
    network = network_of(MODEL_SIZES["stbn-xs"], torch.float32)
    noisy, to_previous, _ = random_clip(24, 24, torch.float32)
    still = torch.zeros_like(to_previous)
    before = network(noisy, 0.1, still, still)
    for frame, row, column in [(1, 12, 13), (1, 13, 12), (1, 11, 11), (0, 12, 12), (2, 12, 12)]:
        changed = noisy.clone()
        changed[:, frame, :, row, column] += 0.5
        after = network(changed, 0.1, still, still)
        assert not torch.equal(before[:, 1, :, 12, 12], after[:, 1, :, 12, 12]), (frame, row, column)


def test_masked_centre_neither_acts_nor_learns() -> None:
    network = network_of(MODEL_SIZES["stbn-xs"], torch.float32)
    masked = network.forward_branch.masked
    noisy, to_previous, to_next = random_clip(16, 16, torch.float32)
    before = network(noisy, 0.1, to_previous, to_next)
    before.sum().backward()
    assert masked.weight.grad is not None
    assert torch.count_nonzero(masked.weight.grad[..., 1, 1]) == 0
    assert torch.count_nonzero(masked.weight.grad[..., 0, 1]) > 0
    with torch.no_grad():
        masked.weight[..., 1, 1] = 100.0
    assert torch.equal(before, network(noisy, 0.1, to_previous, to_next))


def test_blind_mean_keeps_flat_colours_and_leaves_the_centre_out() -> None:
    mean = BlindMean()
    flat = torch.tensor([0.9, 0.1, 0.02]).reshape(1, 3, 1, 1).expand(1, 3, 11, 13)
    torch.testing.assert_close(mean(flat), flat, atol=1e-6, rtol=0)  # up to the border
    picture = torch.rand(1, 3, 20, 21)
    changed = picture.clone()
    changed[..., 7, 9] += 100.0
    before, after = mean(picture), mean(changed)
    assert torch.equal(before[..., 7, 9], after[..., 7, 9])
    assert not torch.equal(before[..., 7, 10], after[..., 7, 10])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mean(picture), before)
