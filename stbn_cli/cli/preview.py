"""`stbn preview`: some moments before and after, and what the full run will take."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.browser import open_in_browser
from stbn_cli.cli.console import say, say_beginning, show_json, warn
from stbn_cli.cli.doctor import installed_versions
from stbn_cli.cli.flags import (
    ConfigFlags,
    DenoisingFlags,
    EncodingFlags,
    LoggingFlags,
    MachineFlags,
    ReadFlags,
    denoiser_options,
    flattened,
)
from stbn_cli.cli.parsing import DENOISED, FALLBACK_SUFFIX, default_output, parse_time
from stbn_cli.cli.progress import FrameProgress, clock
from stbn_cli.cli.report import RunReport, fields
from stbn_cli.errors import InterruptedByUserError, OptionError
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.noise import measure_clip, with_kind
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.raw.files import not_raw
from stbn_cli.source import Source
from stbn_cli.video.formats import PAGE_SUFFIXES, WRITABLE_SUFFIXES
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.jobs.encoding import Encoding
    from stbn_cli.preview.make import Preview
    from stbn_cli.report.model import CropSet
    from stbn_cli.video.frames import VideoMetadata
    from stbn_cli.video.writer import EncodeOptions

DEFAULT_DURATION = 2.0  # seconds of a video
PICTURE, PAGE = ".png", ".html"
MEGABYTE, GIGABYTE, MEBIBYTE = 1e6, 1e9, 2**20
ROUGHNESS = (
    "the time assumes that the machine stays as busy as now, the size that the rest of the video looks alike"
)

EXAMPLES = opt.epilog(
    "stbn preview clip.mp4 --at 1:23",
    "stbn preview clip.mp4 --open",
    "stbn preview clip.mp4 --at 1:23 -o moment.mp4 --duration 4",
    "stbn preview clip.mp4 --sigma 25 --strength 0.8 --crf 14 --json",
)
# What the short help shows.
MAIN_OPTIONS = (
    "--at",
    "--open",
    "--output",
    "--overwrite",
    "--duration",
    "--split",
    "--quality",
    "--strength",
    "--chroma",
    "--sigma",
    "--crf",
    "--use-preset",
    "--device",
)

OutputOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="OUT",
        help="A picture (.png .jpg), a page with sliders (.html) or a video (.mp4 .mkv .mov ...).",
        default="<stem>.preview.png",
    ),
]
AtOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--at",
        metavar="TIME",
        help="The moment to show: seconds, MM:SS or HH:MM:SS. On a page also several: 0:05,1:23.",
        default="the middle",
    ),
]
DurationOpt = Annotated[
    float | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--duration",
        metavar="SECONDS",
        help="Length of the preview video.",
        default="2",
    ),
]
SplitOpt = Annotated[
    bool,
    opt.option(
        opt.INPUT_OUTPUT, "--split", help="Show the noisy left half and the denoised right half in one video."
    ),
]
OpenOpt = Annotated[
    bool,
    opt.option(
        opt.INPUT_OUTPUT,
        "--open",
        help="Write <stem>.preview.html, which shows several moments with sliders, and open it in the browser.",
    ),
]


@dataclass(frozen=True, slots=True)
class PreviewJob:
    """What to show, and how."""

    source: Source
    output: str
    options: DenoiserOptions
    at: tuple[float, ...]  # seconds; empty: not said
    duration: float | None  # seconds
    split: bool
    overwrite: bool


@flattened
def preview(
    source: opt.InputArg,
    kept_options: ConfigFlags,
    read: ReadFlags,
    how: DenoisingFlags,
    machine: MachineFlags,
    encoding: EncodingFlags,
    logging: LoggingFlags,
    at: AtOpt = None,
    output: OutputOpt = None,
    duration: DurationOpt = None,
    split: SplitOpt = False,
    open_page: OpenOpt = False,
    overwrite: opt.OverwriteOpt = False,
) -> None:
    """Show one moment before and after denoising, and estimate the time, memory and file size of the full run.

    Takes the options of `stbn denoise`. The picture shows the whole frame and close-ups of its noisiest and most
    detailed places. A page (--open) shows several moments with a slider each.
    """
    target = output or _default_output(source, PAGE if open_page else PICTURE)
    job = PreviewJob(
        source=Source(source, read.span()),
        output=target,
        options=denoiser_options(how, machine),
        at=_times(at, target),
        duration=duration,
        split=split,
        overwrite=overwrite,
    )
    if not logging.quiet:
        say_beginning(source, measuring=job.options.needs_measuring)
    try:
        _run(job, encoding, logging)
    except KeyboardInterrupt:
        raise InterruptedByUserError(f"Interrupted. Nothing was written to {target}.") from None
    if open_page and not open_in_browser(Path(target)):
        warn(f"No browser can be started here. Open {target} in one.")


def _times(text: str | None, output: str) -> tuple[float, ...]:
    """The moments asked for, in seconds. Raises `OptionError` for more of them than the output can show."""
    parts = [] if text is None else text.split(",")
    if len(parts) > 1 and not _shows_page(output):
        raise OptionError(
            f"--at {text}: only a page shows several moments. Add --open, or name an .html with -o."
        )
    return tuple(time for part in parts if (time := parse_time(part, "--at")) is not None)


def _shows_page(output: str) -> bool:
    return Path(output).suffix.lower() in PAGE_SUFFIXES


def _default_output(source: str, suffix: str) -> str:
    """`<stem>.preview` and the suffix beside the input, or beside the folder of images."""
    full = default_output(source, ())
    return f"{full[: full.rindex(f'.{DENOISED}')]}.preview{suffix}"


def _run(job: PreviewJob, encoding: EncodingFlags, logging: LoggingFlags) -> None:
    """Everything that can be refused cheaply comes before the model is loaded."""
    from stbn_cli.jobs.model import load
    from stbn_cli.preview.location import choose_moment
    from stbn_cli.preview.make import check_preview, make_preview, timestamp
    from stbn_cli.preview.page import (
        check_page,
        choose_moments,
        frames_to_denoise,
        locate_moments,
        show_moments,
    )

    page = _shows_page(job.output)
    duration = _duration(job)
    events = Events(
        show_warning=warn,
        say=(lambda message: None) if logging.quiet else say,
        analysing=lambda: FrameProgress(None, phase="analysing", quiet=logging.quiet),
    )
    with job.source.open() as reader:
        (check_page if page else check_preview)(job.source.path, job.output, job.overwrite)
        metadata = reader.metadata
    if metadata.bayer is not None:
        raise not_raw(job.source.path)
    if page:
        moments = choose_moments(metadata, job.at)
    else:
        moments = [choose_moment(metadata, job.at[0] if job.at else None, duration)]
    encode = encoding.options()
    full_output, planned = _plan_full_run(str(job.source.path), metadata, encode, events)
    measured = measure_clip(job.options, job.source, events)
    denoiser = load(with_kind(job.options, measured, events), events.warn)
    report = RunReport(
        str(job.source.path), full_output, metadata, planned, job.options.sigma, denoiser, events, measured
    )
    if logging.verbose:
        for name, value in fields(report.plan()):
            say(f"{name}: {value}")
    elif not logging.quiet:
        where = f"{denoiser.model_name} on {denoiser.device_names}"
        places = ", ".join(timestamp(moment.at) for moment in moments)
        say(f"Previewing {job.source.path} at {places} with model {where}")
    found = locate_moments(job.source, denoiser, moments, asked=bool(job.at) or not page)
    frames = frames_to_denoise(found) if page else found[0].frames
    crop_sets: list[CropSet] = []
    with FrameProgress(frames, quiet=logging.quiet) as progress:
        denoiser.on_work = progress.working
        if page:
            made, crop_sets = show_moments(
                found,
                denoiser,
                full_output=full_output,
                encode=encode,
                level=_level(report),
                progress=progress,
            )
        else:
            made = make_preview(
                found[0],
                job.output,
                denoiser,
                full_output=full_output,
                encode=encode,
                split=job.split,
                level=_level(report),
                overwrite=job.overwrite,
                progress=progress,
            )
    if page:
        _write_page(job, report, made, crop_sets)
    events.warn_all((*made.warnings, *made.differences))
    if warning := report.strong_noise():
        events.warn(warning)
    if not logging.quiet:
        say(_headline(job, report, made))
        for line in _prediction(report, made):
            say(line)
    if logging.json:
        show_json(_document(job, report, made))


def _write_page(job: PreviewJob, report: RunReport, made: "Preview", crop_sets: "list[CropSet]") -> None:
    from stbn_cli.report.model import Report
    from stbn_cli.report.page import write_report

    name = Path(job.source.path).name
    model = f"Model: {report.denoiser.model_name} on {report.denoiser.device_names}."
    prediction = (line if line.endswith(".") else f"{line}." for line in _prediction(report, made))
    command = ("command", shlex.join(["stbn", *sys.argv[1:]]))
    facts = (command, *installed_versions().items())
    page = Report(
        f"{name}, before and after", (model, *prediction), facts, crop_sets=tuple(crop_sets), wide=True
    )
    write_report(Path(job.output), page)


def _duration(job: PreviewJob) -> float:
    """Seconds to show; 0 for a picture or a page."""
    from stbn_cli.preview.make import shows_video

    if not _shows_page(job.output) and shows_video(job.output):
        duration = DEFAULT_DURATION if job.duration is None else job.duration
        if not duration > 0:
            raise OptionError(f"--duration {duration:g} must be above 0 seconds.")
        return duration
    for given, name in ((job.duration is not None, "--duration"), (job.split, "--split")):
        if given:
            raise OptionError(f"{name} is for videos, but {job.output} is none. Name an .mp4 with -o.")
    return 0.0


def _plan_full_run(
    source: str, metadata: "VideoMetadata", encode: "EncodeOptions", events: Events
) -> "tuple[str, Encoding]":
    """Where the full run would write, and how it would encode. Raises `OptionError` for impossible options."""
    from stbn_cli.jobs.encoding import plan_encoding

    output = default_output(source, WRITABLE_SUFFIXES)
    try:
        return output, plan_encoding(metadata, output, encode, events)
    except OptionError:
        # -o of the full run may name another container: the one that holds every codec decides.
        output = str(Path(output).with_suffix(FALLBACK_SUFFIX))
        return output, plan_encoding(metadata, output, encode, events)


def _level(job: RunReport) -> float | None:
    """The noise level to show, 0-255 scale: that of the clip; None where only the scenes' are known."""
    if job.sigma is not None or job.measured is None:
        return None
    return job.measured.level


