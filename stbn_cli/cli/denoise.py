"""`stbn denoise`: parse, load, run, report. Heavy libraries are imported inside, so that help is instant."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.adaptation import describe, explanation, gained
from stbn_cli.cli.console import say, show_json, show_table
from stbn_cli.cli.exits import InterruptedByUserError
from stbn_cli.cli.parsing import AUTO, default_output, engine_arguments, parse_time
from stbn_cli.cli.progress import FinetuneDisplay, FrameProgress
from stbn_cli.cli.report import Job, Notes, fields, plan_encoding

if TYPE_CHECKING:
    from stbn_cli.finetuning.result import FinetuneResult
    from stbn_cli.video.writer import EncodeOptions

QUIET, NORMAL, VERBOSE = range(3)
ADAPT_MINUTES = 10.0

EXAMPLES = opt.epilog(
    "stbn denoise clip.mp4",
    "stbn denoise clip.mp4 -o clean.mkv --sigma 25 --crf 14",
    "stbn denoise clip.mp4 --adapt --adapt-minutes 5",
    "stbn denoise clip.mp4 --start 1:30 --end 1:40 --dry-run",
    "stbn denoise 'frames/%05d.png' -o clean/",
)


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, understood."""

    source: str
    output: str
    overwrite: bool
    dry_run: bool
    span: dict[str, Any]  # arguments of `open_video`: start and end in seconds, rate in frames per second
    engine: dict[str, Any]  # arguments of `load_denoiser`
    hardware: str | None  # that decodes
    coding: dict[str, Any]  # fields of `EncodeOptions`
    adapt_minutes: float | None  # of finetuning before; None: none
    verbosity: int
    json: bool


def denoise(
    source: opt.InputArg,
    output: opt.OutputOpt = None,
    overwrite: opt.OverwriteOpt = False,
    start: opt.StartOpt = None,
    end: opt.EndOpt = None,
    fps: opt.FpsOpt = None,
    dry_run: opt.DryRunOpt = False,
    sigma: opt.SigmaOpt = AUTO,
    strength: opt.StrengthOpt = 1.0,
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
    strict: opt.StrictOpt = False,
    quiet: opt.QuietOpt = False,
    verbose: opt.VerboseOpt = False,
    json: opt.JsonOpt = False,
) -> None:
    """Denoise a video; sound, subtitles, times and colours stay as they are.

    The noise level is measured, the output is written beside its final name, checked, and only then renamed. With
    --adapt, Ctrl-C while the model is finetuned ends that alone, and the best so far denoises.
    """
    engine = engine_arguments(
        model=model,
        sigma=sigma,
        strength=strength,
        flow=flow,
        scene_cuts=scene_cuts,
        device=device,
        precision=precision,
        chunk=chunk,
        chunk_overlap=chunk_overlap,
        tile=tile,
        tile_overlap=tile_overlap,
    )
    span = {"start": parse_time(start, "--start"), "end": parse_time(end, "--end"), "rate": fps}
    coding = {"codec": codec, "crf": crf, "preset": preset, "pix_fmt": pix_fmt, "lossless": lossless}
    coding["strict"] = strict
    verbosity = QUIET if quiet else VERBOSE if verbose else NORMAL
    target = _output_name(source, output)
    if adapt and adapt_minutes is None:
        adapt_minutes = ADAPT_MINUTES
    request = Request(
        source, target, overwrite, dry_run, span, engine, hardware, coding, adapt_minutes, verbosity, json
    )
    try:
        _run(request)
    except KeyboardInterrupt:
        raise InterruptedByUserError(f"Interrupted; nothing was written to {request.output}.") from None


def _output_name(source: str, output: str | None) -> str:
    if output is not None:
        return output
    from stbn_cli.video.images import IMAGE_SUFFIXES
    from stbn_cli.video.output import MUXERS

    return default_output(source, (*MUXERS, *IMAGE_SUFFIXES))


def _run(request: Request) -> None:
    """Everything that can be refused cheaply comes before the model is loaded."""
    from stbn_cli.video.losses import refuse_known_losses
    from stbn_cli.video.reader import open_video
    from stbn_cli.video.writer import EncodeOptions, check_output

    encode = EncodeOptions(**request.coding)
    with open_video(request.source, **request.span, hardware=request.hardware) as reader:
        check_output(request.source, request.output, request.overwrite)
        refuse_known_losses(reader, request.output, encode)
        metadata, notes = reader.metadata, Notes()
        encoding = plan_encoding(metadata, request.output, encode, notes)
    from stbn_cli.api import load_denoiser

    with ExitStack() as stack:
        engine, adaptation = request.engine, None
        if request.adapt_minutes is not None and not request.dry_run:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="stbn-")))
            engine, adaptation = _adapt(request, folder / "adapted.safetensors", notes)
        denoiser = load_denoiser(**engine, on_message=notes)
    job = Job(request.source, request.output, metadata, encoding, request.engine["sigma"], denoiser, notes)
    if request.dry_run:
        plan = {**job.plan(), "adapt_minutes": request.adapt_minutes}
        if request.json:
            show_json(plan)
        else:
            show_table(list(fields(plan)))
        return
    if request.verbosity >= VERBOSE:
        for name, value in fields(job.plan()):
            say(f"{name}: {value}")
    elif request.verbosity >= NORMAL:
        say(job.headline())
    _denoise(request, encode, job, adaptation)


def _adapt(request: Request, model: Path, notes: Notes) -> tuple[dict[str, Any], "FinetuneResult"]:
    """Finetune for the clip into the file `model`; arguments of `load_denoiser` with it, and what was gained."""
    from stbn_cli.api import finetune

    assert request.adapt_minutes is not None
    engine = request.engine
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
        )
    if text := explanation(result):
        notes(text)
    if request.verbosity >= NORMAL:
        end = "Interrupted, going on with the best so far" if result.interrupted else "Adapted"
        say(f"{end}: {gained(result)}")
    if not result.improved:
        return engine, result
    # The file says what the noise is, for every brightness, and holds the flow network if that was finetuned.
    return {**engine, "model": model, "sigma": None}, result


def _denoise(
    request: Request, encode: "EncodeOptions", job: Job, adaptation: "FinetuneResult | None"
) -> None:
    from stbn_cli.api import denoise_file

    with FrameProgress(job.metadata.frame_count, quiet=request.verbosity <= QUIET) as progress:
        summary = denoise_file(
            request.source,
            request.output,
            job.denoiser,
            encode=encode,
            overwrite=request.overwrite,
            **request.span,
            hardware=request.hardware,
            progress=progress,
        )
    for warning in summary.warnings:
        job.notes(warning)
    if warning := job.strong_noise():
        job.notes(warning)
    if request.verbosity >= VERBOSE:
        for scene in job.scenes():
            say(f"From frame {scene['first_frame']}: noise level {scene['sigma']:.4g}")
    if request.verbosity >= NORMAL:
        say(job.summary(summary))
    if request.json:
        document = job.result(summary)
        if adaptation is not None:
            document["adaptation"] = describe(adaptation)
            if adaptation.improved:
                document["model_file"] = None  # it was a temporary one
        show_json(document)
