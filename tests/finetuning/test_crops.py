"""Training sequences: turned any way they fit together, and their noise and their held-out pixels stay as they were."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.finetuning.crops import CropBatch, CropSource, mirrored, reversed_in_time, turned
from stbn_cli.finetuning.flows import BlindFlows, checkerboards
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.plan import StepSizes
from stbn_cli.models.warp import warp_nearest

WAYS = list(itertools.product((False, True), (False, True), range(4)))
# (right, down) of the view over the texture from each frame to the next, all different.
MOTION = [(2, 1), (-3, 2), (1, -4), (0, 3)]
REACH = 4


def transformed(sequence: CropBatch, way: tuple[bool, bool, int]) -> CropBatch:
    reverse, mirror, turns = way
    return turned(mirrored(reversed_in_time(sequence) if reverse else sequence, mirror), turns)


@pytest.fixture
def moving() -> CropBatch:
    """A view that moves over a texture by whole pixels, with its exact flow and some targets."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 60, 60, generator=generator)
    places = np.cumsum([(20, 20), *MOTION], axis=0).tolist()
    frames = torch.stack([texture[:, top : top + 18, left : left + 22] for left, top in places])
    steps = torch.tensor(MOTION, dtype=torch.float32).view(-1, 2, 1, 1).expand(-1, 2, 18, 22)
    nowhere = torch.full((1, 2, 18, 22), 77.0)
    # A point of the texture moves against the view.
    to_previous, to_next = torch.cat((nowhere, steps)), torch.cat((-steps, nowhere))
    targets = torch.rand(5, 18, 22, generator=generator) < 0.3
    return CropBatch(frames, to_previous, to_next, targets)


def assert_flow_fits(sequence: CropBatch) -> None:
    """That each frame's neighbours, warped by its flows, are the frame."""
    frames, to_previous, to_next, _ = sequence
    inside = (..., slice(REACH, -REACH), slice(REACH, -REACH))
    warped = warp_nearest(frames[:-1], to_previous[1:])
    assert torch.equal(warped[inside], frames[1:][inside])
    warped = warp_nearest(frames[1:], to_next[:-1])
    assert torch.equal(warped[inside], frames[:-1][inside])


@pytest.mark.parametrize("way", WAYS)
def test_flow_fits_the_frames_after_every_transformation(
    moving: CropBatch, way: tuple[bool, bool, int]
) -> None:
    assert_flow_fits(transformed(moving, way))


@pytest.mark.parametrize("way", WAYS)
def test_noise_stays_as_it_was_and_targets_stay_on_their_pixels(
    moving: CropBatch, way: tuple[bool, bool, int]
) -> None:
    sequence = transformed(moving, way)
    frames = moving.noisy.flip(0) if way[0] else moving.noisy
    for before, after in zip(frames, sequence.noisy, strict=True):
        # Per channel: colours are not exchanged.
        assert torch.equal(before.flatten(1).sort().values, after.flatten(1).sort().values)
    for channel in range(3):
        before = moving.noisy[:, channel][moving.targets]
        after = sequence.noisy[:, channel][sequence.targets]
        assert torch.equal(before.sort().values, after.sort().values)


def test_the_sixteen_ways_are_all_different(moving: CropBatch) -> None:
    ways = [transformed(moving, way).noisy for way in WAYS]
    assert not any(
        one.shape == other.shape and torch.equal(one, other) for one, other in itertools.combinations(ways, 2)
    )


def test_four_quarters_and_two_mirrors_change_nothing(moving: CropBatch) -> None:
    for sequence in (
        turned(moving, 4),
        mirrored(mirrored(moving)),
        reversed_in_time(reversed_in_time(moving)),
    ):
        assert all(torch.equal(one, other) for one, other in zip(sequence, moving, strict=True))


