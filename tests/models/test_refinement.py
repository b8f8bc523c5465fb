"""Networks without a blind spot: what their refinement sees, how it begins, and how far it reaches."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.flow.estimator import NoFlow
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models.stbn import STBN
from tests.networks import TINY

SEEING = dataclasses.replace(TINY, blind_spot=False)
REFINED = dataclasses.replace(SEEING, refinement_blocks=2, refinement_channels=12)


def refined_network(*, begun: bool = False) -> STBN:
    """`begun`: as it is before it has learned anything; otherwise every weight of its counts."""
    torch.manual_seed(3)
    network = STBN(REFINED).eval()
    if not begun:
        assert network.refinement is not None
        torch.nn.init.normal_(network.refinement.leave.weight, std=0.2)
    return network


def outputs_of(network: STBN, noisy: Tensor) -> Tensor:
    still = torch.zeros(1, noisy.shape[1], 2, *noisy.shape[-2:])
    return network(noisy, 0.1, still, still)


@pytest.mark.parametrize("size", [(16, 20), (15, 21)])
@torch.inference_mode()
def test_it_begins_as_nothing(size: tuple[int, int]) -> None:
    network = refined_network(begun=True)
    without = STBN(SEEING).eval()
    weights = {name: value for name, value in network.state_dict().items() if "refinement" not in name}
    without.load_state_dict(weights)
    noisy = torch.rand(1, 2, 3, *size)
    assert torch.equal(outputs_of(network, noisy), outputs_of(without, noisy))


@torch.inference_mode()
def test_pixels_of_every_parity_meet() -> None:
    """The frame's pixels are read by all outputs around, as far as one convolution and two blocks reach."""
    network = refined_network()
    assert network.refinement is not None
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(4, TINY.channels, 10, 12, generator=generator)
    noisy, mean = torch.rand(2, 1, 3, 20, 24, generator=generator)
    changed = noisy.clone()
    changed[..., 10, 11] += 0.5
    difference = network.refinement(features, changed, mean) - network.refinement(features, noisy, mean)
    moved = (difference != 0).any(dim=1)[0]
    # The pair of pixels 10 and 11 of the rows, and three pairs more on either side; so with the columns.
    expected = torch.zeros(20, 24, dtype=torch.bool)
    expected[4:18, 4:18] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("size", [(150, 141), (96, 203)])
def test_tiles_are_exact(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).random((3, *size, 3), dtype=np.float32)

    def denoised(tile: int) -> np.ndarray:
        options = EngineOptions(sigma=0.1, tile=tile)
        network = refined_network()
        return Denoiser(network, NoFlow(), options, device=torch.device("cpu"), dtype=torch.float32)(frames)

    np.testing.assert_allclose(denoised(64), denoised(0), atol=5e-6)


def test_a_blind_network_is_not_refined() -> None:
    with pytest.raises(ValueError, match="blind spot"):
        dataclasses.replace(REFINED, blind_spot=True)
