"""Flow estimators: direction and unit of DIS, small frames, threads, and how estimators are chosen."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from stbn_cli.errors import OptionError
from stbn_cli.flow.dis import DisFlow, DisOptions
from stbn_cli.flow.estimator import NetworkFlow, create_flow_estimator

SCENE_SIDE = 192
MARGIN = 16


@pytest.fixture(scope="module")
def scene():
    """Smooth random RGB texture (1, 3, 192, 192) with values in 0.1 .. 0.9."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(
            torch.rand(1, 3, side, side, generator=generator),
            size=(SCENE_SIDE, SCENE_SIDE),
            mode="bicubic",
            align_corners=False,
        )
        for side in (12, 48)
    ]
    return (0.1 + 0.8 * (layers[0] + layers[1]) / 2).clamp(0, 1)


def shifted(scene, dx, dy):
    """The part of the scene whose content appears displaced by (dx, dy)."""
    size = SCENE_SIDE - 2 * MARGIN
    rows, columns = slice(MARGIN - dy, MARGIN - dy + size), slice(MARGIN - dx, MARGIN - dx + size)
    return scene[:, :, rows, columns]


def noisy(frames, sigma, seed):
    return frames + sigma * torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))


def typical_error(flow, dx, dy):
    truth = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1)
    return (flow - truth).square().sum(dim=1).sqrt().median().item()


@pytest.mark.parametrize(("dx", "dy"), [(5, 0), (0, -4), (-7, 3)])
@pytest.mark.parametrize(("sigma", "tolerance"), [(0.0, 0.1), (30 / 255, 0.7)])
def test_dis_finds_direction_and_length(scene, dx, dy, sigma, tolerance):
    first, second = noisy(shifted(scene, 0, 0), sigma, 1), noisy(shifted(scene, dx, dy), sigma, 2)
    flow = create_flow_estimator("dis")(first, second, sigma)
    assert flow.shape == (1, 2, *first.shape[-2:])
    assert flow.dtype == torch.float32
    assert typical_error(flow, dx, dy) < tolerance


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium", "fine"])
def test_dis_presets(scene, preset):
    flow = DisFlow(DisOptions(preset))(shifted(scene, 0, 0), shifted(scene, 3, 1))
    assert typical_error(flow, 3, 1) < 0.5


def test_dis_ignores_a_change_of_brightness(scene):
    first, second = shifted(scene, 0, 0), shifted(scene, 4, -2)
    assert typical_error(DisFlow()(first, 0.8 * second), 4, -2) < 0.2


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 200), (200, 8), (12, 13), (63, 65)])
def test_dis_takes_small_and_narrow_frames(height, width):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 1, 3, height, width, generator=generator)
    flow = DisFlow()(first, second)
    assert flow.shape == (1, 2, height, width)
    assert flow.isfinite().all()


def test_dis_takes_black_and_wild_frames():
    black = torch.zeros(1, 3, 32, 32)
    assert DisFlow()(black, black).abs().max() == 0
    assert DisFlow()(black - 3, black + 9).isfinite().all()


def test_dis_treats_clips_of_a_batch_alone(scene):
    first = torch.cat([shifted(scene, 0, 0), shifted(scene, 2, 2)])
    second = torch.cat([shifted(scene, 3, 0), shifted(scene, 0, 0)])
    together = DisFlow()(first, second)
    alone = torch.cat([DisFlow()(a[None], b[None]) for a, b in zip(first, second, strict=True)])
    assert torch.equal(together, alone)


def test_dis_is_the_same_in_threads_and_after_pickling(scene):
    first, second = shifted(scene, 0, 0), shifted(scene, 5, 1)
    estimator = DisFlow()
    expected = estimator(first, second)
    with ThreadPoolExecutor(4) as pool:
        flows = list(pool.map(lambda _: estimator(first, second), range(8)))
    flows.append(pickle.loads(pickle.dumps(estimator))(first, second))
    assert all(torch.equal(flow, expected) for flow in flows)


def test_dis_rejects_unlike_frames():
    with pytest.raises(ValueError, match="expected two"):
        DisFlow()(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))


@pytest.mark.parametrize("wrong", [{"preset": "slow"}, {"smoothing": -1.0}, {"smoothing": float("nan")}])
def test_dis_options_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        DisOptions(**wrong)


def test_no_flow_is_zero():
    frames = torch.rand(2, 3, 9, 11, dtype=torch.float64)
    flow = create_flow_estimator("none")(frames, frames)
    assert flow.shape == (2, 2, 9, 11)
    assert flow.dtype == torch.float32
    assert not flow.any()


class _Difference(torch.nn.Module):
    """Stands in for a flow network: the difference of two channels, in its own precision."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))

    def forward(self, first, second):
        assert first.dtype == second.dtype == self.gain.dtype
        return self.gain * (second - first)[:, :2]


def test_network_flow_converts_to_the_networks_precision_and_back():
    first, second = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    flow = NetworkFlow(_Difference())(first, second, sigma=0.1)
    assert flow.dtype == torch.float32
    assert torch.equal(flow, torch.ones(1, 2, 8, 8))
    # Training may use the flow as an input, so it must not be an inference tensor.
    assert not flow.requires_grad and not flow.is_inference()


@pytest.mark.parametrize("name", ["dis", "none", "pwc", "light"])
def test_estimators_carry_their_name(name):
    assert create_flow_estimator(name, _Difference()).name == name


@pytest.mark.parametrize("name", ["pwc", "light"])
def test_missing_network_is_explained(name):
    with pytest.raises(OptionError, match="needs a network"):
        create_flow_estimator(name)


def test_unknown_estimator_is_explained():
    with pytest.raises(OptionError, match="choose one of dis, dis-half, dis-half-fast, none, pwc, light"):
        create_flow_estimator("farneback")