def numbered_run(frames: int, height: int, width: int, first: int = 0) -> NoisyRun:
    """A run whose every value is its own, so that crops show where they come from, and a held-out twentieth."""
    count = frames * 3 * height * width
    values = torch.arange(first, first + count, dtype=torch.float32)
    generator = torch.Generator().manual_seed(frames)
    held_out = torch.rand(frames, 1, height, width, generator=generator) < 0.05
    return NoisyRun("run", values.view(frames, 3, height, width), held_out)


def board_flows(run: NoisyRun, *, per_frame: bool = False) -> tuple[BlindFlows, ...]:
    """Flows of one pixel from the one checkerboard, of two from the other."""
    frames, _, height, width = run.noisy.shape
    result = []
    for number, hidden in enumerate(checkerboards(run.noisy)):
        if per_frame:
            flips = (torch.arange(frames) % 2 == 0).view(-1, 1, 1, 1)
            hidden = torch.where(flips, hidden, ~hidden)
        flow = torch.full((frames, 2, height, width), number + 1, dtype=torch.int16)
        result.append(BlindFlows(flow, -flow, hidden))
    return tuple(result)


def places(batch: CropBatch, run: NoisyRun, first: int = 0) -> list[Tensor]:
    """For each sequence the index (T, P, P) of its pixels in the run's masks `(T, 1, H, W)`, flattened."""
    frames, _, height, width = run.noisy.shape
    index = batch.noisy[:, :, 0].long() - first
    time, rest = index // (3 * height * width), index % (3 * height * width)
    assert (time >= 0).all() and (time < frames).all() and (rest < height * width).all()
    return list(time * height * width + rest)


@pytest.mark.parametrize("per_frame", [False, True])
def test_targets_are_the_pixels_that_the_flow_has_not_seen_but_never_those_held_out(per_frame: bool) -> None:
    run = numbered_run(6, 30, 40)
    flows = board_flows(run, per_frame=per_frame)
    source = CropSource([run], [flows], StepSizes(4, 16, 3), seed=0)
    used = set()
    for step in range(10):
        batch = source.batch(step)
        parts = zip(places(batch, run), batch.to_previous, batch.to_next, batch.targets, strict=True)
        for place, to_previous, to_next, targets in parts:
            sizes = set(torch.cat((to_previous, to_next)).abs().unique().tolist())
            assert len(sizes) == 1, "both directions have the flow of one checkerboard"
            number = int(sizes.pop()) - 1
            used.add(number)
            hidden = flows[number].hidden.expand(6, 1, 30, 40).flatten()[place]
            assert torch.equal(targets, hidden & ~run.held_out.flatten()[place])
            assert targets.any() and (hidden & ~targets).any()
    assert used == {0, 1}


def test_sequences_are_consecutive_frames_of_a_square() -> None:
    run = numbered_run(6, 30, 40)
    batch = CropSource([run], [board_flows(run)], StepSizes(8, 16, 4), seed=0).batch(0)
    assert batch.noisy.shape == (8, 4, 3, 16, 16) and batch.targets.shape == (8, 4, 16, 16)
    assert batch.to_previous.shape == batch.to_next.shape == (8, 4, 2, 16, 16)
    assert batch.to_previous.dtype == torch.float32 and batch.targets.dtype == torch.bool
    for place in places(batch, run):
        time, row, column = place // 1200, place % 1200 // 40, place % 40
        assert {int(step) for step in time.diff(dim=0).unique()} in ({1}, {-1})
        for part, size in ((row, 16), (column, 16)):
            assert int(part.max() - part.min()) == size - 1
        assert len(place.unique()) == place.numel()


def test_crops_from_the_source_fit_their_flow(moving: CropBatch) -> None:
    run = NoisyRun("run", moving.noisy, torch.zeros(5, 1, 18, 22, dtype=torch.bool))
    flows = BlindFlows(
        moving.to_previous.to(torch.int16), moving.to_next.to(torch.int16), checkerboards(moving.noisy)[0]
    )
    source = CropSource([run], [(flows,)], StepSizes(8, 17, 3), seed=0)
    for step in range(4):
        for sequence in zip(*source.batch(step), strict=True):
            assert_flow_fits(CropBatch(*sequence))


