"""The options that several commands share, as one dataclass for each group, and what they mean.

A command takes such a dataclass as a parameter; `flattened` turns its fields into options of the command.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from stbn_cli.checkpoints.registry import BALANCED
from stbn_cli.cli import options as opt
from stbn_cli.cli.parsing import (
    AUTO,
    PERCENT,
    check_choice,
    parse_bayer,
    parse_count,
    parse_sigma,
    parse_time,
)
from stbn_cli.errors import OptionError, checked_options
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.source import Span
from stbn_cli.video.limits import MAX_PIXELS

if TYPE_CHECKING:
    from stbn_cli.video.encoders import EncodeOptions

Command = TypeVar("Command", bound=Callable[..., None])
Options = TypeVar("Options")

QUIET, NORMAL, VERBOSE = range(3)


@dataclass(frozen=True, slots=True)
class ConfigFlags:
    """Where options come from that are not typed."""

    config: opt.ConfigOpt = None
    use_preset: opt.UsePresetOpt = None


@dataclass(frozen=True, slots=True)
class NamingFlags:
    """Where results go."""

    output: opt.OutputOpt = None
    output_dir: opt.OutputDirOpt = None
    template: opt.TemplateOpt = None
    skip_existing: opt.SkipExistingOpt = False
    fail_fast: opt.FailFastOpt = False
    overwrite: opt.OverwriteOpt = False


@dataclass(frozen=True, slots=True)
class ProgressFlags:
    """What is kept of an interrupted run."""

    resume: opt.ResumeOpt = False
    restart: opt.RestartOpt = False
    keep_progress: opt.KeepProgressOpt = True

    def check(self) -> None:
        """Raises `OptionError` for a contradiction."""
        if self.resume and self.restart:
            raise OptionError("--resume and --restart exclude each other. Use one of them.")


@dataclass(frozen=True, slots=True)
class RangeFlags:
    """Which part of the input."""

    start: opt.StartOpt = None
    end: opt.EndOpt = None

    def seconds(self) -> tuple[float | None, float | None]:
        """Start and end."""
        return parse_time(self.start, "--start"), parse_time(self.end, "--end")


@dataclass(frozen=True, slots=True)
class ReadFlags:
    """How the input is read."""

    fps: opt.FpsOpt = None
    max_pixels: opt.MaxPixelsOpt = MAX_PIXELS
    field: opt.FieldOpt = AUTO
    bayer: opt.BayerOpt = None
    black: opt.BlackOpt = None
    white: opt.WhiteOpt = None

    def span(self, part: RangeFlags | None = None, hardware: str | None = None) -> Span:
        """The part of the input, and how it is read."""
        start, end = (None, None) if part is None else part.seconds()
        bayer = parse_bayer(self.bayer, self.black, self.white)
        return Span(start, end, self.fps, self.field, self.max_pixels, hardware, bayer)


@dataclass(frozen=True, slots=True)
class DenoisingFlags:
    """How much noise of which kind is removed, and with what."""

    quality: opt.QualityOpt = BALANCED
    sigma: opt.SigmaOpt = AUTO
    noise_model: opt.NoiseModelOpt = AUTO
    strength: opt.StrengthOpt = 1.0
    luma: opt.LumaOpt = 1.0
    chroma: opt.ChromaOpt = 1.0
    keep_grain: opt.KeepGrainOpt = 0.0
    model: opt.ModelOpt = AUTO
    passes: opt.PassesOpt = None
    flow: opt.FlowOpt = None
    scene_cuts: opt.SceneCutsOpt = True


@dataclass(frozen=True, slots=True)
class MachineFlags:
    """Where it runs, and in pieces of what size."""

    device: opt.DevicesOpt = AUTO
    precision: opt.PrecisionOpt = AUTO
    chunk: opt.ChunkOpt = AUTO
    chunk_overlap: opt.ChunkOverlapOpt = AUTO
    tile: opt.TileOpt = AUTO
    tile_overlap: opt.TileOverlapOpt = AUTO


@dataclass(frozen=True, slots=True)
class ClusterFlags:
    """Where it runs, if not on this machine alone."""

    cluster: opt.ClusterOpt = None
    cluster_workers: opt.ClusterWorkersOpt = None
    cluster_cpus: opt.ClusterCpusOpt = None
    cluster_part: opt.ClusterPartOpt = None


@dataclass(frozen=True, slots=True)
class EncodingFlags:
    """How a video is encoded."""

    codec: opt.CodecOpt = None
    crf: opt.CrfOpt = None
    preset: opt.PresetOpt = None
    pix_fmt: opt.PixFmtOpt = None
    lossless: opt.LosslessOpt = False

    def options(
        self,
        *,
        dither: bool = True,
        drop_alpha: bool = False,
        strict: bool = False,
        film_grain: bool = False,
    ) -> "EncodeOptions":
        """For the writers of videos."""
        from stbn_cli.video.encoders import EncodeOptions

        return EncodeOptions(
            self.codec,
            self.crf,
            self.preset,
            self.pix_fmt,
            self.lossless,
            dither,
            drop_alpha,
            strict,
            film_grain,
        )


@dataclass(frozen=True, slots=True)
class FidelityFlags:
    """What of the input may be lost."""

    dither: opt.DitherOpt = True
    drop_alpha: opt.DropAlphaOpt = False
    strict: opt.StrictOpt = False


@dataclass(frozen=True, slots=True)
class LoggingFlags:
    """What is said."""

    quiet: opt.QuietOpt = False
    verbose: opt.VerboseOpt = False
    json: opt.JsonOpt = False

    @property
    def verbosity(self) -> int:
        """QUIET, NORMAL or VERBOSE."""
        return QUIET if self.quiet else VERBOSE if self.verbose else NORMAL


@dataclass(frozen=True, slots=True)
class MessageFlags:
    """What is said by commands without details."""

    quiet: opt.QuietOpt = False
    json: opt.JsonOpt = False


def gathered(kind: type[Options], *groups: Any, **understood: Any) -> Options:
    """A dataclass of options from the groups' flags of the same names, and from `understood`, which goes first.

    What is None keeps the class's default; lists become tuples. Raises `OptionError` for values that the class refuses.
    """
    names = {field.name for field in fields(cast(Any, kind))}
    given = {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
    values = {name: value for name, value in given.items() if name in names} | understood
    with checked_options():
        return kind(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if value is not None
            }
        )


def denoiser_options(
    how: DenoisingFlags, machine: MachineFlags, *, uncertainty: bool = False
) -> DenoiserOptions:
    """The flags, understood. Raises `OptionError`."""
    check_choice(how.noise_model, how.model)
    options = gathered(
        DenoiserOptions,
        how,
        machine,
        sigma=parse_sigma(how.sigma),
        keep_grain=how.keep_grain / PERCENT,
        uncertainty=uncertainty,
        noise_kind=None if how.noise_model == AUTO else how.noise_model,
        chunk=parse_count(machine.chunk, "--chunk", 1),
        chunk_overlap=parse_count(machine.chunk_overlap, "--chunk-overlap", 0),
        tile=parse_count(machine.tile, "--tile", 0),
        tile_overlap=parse_count(machine.tile_overlap, "--tile-overlap", 0),
    )
    return options.with_tier()


def flattened(command: Command) -> Command:
    """The command with the fields of its dataclass parameters as options of its own, for Typer to see."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        group = groups.get(name)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        kinds = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=kinds[field.name],
            )
            for field in fields(group)
        ]
    # Arguments first: a signature may not have keywords before them.
    parameters = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in parameters]

    @wraps(command)
    def collected(**given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **values)

    collected.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collected.__annotations__ = {part.name: part.annotation for part in parameters}
    return cast(Command, collected)
