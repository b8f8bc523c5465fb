"""`stbn denoise`: parse, load, run, report. Heavy libraries are imported inside, so that help is instant."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.adaptation import describe, explanation, gained
from stbn_cli.cli.batch import Item, Naming, output_folder, plan_batch, run_batch
from stbn_cli.cli.console import say, show_json, show_table
from stbn_cli.cli.exits import InterruptedByUserError
from stbn_cli.cli.interruption import StopRequest
from stbn_cli.cli.noise_choice import measure_clip, with_noise_model
from stbn_cli.cli.parsing import AUTO, PIPE, check_pipes, engine_arguments, parse_time
from stbn_cli.cli.progress import FinetuneDisplay, FrameProgress
from stbn_cli.cli.progress_store import open_store, resume_hint, room_for, take_over
from stbn_cli.cli.report import Job, Notes, fields, plan_encoding
from stbn_cli.errors import OptionError, StbnError
from stbn_cli.video.formats import WRITABLE_SUFFIXES
from stbn_cli.video.limits import MAX_PIXELS

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.chunkstore import ChunkStore
    from stbn_cli.finetuning.result import FinetuneResult
    from stbn_cli.pipeline import DenoiseSummary
    from stbn_cli.video.reader import FrameCount
    from stbn_cli.video.workfolder import WorkFolder
    from stbn_cli.video.writer import EncodeOptions

QUIET, NORMAL, VERBOSE = range(3)
ADAPT_MINUTES = 10.0
ADAPTED_FILE = "adapted.safetensors"

EXAMPLES = opt.epilog(
    "stbn denoise clip.mp4",
    "stbn denoise clip.mp4 -o clean.mkv --sigma 25 --crf 14",
    "stbn denoise clip.mp4 --adapt --adapt-minutes 5",
    "stbn denoise clip.mp4 --start 1:30 --end 1:40 --dry-run",
    "stbn denoise 'frames/%05d.png' -o clean/",
    "stbn denoise a.mp4 clips/ 'raw/*.mkv' --output-dir clean/ --skip-existing",
    "ffmpeg -i in.mp4 -f yuv4mpegpipe -strict -1 - | stbn denoise - | ffmpeg -i - out.mp4",
)


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, understood."""

    source: str
    output: str
    overwrite: bool
    resume: bool
    restart: bool
    keep_progress: bool
    dry_run: bool
    span: dict[str, Any]  # arguments of `open_video`: start, end (seconds), rate (frames per second), field
    engine: dict[str, Any]  # arguments of `load_denoiser`
    hardware: str | None  # that decodes
    max_pixels: int  # of one picture
    uncertainty: str | None  # file of the standard deviations
    coding: dict[str, Any]  # fields of `EncodeOptions`
    adapt_minutes: float | None  # of finetuning before; None: none
    verbosity: int
    json: bool


