"""The processes of a run that torchrun started, or the only one."""

import os
from dataclasses import dataclass

import torch
import torch.distributed

from stbn_cli.devices import found_kinds, kind_named


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of this machine

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, batch_size: int, step: int) -> range:
        """Numbers of the sequences of `step` that this process takes, out of all processes' `batch_size`.

        Raises `ValueError` if they cannot be divided evenly.
        """
        each, rest = divmod(batch_size, self.count)
        if rest:
            raise ValueError(f"--batch-size {batch_size} cannot be divided among {self.count} processes")
        first = step * batch_size + self.rank * each
        return range(first, first + each)

    def device(self, name: str) -> str:
        """The device of this process: its own GPU where there are several."""
        kind = kind_named(name)
        shared = self.count > 1 and kind is not None and kind.collective
        return f"{name}:{self.local_rank}" if shared else name

    def anywhere(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is set in any process; all have to ask."""
        if self.count == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(total)
        return bool(total > 0)

    def close(self) -> None:
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def join_processes() -> Processes:
    """Join the group that torchrun's environment describes; without one, this is the only process."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not torch.distributed.is_initialized():
        others = [f",{kind.name}:{kind.collective}" for kind in found_kinds() if kind.collective]
        torch.distributed.init_process_group("".join(["cpu:gloo", *others]) if others else "gloo")
    return Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