def _headline(request: PreviewJob, job: RunReport, made: "Preview") -> str:
    from stbn_cli.preview.make import timestamp

    clip = _level(job)
    levels = sorted(made.levels if clip is None else (clip,))
    noise = f"noise level {levels[0]:.3g}" + (f" to {levels[-1]:.3g}" if len(levels) > 1 else "")
    how = "measured" if job.sigma is None else "given"
    kind = "moments" if _shows_page(request.output) else "frames"
    frames = "the frame at" if made.shown == 1 else f"{made.shown} {kind} from"
    return f"{request.output}: {frames} {timestamp(made.begin)}, {noise} ({how})"


def _prediction(job: RunReport, made: "Preview") -> list[str]:
    """What to expect of the full run, and how well that is known, for people."""
    expected = made.forecast
    memory = _memory(job, made)
    per_frame = f"{expected.seconds_per_frame:.2g} s a frame"
    if expected.frames is None or expected.seconds is None or expected.output_bytes is None:
        return [f"Full run: {per_frame}, {memory}; the number of frames is unknown."]
    kind = "images" if job.encoding.images is not None else Path(job.output).suffix
    size = f"{expected.output_bytes / MEGABYTE:.3g} MB ({kind})"
    length = f"about {counted(expected.frames, 'frame')} in {clock(expected.seconds)}"
    return [
        f"Full run: {length} ({per_frame}), {memory}, {size}",
        f"Estimated from {counted(expected.measured_frames, 'frame')}: {ROUGHNESS}.",
    ]


def _memory(job: RunReport, made: "Preview") -> str:
    """How much memory the full run needs, for people."""
    expected, device = made.forecast, job.denoiser.device
    planned = f"{expected.memory_bytes / GIGABYTE:.1f} GB on {device}"
    if expected.process_bytes is None:
        return f"{planned} plus the program itself"
    process = f"{expected.process_bytes / GIGABYTE:.1f} GB of memory"
    return process if device.type == "cpu" else f"{planned}, {process}"


def _document(request: PreviewJob, job: RunReport, made: "Preview") -> dict[str, Any]:
    expected = made.forecast
    return {
        "preview": request.output,
        "begin": round(float(made.begin), 6),
        "frames_shown": made.shown,
        "noise": job.noise(),
        "levels": [round(level, 3) for level in made.levels],
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