def denoise(
    sources: opt.InputsArg,
    output: opt.OutputOpt = None,
    output_dir: opt.OutputDirOpt = None,
    template: opt.TemplateOpt = None,
    skip_existing: opt.SkipExistingOpt = False,
    fail_fast: opt.FailFastOpt = False,
    overwrite: opt.OverwriteOpt = False,
    resume: opt.ResumeOpt = False,
    restart: opt.RestartOpt = False,
    keep_progress: opt.KeepProgressOpt = True,
    start: opt.StartOpt = None,
    end: opt.EndOpt = None,
    fps: opt.FpsOpt = None,
    max_pixels: opt.MaxPixelsOpt = MAX_PIXELS,
    field: opt.FieldOpt = AUTO,
    uncertainty: opt.UncertaintyOpt = None,
    dry_run: opt.DryRunOpt = False,
    sigma: opt.SigmaOpt = AUTO,
    noise_model: opt.NoiseModelOpt = AUTO,
    strength: opt.StrengthOpt = 1.0,
    luma: opt.LumaOpt = 1.0,
    chroma: opt.ChromaOpt = 1.0,
    keep_grain: opt.KeepGrainOpt = 0.0,
    model: opt.ModelOpt = AUTO,
    flow: opt.FlowOpt = None,
    scene_cuts: opt.SceneCutsOpt = True,
    adapt: opt.AdaptOpt = False,
    adapt_minutes: opt.AdaptMinutesOpt = None,
    device: opt.DevicesOpt = AUTO,
    precision: opt.PrecisionOpt = AUTO,
    hardware: opt.HardwareOpt = None,
    chunk: opt.ChunkOpt = AUTO,
    chunk_overlap: opt.ChunkOverlapOpt = AUTO,
    tile: opt.TileOpt = AUTO,
    tile_overlap: opt.TileOverlapOpt = AUTO,
    codec: opt.CodecOpt = None,
    crf: opt.CrfOpt = None,
    preset: opt.PresetOpt = None,
    pix_fmt: opt.PixFmtOpt = None,
    lossless: opt.LosslessOpt = False,
    dither: opt.DitherOpt = True,
    drop_alpha: opt.DropAlphaOpt = False,
    strict: opt.StrictOpt = False,
    quiet: opt.QuietOpt = False,
    verbose: opt.VerboseOpt = False,
    json: opt.JsonOpt = False,
) -> None:
    """Denoise a video; sound, subtitles, times and colours stay as they are.

    The noise level is measured, the output is written beside its final name, checked, and only then renamed. Ctrl-C
    finishes the chunk in work and tells how to go on, a second one stops at once. With --adapt, Ctrl-C while the model
    is finetuned ends that alone, and the best so far denoises.
    """
    if resume and restart:
        raise OptionError("--resume and --restart contradict each other. Give one of them.")
    engine = engine_arguments(
        model=model,
        sigma=sigma,
        noise_model=noise_model,
        strength=strength,
        luma=luma,
        chroma=chroma,
        keep_grain=keep_grain,
        uncertainty=uncertainty is not None,
        flow=flow,
        scene_cuts=scene_cuts,
        device=device,
        precision=precision,
        chunk=chunk,
        chunk_overlap=chunk_overlap,
        tile=tile,
        tile_overlap=tile_overlap,
    )
    span = {
        "start": parse_time(start, "--start"),
        "end": parse_time(end, "--end"),
        "rate": fps,
        "field": field,
    }
    coding = {
        "codec": codec,
        "crf": crf,
        "preset": preset,
        "pix_fmt": pix_fmt,
        "lossless": lossless,
        "dither": dither,
        "drop_alpha": drop_alpha,
        "strict": strict,
    }
    verbosity = QUIET if quiet else VERBOSE if verbose else NORMAL
    if skip_existing and overwrite:
        raise OptionError("--skip-existing and --overwrite contradict each other. Give one of them.")
    if adapt and adapt_minutes is None:
        adapt_minutes = ADAPT_MINUTES
    if uncertainty is not None and uncertainty.suffix.lower() != ".mkv":
        raise OptionError(
            f"--uncertainty {uncertainty} is lossless video of 16 bits: give it the suffix .mkv."
        )
    batch = plan_batch(sources, Naming(output, output_dir, template), WRITABLE_SUFFIXES)

    def run(item: Item) -> None:
        _run_one(
            Request(
                source=item.source,
                output=item.output,
                overwrite=overwrite,
                resume=resume,
                restart=restart,
                keep_progress=keep_progress,
                dry_run=dry_run,
                span=span,
                engine=engine,
                hardware=hardware,
                max_pixels=max_pixels,
                uncertainty=None if uncertainty is None else str(uncertainty),
                coding=coding,
                adapt_minutes=adapt_minutes,
                verbosity=verbosity,
                json=json,
            )
        )

    if uncertainty is not None and batch.many:
        raise OptionError(
            "--uncertainty names one file, but there are several inputs. Denoise them one by one."
        )
    for item in batch.items:
        check_pipes(item.source, item.output, adapt=adapt_minutes is not None, json=json)
    with output_folder(batch.folder):
        if batch.many or skip_existing:
            run_batch(
                batch.items,
                run,
                skip_existing=skip_existing,
                fail_fast=fail_fast,
                quiet=quiet,
                json=json,
            )
        else:
            run(batch.items[0])


