"""A network learns from noisy frames, and pixels that it never learned from tell whether it got better."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stbn_cli import __version__
from stbn_cli.checkpoints.serial import Checkpoint
from stbn_cli.errors import InputError
from stbn_cli.finetuning.crops import CropBatch, CropSource
from stbn_cli.finetuning.evaluation import Evaluation, HeldOutEvaluator
from stbn_cli.finetuning.flow_distillation import distil_flow
from stbn_cli.finetuning.flows import checkerboards, find_blind_flows
from stbn_cli.finetuning.footage import NoisyRun, some_frames
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import FinetuneSchedule
from stbn_cli.finetuning.result import FinetuneResult, Outcome
from stbn_cli.finetuning.selection import CheckpointSelector, TrainedWeights
from stbn_cli.finetuning.state import RunState, fingerprint
from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.luma import draw_given_luma
from stbn_cli.noise.model import LearnedNoise, NoiseLevelFunction, SceneNoise
from stbn_cli.noise.posterior import gaussian_nll, split_head
from stbn_cli.noise.sure import Gain
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.stopping import StopRequest
from stbn_cli.training.optimisation import Optimisation

GRADIENT_CLIP = 1.0
SAVE_SECONDS = 60.0
# Errors of different channels that are correlated by more than this share their noise.
SHARED_NOISE = 0.5
# Flow is worth finding in denoised frames where their error is this part of the noise's variance, or less.
DISTILLATION_QUALITY = 0.25
DISTILLATION_SHARE = 0.1  # of the steps


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The model to start from, as `stbn denoise` would run it.

    `precision` is that of the network's arithmetic; `noise` what the model has learned of its own footage.
    """

    checkpoint: Checkpoint
    flow: FlowEstimator  # on `device`
    device: torch.device
    precision: torch.dtype
    noise: LearnedNoise | None = None


@dataclass(frozen=True, slots=True)
class NoiseKnowledge:
    """What is known of the noise before anything is learned."""

    model: NoiseLevelFunction
    conditioning_sigma: float  # [0, 1]: what the network is conditioned on


class ProgressReport(Protocol):
    """Receives how far the run is."""

    def __call__(self, phase: str, step: int = 0, steps: int = 0, gain: Gain | None = None) -> None: ...


class OutOfTime(Protocol):
    """Whether less than `needed` seconds are left of a share of the run's time."""

    def __call__(self, needed: float, share: float = 1.0) -> bool: ...


