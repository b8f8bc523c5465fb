"""Sizes that fit the memory, and a schedule that fits the time."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import (
    CPU_SIZES,
    FEWEST_PIXELS,
    FEWEST_STEPS,
    GPU_SIZES,
    MEMORY_SHARE,
    MOST_PIXELS,
    PIXEL_BYTES,
    SCRATCH_FACTOR,
    STEP_COST,
    STEPS_SHARE,
    FinetuneSchedule,
    StepSizes,
    choose_sizes,
    make_schedule,
)
from stbn_cli.models.config import MODEL_SIZES
from tests.networks import TINY

PLENTY = 2**45
SIZES = StepSizes(4, 64, 8)
SMALL, LARGE = MODEL_SIZES["stbn-xs"], MODEL_SIZES["stbn"]


def scheduled(
    *, seconds: float = 0.1, sizes: StepSizes = SIZES, memory: int = PLENTY, **options: object
) -> FinetuneSchedule:
    return make_schedule(SMALL, FinetuneOptions(**options), sizes, seconds, memory)  # type: ignore[arg-type]


def bytes_of(sizes: StepSizes, value_bytes: int = 2) -> int:
    return STEP_COST * value_bytes * SMALL.channels * sizes.pixels


def test_with_plenty_of_memory_sizes_are_the_usual_ones() -> None:
    assert choose_sizes(SMALL, FinetuneOptions(), "cpu", PLENTY) == StepSizes(*CPU_SIZES)
    assert choose_sizes(SMALL, FinetuneOptions(), "cuda", PLENTY) == StepSizes(*GPU_SIZES)


@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sizes_shrink_with_the_memory_and_fit_into_half_of_it(device: str, value_bytes: int) -> None:
    def sizes_for(memory: int) -> StepSizes:
        return choose_sizes(SMALL, FinetuneOptions(), device, memory, value_bytes)

    smallest, largest = sizes_for(0), sizes_for(PLENTY)
    assert smallest == StepSizes(1, 32, 3)
    found = {power: sizes_for(2**power) for power in range(44, 16, -1)}
    assert len(set(found.values())) > 4
    for power, sizes in found.items():
        assert bytes_of(sizes, value_bytes) <= 2**power // 2 or sizes == smallest
        # No smaller than needed: half a patch is a quarter of the pixels.
        assert 4 * bytes_of(sizes, value_bytes) > 2**power // 2 or sizes == largest
    assert all(smaller.pixels <= larger.pixels for larger, smaller in pairwise(found.values()))


def test_wider_networks_get_smaller_steps() -> None:
    narrow, wide = (choose_sizes(config, FinetuneOptions(), "cuda", 2**32) for config in (SMALL, LARGE))
    assert wide.pixels < narrow.pixels


@pytest.mark.parametrize(
    "fixed", [{"batch_size": 7}, {"patch_size": 80}, {"train_length": 2}, {"batch_size": 5, "patch_size": 48}]
)
@pytest.mark.parametrize("memory", [0, 2**28, PLENTY])
def test_what_is_fixed_stays(fixed: dict[str, int], memory: int) -> None:
    sizes = choose_sizes(SMALL, FinetuneOptions(**fixed), "cuda", memory)  # type: ignore[arg-type]
    assert {name: getattr(sizes, name) for name in fixed} == fixed
    if memory == 0:
        floor = {"batch_size": 1, "patch_size": 32, "train_length": 3} | fixed
        assert sizes == StepSizes(**floor)


def test_all_fixed_is_taken_as_it_is() -> None:
    options = FinetuneOptions(batch_size=100, patch_size=999, train_length=99)
    assert choose_sizes(LARGE, options, "cpu", 1000) == StepSizes(100, 999, 99)


@given(steps=st.integers(1, 20_000))
@settings(max_examples=60)
def test_the_learning_rate_rises_then_falls_and_stays_positive(steps: int) -> None:
    schedule = scheduled(steps=steps)
    points = sorted({*range(min(steps, 60)), *range(0, steps, max(1, steps // 100)), steps - 1})
    rates = [schedule.learning_rate_at(step) for step in points]
    top = rates.index(max(rates))
    assert points[top] + 1 in (schedule.warmup, schedule.warmup - 1)
    assert all(a < b for a, b in pairwise(rates[: top + 1])) and all(a > b for a, b in pairwise(rates[top:]))
    assert min(rates) > 0 and max(rates) <= schedule.learning_rate
    assert rates[-1] < 0.01 * schedule.learning_rate or steps < 20


@given(steps=st.integers(1, 20_000))
@settings(max_examples=60)
def test_checks_go_through_the_run_and_end_with_it(steps: int) -> None:
    schedule = scheduled(steps=steps)
    checks = schedule.checks
    assert schedule.steps == steps and checks[-1] == steps and checks[0] >= 1
    assert list(checks) == sorted(set(checks)) and len(checks) <= 5
    assert steps < 20 or (len(checks) == 5 and checks[0] <= steps / 4)
    assert 0.5 <= schedule.ema_decay < 1


def test_the_average_spans_a_part_of_the_run() -> None:
    decays = [scheduled(steps=steps).ema_decay for steps in (1, 10, 100, 1000, 4000, 10**6)]
    assert decays == sorted(decays) and decays[0] == 0.5 and decays[2] == pytest.approx(0.9)


@given(st.floats(1e-4, 60.0), st.floats(0.1, 600.0))
@settings(max_examples=60)
def test_steps_fit_the_time_and_are_few_different_numbers(seconds: float, minutes: float) -> None:
    steps = scheduled(seconds=seconds, minutes=minutes).steps
    fitting = STEPS_SHARE * 60 * minutes / seconds
    assert steps == FEWEST_STEPS or steps <= fitting
    assert steps > 0.8 * math.floor(fitting) - 1e-9
    while steps % 2 == 0 and steps > 7:
        steps //= 2
    assert steps in (4, 5, 6, 7)


def test_more_time_is_never_fewer_steps() -> None:
    counts = [scheduled(minutes=0.1 * number).steps for number in range(1, 400)]
    assert counts == sorted(counts) and counts[-1] > 50 * counts[0]
    # Measured times that differ a little mostly give the same number.
    near = [scheduled(seconds=0.1 * factor).steps for factor in (0.99, 1.0, 1.01)]
    assert len(set(near)) == 1


def test_given_steps_do_not_depend_on_the_time() -> None:
    assert {scheduled(steps=77, seconds=seconds) for seconds in (0.001, 1, 1000)} == {scheduled(steps=77)}


def test_the_learning_rate_falls_with_the_width_unless_it_is_given() -> None:
    options = FinetuneOptions(steps=10)
    narrow, wide = (
        make_schedule(config, options, SIZES, 1, PLENTY).learning_rate for config in (TINY, SMALL)
    )
    assert narrow == pytest.approx(2 * wide)
    assert scheduled(steps=10, from_scratch=True).learning_rate == pytest.approx(SCRATCH_FACTOR * wide)
    assert scheduled(steps=10, from_scratch=True, learning_rate=0.5).learning_rate == 0.5


@given(st.integers(1, 10**6), st.integers(0, 2**45))
@settings(max_examples=60)
def test_the_footage_fits_steps_and_memory(steps: int, memory: int) -> None:
    schedule = scheduled(steps=steps, memory=memory)
    assert schedule.clip_pixels <= MOST_PIXELS
    assert schedule.clip_pixels * PIXEL_BYTES <= max(MEMORY_SHARE * memory, PIXEL_BYTES * FEWEST_PIXELS // 4)
    assert schedule.clip_pixels >= FEWEST_PIXELS // 4
    assert schedule.clip_pixels <= max(FEWEST_PIXELS, steps * SIZES.pixels)
    assert schedule.check_pixels >= FEWEST_PIXELS // 4
    if memory == 2**45 and steps * SIZES.pixels > 100 * FEWEST_PIXELS:
        assert schedule.clip_pixels > FEWEST_PIXELS


def test_longer_runs_load_and_judge_more() -> None:
    few, many = scheduled(steps=200), scheduled(steps=2000)
    assert many.clip_pixels > 4 * few.clip_pixels and many.check_pixels > 4 * few.check_pixels
    assert scheduled(steps=2000, memory=2**28).clip_pixels < many.clip_pixels


def test_what_is_wanted_is_loaded_if_it_fits() -> None:
    def loaded(memory: int) -> int:
        return make_schedule(SMALL, FinetuneOptions(steps=8), SIZES, 1, memory, 10**8).clip_pixels

    assert loaded(PLENTY) == 10**8
    assert loaded(2**30) * PIXEL_BYTES <= MEMORY_SHARE * 2**30


def test_a_schedule_is_shortened_to_what_time_is_left_for_and_never_lengthened() -> None:
    planned = scheduled(steps=1280)
    assert planned.shortened(2000.0, 1.0, 5.0) == planned
    shorter = planned.shortened(200.0, 1.0, 5.0)
    assert shorter.steps == 128 and shorter.sizes == planned.sizes
    assert shorter.checks[-1] == 128 and len(shorter.checks) == len(planned.checks)
    assert shorter.learning_rate_at(127) < 0.01 * shorter.learning_rate
    # Where a check takes long there are few of them.
    assert planned.shortened(100.0, 1.0, 12.0).checks == (48, 64)
    assert planned.shortened(0.0, 1.0, 12.0).checks == (FEWEST_STEPS,)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sigma": 0.0}, "noise level"),
        ({"sigma": 1.5}, "noise level"),
        ({"sigma": math.nan}, "noise level"),
        ({"minutes": 0.0}, "--minutes"),
        ({"minutes": math.inf}, "--minutes"),
        ({"minutes": math.nan}, "--minutes"),
        ({"steps": 0}, "--steps"),
        ({"learning_rate": 0.0}, "--lr"),
        ({"learning_rate": math.inf}, "--lr"),
        ({"batch_size": 0}, "--batch-size"),
        ({"patch_size": 15}, "--patch-size"),
        ({"train_length": 0}, "--train-length"),
    ],
)
def test_impossible_options_are_named(changes: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        FinetuneOptions(**changes)  # type: ignore[arg-type]
