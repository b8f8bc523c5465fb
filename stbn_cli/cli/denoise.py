"""`stbn denoise`: parse, run the job, report. Heavy libraries are imported inside, so that help is instant."""

import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.adaptation import describe, explanation, gained
from stbn_cli.cli.batch import Item, Naming, output_folder, plan_batch, run_batch
from stbn_cli.cli.cluster import check_cluster, denoise_on_cluster
from stbn_cli.cli.console import say, say_beginning, show, show_json, show_table, warn
from stbn_cli.cli.flags import (
    NORMAL,
    QUIET,
    VERBOSE,
    ClusterFlags,
    ConfigFlags,
    DenoisingFlags,
    EncodingFlags,
    FidelityFlags,
    LoggingFlags,
    MachineFlags,
    NamingFlags,
    ProgressFlags,
    RangeFlags,
    ReadFlags,
    denoiser_options,
    flattened,
)
from stbn_cli.cli.parsing import check_pipes, parse_raw_noise
from stbn_cli.cli.progress import BatchPlace, FinetuneDisplay, FrameProgress
from stbn_cli.cli.report import RunReport, describe_grain, fields, grain_line, plan_rows
from stbn_cli.errors import InterruptedByUserError, OptionError
from stbn_cli.jobs.events import Events
from stbn_cli.source import Source
from stbn_cli.stopping import StopRequest
from stbn_cli.video.formats import STANDARD_STREAM, WRITABLE_SUFFIXES

if TYPE_CHECKING:
    from stbn_cli.finetuning.result import FinetuneResult
    from stbn_cli.jobs.denoise import DenoiseJob, DenoiseResult, PreparedDenoising

ADAPT_MINUTES = 10.0

EXAMPLES = opt.epilog(
    "stbn denoise clip.mp4",
    "stbn denoise clip.mp4 clean.mp4",
    "stbn denoise clip.mp4 -o clean.mkv --quality best --crf 14",
    "stbn denoise clip.mp4 --adapt --adapt-minutes 5",
    "stbn denoise clip.mp4 --start 1:30 --end 1:40 --dry-run",
    "stbn denoise 'frames/%05d.png' -o clean/",
    "stbn denoise dngs/ -o clean/",
    "stbn denoise mosaics/ -o clean/ --bayer GBRG --black 240 --white 4095",
    "stbn denoise a.mp4 clips/ 'raw/*.mkv' --output-dir clean/ --skip-existing",
    "stbn denoise archive/ --output-dir clean/ --cluster auto",
    "ffmpeg -i in.mp4 -f yuv4mpegpipe -strict -1 - | stbn denoise - | ffmpeg -i - out.mp4",
)
# What the short help shows.
MAIN_OPTIONS = (
    "--output",
    "--overwrite",
    "--quality",
    "--strength",
    "--chroma",
    "--sigma",
    "--adapt",
    "--start",
    "--end",
    "--crf",
    "--use-preset",
    "--resume",
    "--dry-run",
)


