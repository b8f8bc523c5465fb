"""A training step's loss and gradients as one CUDA graph.

A step is thousands of kernels, and starting them one by one takes the CPU longer than the GPU needs to run them.
Recorded once and replayed, they cost the CPU nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T", bound=tuple[Any, ...])

WARM_UP = (
    3  # calls before the recording: libraries choose their algorithms in them, and torch.compile compiles
)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for part in batch:
            yield from tensors_in(part)


class GradientGraph(Generic[T]):
    """`gradients_of(batch)`, recorded for the first batch and replayed for all others, which have the same shapes.

    `gradients_of` gives the loss and leaves its gradients with the parameters of `module`. What it does may depend on
    the values of the batch's tensors alone, and must not wait for the device.
    """

    def __init__(self, module: nn.Module, gradients_of: Callable[[T], Tensor]) -> None:
        self._module = module
        self._gradients_of = gradients_of
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._loss: Tensor | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def __call__(self, batch: T) -> Tensor:
        """The loss; the gradients lie with the parameters until the next call.

        Raises `ValueError` for a batch of other shapes than the first.
        """
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None and self._loss is not None
        given = list(tensors_in(batch))
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in self._inputs]:
            raise ValueError("a recorded step takes batches of one shape")
        for target, tensor in zip(self._inputs, given, strict=True):
            target.copy_(tensor)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss

    def _record(self, batch: T) -> None:
        static = _copied(batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._gradients_of(static)
        torch.cuda.current_stream().wait_stream(stream)
        # Gradients are made anew within the recording, so that every replay writes them instead of adding to them.
        for parameter in self._module.parameters():
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        # The thread that makes batches may go on with its own work on the device.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._loss = self._gradients_of(static)
        self._inputs = list(tensors_in(static))
        self._gradients = [(parameter, parameter.grad) for parameter in self._module.parameters()]
        self._graph = graph


def _copied(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.clone()
    if isinstance(batch, tuple):
        parts = [_copied(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch
