"""Rendered motion: the flow it claims is the flow that its frames show, and what it hides is said to be hidden."""

import numpy as np
import pytest
import torch

from stbn_cli.models.warp import warp_bilinear
from stbn_cli.training.flow_losses import inside
from stbn_cli.training.virtual_camera import VirtualScene, draw_scene, render, true_flow
from tests.training.pictures import photograph

STILLS = [photograph(300, 400, seed) for seed in range(3)]


def scene_of(seed: int, *, layers: int, frames: int = 3, size: int = 96) -> VirtualScene:
    """The first scene with so many layers after `seed`."""
    for attempt in range(100):
        scene = draw_scene(STILLS, frames, size, np.random.default_rng((seed, attempt)))
        if (scene.foreground is not None) == (layers == 2):
            return scene
    raise AssertionError("no such scene")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 2)])
def test_warping_by_the_true_flow_gives_the_other_frame(layers: int, first: int, second: int) -> None:
    for seed in range(6):
        scene = scene_of(seed, layers=layers)
        frames, alpha = render(scene)
        flow, visible = true_flow(scene, alpha, first, second)
        warped = warp_bilinear(frames[second : second + 1], flow[None])[0]
        error = (warped - frames[first]).abs().amax(0)[visible]
        assert visible.float().mean() > 0.05
        assert error.mean() < 0.01, (seed, error.mean())
        assert error.quantile(0.98) < 0.05


def test_frames_move_and_layers_move_apart() -> None:
    scene = scene_of(4, layers=2)
    frames, alpha = render(scene)
    assert frames.shape == (3, 3, 96, 96) and frames.min() >= 0 and frames.max() <= 1
    assert alpha is not None and 0.02 < alpha.mean() < 0.98
    assert (frames[0] - frames[1]).abs().mean() > 0.005
    flow, visible = true_flow(scene, alpha, 0, 1)
    front = alpha[0, 0] > 0.5
    assert (flow[:, front].mean(1) - flow[:, ~front].mean(1)).norm() > 0.1
    # Both the moving edge and what leaves the picture are left out.
    assert not visible[~inside(flow[None])[0]].any() and visible.float().mean() < 1


def test_half_precision_does_not_reach_the_rendering() -> None:
    scene = scene_of(2, layers=2)
    frames, alpha = render(scene)
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = render(scene)
        flow, _ = true_flow(scene, alpha, 0, 1)
    assert torch.equal(frames, again)
    assert torch.equal(flow, true_flow(scene, alpha, 0, 1)[0])


def test_a_scene_depends_on_its_random_numbers_alone() -> None:
    one, other = (render(draw_scene(STILLS, 2, 64, np.random.default_rng(7)))[0] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, render(draw_scene(STILLS, 2, 64, np.random.default_rng(8)))[0])
