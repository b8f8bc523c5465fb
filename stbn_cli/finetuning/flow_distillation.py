"""A flow network learns to see in noisy frames what it sees in the denoised ones (the paper's second stage).

Here for one clip, and before the denoiser is trained: the teacher is the network itself on the frames as the start
denoises them, the pupil a copy on the noisy frames.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.flow.estimator import NetworkFlow
from stbn_cli.training.optimisation import Optimisation

MOST_FRAMES = 24  # that are denoised for the teacher
PATCH, PAIRS = 128, 4  # pixels; pairs of frames a step
LEARNING_RATE = 2e-5
GRADIENT_CLIP = 1.0
FLOW_CROPS = 3  # the purpose of the random numbers


def distil_flow(
    flow: NetworkFlow,
    runs: list[NoisyRun],
    denoise: Callable[[Tensor], Tensor],
    *,
    sigma: float,
    steps: int,
    seed: int,
    precision: torch.dtype,
) -> NetworkFlow:
    """The finetuned flow; `flow` stays as it is.

    `denoise` takes and gives frames `(T, 3, H, W)`; `sigma` ([0, 1]) of the noise; `precision` of the arithmetic.
    """
    device = runs[0].noisy.device
    pairs = _pairs(flow, runs, denoise)
    pupil = flow.copy()
    network = pupil.network.train().requires_grad_(True)
    optimisation = Optimisation(
        network,
        [{"params": list(network.parameters()), "factor": 1.0}],
        device=device,
        precision=precision,
        gradient_clip=GRADIENT_CLIP,
        ema_decay=max(0.5, 1.0 - 10.0 / steps),
    )
    takes_sigma = bool(getattr(network, "takes_sigma", False))

    def loss(step: int) -> Tensor:
        first, second, goal = _crops(pairs, np.random.default_rng((seed, step, FLOW_CROPS)))
        level = (torch.full((len(first),), sigma, device=device),) if takes_sigma else ()
        return (network(first, second, *level).float() - goal).abs().mean()

    for step in range(steps):
        optimisation.advance(lambda step=step: loss(step), LEARNING_RATE * (1.0 - step / steps))
    network.load_state_dict(optimisation.average)
    network.eval().requires_grad_(False)
    return pupil


@torch.no_grad()
def _pairs(
    flow: NetworkFlow, runs: list[NoisyRun], denoise: Callable[[Tensor], Tensor]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Noisy neighbours in both orders, `(3, H, W)` each, and the teacher's flow `(2, H, W)` from one to the other."""
    pairs = []
    left = MOST_FRAMES
    for run in runs:
        frames = run.noisy[:left]
        left -= len(frames)
        if len(frames) < 2:
            continue
        clean = denoise(frames)
        for earlier in range(len(frames) - 1):
            for first, second in ((earlier, earlier + 1), (earlier + 1, earlier)):
                goal = flow(clean[first : first + 1], clean[second : second + 1], 0.0)[0]
                pairs.append((frames[first], frames[second], goal))
        if left <= 1:
            break
    return pairs


def _crops(
    pairs: list[tuple[Tensor, Tensor, Tensor]], random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of some pairs, one after the other and the flow between them, stacked."""
    height, width = (min(pair[0].shape[axis] for pair in pairs) for axis in (-2, -1))
    rows, columns = min(PATCH, height), min(PATCH, width)
    chosen = []
    for _ in range(PAIRS):
        pair = pairs[int(random.integers(len(pairs)))]
        top = int(random.integers(pair[0].shape[-2] - rows + 1))
        left = int(random.integers(pair[0].shape[-1] - columns + 1))
        chosen.append([part[..., top : top + rows, left : left + columns] for part in pair])
    first, second, goal = (torch.stack(part) for part in zip(*chosen, strict=True))
    return first, second, goal
