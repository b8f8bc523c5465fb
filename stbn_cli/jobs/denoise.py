"""Denoising one input into one output, from the first check to the verified file."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from stbn_cli.errors import InterruptedByUserError, OptionError, StbnError
from stbn_cli.files import check_file, whole_file
from stbn_cli.grain.parameters import table_text
from stbn_cli.jobs.adapt import Adaptation, adapt
from stbn_cli.jobs.encoding import Encoding, plan_encoding
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.noise import measure_clip, with_kind
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.resume import kept_words, open_store, room_for, run_key, take_over
from stbn_cli.pipeline import (
    DenoiseSummary,
    UncertaintyWriter,
    denoise_video,
    denoise_video_resumably,
)
from stbn_cli.source import Source
from stbn_cli.video.formats import STANDARD_STREAM

if TYPE_CHECKING:
    from types import TracebackType

    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.chunkstore import ChunkStore, RunKey
    from stbn_cli.inference.denoiser import Denoiser
    from stbn_cli.jobs.model import LoadedDenoiser
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.frames import FrameReader, VideoMetadata
    from stbn_cli.video.reader import FrameCount
    from stbn_cli.video.workfolder import WorkFolder

# What standard deviations are multiplied by in an uncertainty video: 32 of 255 is white.
UNCERTAINTY_GAIN = 8.0
NO_GRAIN = "Hardly any noise was removed, so no film grain is written."
NOWHERE_FLAT = (
    "Film grain is measured where the picture is flat, and no place was: none is written. --keep-grain keeps some of "
    "the noise in the picture instead."
)


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class DenoiseJob:
    """What is to be done. `prepare` refuses what cannot be, before any work."""

    source: Source
    output: str | Path
    options: DenoiserOptions
    encode: "EncodeOptions"
    overwrite: bool = False
    uncertainty: str | Path | None = None  # file of the standard deviations
    keep_progress: bool = False
    resume: bool = False
    restart: bool = False
    adapt_minutes: float | None = None  # of finetuning before; None: none
    raw_noise: tuple[float, float] | None = None  # gain and floor in the camera's values
    grain_table: str | Path | None = None  # file that says what grain was removed
    dry_run: bool = False  # nothing is written, locked or finetuned
    patience: float = 0.0  # seconds to wait for another run of the same output
    resume_command: str = "Run it again and resume."  # how an interrupted run is resumed, a sentence
    # What to do about one that was interrupted before, a sentence.
    choices: str = "Use --resume to continue it, or --restart to start again."

    def prepare(self, events: Events, denoiser: "Denoiser | None" = None) -> "PreparedDenoising":
        """Open the source, check outputs and options, lock the output's place. A context manager.

        denoiser: one that is loaded already; where its kind of noise is open, the clip still decides. Raises one of
        the classes of `StbnError` for what cannot be done.
        """
        return PreparedDenoising(self, events, denoiser)


class PreparedDenoising:
    """A job that can be done: its source is open, its output's place is checked and locked."""

    def __init__(self, job: DenoiseJob, events: Events, denoiser: "Denoiser | None" = None) -> None:
        from stbn_cli.video.losses import check_known_losses
        from stbn_cli.video.output import check_output
        from stbn_cli.video.reader import refuse_changes
        from stbn_cli.video.workfolder import WorkFolder

        self.job, self.events = job, events
        self.measured: Analysis | None = None  # may be set, where it is known
        self.adaptation: Adaptation | None = None
        self.store: ChunkStore | None = None
        self.folder: WorkFolder | None = None
        self._given, self._denoiser = denoiser, None
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.reader: FrameReader = stack.enter_context(
                job.source.open(strict=job.encode.strict, once=True)
            )
            for output in (job.output, job.uncertainty):
                if output is not None:
                    check_output(job.source.path, output, job.overwrite)
            if job.grain_table is not None:
                _check_table(Path(job.grain_table), job)
            losses = check_known_losses(self.reader, job.output, job.encode)
            self.metadata: VideoMetadata = self.reader.metadata
            self._options = self._options_for(job)
            self._check_grain()
            self.encoding: Encoding = plan_encoding(self.metadata, job.output, job.encode, events)
            if job.encode.strict:
                refuse_changes(self.reader)
            events.warn_all(losses)  # before a long film is denoised, and not at its end
            if not job.dry_run and job.output != STANDARD_STREAM:
                self.folder = stack.enter_context(WorkFolder(job.output, job.patience))
                take_over(self.folder, resume=job.resume, restart=job.restart, choices=job.choices)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def count(self) -> "FrameCount":
        """How many frames there are, as far as that can be known before they are read."""
        from stbn_cli.video.reader import count_frames

        return count_frames(self.reader)

    @property
    def denoiser(self) -> "LoadedDenoiser":
        """The denoiser for this clip: measures the noise, adapts the model if that was asked for, and loads it."""
        if self._denoiser is None:
            from stbn_cli.jobs.model import LoadedDenoiser, check_fits, load

            job, options, given = self.job, self._options, self._given
            raw = self.metadata.bayer is not None
            # The noise of raw pictures is measured as they come.
            if self.measured is None and not raw and (given is None or options.open_kind):
                self.measured = measure_clip(options, job.source, self.events)
            if job.adapt_minutes is not None and not job.dry_run:
                place = self.folder.path if self.folder is not None else self._temporary()
                self.adaptation = adapt(
                    options, job.source, job.adapt_minutes, place, self.measured, self.events
                )
                options = self.adaptation.options
            options = with_kind(options, self.measured, self.events)
            if isinstance(given, LoadedDenoiser):
                self._denoiser = given.for_options(options)
            else:
                self._denoiser = load(options, self.events.warn)
            check_fits(self._denoiser, raw=raw)
        return self._denoiser

    def _options_for(self, job: DenoiseJob) -> DenoiserOptions:
        """The job's options, understood for what the frames are."""
        bayer = self.metadata.bayer
        if bayer is None:
            if job.raw_noise is not None:
                raise OptionError(
                    f"--raw-noise is for raw pictures, and {job.source.path} is none. Leave it out, or name its "
                    "pattern by --bayer."
                )
            return job.options
        if job.adapt_minutes is not None:
            raise OptionError(
                "--adapt is for video. Use stbn finetune on raw pictures, and --model with its result."
            )
        options = job.options.for_raw()
        if job.raw_noise is None:
            return options
        from stbn_cli.raw.noise import PoissonGaussian

        span = bayer.white - max(bayer.blacks)
        try:
            noise = PoissonGaussian.of_values(*job.raw_noise, span)
        except ValueError:
            gain, floor = job.raw_noise
            raise OptionError(
                f"--raw-noise {gain:g},{floor:g} is more noise than values of 0 to {span:g} can show. State the "
                "variance's gain and floor in the camera's own values."
            ) from None
        return replace(options, raw_noise=(noise.gain, noise.floor))

    def _check_grain(self) -> None:
        """Raises `OptionError` where film grain makes no sense."""
        from stbn_cli.video.output import resolve_output

        if not self.job.encode.film_grain and self.job.grain_table is None:
            return
        if self.metadata.bayer is not None:
            raise OptionError(
                "--film-grain and --grain-table are for video, not for raw pictures. Leave them out."
            )
        if not self.job.encode.film_grain:
            return
        if resolve_output(self.job.output).kind in ("images", "image"):
            raise OptionError(
                "--film-grain is part of AV1 video; images cannot hold it. Use --grain-table alone."
            )
        if self._options.keep_grain:
            raise OptionError(
                "--keep-grain leaves grain in the picture that --film-grain takes out of it. Give one of them."
            )

    def _temporary(self) -> Path:
        return Path(self._stack.enter_context(TemporaryDirectory()))

    def open_progress(self) -> None:
        """Open what an interrupted run has kept, or a place for what this one will keep, if that is wanted."""
        # A pipe cannot be read again, and of two outputs one alone is kept.
        wanted = self.job.keep_progress and not self.job.source.is_pipe and self.job.uncertainty is None
        if self.folder is None or self.store is not None or not wanted:
            return
        from stbn_cli.chunkstore import STATE_FILE

        if (self.folder.path / STATE_FILE).exists() or room_for(self.folder, self.metadata, self.events):
            self.store = open_store(self.folder, self.reader, self.denoiser, self._deciding())

    def key(self) -> "RunKey":
        """What the frames depend on."""
        return run_key(self.reader, self.denoiser, self._deciding())

    def _deciding(self) -> dict[str, Any]:
        """The options that decide on the frames, as plain values."""
        span = self.job.source.span
        times = {
            name: None if value is None else float(value)
            for name, value in (("start", span.start), ("end", span.end), ("rate", span.rate))
        }
        others = {
            "field": span.field,
            "bayer": None if span.bayer is None else repr(span.bayer),
            "adapt": self.job.adapt_minutes is not None,
            "dither": self.job.encode.dither,
        }
        return self._options.deciding() | times | others

    def run(
        self,
        progress: Callable[[int], None] | None = None,
        stop: Callable[[], bool] = _never,
        verifying: Callable[[], None] = lambda: None,
    ) -> "DenoiseResult":
        """Denoise, verify, put in place.

        verifying: called before the output is checked. stop: asked after each chunk, where progress is kept; True ends
        the run once that chunk is kept. Raises InterruptedByUserError for that and for Ctrl-C where something is kept,
        else KeyboardInterrupt.
        """
        denoiser = self.denoiser
        self.open_progress()
        try:
            summary = write_denoised(
                self.reader,
                self.job.output,
                denoiser,
                self.job.encode,
                overwrite=self.job.overwrite,
                uncertainty=self.job.uncertainty,
                grain_table=self.job.grain_table,
                folder=self.folder,
                store=self.store,
                progress=progress,
                stop=stop,
                verifying=verifying,
            )
        except BaseException as error:
            folder, store = self.folder, self.store
            if folder is None or store is None or not store.frames:
                raise
            folder.keep()
            hint = f"{kept_words(folder, store)} {self.job.resume_command}"
            if isinstance(error, KeyboardInterrupt):
                raise InterruptedByUserError(f"Interrupted; {hint}") from None
            if isinstance(error, StbnError):
                raise type(error)(f"{error} {hint}") from error
            self.events.say(hint)
            raise
        self.events.warn_all(summary.warnings)
        return DenoiseResult(
            self.job, summary, denoiser, self.metadata, self.encoding, self.measured, self.adaptation
        )


