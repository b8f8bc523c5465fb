"""What the engine found out and what happened to it in a run."""

from dataclasses import dataclass, field

from stbn_cli.inference.plan import Plan
from stbn_cli.noise.model import UNCLIPPED, Clipping
from stbn_cli.scale import BYTE_SCALE


@dataclass(frozen=True, slots=True)
class SceneReport:
    """What was found out about a scene."""

    first_frame: int
    sigma: float  # of the noise that was assumed, [0, 1]
    estimated: bool
    learned: bool  # known from finetuning, not from the user
    variances: tuple[
        tuple[float, ...], ...
    ]  # assumed, by channel and brightness, as `NoiseLevelFunction` has them
    measured: float | None = None  # where it was estimated: the level, of which `sigma` is made, [0, 1]
    levels: tuple[tuple[float, ...], ...] | None = None  # as `SceneNoise` has them
    clipping: Clipping = UNCLIPPED
    level_error: float = 0.0  # as `SceneNoise` has it

    @property
    def level(self) -> float:
        """The noise level, 0-255 scale: as measured, or as given."""
        return BYTE_SCALE * (self.sigma if self.measured is None else self.measured)


@dataclass(slots=True)
class EngineReport:
    """What happened in the last run."""

    scenes: list[SceneReport] = field(default_factory=list)
    fp32_chunks: int = 0  # chunks done again in float32
    repeated_frames: int = 0  # that show what the one before shows, value for value
    replans: int = 0  # times memory ran out and the plan shrank
    messages: list[str] = field(default_factory=list)
    plan: Plan | None = None  # the smallest one used
