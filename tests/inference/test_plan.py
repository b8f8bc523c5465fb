"""The planner is pure: budgets in, plan out; explicit choices are never overridden."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.inference.plan import (
    LONGEST_GPU_CHUNK,
    SHORTEST_CHUNK,
    EngineOptions,
    Plan,
    make_plan,
    smaller_plan,
)
from stbn_cli.inference.tiles import SMALLEST_TILE
from stbn_cli.models.config import MODEL_SIZES

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # named, never used: the planner computes with integers alone
GIB = 1 << 30


def plan_of(
    options: EngineOptions | None = None,
    *,
    size: tuple[int, int] = (1080, 1920),
    device: torch.device = GPU,
    device_budget: int = 80 * GIB,
    host_budget: int = 64 * GIB,
    flow_network: bool = False,
) -> Plan:
    return make_plan(
        MODEL_SIZES["stbn"],
        *size,
        device=device,
        dtype=torch.float16,
        options=options or EngineOptions(),
        device_budget=device_budget,
        host_budget=host_budget,
        flow_network=flow_network,
    )


def test_plenty_of_memory_needs_no_tiles() -> None:
    plan = plan_of()
    assert plan.tile is None and plan.chunk == LONGEST_GPU_CHUNK and plan.state_device == GPU


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([(270, 480), (1080, 1920), (2160, 3840)]))
@settings(max_examples=60)
def test_auto_plans_fit_the_budget_or_are_the_smallest(device: int, host: int, size: tuple[int, int]) -> None:
    plan = plan_of(size=size, device_budget=device * GIB, host_budget=host * GIB)
    fits = plan.device_bytes <= device * GIB and plan.host_bytes <= host * GIB
    assert fits or plan.chunk == SHORTEST_CHUNK
    assert plan.tile is None or plan.tile >= SMALLEST_TILE


def test_small_frames_are_worked_on_together_where_a_gpu_has_room() -> None:
    small = plan_of(size=(270, 480))
    assert small.in_pairs and small.fusion_batch > 1
    assert not plan_of(size=(270, 480), device=CPU).in_pairs
    large = plan_of(size=(2160, 3840))
    assert not large.in_pairs and large.fusion_batch == 1


@pytest.mark.parametrize("budget", [8, 16])
def test_4k_fits_small_cards_with_the_flow_network(budget: int) -> None:
    plan = plan_of(size=(2160, 3840), device_budget=int(0.85 * budget * GIB), flow_network=True)
    assert plan.device_bytes <= 0.85 * budget * GIB
    assert plan.exact_tiles and plan.tile is not None
    assert plan.state_device == CPU and plan.running_device == GPU


def test_states_go_to_the_host_before_chunks_get_short() -> None:
    plan = plan_of(size=(2160, 3840), device_budget=16 * GIB)
    assert plan.state_device == CPU and plan.tile is not None
    assert plan.device_bytes <= 16 * GIB


def test_explicit_choices_are_taken_as_they_are() -> None:
    options = EngineOptions(chunk=50, chunk_overlap=3, tile=128, tile_overlap=16)
    plan = plan_of(options, device_budget=GIB // 4, host_budget=GIB // 4)
    assert (plan.chunk, plan.chunk_overlap, plan.tile, plan.fusion_halo) == (50, 3, 128, 16)
    assert not plan.exact_tiles
    while (smaller := smaller_plan(plan, MODEL_SIZES["stbn"], options)) is not None:
        assert (smaller.chunk, smaller.tile) == (50, 128)
        plan = smaller
    assert plan.state_device == plan.running_device == CPU
    assert plan_of(EngineOptions(tile=0), device_budget=GIB // 4).tile is None


def test_shrinking_ends_and_only_ever_shrinks() -> None:
    plan, seen = plan_of(flow_network=True), 0
    options = EngineOptions()
    while (smaller := smaller_plan(plan, MODEL_SIZES["stbn"], options)) is not None:
        assert smaller.device_bytes < plan.device_bytes or smaller.chunk < plan.chunk
        plan, seen = smaller, seen + 1
        assert seen < 30
    assert plan.tile is not None and plan.tile < 2 * SMALLEST_TILE and plan.chunk == SHORTEST_CHUNK


def test_a_fixed_tile_still_lets_chunks_shrink() -> None:
    options = EngineOptions(tile=256)
    plan = plan_of(options)
    while plan.running_device != CPU:
        smaller = smaller_plan(plan, MODEL_SIZES["stbn"], options)
        assert smaller is not None and smaller.chunk == LONGEST_GPU_CHUNK
        assert smaller.device_bytes < plan.device_bytes
        plan = smaller
    smaller = smaller_plan(plan, MODEL_SIZES["stbn"], options)
    assert smaller is not None and smaller.tile == 256 and smaller.chunk == LONGEST_GPU_CHUNK // 2


def test_description_is_plain_values() -> None:
    described = plan_of().describe()
    assert described["precision"] == "float16" and described["frame"] == "1920x1080"
    assert all(isinstance(value, str | int) for value in described.values())


@pytest.mark.parametrize(
    "wrong", [{"chunk": 0}, {"chunk_overlap": -1}, {"tile": 5}, {"sigma": 2.0}, {"strength": 3.5}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(EngineOptions(), **wrong)  # type: ignore[arg-type]
