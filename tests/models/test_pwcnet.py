"""PWC-Net against the reference's numbers, and the cost volume against its definition."""

import json
import math
import zlib
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.models.correlation import cost_volume
from stbn_cli.models.pwcnet import PWCNet, convert_pwcnet

VECTORS = Path(__file__).parents[1] / "parity" / "pwc.safetensors"
# Gain of the made-up weights of this file, and the scale of its biases (the vectors' README).
WEIGHT_GAIN = 1.4
BIAS_SCALE = 0.05


@pytest.fixture(scope="module")
def vectors():
    with safe_open(VECTORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(file.metadata()["state_dict_shapes"])


def made_up_weight(name, shape):
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = WEIGHT_GAIN / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else BIAS_SCALE
    return torch.from_numpy((draw * scale).astype(np.float32))


@pytest.fixture(scope="module")
def network(vectors):
    network = PWCNet().eval()
    network.load_state_dict(convert_pwcnet({n: made_up_weight(n, s) for n, s in vectors[1].items()}))
    return network


def test_flow_equals_reference(vectors, network):
    tensors, _ = vectors
    with torch.no_grad():
        flow = network(tensors["first"], tensors["second"])
    assert (flow - tensors["flow"]).abs().max() < 1e-3


def test_estimator_runs_network_and_keeps_odd_sizes(network):
    frames = torch.rand(2, 1, 3, 33, 70)
    flow = create_flow_estimator("pwc", network)(*frames, sigma=0.1)
    assert flow.shape == (1, 2, 33, 70)
    assert flow.dtype == torch.float32
    assert not flow.requires_grad
    assert flow.isfinite().all()


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
    ],
)
def test_clip_flows_in_every_precision(network, device, dtype):
    clip = torch.rand(1, 3, 3, 32, 40, generator=torch.Generator().manual_seed(1)).to(device)
    exact = estimate_clip_flows(create_flow_estimator("pwc", deepcopy(network).to(device)), clip, 0.1)
    rounded = create_flow_estimator("pwc", deepcopy(network).to(device, dtype))
    for flow, expected in zip(estimate_clip_flows(rounded, clip, 0.1), exact, strict=True):
        assert flow.dtype == torch.float32 and flow.shape == (1, 3, 2, 32, 40)
        assert (flow - expected).norm() <= 0.1 * expected.norm()


def test_number_of_parameters_is_the_published_one(network):
    assert sum(p.numel() for p in network.parameters()) == 9_374_274


def test_convert_rejects_foreign_name():
    with pytest.raises(KeyError):
        convert_pwcnet({"netSeven.weight": torch.zeros(1)})


def test_cost_volume_equals_reference(vectors):
    tensors, _ = vectors
    volume = cost_volume(tensors["corr_first"], tensors["corr_second"])
    assert (volume - tensors["cost_volume"]).abs().max() < 1e-6


@pytest.mark.parametrize(("height", "width", "radius"), [(7, 9, 4), (1, 1, 4), (5, 8, 2), (3, 17, 1)])
def test_cost_volume_equals_definition(height, width, radius):
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 3, height, width, dtype=torch.float64)
    volume = cost_volume(first, second, radius)
    diameter = 2 * radius + 1
    expected = torch.zeros(2, diameter**2, height, width, dtype=torch.float64)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            for row in range(max(0, -dy), min(height, height - dy)):
                for col in range(max(0, -dx), min(width, width - dx)):
                    products = first[:, :, row, col] * second[:, :, row + dy, col + dx]
                    expected[:, (dy + radius) * diameter + dx + radius, row, col] = products.mean(dim=1)
    torch.testing.assert_close(volume, expected)


def test_cost_volume_gradient():
    torch.manual_seed(0)
    first, second = (torch.randn(1, 2, 3, 10, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: cost_volume(a, b, radius=1), (first, second))


def test_cost_volume_rejects_different_shapes():
    with pytest.raises(ValueError, match="expected two"):
        cost_volume(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 5))
