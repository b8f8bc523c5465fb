"""Which model denoises and how it runs, as the user says it: plain values, checked where they are used."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbn_cli.checkpoints.registry import AUTO, BALANCED, BEST, FAST, QUALITIES
from stbn_cli.errors import OptionError, checked_options
from stbn_cli.noise.kinds import KINDS, NoiseKind
from stbn_cli.scale import to_unit

if TYPE_CHECKING:
    from stbn_cli.inference.plan import EngineOptions


@dataclass(frozen=True, slots=True)
class Tier:
    """What a quality decides beside the model, where the user does not."""

    precision: str = AUTO
    chunk_overlap: int | None = None  # frames


# A chunk's last frames gain most from frames looked ahead at; half as many save time, twice as many gain little more.
TIERS = {FAST: Tier(chunk_overlap=3), BALANCED: Tier(), BEST: Tier(precision="fp32", chunk_overlap=12)}


@dataclass(frozen=True, slots=True)
class DenoiserOptions:
    """The arguments of `load_denoiser`; see there. `sigma` on the 0-255 scale."""

    model: str | Path = AUTO
    sigma: float | None = None
    strength: float = 1.0
    luma: float = 1.0
    chroma: float = 1.0
    keep_grain: float = 0.0
    uncertainty: bool = False
    noise_kind: NoiseKind | None = None  # that the model "auto" is for; None: the clip's own
    flow: str | None = None
    device: str = AUTO
    precision: str = AUTO
    chunk: int | None = None
    chunk_overlap: int | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    scene_cuts: bool = True
    quality: str = BALANCED  # one of QUALITIES: what is open follows from it

    def with_tier(self) -> "DenoiserOptions":
        """With what the quality decides in place of what is open, but for the model. Raises `OptionError`."""
        tier = TIERS.get(self.quality)
        if tier is None:
            raise OptionError(f"The quality is one of {', '.join(QUALITIES)}, not {self.quality!r}.")
        return replace(
            self,
            precision=tier.precision if self.precision == AUTO else self.precision,
            chunk_overlap=tier.chunk_overlap if self.chunk_overlap is None else self.chunk_overlap,
        )

    @property
    def open_kind(self) -> bool:
        """Whether the clip's noise decides on the model."""
        return self.noise_kind is None and str(self.model) == AUTO

    @property
    def needs_measuring(self) -> bool:
        """Whether the clip's noise has to be known before it is denoised."""
        return self.sigma is None or self.open_kind

    def check_kind(self) -> None:
        """Refuse a kind of noise that is none, or that a named model is not asked for. Raises `OptionError`."""
        if self.noise_kind is None:
            return
        if self.noise_kind not in KINDS:
            raise OptionError(f"The noise model {self.noise_kind!r} is none of {', '.join(KINDS)}.")
        if str(self.model) != AUTO:
            raise OptionError(
                f"The model {str(self.model)!r} is for one kind of noise, whatever the noise model says. Give one of "
                "them."
            )

    def for_engine(self) -> "EngineOptions":
        """What the engine takes of them. Raises `OptionError` for values out of range."""
        from stbn_cli.inference.plan import EngineOptions

        with checked_options():
            return EngineOptions(
                sigma=to_unit(self.sigma),
                strength=self.strength,
                luma=self.luma,
                chroma=self.chroma,
                keep_grain=self.keep_grain,
                uncertainty=self.uncertainty,
                chunk=self.chunk,
                chunk_overlap=self.chunk_overlap,
                tile=self.tile,
                tile_overlap=self.tile_overlap,
                scene_cuts=self.scene_cuts,
            )

    def deciding(self) -> dict[str, Any]:
        """Those that decide on the frames besides model, device and flow: part of an interrupted run's key."""
        return {
            "sigma": self.sigma,
            "strength": self.strength,
            "luma": self.luma,
            "chroma": self.chroma,
            "keep_grain": self.keep_grain,
            "uncertainty": self.uncertainty,
            "noise_model": self.noise_kind or AUTO,
            "precision": self.precision,
            "chunk": self.chunk,
            "chunk_overlap": self.chunk_overlap,
            "tile": self.tile,
            "tile_overlap": self.tile_overlap,
            "scene_cuts": self.scene_cuts,
        }
