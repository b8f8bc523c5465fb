"""A recurrent network learns a clip's noise from frame to frame, and frames that it never saw judge what it learned.

For noise that neighbouring pixels share, which a blind spot would see, but that is new in every frame: two aligned
frames show what it looks like, and drawn anew on denoised frames it is what the network learns to remove.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stbn_cli import __version__
from stbn_cli.checkpoints.serial import Checkpoint
from stbn_cli.errors import InputError
from stbn_cli.finetuning.aligned_run import AlignedRun
from stbn_cli.finetuning.alignment import align
from stbn_cli.finetuning.conditioning import Conditioning, Levels, search
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.frame_judge import Denoise, Estimates, FrameJudge, Judgement, View
from stbn_cli.finetuning.gaps import FEWEST_FRAMES, JUDGED_PHASE, LEARNING_PHASES, PERIOD, leave_out
from stbn_cli.finetuning.lessons import Lesson, LessonSource
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import FinetuneSchedule, StepSizes
from stbn_cli.finetuning.redraw import NoiseTexture, texture_of
from stbn_cli.finetuning.result import FinetuneResult, Outcome
from stbn_cli.finetuning.state import RunState, fingerprint
from stbn_cli.finetuning.trainer import (
    SAVE_SECONDS,
    Hooks,
    StartingPoint,
    create_optimisation,
    finetuned_name,
    flow_weights,
)
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.noise.calibration import assumed_levels, assumed_noise
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levels import independent_levels, level_map, uncertain_levels
from stbn_cli.noise.measurement import SceneMeasurement
from stbn_cli.noise.model import LearnedNoise, SceneNoise
from stbn_cli.noise.sure import Gain
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.stopping import StopRequest
from stbn_cli.training.validation import STILL_FRAMES, STILL_SIDE

# Frames in which motion is found, and that show what alignment changes, are denoised as if the noise were so many times
# as strong: what is left of it in them would be learned.
STEADY_FACTOR = 1.5
SMALLEST_ERROR = 1e-6  # [0, 1] scale squared, of a sequence in the loss
FEWEST_COUNTING = 0.05  # of the pixels of all pairs; with fewer nothing can be learned
# When the search for levels ends, as a share of the whole time. What has to be left of that after the last step: the
# last check, and what several passes gain.
SEARCH_SHARE, CHECKS_AT_THE_END = 0.4, 2.0
# A gain by less than this is none, in dB: with noise taken for stronger than it is, a loss was said to gain 0.13.
LEAST_GAIN = 0.2
# What was learned is tried on a still scene, since lessons are too short to show a state that grows. Late frames may
# miss at most so many times as much as the first ones (squared error).
STILL_RATIO = 2.0
FIRST_STILL = 8
# Mirrored passes that the result takes, if they gain at least so much, in dB.
RESULT_PASSES, LEAST_PASSES_GAIN = 4, 0.05


@dataclass(frozen=True, slots=True)
class FrameModels:
    """What learns, and what it has to beat: the model that `stbn denoise` would take."""

    reference: StartingPoint
    learner: StartingPoint  # a recurrent network
    kind: NoiseKind  # of the clips' noise


class FrameTrainer:
    """Call `prepare`, `train` and `result` in this order."""

    def __init__(
        self,
        models: FrameModels,
        options: FinetuneOptions,
        runs: list[NoisyRun],
        schedule: FinetuneSchedule,
        measured: SceneMeasurement,
        hooks: Hooks,
    ) -> None:
        self._options, self._schedule, self._hooks = options, schedule, hooks
        self._measured = measured
        # One pass, as everything is judged; more of them gain about the same for all.
        self._given, models = models, _in_one_pass(models)
        self._models = models
        self._network = recurrent_network(models.learner).train()
        self._start_network = copy.deepcopy(self._network).eval().requires_grad_(False)
        self._config: RecurrentConfig = self._network.config
        self._device, self._precision = models.learner.device, models.learner.precision
        self._runs = [_cut(run, self._config.multiple) for run in runs if len(run.noisy) >= FEWEST_FRAMES]
        self._frames = sum(len(run.noisy) for run in self._runs)
        self._optimisation = create_optimisation(self._network, models.learner, ema_decay=schedule.ema_decay)
        learner, reference = models.learner.checkpoint, models.reference.checkpoint
        self._fingerprint = fingerprint(
            (learner.weights, reference.weights, flow_weights(models.learner.flow) or {}),
            runs,
            (options, models.learner.flow.name, self._precision),
        )
        self._noise = scene_noise(models.learner, measured, options, models.kind)
        self._outcome = Outcome.NO_GAIN
        self._judge: FrameJudge | None = None
        self._reference: tuple[Judgement, ...] = ()
        self._conditioning: Conditioning | None = None
        self._best: _Candidate | None = None
        self._lessons: LessonSource | None = None
        self._still: tuple[Tensor, Tensor] | None = None  # frames that show the same, and those with noise
        self._check_seconds = 0.0

    def prepare(self, saved: RunState | None) -> None:
        """Everything before the first step, or before the one at which the saved run stopped.

        Raises `InputError` if that was another run.
        """
        if saved is not None:
            saved.check(self._fingerprint)
        if not self._runs:
            self._outcome = Outcome.TOO_SHORT
            return
        self._hooks.report_progress("finding motion")
        aligned = [self._align(run) for run in self._runs]
        pairs = [pair for run in aligned for found in run.pairs.values() for pair in found]
        counting = sum(float(pair.weight.float().mean()) for pair in pairs) / len(pairs)
        texture = texture_of(aligned, self._measured.full.model)
        tutor, judge = (
            FrameJudge(aligned, phase, self._schedule.check_pixels, self._config, texture, self._options.seed)
            for phase in (LEARNING_PHASES[0], JUDGED_PHASE)
        )
        if judge.sees_pixels:
            # Where too few pixels count to learn from, several passes may still gain.
            self._hooks.report_progress("judging the start")
            self._judge, self._reference = judge, judge.judge(self._reference_estimates())
        if self._models.kind == "compressed":
            # Noise drawn anew is not like what is left, so that both witnesses are wrong: of bus in H.264 with a CRF of
            # 30 they claimed 0.7 dB for 0.1 dB less.
            self._outcome = Outcome.CODED_NOISE
            return
        if counting < FEWEST_COUNTING or not (tutor.sees_pixels and judge.sees_pixels):
            self._outcome = Outcome.NOTHING_NEW
            return
        assert self._noise.levels is not None
        self._hooks.report_progress("trying noise levels")
        self._conditioning = search(
            self._noise.levels,
            lambda levels, first: tutor.judge(
                self._estimates(self._start_network, levels), None if first is None else (first, first)
            )[0],
            # A run that goes on goes on with the levels that it found.
            lambda: saved is not None or self._hooks.out_of_time(0.0, SEARCH_SHARE),
        )
        if saved is not None:
            self._conditioning = replace(self._conditioning, **saved.training["conditioning"])
        self._keep(self._judge_weights(self._start_network), self._network.state_dict(), 0)
        self._lessons = self._prepare_lessons(texture)
        self._schedule = self._hooks.shorten(
            self._schedule, self._check_seconds, (CHECKS_AT_THE_END - 1.0) * self._check_seconds
        )
        self._optimisation.ema_decay = self._schedule.ema_decay
        if saved is not None:
            self._restore(saved.training)

    def train(self, stop: StopRequest) -> None:
        """All steps, or as many as the time and the user allow."""
        if self._best is None or self._lessons is None:
            return
        steps, checks = self._schedule.steps, self._schedule.checks
        saved = self._hooks.seconds()
        while self._optimisation.step < steps and not stop():
            if self._hooks.out_of_time(CHECKS_AT_THE_END * self._check_seconds):
                break
            step = self._optimisation.step
            loss = partial(lesson_loss, self._network, self._lessons.lesson(step), self._levels)
            self._optimisation.advance(loss, self._schedule.learning_rate_at(step))
            self._hooks.report_progress("training", step + 1, steps, self._gain)
            if step + 1 in checks:
                self._check()
            if step + 1 in checks or self._hooks.seconds() - saved > SAVE_SECONDS:
                self._save()
                saved = self._hooks.seconds()
        if 0 < self._optimisation.step not in checks and not stop():
            self._check()
        self._save()

    def result(self, *, interrupted: bool) -> FinetuneResult:
        """The best weights if they beat what `stbn denoise` would take by more than chance, in several passes.

        Else that itself: in several passes if those are better by more than chance.
        """
        gain, best = self._gain, self._best
        learned = gain is not None and gain.is_certain and gain.decibel >= LEAST_GAIN
        kept = best if learned else None
        averaged, picture = self._gain_of_passes(kept)
        if learned:
            assert gain is not None
            outcome, gain = Outcome.IMPROVED, gain if averaged is None else gain.and_then(averaged)
        elif averaged is not None:
            outcome, gain = Outcome.AVERAGED, averaged
        else:
            outcome = self._outcome
        reference = self._given.reference.checkpoint
        checkpoint = reference
        if kept is not None or averaged is not None:
            header = self._header(outcome, gain, kept)
            checkpoint = self._checkpoint(kept, header, averaged=averaged is not None)
        judge, ahead = self._judge, self._reference
        return FinetuneResult(
            checkpoint=checkpoint,
            outcome=outcome,
            interrupted=interrupted,
            finished=self._lessons is None or self._optimisation.step == self._schedule.steps,
            gain=gain,
            against=reference.info.name,
            noise=self._noise.model,
            level=BYTE_SCALE * self._noise.level,
            correlation=self._measured.correlation,
            flow_distilled=False,
            luma_only=False,
            frames=self._frames,
            steps=self._optimisation.step,
            seconds=self._hooks.seconds(),
            not_learned_because=self._outcome if outcome is Outcome.AVERAGED else None,
            before=judge.noisy_picture() if judge is not None else None,
            start=ahead[0].picture if ahead else None,
            after=picture,
        )

    def _gain_of_passes(self, kept: "_Candidate | None") -> tuple[Gain | None, Tensor | None]:
        """What several passes gain over one with the weights kept, or the start's; None if that is nothing.

        And the result's picture, (3, h, w); None if that is the start's. `stbn denoise` may take as many passes itself,
        or a model that makes one.
        """
        usual = self._given.reference.checkpoint.config
        picture = None if kept is None else kept.judgements[0].picture
        if self._judge is None or not self._reference:
            return None, picture
        if not isinstance(usual, RecurrentConfig) or usual.passes >= RESULT_PASSES:
            return None, picture
        start = self._models.reference
        if kept is not None:
            network, levels, judged = self._with(kept.weights), self._levels, kept.judgements
            error = 0.0  # the levels were found on these clips
        else:
            network, judged = recurrent_network(start).eval(), self._reference
            assumed = scene_noise(start, self._measured, self._options, self._models.kind)
            levels, error = assumed.levels, assumed.level_error
            assert levels is not None
        several = Recurrent(replace(network.config, passes=RESULT_PASSES)).to(start.device)
        several.load_state_dict(network.state_dict())
        gain, averaged = self._judge.gain_of_mean(
            self._estimates(network, levels), self._estimates(several, levels, error), judged[0].level
        )
        certain = gain.is_certain and gain.decibel >= LEAST_PASSES_GAIN
        return (gain, averaged) if certain else (None, picture)

    @property
    def _levels(self) -> Levels:
        """The conditioning levels."""
        assert self._conditioning is not None
        return self._conditioning.levels

    @property
    def _gain(self) -> Gain | None:
        """Of the best so far, by the kind of goals that it does worst by: each favours the network it is made with."""
        if self._best is None:
            return None
        pairs = zip(self._reference, self._best.judgements, strict=True)
        gains = [before.gain_of(after) for before, after in pairs]
        return min(gains, key=lambda gain: gain.decibel - 2.0 * gain.error)

    def _align(self, run: NoisyRun) -> AlignedRun:
        flow, learner = create_flow_estimator("dis"), self._models.learner
        steadies = [self._steady(run.noisy)]
        if self._models.reference is not learner:
            steadies.append(self._steady_reference(run.noisy))
        by_source: dict[int, list[Any]] = {}
        for pair in align(run.noisy, steadies, self._measured.full.model, flow):
            by_source.setdefault(pair.source, []).append(pair)
        gapped = tuple(
            leave_out(run.noisy, phase, learner.flow, self._config.scale, self._noise.level)
            for phase in range(PERIOD)
        )
        return AlignedRun(run, gapped, {source: tuple(pairs) for source, pairs in by_source.items()})

    def _prepare_lessons(self, texture: NoiseTexture | None) -> LessonSource | None:
        """None where the noise could not be looked at, or frames are too small."""
        if texture is None:
            return None
        steady = replace(self._noise, levels=_scaled(self._levels))
        engine = _engine(self._models.learner)
        denoised = [_stream(engine, run.noisy, steady).clamp(0.0, 1.0) for run in self._runs]
        top, left = (max(side - STILL_SIDE, 0) // 2 for side in denoised[0].shape[-2:])
        still = denoised[0][:1, :, top : top + STILL_SIDE, left : left + STILL_SIDE]
        still = still.expand(STILL_FRAMES, -1, -1, -1)
        random = torch.Generator().manual_seed(self._options.seed)
        self._still = still, texture.add_to(still, random)
        lessons = LessonSource(
            denoised,
            texture,
            self._models.learner.flow,
            self._schedule.sizes,
            self._config,
            seed=self._options.seed,
        )
        return None if lessons.empty else lessons

    def _steady(self, frames: Tensor) -> Tensor:
        """`frames (T, 3, H, W)`, denoised rather too much."""
        assert self._noise.levels is not None
        noise = replace(self._noise, levels=_scaled(self._noise.levels))
        return _stream(_engine(self._models.learner), frames, noise)

    def _steady_reference(self, frames: Tensor) -> Tensor:
        """The same by the model that has to be beaten."""
        start = self._models.reference
        noise = scene_noise(start, self._measured, self._options, self._models.kind)
        stronger = replace(
            noise,
            model=noise.model.scaled(STEADY_FACTOR),
            level=STEADY_FACTOR * noise.level,
            levels=None if noise.levels is None else _scaled(noise.levels),
        )
        return _stream(_engine(start), frames, stronger)

    def _reference_estimates(self) -> Any:
        start = self._models.reference
        if start is self._models.learner:
            # In the same way as what it is compared with: `stbn denoise` takes other flows, and undoes clipping.
            assert self._noise.levels is not None
            return self._estimates(self._start_network, self._noise.levels)
        noise = scene_noise(start, self._measured, self._options, self._models.kind)
        engine = _engine(start)
        return lambda view: Estimates(_stream(engine, view.noisy, noise))

    def _estimates(self, network: Recurrent, levels: Levels, error: float = 0.0) -> Any:
        conditioning = uncertain_levels(torch.tensor(levels), error)
        return partial(estimates_of, network.eval(), conditioning, self._precision)

    def _judge_weights(self, network: Recurrent) -> tuple[Judgement, ...]:
        assert self._judge is not None
        begun = self._hooks.seconds()
        found = self._judge.judge(self._estimates(network, self._levels), self._reference)
        self._check_seconds = self._hooks.seconds() - begun
        return found

    def _check(self) -> None:
        """Judge the averaged weights, and keep them if they are the best."""
        weights = self._optimisation.average
        network = self._with(weights)
        denoise = self._estimates(network, self._levels)
        if self._still is not None and not stays_the_same(denoise, *self._still, self._config.scale):
            return
        judgements = self._judge_weights(network)
        if self._best is None or self._best.judgements[0].gain_of(judgements[0]).decibel > 0.0:
            self._keep(judgements, weights, self._optimisation.step)

    def _keep(self, judgements: tuple[Judgement, ...], weights: dict[str, Tensor], step: int) -> None:
        copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self._best = _Candidate(judgements, copies, step)

    def _with(self, weights: dict[str, Tensor]) -> Recurrent:
        """A network with these weights."""
        network = copy.deepcopy(self._start_network)
        network.load_state_dict(weights)
        return network

    def _save(self) -> None:
        best, conditioning = self._best, self._conditioning
        assert conditioning is not None
        training: dict[str, Any] = {
            "conditioning": {"levels": conditioning.levels, "factors": conditioning.factors},
            "optimisation": self._optimisation.state(),
            "network": self._network.state_dict(),
            "best": None if best is None else {"weights": best.weights, "step": best.step},
        }
        self._hooks.save(RunState(self._schedule, self._fingerprint, training, None))

    def _restore(self, training: dict[str, Any]) -> None:
        try:
            self._optimisation.load(training["optimisation"])
            self._network.load_state_dict(training["network"])
            best = training["best"]
            if best is not None and best["step"] > 0:  # the start is known already
                self._keep(self._judge_weights(self._with(best["weights"])), best["weights"], best["step"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The interrupted run cannot be resumed: its state does not fit ({type(error).__name__}). "
                "Start a new one without --resume."
            ) from error

    def _header(self, outcome: Outcome, gain: Gain | None, best: "_Candidate | None") -> dict[str, Any]:
        """What the header says of the run."""
        sizes = self._schedule.sizes
        factors = (1.0, 1.0) if best is None or self._conditioning is None else self._conditioning.factors
        assert gain is not None
        correlation = self._measured.correlation
        return {
            "from": (self._models.reference if best is None else self._models.learner).checkpoint.info.name,
            "way": "frame to frame",
            "against": self._models.reference.checkpoint.info.name,
            "outcome": str(outcome),
            "estimated_gain_db": round(gain.decibel, 3),
            "standard_error_db": round(gain.error, 3),
            "luma_factor": round(factors[0], 3),
            "colour_factor": round(factors[1], 3),
            "steps": self._optimisation.step,
            "planned_steps": self._schedule.steps,
            "kept_step": 0 if best is None else best.step,
            "learning_rate": self._schedule.learning_rate,
            "batch_size": sizes.batch_size,
            "patch_size": sizes.patch_size,
            "train_length": sizes.train_length,
            "seed": self._options.seed,
            "frames": self._frames,
            "noise_level": round(BYTE_SCALE * self._noise.level, 3),
            "noise_known": self._options.sigma is not None,
            "noise_correlation": {
                "luma": round(correlation.luma, 3),
                "chroma": round(correlation.chroma, 3),
            },
            "version": __version__,
            "torch": torch.__version__,
        }

    def _checkpoint(self, best: "_Candidate | None", header: dict[str, Any], *, averaged: bool) -> Checkpoint:
        """What was learned, or the start if `best` is None; `averaged`: in several passes."""
        model = self._given.reference if best is None else self._given.learner
        start = model.checkpoint
        info = replace(
            start.info,
            name=start.info.name if best is None else finetuned_name(start.info.name),
            flow=model.flow.name,
            training={
                **start.info.training,
                "finetuning": [*start.info.training.get("finetuning", []), header],
            },
            noise_kind=self._models.kind,
        )
        weights = start.weights  # of the clips' own level, as `stbn denoise` measures it
        if best is not None:
            learned = LearnedNoise(self._noise.model, self._noise.level, self._levels)
            info = replace(info, noise=learned.describe())
            weights = {name: tensor.cpu() for name, tensor in best.weights.items()}
        config = start.config
        if averaged:
            assert isinstance(config, RecurrentConfig)
            config = replace(config, passes=RESULT_PASSES)
        return Checkpoint(config, info, weights, flow_weights(model.flow) or {})


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Weights, the step they are from, and how they were judged."""

    judgements: tuple[Judgement, ...]  # by each kind of goals
    weights: dict[str, Tensor]
    step: int


