"""How long a stage of the work takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class StageTiming:
    """Seconds spent on `frames` frames: on the clock, and by the processor in all threads of the process."""

    wall: float = 0.0
    cpu: float = 0.0
    frames: int = 0

    @contextmanager
    def measured(self, frames: int = 1) -> Iterator[None]:
        """Adds what happens inside, for so many frames."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            self.frames += frames

    def without(self, wall: float, cpu: float) -> None:
        """Take off what another stage spent in between."""
        self.wall -= wall
        self.cpu -= cpu

    @property
    def wall_per_frame(self) -> float:
        return self.wall / self.frames if self.frames else 0.0

    @property
    def cpu_per_frame(self) -> float:
        return self.cpu / self.frames if self.frames else 0.0