class ShortenSchedule(Protocol):
    """The schedule with the steps and checks that the time allows, but for `needed` seconds at the end."""

    def __call__(
        self, schedule: FinetuneSchedule, check_seconds: float, needed: float = 0.0
    ) -> FinetuneSchedule: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the trainer needs of the run around it."""

    report_progress: ProgressReport
    save: Callable[[RunState], None]
    out_of_time: OutOfTime
    seconds: Callable[[], float]  # since the run began
    shorten: ShortenSchedule


class FinetuneTrainer:
    """Call `prepare`, `train` and `result` in this order."""

    def __init__(
        self,
        start: StartingPoint,
        options: FinetuneOptions,
        runs: list[NoisyRun],
        schedule: FinetuneSchedule,
        noise: NoiseKnowledge,
        correlation: NoiseCorrelation,
        hooks: Hooks,
    ) -> None:
        self._start, self._options, self._hooks = start, options, hooks
        self._runs, self._schedule = runs, schedule
        self._conditioning_sigma, self._known_noise, self._correlation = (
            noise.conditioning_sigma,
            noise.model,
            correlation,
        )
        self._network = create_network(start, options).train()
        self._optimisation = create_optimisation(self._network, start, ema_decay=schedule.ema_decay)
        self._flow, self._distilled = start.flow, False
        self._fingerprint = fingerprint(
            (start.checkpoint.weights, flow_weights(start.flow) or {}),
            runs,
            (options, start.flow.name, start.precision),
        )
        self._selector: CheckpointSelector | None = None
        self._luma = False  # whether to learn from luma alone
        self._check_seconds = 0.0  # that an evaluation takes

    def prepare(self, saved: RunState | None) -> None:
        """Everything before the first step, or before the one at which the saved run stopped.

        Raises `InputError` if that was another run.
        """
        if saved is not None:
            saved.check(self._fingerprint)
        self._hooks.report_progress("finding motion")
        self._evaluate_start()
        if saved is not None and saved.flow is not None:
            self._use_flow(_with_weights(self._start.flow, saved.flow))
        elif saved is None and self._options.distillation:
            self._distil()
        selector = self._prepared_selector
        if not self._options.from_scratch:
            # The start under the noise as it was found to be: the first candidate.
            evaluation = self._evaluate(self._start_network) if self._distilled else self._start_evaluation
            selector.keep(evaluation, self._network.state_dict(), 0)
        level = self._level
        flows = [
            tuple(find_blind_flows(run, board, self._flow, level) for board in checkerboards(run.noisy))
            for run in self._runs
        ]
        self._crops = CropSource(self._runs, flows, self._schedule.sizes, self._options.seed)
        self._schedule = self._hooks.shorten(self._schedule, self._check_seconds)
        self._optimisation.ema_decay = self._schedule.ema_decay
        if saved is not None:
            self._restore(saved.training)

    def train(self, stop: StopRequest) -> None:
        """All steps, or as many as the time and the user allow."""
        steps, checks, selector = self._schedule.steps, self._schedule.checks, self._prepared_selector
        saved = self._hooks.seconds()
        while self._optimisation.step < steps and not (stop() or selector.learned_identity):
            if self._hooks.out_of_time(self._check_seconds):
                break
            step = self._optimisation.step
            batch = self._crops.batch(step)
            loss = partial(
                blind_loss,
                self._network,
                batch,
                self._conditioning_sigma,
                selector.noise,
                self._goal(batch, step),
            )
            self._optimisation.advance(loss, self._schedule.learning_rate_at(step))
            self._hooks.report_progress("training", step + 1, steps, selector.gain)
            if step + 1 in checks:
                self._check()
            if step + 1 in checks or self._hooks.seconds() - saved > SAVE_SECONDS:
                self._save()
                saved = self._hooks.seconds()
        if 0 < self._optimisation.step not in checks and not (stop() or selector.learned_identity):
            self._check()
        self._save()

    def result(self, *, interrupted: bool) -> FinetuneResult:
        """The best weights if they beat the start by more than chance, else the start."""
        return self._result(self._prepared_selector.outcome, interrupted=interrupted)

    @property
    def _prepared_selector(self) -> CheckpointSelector:
        assert self._selector is not None, "prepare comes first"
        return self._selector

    @property
    def _noise(self) -> NoiseLevelFunction:
        return self._known_noise if self._selector is None else self._selector.noise

    @property
    def _level(self) -> float:
        """Of the noise over all runs, [0, 1]."""
        squares = [self._noise.level(some_frames(run.noisy)) ** 2 * run.pixels for run in self._runs]
        return (sum(squares) / sum(run.pixels for run in self._runs)) ** 0.5

    def _evaluate_start(self) -> None:
        """How the start does on the pixels held out, and what these say of the noise."""
        self._start_network = self._start.checkpoint.build_stbn().to(self._start.device)
        self._evaluator = self._create_evaluator(self._start.flow)
        self._start_evaluation = self._evaluate(self._start_network)
        self._luma = self._start_evaluation.predictions.channel_correlation > SHARED_NOISE
        self._selector = CheckpointSelector(
            self._start_evaluation,
            self._known_noise,
            self._correlation,
            learns=self._options.sigma is None and not self._luma,
            luma=self._luma,
            from_noisy=self._options.from_scratch,
        )

    def _create_evaluator(self, flow: FlowEstimator) -> HeldOutEvaluator:
        level = self._level
        hidden = [find_blind_flows(run, run.held_out, flow, level) for run in self._runs]
        return HeldOutEvaluator(self._runs, hidden, self._schedule.check_pixels, self._options.seed)

    def _evaluate(self, network: STBN) -> Evaluation:
        begun = self._hooks.seconds()
        evaluation = self._evaluator.evaluate(
            network.eval(), self._conditioning_sigma, self._noise, self._start.precision
        )
        self._check_seconds = self._hooks.seconds() - begun
        return evaluation

    def _use_flow(self, flow: FlowEstimator) -> None:
        self._flow, self._distilled = flow, True
        self._evaluator = self._create_evaluator(flow)

    def _distil(self) -> None:
        """Finetune the flow network, if there is one and the start is good enough; keep it if that helps."""
        flow = self._start.flow
        good = self._prepared_selector.start_error() <= DISTILLATION_QUALITY * self._level**2
        if not isinstance(flow, NetworkFlow) or not good:
            return
        self._hooks.report_progress("finding motion in denoised frames")
        distilled = distil_flow(
            flow,
            self._runs,
            self._denoise,
            sigma=self._level,
            steps=max(1, round(DISTILLATION_SHARE * self._schedule.steps)),
            seed=self._options.seed,
            precision=self._start.precision,
        )
        before = self._evaluator
        self._use_flow(distilled)
        # The same noise before and after: the flow alone has to be better.
        gain = self._prepared_selector.gain_over_start(self._evaluate(self._start_network), self._noise)
        if not gain.is_certain:
            self._flow, self._distilled, self._evaluator = flow, False, before

    def _denoise(self, frames: Tensor) -> Tensor:
        """`frames (T, 3, H, W)` as the start denoises them."""
        engine = Denoiser(
            self._start.checkpoint.build_stbn(),
            self._start.flow,
            EngineOptions(),
            device=self._start.device,
            dtype=self._start.precision,
            noise=LearnedNoise(self._noise, self._conditioning_sigma),
        )
        plan = engine.plan_for(*frames.shape[-2:])
        pictures = (frame.permute(1, 2, 0).cpu().numpy() for frame in frames)
        denoised = engine.stream_scene(pictures, SceneNoise(self._noise, self._level), plan)
        return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in denoised]).to(
            frames.device
        )

    @torch.no_grad()
    def _goal(self, batch: CropBatch, step: int) -> Tensor:
        """What the network is to predict: the noisy frames, or their luma with colours as the start expects them."""
        if not self._luma:
            return batch.noisy
        with self._optimisation.autocast():
            outputs = self._start_network(
                batch.noisy, self._conditioning_sigma, batch.to_previous, batch.to_next
            )
        sigma = self._noise.sigma_at(split_head(outputs)[0])
        generator = torch.Generator().manual_seed(self._options.seed * 1_000_003 + step)
        return draw_given_luma(outputs, batch.noisy, sigma, generator)

    def _check(self) -> None:
        """HeldOutEvaluator the averaged weights."""
        weights = self._optimisation.average
        self._prepared_selector.consider(
            self._evaluate(self._with(weights)), weights, self._optimisation.step
        )

    def _with(self, weights: dict[str, Tensor]) -> STBN:
        """A network with these weights."""
        network = copy.deepcopy(self._network)
        network.load_state_dict(weights)
        return network

    def _save(self) -> None:
        selector = self._prepared_selector
        best = selector.best
        training: dict[str, Any] = {
            "optimisation": self._optimisation.state(),
            "network": self._network.state_dict(),
            "best": None if best is None else {"weights": best.weights, "step": best.step},
        }
        flow = flow_weights(self._flow) if self._distilled else None
        self._hooks.save(RunState(self._schedule, self._fingerprint, training, flow))

    def _restore(self, training: dict[str, Any]) -> None:
        try:
            self._optimisation.load(training["optimisation"])
            self._network.load_state_dict(training["network"])
            selector = self._prepared_selector
            best = training["best"]
            if best is not None and best["step"] > 0:  # the start is known already
                selector.keep(self._evaluate(self._with(best["weights"])), best["weights"], best["step"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The interrupted run cannot be resumed: its state does not fit ({type(error).__name__}). "
                "Start a new one without --resume."
            ) from error

    def _result(self, outcome: Outcome, *, interrupted: bool) -> FinetuneResult:
        selector, improved = self._selector, outcome is Outcome.IMPROVED
        best = selector.best if selector is not None and improved else None
        gain = selector.gain if selector is not None else None
        name = self._start.checkpoint.info.name
        frames = sum(len(run.noisy) for run in self._runs)
        told: dict[str, Any] = {
            "from": "random weights" if self._options.from_scratch else name,
            "outcome": str(outcome),
            "estimated_gain_db": None if gain is None else round(gain.decibel, 3),
            "standard_error_db": None if gain is None else round(gain.error, 3),
            "steps": self._optimisation.step,
            "planned_steps": self._schedule.steps,
            "kept_step": None if best is None else best.step,
            "learning_rate": self._schedule.learning_rate,
            "batch_size": self._schedule.sizes.batch_size,
            "patch_size": self._schedule.sizes.patch_size,
            "train_length": self._schedule.sizes.train_length,
            "seed": self._options.seed,
            "frames": frames,
            "noise_level": round(BYTE_SCALE * self._level, 3),
            "noise_known": self._options.sigma is not None,
            "luma_only": self._luma,
            "noise_correlation": {
                "luma": round(self._correlation.luma, 3),
                "chroma": round(self._correlation.chroma, 3),
            },
            "flow_distilled": improved and self._distilled,
            "version": __version__,
            "torch": torch.__version__,
        }
        return FinetuneResult(
            checkpoint=self._checkpoint(best, told),
            outcome=outcome,
            interrupted=interrupted,
            finished=self._optimisation.step == self._schedule.steps,
            gain=gain,
            against="the noisy frames" if self._options.from_scratch else name,
            noise=self._noise,
            level=BYTE_SCALE * self._level,
            correlation=self._correlation,
            flow_distilled=improved and self._distilled,
            luma_only=self._luma,
            frames=frames,
            steps=self._optimisation.step,
            seconds=self._hooks.seconds(),
            before=self._evaluator.noisy_picture() if selector is not None else None,
            start=self._start_evaluation.picture if selector is not None else None,
            after=best.evaluation.picture if best is not None else None,
        )

    def _checkpoint(self, best: TrainedWeights | None, told: dict[str, Any]) -> Checkpoint:
        start = self._start.checkpoint
        training = {**start.info.training, "finetuning": [*start.info.training.get("finetuning", []), told]}
        info = replace(start.info, training=training)
        if best is None:
            return replace(start, info=info)
        learned = LearnedNoise(self._noise, self._conditioning_sigma)
        info = replace(info, name=finetuned_name(info.name), flow=self._flow.name, noise=learned.describe())
        weights = {name: tensor.cpu() for name, tensor in best.weights.items()}
        return Checkpoint(start.config, info, weights, flow_weights(self._flow) or {})


FINETUNED = "-finetuned"


def finetuned_name(name: str) -> str:
    """What a finetuned model is called."""
    return name.removesuffix(FINETUNED) + FINETUNED


def create_network(start: StartingPoint, options: FinetuneOptions) -> STBN:
    """The network to train, float32 on its device."""
    torch.manual_seed(options.seed)
    network = STBN(start.checkpoint.stbn_config) if options.from_scratch else start.checkpoint.build_stbn()
    return network.to(device=start.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def create_optimisation(network: nn.Module, start: StartingPoint, *, ema_decay: float) -> Optimisation:
    """The optimiser of all weights of the network."""
    return Optimisation(
        network,
        [{"params": list(network.parameters()), "factor": 1.0}],
        device=start.device,
        precision=start.precision,
        gradient_clip=GRADIENT_CLIP,
        ema_decay=ema_decay,
    )


def blind_loss(
    network: STBN, batch: CropBatch, told: float, noise: NoiseLevelFunction, goal: Tensor | None = None
) -> Tensor:
    """Mean negative log likelihood of the target pixels of `goal` under the network's priors and `noise`.

    `goal (N, T, 3, P, P)`: what is to be predicted; None: the noisy frames themselves.
    """
    outputs = network(batch.noisy, told, batch.to_previous, batch.to_next)
    # The noise is a matter of the clip, not of the prediction: no gradient through its brightness.
    sigma = noise.sigma_at(split_head(outputs.detach())[0])
    losses = gaussian_nll(outputs, batch.noisy if goal is None else goal, sigma)
    return (losses * batch.targets).sum() / batch.targets.sum().clamp_min(1)


def flow_weights(flow: FlowEstimator) -> dict[str, Tensor] | None:
    """Those of a flow network, on the CPU; None where there is none."""
    if not isinstance(flow, NetworkFlow):
        return None
    return {name: tensor.cpu() for name, tensor in flow.network.state_dict().items()}


def _with_weights(flow: FlowEstimator, weights: dict[str, Tensor]) -> FlowEstimator:
    assert isinstance(flow, NetworkFlow)
    flow = flow.copy()
    flow.network.load_state_dict(weights)
    return flow