def test_a_step_depends_on_seed_and_number_alone() -> None:
    run = numbered_run(6, 30, 40)

    def source(seed: int) -> CropSource:
        return CropSource([run], [board_flows(run)], StepSizes(3, 16, 3), seed)

    def same(one: CropBatch, other: CropBatch) -> bool:
        return all(torch.equal(*parts) for parts in zip(one, other, strict=True))

    begun, fresh = source(7), source(7)
    batches = [begun.batch(step) for step in range(4)]
    for step in (2, 0, 3, 1):
        assert same(fresh.batch(step), batches[step])
    assert not any(same(one, other) for one, other in itertools.combinations(batches, 2))
    assert not same(source(8).batch(0), batches[0])


def test_every_pixel_is_learned_from_but_those_held_out_and_every_way_is_taken() -> None:
    run = numbered_run(3, 17, 18)
    source = CropSource([run], [board_flows(run)], StepSizes(8, 16, 2), seed=1)
    learned, corners = torch.zeros_like(run.held_out).flatten(), set()
    for step in range(40):
        batch = source.batch(step)
        for place, targets in zip(places(batch, run), batch.targets, strict=True):
            learned[place[targets]] = True
            # Where the first corner, its neighbour to the right and the next frame's lie tells the way.
            right, later = int(place[0, 0, 1] - place[0, 0, 0]), int(place[1, 0, 0] - place[0, 0, 0])
            down = int(place[0, 1, 0] - place[0, 0, 0])
            corners.add((right, down, later))
    assert torch.equal(learned, ~run.held_out.flatten())
    assert len(corners) == 16


def test_runs_that_are_too_short_for_the_others_are_left_out() -> None:
    short, longer = numbered_run(3, 20, 20), numbered_run(5, 24, 24, first=100_000)
    flows = [board_flows(short), board_flows(longer)]
    source = CropSource([short, longer], flows, StepSizes(4, 16, 8), seed=0)
    assert source.length == 5 and source.patch == 16
    for step in range(5):
        batch = source.batch(step)
        assert batch.noisy.shape[1] == 5
        places(batch, longer, first=100_000)  # all of them lie there
    both = CropSource([short, longer], flows, StepSizes(4, 16, 3), seed=0)
    assert both.length == 3
    first_values = torch.cat([both.batch(step).noisy[:, 0, 0, 0, 0] for step in range(20)])
    assert (first_values < 100_000).any() and (first_values >= 100_000).any()


def test_a_single_frame_is_a_sequence_too() -> None:
    run = numbered_run(1, 20, 20)
    batch = CropSource([run], [board_flows(run)], StepSizes(2, 16, 8), seed=0).batch(0)
    assert batch.noisy.shape == (2, 1, 3, 16, 16) and batch.targets.any()


def test_frames_smaller_than_the_patch_are_taken_whole() -> None:
    small, large = numbered_run(3, 18, 40), numbered_run(3, 50, 50, first=100_000)
    flows = [board_flows(small), board_flows(large)]
    source = CropSource([small, large], flows, StepSizes(6, 64, 3), seed=0)
    assert source.patch == 18
    assert source.batch(0).noisy.shape == (6, 3, 3, 18, 18)


def test_large_runs_are_visited_in_proportion() -> None:
    small, large = numbered_run(4, 20, 20), numbered_run(4, 40, 40, first=100_000)
    source = CropSource(
        [small, large], [board_flows(small), board_flows(large)], StepSizes(20, 16, 2), seed=0
    )
    firsts = torch.cat([source.batch(step).noisy[:, 0, 0, 0, 0] for step in range(25)])
    assert float((firsts >= 100_000).float().mean()) == pytest.approx(0.8, abs=0.06)
