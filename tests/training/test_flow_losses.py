"""The flow losses are least at the truth, and indifferent to what cannot be seen."""

import pytest
import torch

from stbn_cli.models.lightflow import FlowLevel
from stbn_cli.training.flow_losses import (
    end_point_loss,
    inside,
    photometric_loss,
    smoothness_loss,
    visible_by_consistency,
    warp_bilinear,
)
from tests.training.pictures import photograph

SIZE = 64


def constant(dx: float, dy: float, size: int = SIZE) -> torch.Tensor:
    return torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, size, size).contiguous()


def pair(dx: int, dy: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames (1, 3, SIZE, SIZE) on [0, 1] whose content moves by (dx, dy) from the first to the second."""
    picture = photograph(128, 128).float()[None] / 255
    first = picture[..., 30 : 30 + SIZE, 30 : 30 + SIZE]
    second = picture[..., 30 - dy : 30 - dy + SIZE, 30 - dx : 30 - dx + SIZE]
    return first, second


@pytest.mark.parametrize("brightening", [0.0, 0.1])
def test_photometric_loss_is_least_at_the_motion_whatever_the_brightness(brightening: float) -> None:
    first, second = pair(3, -2)
    everywhere = inside(constant(3, -2))
    losses = [
        float(photometric_loss(first, second + brightening, constant(*motion), everywhere))
        for motion in ((3, -2), (3.5, -2), (2, -2), (0, 0))
    ]
    assert losses == sorted(losses) and losses[0] < 0.01 + 5.1 * brightening < losses[-1]


def test_photometric_loss_has_no_say_where_nothing_is_visible() -> None:
    first, second = pair(3, -2)
    flow = constant(0, 0).requires_grad_()
    visible = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    photometric_loss(first, second, flow, visible).backward()
    assert flow.grad is not None and not flow.grad.any()


def test_consistency_finds_what_leads_nowhere() -> None:
    there, back = constant(3, -2), constant(-3, 2)
    assert torch.equal(visible_by_consistency(there, back), inside(there))
    back[..., :20, :] = 5.0
    visible = visible_by_consistency(there, back)
    assert not visible[:, 4:18, :-3].any() and visible[:, 30:-2, :-3].all()


def test_bilinear_warp_samples_where_the_flow_points() -> None:
    ramp = torch.arange(SIZE, dtype=torch.float32).view(1, 1, 1, SIZE).expand(1, 1, SIZE, SIZE)
    warped = warp_bilinear(ramp, constant(1.25, 0))
    torch.testing.assert_close(warped[..., :-2], ramp[..., :-2] + 1.25, atol=1e-4, rtol=0)


def test_smoothness_bends_only_at_edges() -> None:
    columns = torch.arange(SIZE, dtype=torch.float32).view(1, 1, 1, SIZE)
    affine = columns.expand(1, 2, SIZE, SIZE) * 0.1
    grey = torch.full((1, 3, SIZE, SIZE), 0.5)
    assert float(smoothness_loss(affine, grey)) < 1e-4
    step = (columns > 31).float().expand(1, 2, SIZE, SIZE) * 4
    edge = grey + 0.3 * (columns > 31)
    assert float(smoothness_loss(step, grey)) > 50 * float(smoothness_loss(step, edge)) > 0


def levels_of(flow: torch.Tensor, logits: torch.Tensor) -> list[FlowLevel]:
    return [FlowLevel(flow, torch.zeros_like(flow), logits.log_softmax(1))]


def test_end_point_loss_is_least_for_the_true_flow_and_the_right_match() -> None:
    target, visible = constant(4, -8), torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    coarse = constant(4, -8, SIZE // 4)
    right, wrong = torch.zeros(1, 81, 16, 16), torch.zeros(1, 81, 16, 16)
    right[:, (-2 + 4) * 9 + (1 + 4)] = 9.0  # one pixel of the level to the right, two up
    wrong[:, (2 + 4) * 9 + (1 + 4)] = 9.0
    best = float(end_point_loss(target, levels_of(coarse, right), target, visible))
    assert best < float(end_point_loss(target, levels_of(coarse, wrong), target, visible))
    assert best < float(end_point_loss(target, levels_of(coarse + 1, right), target, visible))
    assert best < float(end_point_loss(target + 1, levels_of(coarse, right), target, visible))
    unseen = torch.zeros_like(visible)
    assert float(end_point_loss(target + 1, levels_of(coarse + 1, wrong), target, unseen)) == 0.0
