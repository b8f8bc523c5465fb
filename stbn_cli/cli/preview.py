"""`stbn preview`: one moment before and after, and what the full run will take."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show_json
from stbn_cli.cli.exits import InterruptedByUserError
from stbn_cli.cli.noise_choice import measure_clip, with_noise_model
from stbn_cli.cli.parsing import (
    AUTO,
    DENOISED,
    FALLBACK_SUFFIX,
    default_output,
    engine_arguments,
    parse_time,
)
from stbn_cli.cli.progress import FrameProgress, clock
from stbn_cli.cli.report import Job, Notes, fields, plan_encoding
from stbn_cli.errors import OptionError
from stbn_cli.video.formats import WRITABLE_SUFFIXES

if TYPE_CHECKING:
    from stbn_cli.preview.make import Preview
    from stbn_cli.video.frames import VideoMetadata
    from stbn_cli.video.writer import EncodeOptions

DEFAULT_DURATION = 2.0  # seconds of a video
MEGABYTE, GIGABYTE, MEBIBYTE = 1e6, 1e9, 2**20
ROUGHNESS = (
    "the time holds if the machine stays as busy as now, the size if the rest of the video looks alike"
)

EXAMPLES = opt.epilog(
    "stbn preview clip.mp4 --at 1:23",
    "stbn preview clip.mp4 --at 1:23 -o moment.mp4 --duration 4",
    "stbn preview clip.mp4 --sigma 25 --strength 0.8 --crf 14 --json",
)

OutputOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="OUT",
        help="A picture (.png .jpg) or a video (.mp4 .mkv .mov ...) by its suffix.",
        default="<stem>.preview.png",
    ),
]
AtOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--at",
        metavar="TIME",
        help="What to show: seconds, MM:SS or HH:MM:SS.",
        default="the middle",
    ),
]
DurationOpt = Annotated[
    float | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--duration",
        metavar="SECONDS",
        help="Length of a video, around the moment.",
        default="2",
    ),
]
SplitOpt = Annotated[
    bool,
    opt.option(opt.INPUT_OUTPUT, "--split", help="In a video: the left half before, the right half after."),
]


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, understood."""

    source: str
    output: str
    overwrite: bool
    at: float | None  # seconds
    duration: float | None  # seconds
    split: bool
    rate: float | None  # frames per second of an image sequence
    field: str
    engine: dict[str, Any]  # arguments of `load_denoiser`
    coding: dict[str, Any]  # fields of `EncodeOptions`
    quiet: bool
    verbose: bool
    json: bool


def preview(
    source: opt.InputArg,
    at: AtOpt = None,
    output: OutputOpt = None,
    duration: DurationOpt = None,
    split: SplitOpt = False,
    overwrite: opt.OverwriteOpt = False,
    fps: opt.FpsOpt = None,
    field: opt.FieldOpt = AUTO,
    sigma: opt.SigmaOpt = AUTO,
    noise_model: opt.NoiseModelOpt = AUTO,
    strength: opt.StrengthOpt = 1.0,
    luma: opt.LumaOpt = 1.0,
    chroma: opt.ChromaOpt = 1.0,
    keep_grain: opt.KeepGrainOpt = 0.0,
    model: opt.ModelOpt = AUTO,
    flow: opt.FlowOpt = None,
    scene_cuts: opt.SceneCutsOpt = True,
    device: opt.DevicesOpt = AUTO,
    precision: opt.PrecisionOpt = AUTO,
    chunk: opt.ChunkOpt = AUTO,
    chunk_overlap: opt.ChunkOverlapOpt = AUTO,
    tile: opt.TileOpt = AUTO,
    tile_overlap: opt.TileOverlapOpt = AUTO,
    codec: opt.CodecOpt = None,
    crf: opt.CrfOpt = None,
    preset: opt.PresetOpt = None,
    pix_fmt: opt.PixFmtOpt = None,
    lossless: opt.LosslessOpt = False,
    quiet: opt.QuietOpt = False,
    verbose: opt.VerboseOpt = False,
    json: opt.JsonOpt = False,
) -> None:
    """Show one moment before and after, as the full run will make it, and predict that run's time, memory and size.

    Takes the options of `stbn denoise`. A picture shows the whole frame and its noisiest and most detailed places.
    """
    engine = engine_arguments(
        model=model,
        sigma=sigma,
        noise_model=noise_model,
        strength=strength,
        luma=luma,
        chroma=chroma,
        keep_grain=keep_grain,
        flow=flow,
        scene_cuts=scene_cuts,
        device=device,
        precision=precision,
        chunk=chunk,
        chunk_overlap=chunk_overlap,
        tile=tile,
        tile_overlap=tile_overlap,
    )
    coding = {"codec": codec, "crf": crf, "preset": preset, "pix_fmt": pix_fmt, "lossless": lossless}
    request = Request(
        source=source,
        output=output or _default_output(source),
        overwrite=overwrite,
        at=parse_time(at, "--at"),
        duration=duration,
        split=split,
        rate=fps,
        field=field,
        engine=engine,
        coding=coding,
        quiet=quiet,
        verbose=verbose,
        json=json,
    )
    try:
        _run(request)
    except KeyboardInterrupt:
        raise InterruptedByUserError(f"Interrupted; nothing was written to {request.output}.") from None