@dataclass(frozen=True, slots=True)
class DenoiseResult:
    """What was done."""

    job: DenoiseJob
    summary: DenoiseSummary
    denoiser: "LoadedDenoiser"  # its `report` lists scenes and fallbacks
    metadata: "VideoMetadata"  # of the source
    encoding: Encoding
    measured: "Analysis | None" = None  # the clip's noise; None where it was not measured
    adaptation: Adaptation | None = field(default=None)


def _check_table(path: Path, job: DenoiseJob) -> None:
    """Refuse a table that could not be written, or would take the place of something else. Raises `StbnError`."""
    check_file(path, job.overwrite)
    for other in (job.source.path, job.output, job.uncertainty):
        if other is not None and path.absolute() == Path(other).absolute():
            raise OptionError(f"--grain-table {path} is another file of this run. Name another one.")


def write_denoised(
    reader: "FrameReader",
    output: str | Path,
    denoiser: "Denoiser",
    encode: "EncodeOptions",
    *,
    overwrite: bool = False,
    uncertainty: str | Path | None = None,
    grain_table: str | Path | None = None,
    folder: "WorkFolder | None" = None,
    store: "ChunkStore | None" = None,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = _never,
    verifying: Callable[[], None] = lambda: None,
) -> DenoiseSummary:
    """Denoise the frames of an open reader into a new output, which appears whole and verified, or not at all.

    folder: the locked place of what is not finished; None: hidden files beside the output. store: where finished chunks
    are kept; `stop` is asked after each, and True ends the run with KeyboardInterrupt. grain_table: file for the grain
    that was removed; the summary has it too.
    """
    from stbn_cli.video.adapted_reader import without_streams
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.writer import VideoWriter, create_video

    hidden = None if folder is None else folder.path
    with ExitStack() as stack:
        writer = stack.enter_context(create_video(output, reader, encode, overwrite=overwrite, folder=hidden))
        meter, grain = None, None
        if grain_table is not None or encode.film_grain:
            from stbn_cli.grain.meter import GrainMeter

            meter = GrainMeter(writer.layout, writer.color)

        def encoded() -> None:
            nonlocal grain
            if meter is not None:
                scenes = getattr(getattr(denoiser, "report", None), "scenes", ())
                grain = tuple(meter.segments([scene.first_frame for scene in scenes]))
                if encode.film_grain and isinstance(writer, VideoWriter):
                    writer.add_grain(grain)
            verifying()

        if store is None:
            spread = None
            if uncertainty is not None:
                coding = EncodeOptions(codec="ffv1", pix_fmt="gbrp16le", dither=False)
                made = create_video(uncertainty, without_streams(reader), coding, overwrite=overwrite)
                spread = UncertaintyWriter(stack.enter_context(made), UNCERTAINTY_GAIN)
            summary = denoise_video(
                reader, denoiser, writer, spread=spread, watch=meter, progress=progress, verifying=encoded
            )
        else:
            store.begin(writer.layout, asdict(writer.color))
            summary = denoise_video_resumably(
                reader, denoiser, writer, store, watch=meter, progress=progress, stop=stop, verifying=encoded
            )
    if meter is not None:
        summary = replace(summary, grain=grain)
        if grain and grain_table is not None:
            with whole_file(Path(grain_table)) as partial:
                partial.write_text(table_text(grain))
        if not grain:
            missing = NO_GRAIN if meter.has_measured else NOWHERE_FLAT
            summary = replace(summary, warnings=(*summary.warnings, missing))
    # Only video files have damage to live with; a damaged image ends the run.
    damage = getattr(reader, "damage", None)
    return summary if damage is None else replace(summary, damage=damage)