def _in_one_pass(models: FrameModels) -> FrameModels:
    """The same, with networks that make one pass."""
    learner = _once(models.learner)
    reference = learner if models.reference is models.learner else _once(models.reference)
    return replace(models, reference=reference, learner=learner)


def _once(start: StartingPoint) -> StartingPoint:
    config = start.checkpoint.config
    if not isinstance(config, RecurrentConfig):
        return start
    return replace(start, checkpoint=replace(start.checkpoint, config=replace(config, passes=1)))


def recurrent_network(start: StartingPoint) -> Recurrent:
    """The network of a start, float32 on its device. Raises `InputError` if it is no recurrent one."""
    network = start.checkpoint.build()
    if not isinstance(network, Recurrent):
        raise InputError(
            f"The model {start.checkpoint.info.name} cannot learn from frame to frame. Give --model real."
        )
    return network.to(device=start.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def scene_noise(
    start: StartingPoint, measured: SceneMeasurement, options: FinetuneOptions, kind: NoiseKind
) -> SceneNoise:
    """The noise that `stbn denoise` with this model assumes in clips whose noise is of this kind."""
    if options.sigma is not None:
        noise = SceneNoise.white(options.sigma)
    elif start.noise is not None:
        found = start.noise
        noise = SceneNoise(found.model, found.conditioning_sigma, levels=found.levels)
    elif start.checkpoint.config.head == "direct":
        return assumed_levels(measured, kind)
    else:
        return assumed_noise(measured, start.checkpoint.info.noise_kind)
    if start.checkpoint.config.head == "direct" and noise.levels is None:
        noise = replace(noise, levels=independent_levels(noise.model, 1))
    return noise


def lesson_loss(network: Recurrent, lesson: Lesson, levels: Levels) -> Tensor:
    """Mean logarithm of the sequences' mean squared errors: sequences of any brightness and detail count alike."""
    frames = lesson.noisy.flatten(0, 1)
    level = level_map(frames, torch.tensor(levels), network.config.scale).unflatten(0, lesson.noisy.shape[:2])
    estimates = network(lesson.noisy, level, lesson.to_previous, lesson.to_next)[0].float()
    return ((estimates - lesson.truth).square().mean((1, 2, 3, 4)) + SMALLEST_ERROR).log().mean()


def example_step(start: StartingPoint, sizes: StepSizes) -> tuple[Recurrent, Callable[[], Tensor]]:
    """A network, and the loss of a step of these sizes on random numbers, to find out how long one takes."""
    network = recurrent_network(_once(start)).train()
    side = sizes.patch_size // network.config.multiple * network.config.multiple
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch_size, sizes.train_length, 3, side, side)
    noisy = torch.rand(shape, generator=generator).to(start.device)
    small = side // network.config.scale
    flow = noisy.new_zeros(*shape[:2], 2, small, small)
    levels = ((0.1,), (0.1,))
    return network, lambda: lesson_loss(network, Lesson(noisy, noisy, flow, flow), levels)