def _default_output(source: str) -> str:
    """`<stem>.preview.png` beside the input, or beside the folder of images."""
    full = default_output(source, ())
    return f"{full[: full.rindex(f'.{DENOISED}')]}.preview.png"


def _run(request: Request) -> None:
    """Everything that can be refused cheaply comes before the model is loaded."""
    from stbn_cli.preview.make import check_preview, make_preview, timestamp
    from stbn_cli.preview.survey import choose_moment, survey
    from stbn_cli.video.reader import open_video
    from stbn_cli.video.writer import EncodeOptions

    duration = _duration(request)
    with open_video(request.source, rate=request.rate, field=request.field) as reader:
        check_preview(request.source, request.output, request.overwrite)
        metadata, notes = reader.metadata, Notes()
    moment = choose_moment(metadata, request.at, duration)
    encode = EncodeOptions(**request.coding)
    full_output, encoding = _plan_full_run(request.source, metadata, encode, notes)
    from stbn_cli.api import load_denoiser

    span = {"start": None, "end": None, "rate": request.rate, "field": request.field}
    measured = measure_clip(request.engine, request.source, span, notes)
    engine = with_noise_model(request.engine, measured, quiet=request.quiet)
    denoiser = load_denoiser(**engine, on_message=notes)
    job = Job(
        request.source, full_output, metadata, encoding, request.engine["sigma"], denoiser, notes, measured
    )
    if request.verbose:
        for name, value in fields(job.plan()):
            say(f"{name}: {value}")
    elif not request.quiet:
        where = f"{denoiser.info.name} on {denoiser.device_names}"
        say(f"Previewing {request.source} at {timestamp(moment.at)} with model {where}")
    found = survey(request.source, denoiser, moment, request.rate, request.field)
    with FrameProgress(found.frames, quiet=request.quiet) as progress:
        made = make_preview(
            found,
            request.output,
            denoiser,
            full_output=full_output,
            encode=encode,
            split=request.split,
            level=_level(job),
            overwrite=request.overwrite,
            progress=progress,
        )
    for message in (*made.warnings, *made.differences):
        notes(message)
    if warning := job.strong_noise():
        notes(warning)
    if not request.quiet:
        say(_headline(request, job, made))
        for line in _prediction(job, made):
            say(line)
    if request.json:
        show_json(_document(request, job, made))


def _duration(request: Request) -> float:
    """Seconds to show; 0 for a picture."""
    from stbn_cli.preview.make import shows_video

    if shows_video(request.output):
        duration = DEFAULT_DURATION if request.duration is None else request.duration
        if not duration > 0:
            raise OptionError(f"--duration {duration:g} is not above 0 s. Give seconds, such as 2.")
        return duration
    for given, name in ((request.duration is not None, "--duration"), (request.split, "--split")):
        if given:
            raise OptionError(
                f"{name} is for videos, but {request.output} is a picture. Name an .mp4 with -o."
            )
    return 0.0


