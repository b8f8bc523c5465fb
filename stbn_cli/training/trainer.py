"""The training loop: batches, validations, exact resume, a time limit, several processes."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from stbn_cli import __version__
from stbn_cli.devices import api_of, kind_of
from stbn_cli.errors import InputError, OutputError, StbnError
from stbn_cli.files import whole_file
from stbn_cli.inference.device import is_emulated, resolve_precision
from stbn_cli.stopping import StopRequest, stop_of_learning
from stbn_cli.training.distributed import Processes, join_processes
from stbn_cli.training.graph import GradientGraph
from stbn_cli.training.logging import Journal
from stbn_cli.training.optimisation import Optimisation
from stbn_cli.training.options import FLOW_MODEL, TrainOptions
from stbn_cli.training.prefetch import Prefetcher
from stbn_cli.training.setup import create_task, load_training_footage, open_source

STATE_FILE = "state.pt"
MODEL_FILE = "model.safetensors"  # averaged weights of the last save
BEST_FILE = "best.safetensors"  # averaged weights of the best validation
MINUTE = 60.0
BAD_ROWS = 2  # log rows in a row without a finite loss that end the run
# Options that do not shape the weights, or name folders of the machine.
NOT_DECIDING = frozenset(
    {
        *(
            "log_dir",
            "pool",
            "train_dirs",
            "still_dirs",
            "validation_dirs",
            "device",
            "threads",
            "max_minutes",
            "resume",
        ),
        *("validate_every", "save_every", "log_every", "keep_epochs", "initial", "flow"),
    }
)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    finished: bool  # False: stopped by the time limit or the user; `--resume` goes on
    interrupted: bool  # by the user
    best_score: float | None  # of the validations, higher is better: mean PSNR in dB


class Trainer:
    """One run. `run` trains until the steps, the time or the user's patience are used up."""

    def __init__(self, options: TrainOptions) -> None:
        """Raises `InputError` or `CheckpointError` if files are missing or damaged, `OutputError` if there is a run."""
        self.options = options
        if not options.resume and (options.log_dir / STATE_FILE).exists():
            raise OutputError(
                f"{str(options.log_dir)!r} holds a run already. Continue it with --resume, or name another folder."
            )
        self.processes: Processes = join_processes()
        self.device = torch.device(self.processes.device(options.device))
        self._kind = kind_of(self.device)
        if self._kind.numbered:
            api = api_of(self._kind)
            if self.device.index is None:
                self.device = torch.device(self.device.type, api.current_device())
            api.set_device(self.device)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.numbers(0)  # refuses a batch that cannot be shared before anything is loaded
        torch.manual_seed(options.seed)
        self.precision = resolve_precision(options.precision, self.device)
        if (
            options.precision == "auto"
            and self.precision == torch.float16
            and not is_emulated(torch.bfloat16, self.device)
        ):
            self.precision = torch.bfloat16  # needs no loss scaling
        self.task = create_task(options, self.device, self.precision).to(self.device)
        self.task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.compile:
            # By part: the recurrence as a whole would be unrolled over all frames.
            for part in self.task.network.children():
                part.compile(dynamic=False)
        self.optimisation = Optimisation(
            self.task,
            self.task.parameter_groups(),
            device=self.device,
            precision=self.precision,
            gradient_clip=options.gradient_clip,
            ema_decay=options.ema_decay,
        )
        self.seconds = 0.0
        self.best: float | None = None
        self._validated: dict[str, Any] = {}  # the best validation
        self._data: dict[str, int] = {}
        self._journal: Journal | None = None
        self._report: Callable[[dict[str, Any]], None] = lambda row: None
        if options.resume:
            self._load_state()
        self.model = self._share_among_processes()
        self._gradients: Callable[[Any], Tensor] = self._gradients_of
        if options.compile and self._is_recordable:
            self._gradients = GradientGraph(self.task, self._gradients_of)

    def numbers(self, step: int) -> range:
        """Numbers of the sequences that this process takes at `step`."""
        try:
            return self.processes.share(self.options.batch_size, step)
        except ValueError as error:
            raise InputError(f"The run cannot be shared: {error}. Change one of them.") from error

    def run(self, report: Callable[[dict[str, Any]], None] = lambda row: None) -> TrainResult:
        """Train; `report` receives every row that is also written to the log file.

        Steps whose gradient is not finite are left out; raises `StbnError` if the loss stays so.

        Ctrl-C and SIGTERM end the run after the step that is being made, and it is saved; kill -9 loses what came after
        the last save. Raises `InputError` if there is no footage.
        """
        footage, clips = load_training_footage(self.options)
        source = open_source(self.options, footage, self.task.margin, self.device)
        self._data = {"scenes": len(footage.clips), "frames": footage.frames, "stills": len(footage.stills)}
        self._report = report
        self._journal = Journal(self.options.log_dir, self.step) if self.processes.is_main else None
        batches = Prefetcher(
            lambda step: self.task.prepare(source, self.numbers(step)),  # type: ignore[arg-type]
            self.step,
            self.options.steps,
            self.device,
        )
        try:
            if footage.unreadable:
                self._note({"event": f"left out, unreadable: {', '.join(footage.unreadable)}"})
            with stop_of_learning() as stop:
                self._train(iter(batches), clips, stop)
        finally:
            batches.close()
            if self._journal is not None:
                self._journal.close()
        self.processes.close()
        return TrainResult(self.step, self.step >= self.options.steps, stop(), self.best)

    def _train(self, batches: Iterator[Any], clips: list[Tensor], stop: StopRequest) -> None:
        options = self.options
        begun = saved = time.monotonic()
        before, meter, bad_rows = self.seconds, _Meter(self.device), 0
        while self.step < options.steps:
            with meter.waiting():
                batch = next(batches)
            learning_rate = self._learning_rate((time.monotonic() - begun) / MINUTE)
            loss = self._gradients(batch)
            meter.add(loss, self.optimisation.descend(learning_rate))
            now = time.monotonic()
            self.seconds = before + now - begun
            if self.step % options.log_every == 0:
                row = meter.row()
                left = self._minutes_left(row["steps_per_second"], now - begun)
                self._note({**row, "learning_rate": learning_rate, "minutes_left": left})
                bad_rows = 0 if math.isfinite(row["loss"]) else bad_rows + 1
                if bad_rows == BAD_ROWS:
                    raise StbnError(
                        f"The run diverged before step {self.step}: its loss is not a number any more. Go on from the "
                        "last save with --resume and a lower --lr."
                    )
                meter = _Meter(self.device)
            if options.keep_epochs and self.step % options.steps_per_epoch == 0 and self.processes.is_main:
                name = f"epoch-{self.step // options.steps_per_epoch}.safetensors"
                self.task.save(options.log_dir / name, self.average, self._training())
            late = options.max_minutes is not None and now - begun > MINUTE * options.max_minutes
            ending = self.processes.anywhere(stop() or late, self.device) or self.step == options.steps
            if self.step % options.validate_every == 0 or (ending and not stop()):
                self._save()  # before, so that a validation that fails costs nothing
                self._validate(clips)
                self._save()
                saved = time.monotonic()
            elif ending or now - saved > MINUTE * options.save_every:
                self._save()
                saved = time.monotonic()
            if ending:
                break
        if stop():
            self._note({"event": "interrupted"})

    @property
    def step(self) -> int:
        """Steps made so far."""
        return self.optimisation.step

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.optimisation.average

    def _minutes_left(self, steps_per_second: float, seconds: float) -> float:
        """Until this start of the run ends, at this speed; it began `seconds` ago."""
        left = (self.options.steps - self.step) / steps_per_second / MINUTE
        if self.options.max_minutes is not None:
            left = min(left, max(self.options.max_minutes - seconds / MINUTE, 0.0))
        return round(left, 1)

    def _learning_rate(self, minutes: float) -> float:
        return self.options.learning_rate * self.options.learning_rate_factor(self.step, minutes)

    def _gradients_of(self, batch: Any) -> Tensor:
        return self.optimisation.gradients(partial(self.model, batch))

    @property
    def _is_recordable(self) -> bool:
        """Whether a step does the same whatever the batch: other noise than white is described by objects."""
        options = self.options
        simple = (
            options.model != FLOW_MODEL
            and not options.is_recurrent
            and options.noise == "white"
            and not options.distillation
        )
        alone = self._kind.graphs and self.processes.count == 1
        return simple and alone and self.precision != torch.float16  # whose loss is scaled by what happened

    def _share_among_processes(self) -> torch.nn.Module:
        if self.processes.count == 1:
            return self.task
        devices = [self.device] if self._kind.collective else None
        return torch.nn.parallel.DistributedDataParallel(
            self.task, device_ids=devices, broadcast_buffers=False
        )

    def _validate(self, clips: list[Tensor]) -> None:
        if not clips or not self.processes.is_main:
            return
        validation = self.task.validate(self.average, clips)
        if _measures(self._validated) != _measures(validation.row):
            self.best = None  # of a run that began with a version whose scores are of other parts
        if self.best is None or not validation.score <= self.best:  # whatever is better than not a number
            self.best = validation.score
            self._validated = dict(validation.row)
            self.task.save(self.options.log_dir / BEST_FILE, self.average, self._training())
        self._note(dict(validation.row))
        if self._journal is not None and validation.picture is not None:
            self._journal.show("noisy and denoised", validation.picture.cpu(), self.step)

    def _note(self, row: dict[str, Any]) -> None:
        if self._journal is not None:
            row = {"step": self.step, "minutes": round(self.seconds / MINUTE, 2), **row}
            self._journal.write(row)
            self._report(row)

    def _training(self) -> dict[str, Any]:
        """How the weights came about, for the checkpoint's header; names no folder of this machine."""
        recipe = {
            field.name: getattr(self.options, field.name)
            for field in fields(self.options)
            if field.name not in NOT_DECIDING
        }
        return {
            "steps": self.step,
            "seconds": round(self.seconds),
            "recipe": recipe,
            "data": self._data,
            "validation": self._validated,
            "version": __version__,
            "torch": torch.__version__,
        }

    def _save(self) -> None:
        if not self.processes.is_main:
            return
        state = {
            "model": self.options.model,
            "seconds": self.seconds,
            "best": self.best,
            "validated": self._validated,
            "task": self.task.state_dict(),
            **self.optimisation.state(),
        }
        with whole_file(self.options.log_dir / STATE_FILE) as partial:
            torch.save(state, partial)
        self.task.save(self.options.log_dir / MODEL_FILE, self.average, self._training())

    def _load_state(self) -> None:
        path = self.options.log_dir / STATE_FILE
        if not path.is_file():
            raise InputError(
                f"There is no run to resume: {str(path)!r} does not exist. Start without --resume."
            )
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            if state["model"] != self.options.model:
                raise InputError(
                    f"The run in {str(path.parent)!r} trains {state['model']!r}. Resume it with that --model, "
                    "or start another run."
                )
            self.task.load_state_dict(state["task"])
            self.optimisation.load(state)
            self.seconds, self.best = state["seconds"], state["best"]
            self._validated = state["validated"]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError) as error:
            raise InputError(
                f"The run in {str(path.parent)!r} cannot be resumed: its {STATE_FILE} is damaged or from another "
                f"version of stbn ({type(error).__name__}). Start another run, with --initial from its {MODEL_FILE}."
            ) from error


def _measures(row: Mapping[str, object]) -> set[object]:
    """The names of what a validation's score is the mean of."""
    parts = row.get("psnr")
    return set(parts) if isinstance(parts, Mapping) else set()


class _Meter:
    """Means over the steps between two log rows, without making the device wait at every step."""

    def __init__(self, device: torch.device) -> None:
        self._begun = time.monotonic()
        self._waited = 0.0
        self._steps = 0
        self._loss = torch.zeros((), device=device)
        self._norm = torch.zeros((), device=device)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self._steps += 1
        self._loss += loss
        self._norm += norm

    def row(self) -> dict[str, float]:
        """Loss, norm of the gradient, steps a second, and the share of the time spent on waiting for data."""
        loss, norm = float(self._loss) / self._steps, float(self._norm) / self._steps
        seconds = time.monotonic() - self._begun
        return {
            "loss": loss,
            "gradient_norm": norm,
            "steps_per_second": self._steps / seconds,
            "waiting": self._waited / seconds,
        }
