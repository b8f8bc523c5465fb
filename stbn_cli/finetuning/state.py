"""The state of a run on disk, so that an interrupted one can go on as if nothing had happened."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from stbn_cli.errors import InputError, OutputError
from stbn_cli.files import whole_file
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import FinetuneSchedule, StepSizes

VERSION = 2
# Pixels that go into the fingerprint of the clips: every so many rows and columns.
FINGERPRINT_STEP = 8


@dataclass(frozen=True, slots=True)
class RunState:
    """What has to be known beside the clips and the start to go on with a run."""

    schedule: FinetuneSchedule
    fingerprint: str  # of start, clips and options
    training: dict[str, Any]  # `Optimisation.state`, weights, noise, the best so far
    flow: dict[str, Tensor] | None  # weights of a distilled flow network

    def check(self, fingerprint: str) -> None:
        """Raises `InputError` if the state is that of another run."""
        if self.fingerprint != fingerprint:
            raise InputError(
                "The interrupted run had other clips, options or another model to start from. "
                "Resume it with those, or start a new one without --resume."
            )


def save_state(path: Path, state: RunState) -> None:
    """Write a state; the file appears whole or not at all. Raises `OutputError`."""
    content = {
        "version": VERSION,
        "schedule": asdict(state.schedule),
        "fingerprint": state.fingerprint,
        "training": state.training,
        "flow": state.flow,
    }
    try:
        with whole_file(path) as partial:
            torch.save(content, partial)
    except RuntimeError as error:  # of torch.save, where the disk is full
        raise OutputError(
            f"The state of the run cannot be written to {str(path)!r} ({error}). Make room, or name another output."
        ) from error


def load_state(path: Path, device: torch.device) -> RunState:
    """Read what `save_state` wrote. Raises `InputError` if it is not there or not readable."""
    if not path.is_file():
        raise InputError(
            f"There is no interrupted run to resume: {str(path)!r} does not exist. Start without --resume."
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        schedule = content["schedule"]
        sizes = StepSizes(**schedule.pop("sizes"))
        return RunState(
            FinetuneSchedule(**schedule, sizes=sizes),
            content["fingerprint"],
            content["training"],
            content["flow"],
        )
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        EOFError,
        UnpicklingError,
    ) as error:
        raise InputError(
            f"The interrupted run in {str(path)!r} cannot be resumed: the file is damaged or from another version of "
            f"stbn ({type(error).__name__}). Delete it and start again."
        ) from error


def fingerprint(
    weights: Iterable[Mapping[str, Tensor]],
    runs: list[NoisyRun],
    told: tuple[FinetuneOptions, str, torch.dtype],
) -> str:
    """A hash that tells whether a run is gone on with as it began.

    `weights`: of the networks of the start; `told`: options, name of the flow, and precision.
    """
    digest = hashlib.sha256()
    for tensors in weights:
        for tensor in tensors.values():
            digest.update(tensor.float().cpu().numpy().tobytes())
    step = FINGERPRINT_STEP
    for run in runs:
        digest.update(run.noisy[..., ::step, ::step].contiguous().cpu().numpy().tobytes())
    # How long and how many belong to the schedule, which a resumed run takes over.
    options, *others = told
    fixed = {name: value for name, value in asdict(options).items() if name not in ("minutes", "steps")}
    digest.update(repr((sorted(fixed.items()), others)).encode())
    return digest.hexdigest()
