"""Methods that do something simple; importable, since they travel to another process."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from stbn_cli.bench.methods import Run
from stbn_cli.errors import CheckpointError


@dataclass(frozen=True)
class Halving:
    """Halves every value."""

    name: str = "halving"

    def open(self) -> Run:
        opened = [0]

        def run(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, Any]]:
            opened[0] += 1
            return 0.5 * noisy, {"sigma": sigma, "calls": opened[0], "process": os.getpid()}

        return run


@dataclass(frozen=True)
class Hungry:
    """Holds memory while it runs."""

    mebibytes: int
    name: str = "hungry"

    def open(self) -> Run:
        def run(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, Any]]:
            held = np.ones((self.mebibytes, 2**20), np.uint8)
            return noisy, {"sum": int(held[:, 0].sum())}

        return run


@dataclass(frozen=True)
class Failing:
    """Fails in one way or another on clips whose first value is above 0.9."""

    how: str
    name: str = "failing"

    def open(self) -> Run:
        def run(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, Any]]:
            if noisy[0, 0, 0, 0] > 0.9:
                if self.how == "exit":
                    os._exit(7)
                if self.how == "shape":
                    return noisy[1:], {}
                raise (
                    CheckpointError("The model is missing.")
                    if self.how == "known"
                    else ZeroDivisionError("by zero")
                )
            return noisy, {}

        return run
