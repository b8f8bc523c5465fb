"""Which model denoises and how it runs, as the user says it: plain values, checked where they are used."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbn_cli.checkpoints.registry import AUTO, BALANCED, BEST, FAST, QUALITIES, is_for_several_kinds
from stbn_cli.errors import OptionError, checked_options
from stbn_cli.models.config import PASSES
from stbn_cli.noise.kinds import ALL_KINDS, NoiseKind
from stbn_cli.scale import to_unit

if TYPE_CHECKING:
    from stbn_cli.inference.plan import EngineOptions


@dataclass(frozen=True, slots=True)
class Tier:
    """What a quality decides beside the model, where the user does not."""

    precision: str = AUTO
    passes: int | None = None  # None: as the model says


TIERS = {FAST: Tier(), BALANCED: Tier(), BEST: Tier(precision="fp32", passes=4)}


@dataclass(frozen=True, slots=True)
class DenoiserOptions:
    """What `load_denoiser` lets choose.

    model: "auto", a name listed by `stbn weights list`, a path, or "hf:owner/repo[@revision]/file.safetensors".
    sigma: standard deviation of the noise on the 0-255 scale; None estimates it for each scene, or takes what a
        finetuned model has learned of its footage.
    strength: share of the noise that is removed, 0 to 1; above, to 3, it is taken for so many times as strong.
    luma, chroma: shares, 0 to 1, of what is to be removed that are: of its brightness, and of its colour.
    keep_grain: share of the removed brightness noise that is put back, 0 to 1.
    uncertainty: `stream` gives the standard deviation of every value behind it; see `Denoiser.stream`.
    noise_kind: which kind of noise "auto", or a model for several kinds, is to be for: "white", "sensor", "camera" or
        "compressed" (`stbn_cli.analyze` finds out), or "raw", for packed mosaics (`stbn_cli.raw.bayer`); None: the kind
        that `denoise_file` measures in each file, and "white" for arrays. Other models know what they are for.
    flow: optical flow, one of `flow.ESTIMATOR_NAMES`; None takes the one the model was trained with, but on CUDA, ROCm
        and XPU "light" in place of "dis", which would keep the device waiting for the CPU.
    device: auto, cuda, cuda:N (NVIDIA, or AMD with torch's ROCm build), xpu, xpu:N (Intel), mps (Apple) or cpu, or
        several CUDA devices with commas between them, which share the chunks. auto is the first of these that is there.
        On a CPU under Linux the process keeps freed memory for itself from then on (`keep_freed_memory`).
    precision: auto, fp32, fp16 or bf16.
    chunk, chunk_overlap: frames worked on at a time, and looked ahead; None: as memory allows.
    tile, tile_overlap: pixels of a tile (0: never tile), and around it; None: as memory allows.
    scene_cuts: start afresh at scene cuts.
    passes: 1, 2 or 4 times over the video, mirrored in another way each time, for the mean of the results; None: as
        the model says, and 4 with the quality "best". Blind-spot models take one pass.
    quality: "fast", "balanced" or "best": decides on the model "auto" and on what is left open here.
    raw_noise: gain and floor of raw frames' noise, whose variance is gain x + floor where black is 0 and white 1; None
        measures them.
    """

    model: str | Path = AUTO
    sigma: float | None = None
    strength: float = 1.0
    luma: float = 1.0
    chroma: float = 1.0
    keep_grain: float = 0.0
    uncertainty: bool = False
    noise_kind: NoiseKind | None = None
    flow: str | None = None
    device: str = AUTO
    precision: str = AUTO
    chunk: int | None = None
    chunk_overlap: int | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    scene_cuts: bool = True
    passes: int | None = None
    quality: str = BALANCED
    raw_noise: tuple[float, float] | None = None

    def with_tier(self) -> "DenoiserOptions":
        """With what the quality decides in place of what is open, but for the model. Raises `OptionError`."""
        tier = TIERS.get(self.quality)
        if tier is None:
            raise OptionError(f"The quality is one of {', '.join(QUALITIES)}, not {self.quality!r}.")
        if self.passes is not None and self.passes not in PASSES:
            raise OptionError(f"The number of passes is 1, 2 or 4, not {self.passes}.")
        precision = tier.precision if self.precision == AUTO else self.precision
        return replace(self, precision=precision, passes=self.passes or tier.passes)

    @property
    def open_kind(self) -> bool:
        """Whether the clip's noise decides on the model or its conditioning."""
        return self.noise_kind is None and self._takes_several_kinds

    @property
    def _takes_several_kinds(self) -> bool:
        return str(self.model) == AUTO or is_for_several_kinds(str(self.model))

    @property
    def needs_measuring(self) -> bool:
        """Whether the clip's noise has to be known before it is denoised."""
        return self.sigma is None or self.open_kind

    def check_kind(self) -> None:
        """Refuse an unknown kind of noise, and any for a model of one kind. Raises `OptionError`."""
        if self.noise_kind is None:
            return
        if self.noise_kind not in ALL_KINDS:
            raise OptionError(f"The noise model {self.noise_kind!r} is none of {', '.join(ALL_KINDS)}.")
        if self.noise_kind == "raw":
            return  # every raw model is for it, and `load` refuses the others
        if not self._takes_several_kinds:
            raise OptionError(
                f"The model {str(self.model)!r} is for one kind of noise, whatever the noise model says. Give one of "
                "them."
            )

    def for_raw(self) -> "DenoiserOptions":
        """The same for raw frames. Raises `OptionError` for what raw frames do not have."""
        if self.sigma is not None:
            raise OptionError(
                "--sigma is for video: the noise of raw pictures grows with the light. Leave it out, so that it is "
                "measured, or state it by --raw-noise GAIN,FLOOR."
            )
        usual = DenoiserOptions()
        for name in ("luma", "chroma", "keep_grain"):
            if getattr(self, name) != getattr(usual, name):
                flag = name.replace("_", "-")
                raise OptionError(f"--{flag} is for colour video, not for raw pictures. Use --strength.")
        if self.uncertainty:
            raise OptionError("--uncertainty cannot be written for raw pictures. Leave it out.")
        if self.noise_kind not in (None, "raw"):
            raise OptionError(
                f"--noise-model {self.noise_kind} is for video, not for raw pictures. Leave it out."
            )
        return replace(self, noise_kind="raw")

    def for_engine(self) -> "EngineOptions":
        """What the engine takes of them. Raises `OptionError` for values out of range."""
        from stbn_cli.inference.plan import EngineOptions

        values: dict[str, Any] = {option.name: getattr(self, option.name) for option in fields(EngineOptions)}
        values["sigma"] = to_unit(self.sigma)
        with checked_options():
            return EngineOptions(**values)

    def deciding(self) -> dict[str, Any]:
        """Those that decide on the frames besides model, device and flow: part of an interrupted run's key."""
        others = ("model", "quality", "noise_kind", "flow", "device")
        values = {
            option.name: getattr(self, option.name) for option in fields(self) if option.name not in others
        }
        return values | {"noise_model": self.noise_kind or AUTO}
