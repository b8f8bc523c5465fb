"""Runs chunks on one or several workers and gives their frames out in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from stbn_cli.inference.chunks import Chunk
from stbn_cli.inference.worker import Worker


class ChunkScheduler:
    """In the background, a thread for each worker, or here and now.

    In the background the caller prepares the next chunk and hands out the last one's frames while a worker is busy.
    Chunks go to the workers in turn; a chunk starts when the one before hands its forward state on. A context manager:
    leaving it waits for what is under way and drops the rest.
    """

    def __init__(self, workers: Sequence[Worker], *, background: bool) -> None:
        self._workers = workers
        self._turn = 0
        self._threads = [ThreadPoolExecutor(1, "stbn-worker") for _ in workers] if background else []
        self._running: deque[tuple[Chunk, Future[list[np.ndarray]]]] = deque()

    def __enter__(self) -> "ChunkScheduler":
        return self

    def __exit__(self, *_: object) -> None:
        for chunk, result in self._running:
            if result.cancel():
                # Another worker may wait for its state.
                chunk.following.cancel()
        for thread in self._threads:
            thread.shutdown(wait=True)

    def run(self, chunk: Chunk) -> Iterator[tuple[Chunk, list[np.ndarray]]]:
        """Start the chunk; chunks that are finished by then, or that have to make room, with their frames."""
        if not self._threads:
            yield chunk, self._workers[0].run(chunk)
            return
        result = self._threads[self._turn].submit(self._workers[self._turn].run, chunk)
        self._running.append((chunk, result))
        self._turn = (self._turn + 1) % len(self._workers)
        while len(self._running) > len(self._workers):
            yield self._next()

    def finish(self) -> Iterator[tuple[Chunk, list[np.ndarray]]]:
        """All chunks that are still under way, with their frames."""
        while self._running:
            yield self._next()

    def _next(self) -> tuple[Chunk, list[np.ndarray]]:
        chunk, result = self._running.popleft()
        return chunk, result.result()
