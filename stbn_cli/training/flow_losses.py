"""What a flow network for noisy frames is trained on: known motion, and clean frames that should match when warped.

All in float32, flow in pixels as `flow.estimator.FlowEstimator` defines it. The noisy frames that the network sees
play no part here.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.models.lightflow import FlowLevel
from stbn_cli.models.warp import warp_bilinear
from stbn_cli.scale import BYTE_SCALE

# End-point errors count with this power: small ones matter more than in L1, and a hopeless pixel less.
ROBUST_POWER = 0.7
ROBUST_OFFSET = 0.01  # pixels
MATCH_WEIGHT = 0.5  # of the matches' cross-entropy beside the error in pixels
STEP_DECAY = 0.9  # weight of each step relative to the next one
# Census transform (Meister et al., UnFlow, AAAI 2018): differences to the neighbours in a window, squashed.
CENSUS_WINDOW = 7
CENSUS_SOFTNESS = 0.9  # grey levels (0-255)
CENSUS_DISTANCE_SOFTNESS = 0.1
COLOUR_WEIGHT = 5.0  # of the absolute difference ([0, 1] scale) beside the census distance
# A pixel counts as occluded if flow and return flow miss each other by more (Sundaram et al., ECCV 2010).
OCCLUSION_SHARE = 0.01  # of the squared flows
OCCLUSION_OFFSET = 0.5  # squared pixels
EDGE_WEIGHT = 150.0  # of the picture's gradient ([0, 1] scale) against smoothness


def end_point_loss(flow: Tensor, levels: Sequence[FlowLevel], target: Tensor, visible: Tensor) -> Tensor:
    """Robust end-point error of the flow and of all levels, and the likelihood of the right match.

    `flow` and `levels` as `LightFlowNet.levels_from_features` gives them; `target (N, 2, H, W)`: the known motion;
    `visible (N, H, W)`: where it counts. H and W have to be multiples of the network's `multiple_of`.
    """
    total = _robust_error(flow, target, visible[:, None].float())
    weight = STEP_DECAY
    for level in reversed(levels):
        factor = target.shape[-1] // level.flow.shape[-1]
        seen = visible[:, None].float()
        share = F.avg_pool2d(seen, factor)
        goal = F.avg_pool2d(target * seen, factor) / share.clamp_min(1e-3)
        seen = (share > 0.5).float()
        # A flow that is not a number has to stay a step that is left out, not an index out of range.
        residual = torch.nan_to_num((goal - level.start.detach()) / factor)
        assert level.log_probabilities is not None  # no kernels in training
        match = _match_loss(level.log_probabilities, residual, seen)
        total = total + weight * (_robust_error(level.flow, goal, seen) + MATCH_WEIGHT * match)
        weight *= STEP_DECAY
    return total


def _robust_error(flow: Tensor, goal: Tensor, seen: Tensor) -> Tensor:
    error = torch.linalg.vector_norm(flow.float() - goal, dim=1, keepdim=True)
    return ((error + ROBUST_OFFSET).pow(ROBUST_POWER) * seen).sum() / seen.sum().clamp_min(1.0)


def _match_loss(log_probabilities: Tensor, residual: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of the displacements' distribution against the true one, split among the four nearest.

    Without it the features do not learn to match: a flow of zero is too good a first answer.
    """
    diameter = math.isqrt(log_probabilities.shape[1])
    radius = diameter // 2
    reachable = seen * (residual.abs().amax(1, keepdim=True) < radius)
    corner = residual.clamp(-radius, radius - 1e-3).floor()
    fraction = residual - corner
    x, y = fraction[:, :1], fraction[:, 1:]
    nearest = (corner[:, 1:] + radius) * diameter + corner[:, :1] + radius
    # One gather for all four: each would fill a volume with zeros in its gradient.
    index = torch.cat((nearest, nearest + 1, nearest + diameter, nearest + diameter + 1), 1).long()
    shares = torch.cat(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), 1)
    likelihood = (shares * log_probabilities.gather(1, index) * reachable).sum()
    return -likelihood / reachable.sum().clamp_min(1.0)


def photometric_loss(first: Tensor, second: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Unlikeness of clean `first (N, 3, H, W)` and `second` warped by `flow`, where `visible (N, H, W)`.

    Census distance, which ignores brightness, and the absolute difference, which is what a denoiser suffers from.
    """
    warped = warp_bilinear(second, flow)
    difference = (_census(first) - _census(warped)).square()
    distance = (difference / (CENSUS_DISTANCE_SOFTNESS + difference)).mean(1)
    distance = distance + COLOUR_WEIGHT * (first - warped).abs().mean(1)
    # Windows that reach over the border compare padding.
    margin = CENSUS_WINDOW // 2
    inner = torch.zeros_like(visible)
    inner[:, margin:-margin, margin:-margin] = visible[:, margin:-margin, margin:-margin]
    return (distance * inner).sum() / inner.sum().clamp_min(1.0)


def smoothness_loss(flow: Tensor, first: Tensor) -> Tensor:
    """Second differences of `flow (N, 2, h, w)` but across edges of `first (N, 3, H, W)`; in pixels of the flow's grid.

    H and W are multiples of h and w.
    """
    factor = first.shape[-1] // flow.shape[-1]
    picture = F.avg_pool2d(first, factor) if factor > 1 else first
    flow = flow.float() / factor
    total = flow.new_zeros(())
    for axis in (-1, -2):
        bend = flow.diff(n=2, dim=axis).abs()
        edge = picture.diff(dim=axis).abs().mean(1, keepdim=True)
        length = bend.shape[axis]
        steepest = torch.maximum(edge.narrow(axis, 0, length), edge.narrow(axis, 1, length))
        total = total + (bend * torch.exp(-EDGE_WEIGHT * steepest)).mean()
    return total


@torch.no_grad()
def visible_by_consistency(flow: Tensor, back: Tensor) -> Tensor:
    """Where `flow (N, 2, H, W)` leads into the picture and `back` leads home from there, `(N, H, W)` bool."""
    returned = warp_bilinear(back, flow)
    miss = (flow + returned).square().sum(1)
    allowed = OCCLUSION_SHARE * (flow.square().sum(1) + returned.square().sum(1)) + OCCLUSION_OFFSET
    return (miss < allowed) & inside(flow)


def inside(flow: Tensor) -> Tensor:
    """Whether the targets of `flow (N, 2, H, W)` lie in the picture, `(N, H, W)` bool."""
    x, y = _targets(flow)
    height, width = flow.shape[-2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32)
    rows = torch.arange(height, device=flow.device, dtype=torch.float32)
    return columns + flow[:, 0], rows[:, None] + flow[:, 1]


def _census(frames: Tensor) -> Tensor:
    """`(N, 3, H, W)` on [0, 1] to squashed differences to the neighbours `(N, window^2, H, W)`."""
    grey = BYTE_SCALE * frames.float().mean(1, keepdim=True)
    margin = CENSUS_WINDOW // 2
    padded = F.pad(grey, (margin,) * 4, mode="replicate")
    neighbours = F.unfold(padded, CENSUS_WINDOW).view(len(grey), -1, *grey.shape[-2:])
    difference = neighbours - grey
    return difference * torch.rsqrt(CENSUS_SOFTNESS**2 + difference.square())