def _run_one(request: Request) -> None:
    try:
        _run(request)
    except KeyboardInterrupt:
        left = "" if request.output == PIPE else f"; nothing was written to {request.output}"
        raise InterruptedByUserError(f"Interrupted{left}.") from None


def _run(request: Request) -> None:
    """Everything that can be refused cheaply comes before the model is loaded."""
    from stbn_cli.video.losses import refuse_known_losses
    from stbn_cli.video.reader import count_frames, open_video, refuse_changes
    from stbn_cli.video.workfolder import WorkFolder
    from stbn_cli.video.writer import EncodeOptions, check_output

    encode = EncodeOptions(**request.coding)
    limits = {"hardware": request.hardware, "max_pixels": request.max_pixels, "strict": encode.strict}
    counted = None
    with open_video(request.source, **request.span, **limits) as reader:
        check_output(request.source, request.output, request.overwrite)
        if request.uncertainty is not None:
            check_output(request.source, request.uncertainty, request.overwrite)
        refuse_known_losses(reader, request.output, encode)
        metadata, notes = reader.metadata, Notes()
        encoding = plan_encoding(metadata, request.output, encode, notes)
        if encode.strict:
            refuse_changes(reader)
        if request.dry_run:
            counted = count_frames(reader)
    from stbn_cli.api import load_denoiser

    with ExitStack() as stack:
        engine, adaptation, folder = request.engine, None, None
        if not request.dry_run and request.output != PIPE:
            folder = stack.enter_context(WorkFolder(request.output))
            take_over(folder, resume=request.resume, restart=request.restart)
        measured = measure_clip(engine, request.source, request.span, notes)
        if request.adapt_minutes is not None and not request.dry_run:
            place = Path(stack.enter_context(TemporaryDirectory())) if folder is None else folder.path
            engine, adaptation = _adapt(request, place / ADAPTED_FILE, notes, measured)
        engine = with_noise_model(engine, measured, quiet=request.verbosity <= QUIET)
        denoiser = load_denoiser(**engine, on_message=notes)
        job = Job(
            request.source,
            request.output,
            metadata,
            encoding,
            request.engine["sigma"],
            denoiser,
            notes,
            measured,
        )
        if counted is not None:
            _show_plan(request, job, counted)
            return
        store = None
        # A pipe cannot be read again, and of two outputs one alone is kept.
        wanted = request.keep_progress and request.source != PIPE and request.uncertainty is None
        if folder is not None and wanted and room_for(folder, metadata, notes):
            store = open_store(folder, reader, denoiser, _deciding(request))
        if request.verbosity >= VERBOSE:
            for name, value in fields(job.plan()):
                say(f"{name}: {value}")
        elif request.verbosity >= NORMAL:
            say(job.headline())
        if store is not None and store.frames and request.verbosity >= NORMAL:
            say(f"Going on after frame {store.frames} of an interrupted run.")
        summary = _denoise(request, encode, job, folder, store)
        _report(request, job, summary, adaptation)


def _deciding(request: Request) -> dict[str, Any]:
    """The options that decide on the frames, as plain values."""
    engine = {
        name: value for name, value in request.engine.items() if name not in ("model", "device", "flow")
    }
    times = ("start", "end", "rate")
    span = {name: None if request.span[name] is None else float(request.span[name]) for name in times}
    span["field"] = request.span["field"]
    return engine | span | {"adapt": request.adapt_minutes is not None, "dither": request.coding["dither"]}


