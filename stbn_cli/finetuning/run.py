"""One finetuning run from clips to result: read, look at the noise, learn, and keep the better of both models."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from stbn_cli.analysis.analysis import Analysis
from stbn_cli.devices import synchronise
from stbn_cli.errors import InputError, MemoryExhaustedError
from stbn_cli.finetuning.crops import CropBatch
from stbn_cli.finetuning.footage import RUN_FRAMES, read_runs
from stbn_cli.finetuning.frame_trainer import FrameModels, FrameTrainer, example_step
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import FinetuneSchedule, StepSizes, choose_sizes, make_schedule
from stbn_cli.finetuning.probe import Probe, probe, probe_raw
from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult, Outcome
from stbn_cli.finetuning.state import RunState, load_state, save_state
from stbn_cli.finetuning.trainer import (
    FinetuneTrainer,
    Hooks,
    NoiseKnowledge,
    StartingPoint,
    blind_loss,
    create_network,
    create_optimisation,
)
from stbn_cli.inference.device import is_out_of_memory, usable_memory
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.sure import Gain
from stbn_cli.raw.pattern import PLANES
from stbn_cli.runs import Clip
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.source import Span
from stbn_cli.stopping import stop_of_learning

MINUTE = 60.0
TIMED_STEPS = 5
# Of a clip, at least, whatever the time: fewer do not show what a network's state becomes. And where frames learn from
# each other.
FRAMES_TO_JUDGE, FRAMES_TO_COMPARE = 8, 12
# Flow is found so many times in every frame that is read, which may take this share of the time.
FLOWS_OF_A_FRAME, FLOW_TIME_SHARE = 6, 0.25
FLOW_SIDE = 256  # pixels of the frames that flow is timed on
SMALLEST_BUDGET = 2**20  # bytes; with less planned for, a step that does not fit never will


class FinetuneRun:
    """One run; call `run` once."""

    def __init__(
        self,
        start: StartingPoint,
        options: FinetuneOptions,
        *,
        frame_models: Callable[[NoiseKind], FrameModels | None] = lambda kind: None,
        state_path: Path | None = None,
        resume: bool = False,
        report: Callable[[FinetuneProgress], None] = lambda progress: None,
    ) -> None:
        """`frame_models`: what learns from noise of a kind that neighbours share, and what it has to beat.

        None where the start was chosen and is for independent noise. `state_path`: where the state of an interrupted
        run is kept, and looked for with `resume`.
        """
        self._frame_models = frame_models
        self._begun = time.monotonic()
        self._one_step = 0.0  # seconds
        self.start, self.options = start, options
        self.device = start.device
        self._state_path = state_path
        self._report = report
        self._saved = load_state(state_path, self.device) if resume and state_path is not None else None

    def run(self, clips: Sequence[Clip], span: Span, measured: Analysis | None = None) -> FinetuneResult:
        """Measure the noise, read, train, judge.

        `measured`: what `analyze` has found in the clip, if there is one. Clips whose noise cannot be learned end the
        run at once. The first Ctrl-C or SIGTERM while it trains ends it with the best so far; earlier it is a
        `KeyboardInterrupt`. Raises `InputError` for clips that cannot be used, `MemoryExhaustedError` if not even the
        smallest step fits.
        """
        self._report_progress("measuring the noise")
        stabiliser = None
        if self.start.checkpoint.config.image_channels == PLANES:
            found, noise = probe_raw(clips, span)
            stabiliser = noise.stabiliser
            self.options = replace(self.options, sigma=stabiliser.sigma)
        else:
            found = probe(clips, span) if measured is None else Probe.of([measured])
        recurrent = isinstance(self.start.checkpoint.config, RecurrentConfig)
        models = self._frame_models(found.clip.verdict.kind) if found.shared or recurrent else None
        if found.shared and (models is None or found.repeated):
            outcome = Outcome.CORRELATED_NOISE if models is None else Outcome.REPEATED_NOISE
            return self._refused(found, outcome, models)
        if found.faint and self.options.sigma is None:
            hint = f" {found.hint}" if found.hint else ""
            raise InputError(
                f"There is hardly any noise in the clips (level {BYTE_SCALE * found.level:.3g}), so "
                f"there is nothing to learn from. If they are noisy, give --sigma.{hint}"
            )
        self._report_progress("reading")
        if models is not None:
            self.start = models.learner
        frame = found.clip.width * found.clip.height * len(clips)  # one of each clip
        if self._saved is None:
            schedule = self._plan(RUN_FRAMES * frame)
        else:
            schedule = self._saved.schedule
            if self.options.steps not in (None, schedule.steps):
                raise InputError(
                    f"The interrupted run has {schedule.steps} steps planned, not {self.options.steps}. Resume it "
                    "without --steps, or start a new one without --resume."
                )
        read = read_runs(
            clips,
            span,
            schedule.clip_pixels,
            self.options.seed,
            stabiliser,
            fewest=FRAMES_TO_JUDGE if models is None else FRAMES_TO_COMPARE,
        )
        runs = [run.to(self.device) for run in read]
        hooks = Hooks(
            self._report_progress, self._save, self._out_of_time, lambda: self._seconds, self._shortened
        )
        trainer: FinetuneTrainer | FrameTrainer
        if models is not None:
            trainer = FrameTrainer(models, self.options, runs, schedule, found.measured, hooks)
        else:
            trainer = FinetuneTrainer(
                self.start, self.options, runs, schedule, self._knowledge(found), found.correlation, hooks
            )
        trainer.prepare(self._saved)
        with stop_of_learning() as stop:
            trainer.train(stop)
            result = trainer.result(interrupted=stop())
        return self._complete(result, found)

    def _refused(self, found: Probe, outcome: Outcome, models: FrameModels | None) -> FinetuneResult:
        """What `stbn denoise` would take, without an attempt."""
        start = self.start if models is None else models.reference
        knowledge, info = self._knowledge(found), start.checkpoint.info
        result = FinetuneResult(
            checkpoint=start.checkpoint,
            outcome=outcome,
            interrupted=False,
            finished=False,
            gain=None,
            against="the noisy frames" if self.options.from_scratch else info.name,
            noise=knowledge.model,
            level=BYTE_SCALE * found.level,
            correlation=found.correlation,
            flow_distilled=False,
            luma_only=False,
            frames=found.frames,
            steps=0,
            seconds=self._seconds,
        )
        return self._complete(result, found)

    def _complete(self, result: FinetuneResult, found: Probe) -> FinetuneResult:
        return replace(result, measured=found, known=self.options.sigma is not None)

    @property
    def _seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._begun

    def _out_of_time(self, needed: float, share: float = 1.0) -> bool:
        """Whether less than `needed` seconds are left of this share of the time.

        A run whose steps were counted takes as long as it takes.
        """
        return self.options.steps is None and self._seconds + needed > share * MINUTE * self.options.minutes

    def _shortened(
        self, schedule: FinetuneSchedule, check_seconds: float, needed: float = 0.0
    ) -> FinetuneSchedule:
        """With what there is time for, now that everything is prepared, before the last `needed` seconds."""
        if self.options.steps is not None or self._saved is not None:
            return schedule
        left = MINUTE * self.options.minutes - self._seconds - needed
        return schedule.shortened(max(left, 0.0), self._one_step, check_seconds)

    def _report_progress(self, phase: str, step: int = 0, steps: int = 0, gain: Gain | None = None) -> None:
        """Tell how far the run is."""
        left = None
        if self.options.steps is None:
            left = max(MINUTE * self.options.minutes - self._seconds, 0.0)
        self._report(FinetuneProgress(phase, step, steps, left, gain))

    def _save(self, state: RunState) -> None:
        """Keep the state for `resume`."""
        if self._state_path is not None:
            save_state(self._state_path, state)

    def _plan(self, wanted_pixels: int) -> FinetuneSchedule:
        """Sizes that fit the memory, and as many steps as fit the time; `wanted_pixels`: to load if they fit."""
        config, memory = self.start.checkpoint.config, usable_memory(self.device)
        choose = partial(
            choose_sizes, config, self.options, self.device.type, value_bytes=self.start.precision.itemsize
        )
        sizes = choose(memory)
        if self.options.steps is None:
            affordable = (
                FLOW_TIME_SHARE * MINUTE * self.options.minutes / (FLOWS_OF_A_FRAME * self._flow_seconds())
            )
            wanted_pixels = min(wanted_pixels, int(affordable))
        while True:
            try:
                self._one_step = self._step_seconds(sizes)
                return make_schedule(config, self.options, sizes, self._one_step, memory, wanted_pixels)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback holds the failed attempt's tensors.
            too_large = sizes
            while sizes == too_large:
                memory //= 2
                if memory < SMALLEST_BUDGET:
                    raise MemoryExhaustedError(
                        f"Memory ran out with {sizes.batch_size} sequences of {sizes.train_length} frames of "
                        f"{sizes.patch_size}x{sizes.patch_size}. Give a smaller --batch-size, --patch-size or --model."
                    )
                sizes = choose(memory)

    def _step_seconds(self, sizes: StepSizes) -> float:
        """Time of a step on random numbers: the shortest, since load of a moment says nothing of the next."""
        if isinstance(self.start.checkpoint.config, RecurrentConfig):
            network, loss = example_step(self.start, sizes)
        else:
            network = create_network(self.start, self.options).train()
            loss = partial(blind_loss, network, self._example(sizes), 0.1, NoiseLevelFunction.white(0.1))
        optimisation = create_optimisation(network, self.start, ema_decay=0.9)
        times = []
        for _ in range(1 + TIMED_STEPS):
            begun = time.perf_counter()
            optimisation.advance(loss, 1e-6)
            synchronise(self.device)
            times.append(time.perf_counter() - begun)
        return min(times[1:])

    def _flow_seconds(self) -> float:
        """Time that flow between two frames takes, for each pixel."""
        generator = torch.Generator().manual_seed(0)
        one, other = torch.rand(2, 1, 3, FLOW_SIDE, FLOW_SIDE, generator=generator).to(self.device)
        begun = 0.0
        for _ in range(2):  # the first time, memory is fetched and kernels are compiled
            begun = time.perf_counter()
            self.start.flow(one, other, 0.1)
            synchronise(self.device)
        return (time.perf_counter() - begun) / FLOW_SIDE**2

    def _example(self, sizes: StepSizes) -> CropBatch:
        generator = torch.Generator().manual_seed(0)
        channels = self.start.checkpoint.config.image_channels
        shape = (sizes.batch_size, sizes.train_length, channels, sizes.patch_size, sizes.patch_size)
        noisy = torch.rand(shape, generator=generator).to(self.device)
        flow = torch.zeros_like(noisy[:, :, :2])
        return CropBatch(noisy, flow, flow, torch.ones_like(noisy[:, :, 0], dtype=torch.bool))

    def _knowledge(self, found: Probe) -> NoiseKnowledge:
        """What `stbn denoise` would tell the start of these clips' noise, and what it would take the noise for."""
        if self.options.sigma is None and self.start.noise is not None:
            return NoiseKnowledge(self.start.noise.model, self.start.noise.conditioning_sigma)
        sigma = (
            self.options.sigma or found.assumed(self.start.checkpoint.info.noise_kind).level or found.level
        )
        low, high = (bound / BYTE_SCALE for bound in self.start.checkpoint.info.sigma_range)
        return NoiseKnowledge(NoiseLevelFunction.white(sigma), min(max(sigma, low), high))