@flattened
def denoise(
    sources: opt.InputsArg,
    naming: NamingFlags,
    kept_options: ConfigFlags,
    kept: ProgressFlags,
    part: RangeFlags,
    read: ReadFlags,
    how: DenoisingFlags,
    machine: MachineFlags,
    cluster: ClusterFlags,
    encoding: EncodingFlags,
    fidelity: FidelityFlags,
    logging: LoggingFlags,
    uncertainty: opt.UncertaintyOpt = None,
    dry_run: opt.DryRunOpt = False,
    adapt: opt.AdaptOpt = False,
    adapt_minutes: opt.AdaptMinutesOpt = None,
    hardware: opt.HardwareOpt = None,
    raw_noise: opt.RawNoiseOpt = None,
    film_grain: opt.FilmGrainOpt = False,
    grain_table: opt.GrainTableOpt = None,
) -> None:
    """Remove noise from videos. Sound, subtitles, timing and colours stay as they are.

    stbn measures the noise and chooses the model for it. The output gets its name only when it is complete and checked;
    the input is never changed.

    Ctrl-C finishes the current chunk, saves it, and prints the command to resume. Press it twice to stop at once.
    During --adapt, Ctrl-C ends the adapting alone; the best model so far denoises the video.
    """
    kept.check()
    options = denoiser_options(how, machine, uncertainty=uncertainty is not None)
    span = read.span(part, hardware)
    raw_values = parse_raw_noise(raw_noise)
    if naming.skip_existing and naming.overwrite:
        raise OptionError("--skip-existing and --overwrite exclude each other. Use one of them.")
    if adapt and adapt_minutes is None:
        adapt_minutes = ADAPT_MINUTES
    if uncertainty is not None and uncertainty.suffix.lower() != ".mkv":
        raise OptionError(
            f"--uncertainty {uncertainty}: the name must end in .mkv (it is lossless 16-bit video)."
        )
    names = Naming(naming.output, naming.output_dir, naming.template)
    if naming.overwrite and names == Naming() and len(sources) == 2 and all(map(os.path.isfile, sources)):
        raise OptionError(
            f"With --overwrite it is unclear what {sources[1]} is. If it is the output, use -o {sources[1]}; to "
            "denoise both videos, use --output-dir."
        )
    batch = plan_batch(sources, names, WRITABLE_SUFFIXES)

    def job_of(item: Item) -> "DenoiseJob":
        from stbn_cli.jobs.denoise import DenoiseJob

        return DenoiseJob(
            source=Source(item.source, span),
            output=item.output,
            options=options,
            encode=encoding.options(
                dither=fidelity.dither,
                drop_alpha=fidelity.drop_alpha,
                strict=fidelity.strict,
                film_grain=film_grain,
            ),
            overwrite=naming.overwrite,
            uncertainty=None if uncertainty is None else str(uncertainty),
            keep_progress=kept.keep_progress,
            resume=kept.resume,
            restart=kept.restart,
            adapt_minutes=adapt_minutes,
            raw_noise=raw_values,
            grain_table=grain_table,
            dry_run=dry_run,
            resume_command=f"Resume with: {_command()}",
        )

    def run(item: Item, place: BatchPlace | None = None) -> dict[str, Any] | None:
        if not logging.quiet:
            say_beginning(item.source, measuring=options.needs_measuring)
        try:
            return _run(job_of(item), logging, place, kept_options.config)
        except KeyboardInterrupt:
            left = "" if item.output == STANDARD_STREAM else f"; nothing was written to {item.output}"
            raise InterruptedByUserError(f"Interrupted{left}.") from None

    if uncertainty is not None and batch.many:
        raise OptionError(
            "--uncertainty names one file, but there are several inputs. Denoise them one at a time."
        )
    if grain_table is not None and batch.many:
        raise OptionError(
            "--grain-table names one file, but there are several inputs. Denoise them one at a time."
        )
    for item in batch.items:
        check_pipes(item.source, item.output, adapt=adapt_minutes is not None, json=logging.json)
    if cluster != ClusterFlags():
        check_cluster(
            cluster,
            batch,
            machine,
            kept,
            uncertainty=uncertainty,
            adapt_minutes=adapt_minutes,
            dry_run=dry_run,
        )
        with output_folder(batch.folder):
            denoise_on_cluster(
                batch.items, job_of, cluster, naming, logging, restart=kept.restart, device=machine.device
            )
        return
    with output_folder(batch.folder):
        if batch.many or naming.skip_existing:
            run_batch(
                batch.items,
                run,
                skip_existing=naming.skip_existing,
                fail_fast=naming.fail_fast,
                quiet=logging.quiet,
                json=logging.json,
            )
        elif (document := run(batch.items[0])) is not None and logging.json:
            show_json(document)


def _command() -> str:
    """The command line of this process with --resume."""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--restart")]
    place = words.index("--") if "--" in words else len(words)
    return shlex.join(["stbn", *words[:place], "--resume", *words[place:]])


