"""The next batch is made while the network works on this one."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch

from stbn_cli.devices import api_of, kind_of
from stbn_cli.training.graph import tensors_in

T = TypeVar("T")


class _Failure(NamedTuple):
    error: BaseException


class Prefetcher(Generic[T]):
    """Iterates over `make(step)` for the steps from `first` to before `last`, made ahead in a thread of its own.

    Where the device has streams, the work is queued on one of its own, and the caller's stream waits for it. `close`
    ends the thread; an error in `make` is raised where the batch was wanted.
    """

    def __init__(
        self, make: Callable[[int], T], first: int, last: int, device: torch.device, ahead: int = 2
    ) -> None:
        self._make = make
        self._steps = range(first, last)
        self._device = device
        self._kind = kind_of(device)
        self._ready: queue.Queue[tuple[T, torch.Event | None] | _Failure] = queue.Queue(ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stbn-batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        for _ in self._steps:
            item = self._ready.get()
            if isinstance(item, _Failure):
                raise item.error
            batch, event = item
            if event is not None:
                stream = api_of(self._kind).current_stream(self._device)
                stream.wait_event(event)
                for tensor in tensors_in(batch):
                    # Or the other stream would reuse the memory of a batch that is still being read.
                    tensor.record_stream(stream)
            yield batch

    def close(self) -> None:
        """End the thread and forget what it made."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.05)

    def _work(self) -> None:
        try:
            with torch.no_grad():
                if self._kind.streams:
                    # Its small kernels must not queue behind the network's large ones.
                    self._make_all_on_stream(api_of(self._kind).Stream(self._device, priority=-1))
                else:
                    for step in self._steps:
                        if self._closing.is_set():
                            return
                        self._ready.put((self._make(step), None))
        except BaseException as error:  # handed on to the caller, whatever it is
            self._ready.put(_Failure(error))

    def _make_all_on_stream(self, stream: torch.Stream) -> None:
        api = api_of(self._kind)
        with api.stream(stream):
            for step in self._steps:
                if self._closing.is_set():
                    return
                batch = self._make(step)
                event = api.Event()
                event.record(stream)
                self._ready.put((batch, event))
