"""Flow that hidden pixels have no part in."""

import pytest
import torch
from torch import Tensor

from stbn_cli.finetuning.flows import LARGEST, STORED, checkerboards, find_blind_flows, paint_over
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.flow.dis import DisFlow
from stbn_cli.models.warp import warp_nearest


@pytest.fixture
def frames() -> Tensor:
    """Four noisy frames (4, 3, 48, 56) of a texture that moves by 3 pixels a frame, in place of which noise is new."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 20, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (60, 100), mode="bicubic")[0]
    moving = torch.stack([texture[:, 4:52, 3 * t : 3 * t + 56] for t in range(4)])
    return moving + 0.1 * torch.randn(moving.shape, generator=generator)


@pytest.fixture(params=["board", "each frame its own"])
def hidden(request: pytest.FixtureRequest, frames: Tensor) -> Tensor:
    """(1, 1, H, W) or (T, 1, H, W)."""
    if request.param == "board":
        return checkerboards(frames)[0]
    return torch.rand(len(frames), 1, *frames.shape[-2:], generator=torch.Generator().manual_seed(5)) < 0.2


def run_of(frames: Tensor) -> NoisyRun:
    return NoisyRun("run", frames, torch.zeros_like(frames[:, :1], dtype=torch.bool))


def test_the_checkerboards_complement_each_other() -> None:
    one, other = checkerboards(torch.zeros(2, 3, 5, 8))
    assert one.shape == other.shape == (1, 1, 5, 8) and one.dtype == torch.bool
    assert torch.equal(one, ~other)
    for board in (one, other):
        assert (board[..., 1:, :] ^ board[..., :-1, :]).all() and (board[..., 1:] ^ board[..., :-1]).all()


def test_visible_pixels_stay_bit_by_bit(frames: Tensor, hidden: Tensor) -> None:
    painted, everywhere = paint_over(frames, hidden), hidden.expand_as(frames)
    assert torch.equal(painted[~everywhere], frames[~everywhere])
    assert (painted[everywhere] != frames[everywhere]).float().mean() > 0.99


def test_hidden_pixels_are_the_mean_of_the_visible_ones_around(frames: Tensor, hidden: Tensor) -> None:
    painted, masks = paint_over(frames, hidden), hidden.expand(len(frames), -1, -1, -1)
    height, width = frames.shape[-2:]
    for time, row, column in ((0, 0, 0), (1, 7, 9), (1, 7, 10), (2, 30, 55), (3, 47, 20), (3, 47, 21)):
        around = [
            frames[time, :, r, c]
            for r in range(max(row - 1, 0), min(row + 2, height))
            for c in range(max(column - 1, 0), min(column + 2, width))
            if not masks[time, 0, r, c]
        ]
        expected = (
            torch.stack(around).mean(0) if masks[time, 0, row, column] else frames[time, :, row, column]
        )
        torch.testing.assert_close(painted[time, :, row, column], expected)


def test_a_pixel_with_nothing_visible_around_becomes_grey(frames: Tensor) -> None:
    hidden = torch.zeros(1, 1, *frames.shape[-2:], dtype=torch.bool)
    hidden[..., :4, :4] = True
    painted = paint_over(frames, hidden)
    assert (painted[..., :3, :3] == 0.5).all() and (painted[..., 3, :4] != 0.5).all()
    assert (paint_over(frames, torch.ones_like(hidden)) == 0.5).all()


def test_nothing_depends_on_the_values_of_hidden_pixels(frames: Tensor, hidden: Tensor) -> None:
    other = torch.rand(frames.shape, generator=torch.Generator().manual_seed(9))
    changed = torch.where(hidden, other, frames)
    assert torch.equal(paint_over(changed, hidden), paint_over(frames, hidden))
    flow = DisFlow()
    before, after = (find_blind_flows(run_of(part), hidden, flow, 0.1) for part in (frames, changed))
    assert torch.equal(before.to_previous, after.to_previous) and torch.equal(before.to_next, after.to_next)
    assert torch.equal(before.hidden, hidden)
    # It is not that nothing matters.
    visible = torch.where(hidden, frames, other)
    other_flow = find_blind_flows(run_of(visible), hidden, flow, 0.1)
    assert not torch.equal(before.to_previous, other_flow.to_previous)


def test_motion_is_found_all_the_same(frames: Tensor, hidden: Tensor) -> None:
    flows = find_blind_flows(run_of(frames), hidden, DisFlow(), 0.1)
    assert flows.to_previous.shape == flows.to_next.shape == (4, 2, 48, 56)
    # To the previous frame points move to the right, with the view.
    for flow, motion in ((flows.to_previous[1:], 3.0), (flows.to_next[:-1], -3.0)):
        inside = flow[..., 8:-8, 8:-8].float()
        right = ((inside[:, 0] - motion).abs() <= 1) & (inside[:, 1].abs() <= 1)
        assert right.float().mean() > 0.9
    assert not flows.to_previous[0].any() and not flows.to_next[-1].any()


class Given:
    """A flow estimator that returns what it was given, and remembers what it was asked."""

    name = "given"

    def __init__(self, flow: Tensor) -> None:
        self.flow = flow
        self.asked: list[tuple[Tensor, Tensor, float | Tensor | None]] = []

    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        self.asked.append((first, second, sigma))
        return self.flow


def test_storing_whole_pixels_is_what_the_warp_does_anyway(frames: Tensor) -> None:
    # No halves: those the warp rounds by the position.
    steps = torch.randint(-60, 60, (3, 2, 48, 56), generator=torch.Generator().manual_seed(1))
    flow = steps + 0.98 * torch.rand(steps.shape, generator=torch.Generator().manual_seed(2)) - 0.49
    estimator = Given(flow)
    board = checkerboards(frames)[1]
    stored = find_blind_flows(run_of(frames), board, estimator, 0.2)
    assert stored.to_previous.dtype == stored.to_next.dtype == STORED
    for kept, times in ((stored.to_previous, slice(1, None)), (stored.to_next, slice(None, -1))):
        warped = warp_nearest(frames[:-1], flow)
        assert torch.equal(warp_nearest(frames[:-1], kept[times].float()), warped) and warped.any()
    painted = paint_over(frames, board)
    (later, earlier, sigma), (first, second, _) = estimator.asked
    assert sigma == 0.2
    assert torch.equal(later, painted[1:]) and torch.equal(earlier, painted[:-1])
    assert torch.equal(first, painted[:-1]) and torch.equal(second, painted[1:])


def test_flow_that_leads_nowhere_stays_outside_or_in_place(frames: Tensor) -> None:
    flow = torch.zeros(3, 2, 48, 56)
    flow[0], flow[1], flow[2] = torch.nan, 1e9, -torch.inf
    stored = find_blind_flows(run_of(frames), checkerboards(frames)[0], Given(flow), 0.1).to_previous
    assert not stored[1].any() and (stored[2] == LARGEST).all() and (stored[3] == -LARGEST).all()
    assert not warp_nearest(frames[2:], stored[2:].float()).any()