def _show_plan(request: Request, job: Job, counted: "FrameCount") -> None:
    from stbn_cli.chunkstore import estimated_bytes

    metadata = replace(job.metadata, frame_count=counted.frames)
    kept = estimated_bytes(metadata) if request.keep_progress else None
    plan = {**job.plan(counted), "adapt_minutes": request.adapt_minutes, "progress_bytes": kept}
    if request.json:
        show_json(plan)
        return
    if not counted.exact:
        plan["frames"] = "unknown" if counted.frames is None else f"about {counted.frames}"
    del plan["frames_exact"]
    show_table(list(fields(plan)))


def _adapt(
    request: Request, model: Path, notes: Notes, measured: "Analysis | None"
) -> tuple[dict[str, Any], "FinetuneResult | None"]:
    """Finetune for the clip into the file `model`; arguments of `load_denoiser` with it, and what was gained.

    None in place of the latter if the interrupted run has done it.
    """
    from stbn_cli.api import finetune

    assert request.adapt_minutes is not None
    engine = request.engine
    # The file says what the noise is, for every brightness, and holds the flow network if that was finetuned.
    adapted = {**engine, "model": model, "sigma": None}
    useless = model.with_suffix(".useless")
    if model.exists() or useless.exists():
        return (engine if useless.exists() else adapted), None
    shared = {name: engine[name] for name in ("model", "sigma", "flow", "precision")}
    with FinetuneDisplay(quiet=request.verbosity <= QUIET) as display:
        result = finetune(
            request.source,
            model,
            **shared,
            **request.span,
            device=engine["device"].split(",")[0],  # several can denoise, one can learn
            minutes=request.adapt_minutes,
            progress=display,
            on_message=notes,
            measured=measured,
        )
    if text := explanation(result):
        notes(text)
    if request.verbosity >= NORMAL:
        end = "Interrupted, going on with the best so far" if result.interrupted else "Adapted"
        say(f"{end}: {gained(result)}")
    if not result.improved:
        model.rename(useless)
        return engine, result
    return adapted, result


def _denoise(
    request: Request,
    encode: "EncodeOptions",
    job: Job,
    folder: "WorkFolder | None",
    store: "ChunkStore | None",
) -> "DenoiseSummary":
    from stbn_cli.api import denoise_file

    def finishing() -> None:
        say("Finishing the chunk in work. Ctrl-C again stops at once.")

    try:
        with (
            StopRequest(finishing) if store is not None else nullcontext() as stop,
            FrameProgress(job.metadata.frame_count, quiet=request.verbosity <= QUIET) as progress,
        ):
            return denoise_file(
                request.source,
                request.output,
                job.denoiser,
                encode=encode,
                overwrite=request.overwrite,
                **request.span,
                hardware=request.hardware,
                max_pixels=request.max_pixels,
                uncertainty=request.uncertainty,
                progress=progress,
                folder=folder,
                store=store,
                stop=stop or bool,
            )
    except BaseException as error:
        if folder is None or store is None or not store.frames:
            raise
        folder.keep()
        hint = resume_hint(folder, store)
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedByUserError(f"Interrupted; {hint}") from None
        if isinstance(error, StbnError):
            raise type(error)(f"{error} {hint}") from error
        say(hint)
        raise


def _report(
    request: Request, job: Job, summary: "DenoiseSummary", adaptation: "FinetuneResult | None"
) -> None:
    for warning in summary.warnings:
        job.notes(warning)
    if warning := job.strong_noise():
        job.notes(warning)
    if request.verbosity >= VERBOSE:
        for scene in job.scenes():
            say(
                f"From frame {scene['first_frame']}: noise level {scene['sigma']:.4g}, the network is told "
                f"{scene['assumed']['sigma']:.4g}"
            )
    if request.verbosity >= NORMAL:
        say(job.summary(summary))
    if request.json:
        document = job.result(summary)
        if adaptation is not None:
            document["adaptation"] = describe(adaptation)
            if adaptation.improved:
                document["model_file"] = None  # it was a temporary one
        show_json(document)
