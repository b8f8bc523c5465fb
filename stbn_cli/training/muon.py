"""Muon: momentum whose update is made orthogonal, for the weights of hidden convolutions.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. `torch.optim.Muon` takes
matrices alone; here a convolution's weights are one, of `outputs` rows.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
# Coefficients of the quintic Newton-Schulz iteration: singular values of 0.001 to 1 end near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
# Root mean square of Adam's updates, in learning rates; so both take the same learning rate (arXiv 2502.16982).
UPDATE_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Steps down the gradients of weights with two or more axes; the first counts the outputs."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; `closure` is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1.0 - MOMENTUM)
                update = orthogonalised(weight.grad.lerp(momentum, MOMENTUM).flatten(1))
                # An orthogonal matrix has a root mean square of one over the root of its longer side.
                scale = UPDATE_RMS * max(update.shape) ** 0.5
                weight.add_(update.view_as(weight), alpha=-group["lr"] * scale)


def hidden_and_others(network: nn.Module, outputs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Groups of parameters: hidden convolutions for Muon; biases, and layers whose names begin so, for Adam."""
    hidden, others = [], []
    for name, parameter in network.named_parameters():
        (others if parameter.ndim < 4 or name.startswith(outputs) else hidden).append(parameter)
    return [{"params": others, "factor": 1.0}, {"params": hidden, "factor": 1.0, "orthogonal": True}]


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix `(rows, columns)` with singular values of about one (0.7 to 1.2), its directions kept."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, b * square + c * square @ square, x, beta=a)
    return x.T if tall else x
