"""Fused convolutions compute what the plain layers do, and what is derived from weights follows them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models import fused
from stbn_cli.models.expansion import ReceptiveFieldExpansion
from stbn_cli.models.fused import Derived, PointwiseChain, convolution, runs_kernels, using_kernels


def layer_of(
    inputs: int, outputs: int, size: int, groups: int = 1, dtype: torch.dtype = torch.float32
) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups).to(dtype)


def features_of(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, channels, 9, 11).to(dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_what_follows_a_convolution_is_the_same_in_one_pass(
    size: int, groups: int, dtype: torch.dtype, tolerance: float
) -> None:
    layer, features, other = (
        layer_of(8, 16, size, groups, dtype),
        features_of(8, dtype),
        features_of(16, dtype),
    )
    with torch.inference_mode():
        plain = F.conv2d(features, layer.weight, layer.bias, padding=size // 2, groups=groups)
        for result, expected in (
            (convolution(features, layer), plain),
            (convolution(features, layer, relu=True), F.relu(plain)),
            (convolution(features, layer, add=other), plain + other),
        ):
            torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def test_relu_and_sum_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="ReLU and sum"):
        convolution(features_of(8), layer_of(8, 8, 1), relu=True, add=features_of(8))


def test_gradients_flow_where_they_are_kept() -> None:
    layer = layer_of(8, 8, 3)
    convolution(features_of(8), layer, relu=True).sum().backward()
    assert layer.weight.grad is not None and bool(layer.weight.grad.abs().sum() > 0)


def test_builds_without_the_operation_compute_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, features = layer_of(8, 8, 3), features_of(8)
    with torch.inference_mode():
        expected = convolution(features, layer, relu=True)
        monkeypatch.setattr(fused, "_ONEDNN", "an operation that there is not")
        fused._onednn_works.cache_clear()
        try:
            assert not fused.runs_onednn(features)
            torch.testing.assert_close(convolution(features, layer, relu=True), expected)
        finally:
            monkeypatch.undo()
            fused._onednn_works.cache_clear()


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_the_expansion_is_the_same_with_and_without_gradients(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    expansion = ReceptiveFieldExpansion(channels=4, width=16, stages=2, blocks=2, groups=2)
    forward, backward = torch.randn(2, 4, 4, *size)
    learning = expansion(forward, backward)  # unshuffled, and three convolutions at the end
    with torch.inference_mode():
        fused_result = expansion(forward, backward)  # one strided convolution, and one at the end
    torch.testing.assert_close(fused_result, learning.detach(), atol=1e-5, rtol=1e-5)


def test_what_is_derived_follows_the_weights() -> None:
    torch.manual_seed(3)
    expansion = ReceptiveFieldExpansion(channels=4, width=16, stages=1, blocks=1, groups=1)
    features = torch.randn(4, 4, 8, 8)
    with torch.no_grad():
        before = expansion(features, features)
        expansion.leave2.weight.mul_(2)
        expansion.enter.weight.add_(0.1)
        changed = expansion(features, features)
        twin = copy.deepcopy(expansion)
        torch.testing.assert_close(twin(features, features), changed)
        twin.load_state_dict({name: 0 * tensor for name, tensor in twin.state_dict().items()})
        assert bool((twin(features, features) == 0).all())
        torch.testing.assert_close(expansion(features, features), changed)
    assert not torch.allclose(before, changed)
    torch.testing.assert_close(expansion(features, features).detach(), changed, atol=1e-5, rtol=1e-5)


def test_what_is_derived_is_made_once() -> None:
    derived, weight, calls = Derived(), torch.ones(3), []

    def make() -> int:
        calls.append(None)
        return len(calls)

    assert [derived.get("a", [weight], make) for _ in range(3)] == [1, 1, 1]
    assert derived.get("b", [weight], make) == 2
    weight.add_(1)
    assert derived.get("a", [weight], make) == 3


def test_a_chain_is_its_layers_one_after_the_other() -> None:
    first, second = layer_of(8, 6, 1), layer_of(6, 4, 1)
    mask = (torch.arange(9)[:, None] < 8).float().expand(2, 1, 9, 11)
    features = features_of(8)
    with torch.inference_mode():
        expected = second(F.relu(first(features))) * mask
        torch.testing.assert_close(PointwiseChain((first, True), (second, False))(features, mask), expected)


def test_kernels_run_only_where_they_are_chosen_and_in_half_precision() -> None:
    half, single = torch.zeros(1, dtype=torch.float16), torch.zeros(1)
    assert not runs_kernels(half)
    with using_kernels():
        assert runs_kernels(half)
        assert not runs_kernels(single)
        with using_kernels(False):
            assert not runs_kernels(half)
    assert not runs_kernels(half)
