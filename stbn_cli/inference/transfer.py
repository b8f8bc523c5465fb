"""Copies between host memory and one device; through pinned memory and on streams of their own where it has them."""

import torch
from torch import Tensor

from stbn_cli.devices import api_of, kind_of


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, by the current stream. With streams the host does not wait for what that one does.

    A plain copy from memory that is not pinned would: it begins when the stream is done.
    """
    if not kind_of(device).streams or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfers:
    """Of one device and one thread. On a CPU nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._in = self._out = None
        kind = kind_of(device)
        if kind.streams:
            self._api = api_of(kind)
            self._in, self._out = self._api.Stream(device), self._api.Stream(device)

    def upload(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. With streams the caller's waits for it, the caller does not."""
        if self._in is None:
            return tensor.to(self.device)
        with self._api.stream(self._in):
            copy = upload(tensor, self.device)
        current = self._api.current_stream(self.device)
        current.wait_stream(self._in)
        # The allocator must not hand the memory on before the caller's stream has read it.
        copy.record_stream(current)
        return copy

    def download(self, tensor: Tensor) -> Tensor:
        """The tensor in host memory, whose values are there after `wait`."""
        if self._out is None:
            return tensor.cpu()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._out.wait_stream(self._api.current_stream(self.device))
        with self._api.stream(self._out):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._out)
        return host

    def wait(self) -> None:
        """Until all downloads have arrived."""
        if self._out is not None:
            self._out.synchronize()