@torch.inference_mode()
def estimates_of(network: Recurrent, levels: Tensor, precision: torch.dtype, view: View) -> Estimates:
    """What a network says of a view, given `levels` as `level_map` takes them."""
    level = level_map(view.noisy, levels, network.config.scale)
    inputs = (part[None] for part in (view.noisy, level, view.to_previous, view.to_next))
    with torch.autocast(view.noisy.device.type, precision, enabled=precision != torch.float32):
        estimate = network(*inputs)[0]
    return Estimates(estimate[0].float())


def stays_the_same(denoise: Denoise, clean: Tensor, noisy: Tensor, scale: int) -> bool:
    """Whether what a network with states at 1/`scale` makes of a long still scene stays as good as it begins.

    `clean`, `noisy (T, 3, H, W)`: STILL_FRAMES that show the same, without and with noise.
    """
    small = (side // scale for side in noisy.shape[-2:])
    flow = noisy.new_zeros(len(noisy), 2, *small)
    errors = (denoise(View(noisy, flow, flow)).frames - clean).square().mean((1, 2, 3))
    first, later = errors[:FIRST_STILL].mean(), errors[FIRST_STILL:].max()
    return bool(later < STILL_RATIO * first)  # nor where it is no number


def _scaled(levels: Levels) -> Levels:
    return tuple(tuple(STEADY_FACTOR * value for value in row) for row in levels)


def _cut(run: NoisyRun, multiple: int) -> NoisyRun:
    """The run without what is beyond a multiple of the network's."""
    height, width = (side // multiple * multiple for side in run.noisy.shape[-2:])
    return replace(run, noisy=run.noisy[..., :height, :width], held_out=run.held_out[..., :height, :width])


def _engine(start: StartingPoint) -> Denoiser:
    """What `stbn denoise` runs with this model."""
    info = start.checkpoint.info
    low, high = (bound / BYTE_SCALE for bound in info.sigma_range)
    return Denoiser(
        start.checkpoint.build(),
        start.flow,
        EngineOptions(),
        device=start.device,
        dtype=start.precision,
        sigma_range=(low, high),
        noise=None if start.checkpoint.config.head == "direct" else start.noise,
        noise_kind=info.noise_kind,
    )


def _stream(engine: Denoiser, frames: Tensor, noise: SceneNoise) -> Tensor:
    """`frames (T, 3, H, W)` of one scene, denoised."""
    plan = engine.plan_for(*frames.shape[-2:])
    pictures = (frame.permute(1, 2, 0).cpu().numpy() for frame in frames)
    denoised = engine.stream_scene(pictures, noise, plan)
    return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in denoised]).to(frames.device)
