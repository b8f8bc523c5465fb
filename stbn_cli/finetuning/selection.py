"""Keeps the best weights of a run, and tells whether they are better than the start by more than chance.

Everything is decided on pixels that were never learned from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stbn_cli.finetuning.evaluation import Evaluation
from stbn_cli.finetuning.result import Outcome
from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.sure import Gain, compare_risks

# Prediction errors hold the whole noise. If they have become smaller than it by these factors (of the standard
# deviation; the noise as measured before may be too large), or what is removed has become less, and correlated by so
# much and by so much more than at the start, the network predicts noise.
IDENTITY_FACTOR, IDENTITY_FALL = 0.85, 0.93
IDENTITY_CORRELATION, IDENTITY_RISE = 0.3, 0.15
# A learned level outside this range, relative to that measured between frames, comes from a network that knows nothing.
PLAUSIBLE = (0.75, 1.5)


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """Weights, averaged, the step they are from, and what was found of them."""

    evaluation: Evaluation
    weights: dict[str, Tensor]
    step: int


class CheckpointSelector:
    """`start` is what was found of the model to start from, `assumed` the noise that it is run with.

    `learns`: whether the noise is to be learned. `luma`: whether luma alone is judged, since the channels share their
    noise. `from_noisy`: whether the noisy frames, not the start, are what has to be beaten.
    """

    def __init__(
        self,
        start: Evaluation,
        assumed: NoiseLevelFunction,
        correlation: NoiseCorrelation,
        *,
        learns: bool,
        luma: bool,
        from_noisy: bool,
    ) -> None:
        self._start, self._assumed, self._correlation = start, assumed, correlation
        self._luma, self._from_noisy = luma, from_noisy
        # From the start alone: its uncertainty is calibrated. That of a network in training is not, and noise fitted to
        # it stayed too weak, since the network then learns uncertainty in its place (rafting, sigma 50: red 46 for 50).
        self.noise = self._learned() if learns else assumed
        self.best: TrainedWeights | None = None
        self.gain: Gain | None = None  # of the best
        self.learned_identity = False  # instead of removing it: the run has to end

    @property
    def outcome(self) -> Outcome:
        """As things stand."""
        if self.learned_identity:
            return Outcome.IDENTITY
        return Outcome.IMPROVED if self.gain is not None and self.gain.is_certain else Outcome.NO_GAIN

    def consider(self, evaluation: Evaluation, weights: Mapping[str, Tensor], step: int) -> None:
        """Look at trained weights."""
        self.learned_identity = self._is_identity(evaluation)
        if self.learned_identity:
            return
        if self.best is None or self._risk(evaluation).mean() < self._risk(self.best.evaluation).mean():
            self.keep(evaluation, weights, step)

    def keep(self, evaluation: Evaluation, weights: Mapping[str, Tensor], step: int) -> None:
        """Take these weights for the best."""
        copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.best = TrainedWeights(evaluation, copies, step)
        self.gain = self.gain_over_start(evaluation)

    def gain_over_start(self, evaluation: Evaluation, assumed: NoiseLevelFunction | None = None) -> Gain:
        """What was gained by all that `evaluation` differ in from the start, which is run with `assumed` noise."""
        start = self._start.predictions
        if self._from_noisy:
            variance = self.noise.variance_at(start.mean).expand_as(start.mean).mean(0)
            before = (start.luma_variance(self.noise)[0] if self._luma else variance)[..., 0]
        else:
            before = self._risk(self._start, assumed or self._assumed)
        after, risk = evaluation.predictions, self._risk(evaluation)
        expected = (after.expected_luma_error if self._luma else after.expected_error)(self.noise)
        # Networks expect too little (bus, sigma 50: half), and the risk is too small where the noise is taken for
        # stronger than it is: the larger of both claims less.
        return compare_risks(before, risk, start.group, max(expected, float(risk.mean())))

    def start_error(self) -> float:
        """Mean squared error of the start, [0, 1] scale squared."""
        return float(self._risk(self._start, self._assumed).mean())

    def _risk(self, evaluation: Evaluation, assumed: NoiseLevelFunction | None = None) -> Tensor:
        predictions = evaluation.predictions
        risk = predictions.luma_risk if self._luma else predictions.risk
        return risk(assumed or self.noise, self.noise)

    def _is_identity(self, evaluation: Evaluation) -> bool:
        before, after = self._start, evaluation
        start, errors = (found.predictions.blind_error(luma=self._luma) for found in (before, after))
        sigma = self._correlation.sigma
        if self._luma:
            sigma = float(before.predictions.luma_variance(self._assumed).mean().sqrt())
        knows_noise = errors < IDENTITY_FALL * start and errors < IDENTITY_FACTOR * sigma
        correlation, at_start = abs(after.residual_correlation), abs(before.residual_correlation)
        coloured = correlation > IDENTITY_CORRELATION and correlation > at_start + IDENTITY_RISE
        less = errors < start and after.residual_sigma < IDENTITY_FALL * before.residual_sigma
        return knows_noise or (coloured and less)

    def _learned(self) -> NoiseLevelFunction:
        """The noise that the start's predictions tell of, if it is about as strong as it seems to be without them."""
        predictions = self._start.predictions
        found = predictions.fit_noise(self._assumed)
        believed = (
            self._correlation.sigma if self._correlation.reliable else predictions.noise_level(self._assumed)
        )
        low, high = PLAUSIBLE
        return found if low * believed <= predictions.noise_level(found) <= high * believed else self._assumed