def _plan_full_run(
    source: str, metadata: "VideoMetadata", encode: "EncodeOptions", notes: Notes
) -> tuple[str, dict[str, Any]]:
    """Where the full run would write, and how it would encode. Raises `OptionError` for impossible options."""
    output = default_output(source, WRITABLE_SUFFIXES)
    try:
        return output, plan_encoding(metadata, output, encode, notes)
    except OptionError:
        # -o of the full run may name another container: the one that holds every codec decides.
        output = str(Path(output).with_suffix(FALLBACK_SUFFIX))
        return output, plan_encoding(metadata, output, encode, notes)


def _level(job: Job) -> float | None:
    """The noise level to show, [0, 1]: that of the clip; None where only the scenes' are known."""
    if job.sigma is not None or job.measured is None:
        return None
    return job.measured.level


def _headline(request: Request, job: Job, made: "Preview") -> str:
    from stbn_cli.preview.make import SIGMA_SCALE, timestamp

    clip = _level(job)
    levels = sorted(SIGMA_SCALE * sigma for sigma in (made.sigmas if clip is None else (clip,)))
    noise = f"noise level {levels[0]:.3g}" + (f" to {levels[-1]:.3g}" if len(levels) > 1 else "")
    how = "estimated" if request.engine["sigma"] is None else "as given"
    frames = "the frame at" if made.shown == 1 else f"{made.shown} frames from"
    return f"{request.output}: {frames} {timestamp(made.begin)}, {noise} ({how})"


def _prediction(job: Job, made: "Preview") -> list[str]:
    """What to expect of the full run, and how well that is known, for people."""
    expected = made.forecast
    memory = _memory(job, made)
    per_frame = f"{expected.seconds_per_frame:.2g} s a frame"
    if expected.frames is None or expected.seconds is None or expected.output_bytes is None:
        return [f"Full run: {per_frame}, {memory}; how many frames there are is not known."]
    kind = "images" if "images" in job.encoding else Path(job.output).suffix
    size = f"{expected.output_bytes / MEGABYTE:.3g} MB ({kind})"
    return [
        f"Full run: about {expected.frames} frames in {clock(expected.seconds)} ({per_frame}), {memory}, {size}",
        f"Roughly, from {expected.measured_frames} frames: {ROUGHNESS}.",
    ]


def _memory(job: Job, made: "Preview") -> str:
    """How much memory the full run needs, for people."""
    expected, device = made.forecast, job.denoiser.device
    planned = f"{expected.memory_bytes / GIGABYTE:.1f} GB on {device}"
    if expected.process_bytes is None:
        return f"{planned} and the program itself"
    process = f"{expected.process_bytes / GIGABYTE:.1f} GB of memory"
    return process if device.type == "cpu" else f"{planned}, {process}"


def _document(request: Request, job: Job, made: "Preview") -> dict[str, Any]:
    from stbn_cli.preview.make import SIGMA_SCALE

    expected = made.forecast
    return {
        "preview": request.output,
        "begin": round(float(made.begin), 6),
        "frames_shown": made.shown,
        "noise": job.noise(),
        "sigmas": [round(SIGMA_SCALE * sigma, 3) for sigma in made.sigmas],
        "as_the_full_run": not made.differences,
        "forecast": {
            "frames": expected.frames,
            "seconds_per_frame": round(expected.seconds_per_frame, 6),
            "seconds": None if expected.seconds is None else round(expected.seconds, 3),
            "memory_mib": _mebibytes(expected.memory_bytes),
            "host_mib": _mebibytes(expected.host_bytes),
            "process_mib": _mebibytes(expected.process_bytes),
            "output_bytes": expected.output_bytes,
            "measured_frames": expected.measured_frames,
        },
        "full_run": job.plan(),
    }


def _mebibytes(size: int | None) -> int | None:
    return None if size is None else round(size / MEBIBYTE)