def _run(
    job: "DenoiseJob", logging: LoggingFlags, place: BatchPlace | None, config: str | None
) -> dict[str, Any]:
    """Run one job, or print its plan; what was done, as plain values."""
    verbosity = logging.verbosity
    events = Events(
        show_warning=warn,
        say=(lambda message: None) if logging.quiet else say,
        analysing=lambda: FrameProgress(None, phase="analysing", quiet=logging.quiet, place=place),
        finetuning=lambda: FinetuneDisplay(purpose="adapting", quiet=logging.quiet, place=place),
        adapted=lambda result: _tell_adaptation(result, events, verbosity),
    )
    with job.prepare(events) as prepared:
        if job.dry_run:
            return _plan(prepared, logging, config)
        report = _report_of(prepared)
        prepared.open_progress()
        if verbosity >= VERBOSE:
            for name, value in fields(report.plan()):
                say(f"{name}: {value}")
        elif verbosity >= NORMAL:
            say(report.headline())
        store = prepared.store
        if store is not None and store.frames and verbosity >= NORMAL:
            say(f"Resuming after frame {store.frames}.")
        with (
            StopRequest(_finishing) if store is not None else nullcontext() as stop,
            FrameProgress(
                prepared.metadata.frame_count,
                quiet=verbosity <= QUIET,
                start=0 if store is None else store.frames,
                place=place,
            ) as progress,
        ):
            prepared.denoiser.on_work = progress.working
            result = prepared.run(progress, stop or bool, lambda: progress.phase("verifying"))
    return _tell(report, result, verbosity)


def _finishing() -> None:
    say("Finishing the current chunk. Press Ctrl-C again to stop at once.")


def _report_of(prepared: "PreparedDenoising") -> RunReport:
    job = prepared.job
    return RunReport(
        source=str(job.source.path),
        output=str(job.output),
        metadata=prepared.metadata,
        encoding=prepared.encoding,
        sigma=job.options.sigma,
        denoiser=prepared.denoiser,
        events=prepared.events,
        measured=prepared.measured,
    )


def _plan(prepared: "PreparedDenoising", logging: LoggingFlags, config: str | None) -> dict[str, Any]:
    from stbn_cli.chunkstore import estimated_bytes

    job, found = prepared.job, prepared.count()
    report = _report_of(prepared)
    metadata = replace(prepared.metadata, frame_count=found.frames)
    kept = estimated_bytes(metadata) if job.keep_progress else None
    plan = {
        **report.plan(found),
        "film_grain": {
            "in_stream": job.encode.film_grain,
            "table": None if job.grain_table is None else str(job.grain_table),
        },
        "adapt_minutes": job.adapt_minutes,
        "progress_bytes": kept,
        "config": config,
    }
    if not logging.json:
        show_table(list(plan_rows(plan)))
        show("Ready to run. Nothing was written (--dry-run).")
    return plan


def _tell_adaptation(result: "FinetuneResult", events: Events, verbosity: int) -> None:
    text = explanation(result)
    if text and not result.improved:
        events.warn(text)
    if verbosity >= NORMAL:
        end = "Adapting interrupted; using the best model so far" if result.interrupted else "Adapted"
        say(f"{end}: {gained(result)}")
        if text and result.improved:
            say(text)


def _tell(report: RunReport, result: "DenoiseResult", verbosity: int) -> dict[str, Any]:
    """Say what was done; the same as plain values."""
    if warning := report.strong_noise():
        report.events.warn(warning)
    if verbosity >= VERBOSE:
        for scene in report.scenes(conditioning=True):
            say(
                f"From frame {scene['first_frame']}: noise level {scene['level']:.4g}, conditioning level "
                f"{scene['conditioning']['level']:.4g}"
            )
    if verbosity >= NORMAL:
        say(report.summary(result.summary))
    document = report.result(result.summary, verbose=verbosity >= VERBOSE)
    if result.summary.grain is not None:
        document["film_grain"] = describe_grain(result)
        if verbosity >= NORMAL and result.summary.grain:
            say(grain_line(document["film_grain"]))
    adapted = None if result.adaptation is None else result.adaptation.result
    if adapted is not None:
        document["adaptation"] = describe(adapted)
        if adapted.improved:
            document["model_file"] = None  # it was a temporary one
    return document
