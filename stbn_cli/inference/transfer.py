"""Copies between host memory and one device; on CUDA through pinned memory and on streams of their own."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, by the current stream. On CUDA the host does not wait for what that stream does.

    A plain copy from memory that is not pinned would: it begins when the stream is done.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Transfers:
    """Of one device and one thread. On a CPU nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._in = self._out = None
        if device.type == "cuda":
            self._in, self._out = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def upload(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. On CUDA the caller's stream waits for it, the caller does not."""
        if self._in is None:
            return tensor.to(self.device)
        with torch.cuda.stream(self._in):
            copy = upload(tensor, self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._in)
        # The allocator must not hand the memory on before the caller's stream has read it.
        copy.record_stream(current)
        return copy

    def download(self, tensor: Tensor) -> Tensor:
        """The tensor in host memory, whose values are there after `wait`."""
        if self._out is None:
            return tensor.cpu()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._out.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._out):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._out)
        return host

    def wait(self) -> None:
        """Until all downloads have arrived."""
        if self._out is not None:
            self._out.synchronize()
