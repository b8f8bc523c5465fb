"""`stbn compare`: two videos against each other, and what a denoiser took away."""

import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show, show_json, show_tables, warn
from stbn_cli.cli.doctor import installed_versions
from stbn_cli.cli.parsing import parse_time
from stbn_cli.cli.progress import FrameProgress
from stbn_cli.errors import InterruptedByUserError, OptionError, OutputError
from stbn_cli.jobs.encoding import plan_encoding
from stbn_cli.jobs.events import Events

if TYPE_CHECKING:
    from stbn_cli.compare.clips import Clips
    from stbn_cli.compare.comparison import Comparison
    from stbn_cli.compare.layouts import Layout
    from stbn_cli.compare.report import Place
    from stbn_cli.video.writer import EncodeOptions

COMPARING = "Comparing"
EXAMPLES = opt.epilog(
    "stbn compare noisy.mp4 denoised.mp4",
    "stbn compare noisy.mp4 denoised.mp4 --reference clean.mp4 --csv frames.csv --report page.html",
    "stbn compare noisy.mp4 denoised.mp4 -o difference.mkv --layout difference --gain 8",
    "stbn compare frames/ frames.denoised/ --start 10 --frames 50 --json",
)

ReferenceOpt = Annotated[
    str | None,
    opt.option(
        COMPARING,
        "--reference",
        "-r",
        metavar="CLEAN",
        help="What both should look like: measures each against it.",
        default=False,
    ),
]
FramesOpt = Annotated[
    int | None, opt.option(COMPARING, "--frames", help="Frames to compare at most.", default="all", min=1)
]
CsvOpt = Annotated[
    Path | None,
    opt.option(opt.INPUT_OUTPUT, "--csv", metavar="FILE", help="One line a frame.", default=False),
]
ReportOpt = Annotated[
    Path | None,
    opt.option(
        opt.INPUT_OUTPUT, "--report", metavar="FILE.html", help="A page with curves and crops.", default=False
    ),
]
OutputOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="OUT",
        help="A video of both (.mkv .mp4 .m4v .mov .webm .ts), or a folder/ or pattern of images.",
        default=False,
    ),
]
LayoutOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--layout",
        metavar="side|split|difference",
        help="What OUT shows: A beside B, the left half of A and the right half of B, or A - B on grey.",
        default="side",
    ),
]
GainOpt = Annotated[
    float,
    opt.option(opt.INPUT_OUTPUT, "--gain", help="How much A - B is amplified in OUT and in the report."),
]
FpsOpt = Annotated[
    float | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--fps",
        help="Frames per second of image sequences; videos keep their own times.",
        default="as the video, or 25",
    ),
]
OverwriteOpt = Annotated[
    bool,
    opt.option(opt.INPUT_OUTPUT, "--overwrite", help="Replace files that exist, but never A, B or CLEAN."),
]


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, understood."""

    sources: tuple[str, str, str | None]  # A, B, the reference
    span: dict[str, Any]  # arguments of `open_clips`: start and end in seconds, rate in frames per second
    limit: int | None  # frames
    output: str | None
    layout: str
    gain: float
    coding: dict[str, Any]  # fields of `EncodeOptions`
    csv: Path | None
    report: Path | None
    overwrite: bool
    quiet: bool
    json: bool


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The noisy video, a folder of images, or a pattern.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The denoised one.", show_default=False)],
    reference: ReferenceOpt = None,
    frames: FramesOpt = None,
    output: OutputOpt = None,
    layout: LayoutOpt = None,
    gain: GainOpt = 4.0,
    csv: CsvOpt = None,
    report: ReportOpt = None,
    overwrite: OverwriteOpt = False,
    start: opt.StartOpt = None,
    end: opt.EndOpt = None,
    fps: FpsOpt = None,
    codec: opt.CodecOpt = None,
    crf: opt.CrfOpt = None,
    preset: opt.PresetOpt = None,
    pix_fmt: opt.PixFmtOpt = None,
    lossless: opt.LosslessOpt = False,
    quiet: opt.QuietOpt = False,
    json: opt.JsonOpt = False,
) -> None:
    """Compare two videos, typically a noisy one and its denoised version.

    How different they are, how much was removed, whether that looks like noise or like structure of the picture, and,
    with --reference, which of the two is nearer to it. A and B are read in step.
    """
    coding = {"codec": codec, "crf": crf, "preset": preset, "pix_fmt": pix_fmt, "lossless": lossless}
    if output is None:
        for name, value in {"layout": layout, **coding}.items():
            if value not in (None, False):
                raise OptionError(
                    f"--{name.replace('_', '-')} is for the video of both, but none is asked for. Name it with -o."
                )
    request = Request(
        sources=(a, b, reference),
        span={"start": parse_time(start, "--start"), "end": parse_time(end, "--end"), "rate": fps},
        limit=frames,
        output=output,
        layout=layout or "side",
        gain=gain,
        coding=coding,
        csv=csv,
        report=report,
        overwrite=overwrite,
        quiet=quiet,
        json=json,
    )
    try:
        _run(request)
    except KeyboardInterrupt:
        raise InterruptedByUserError("Interrupted; what was not finished is removed.") from None


def _run(request: Request) -> None:
    """Everything that can be refused cheaply comes first."""
    from stbn_cli.compare.clips import open_clips
    from stbn_cli.compare.layouts import Layout
    from stbn_cli.video.writer import EncodeOptions

    layout, encode, notes = (
        Layout(request.layout, request.gain),
        EncodeOptions(**request.coding, drop_alpha=True),
        Events(show_warning=warn),
    )
    clips = open_clips(*request.sources, **request.span)
    _check_outputs(request, clips, layout, encode, notes)
    found, places = _compare(request, clips, layout, encode, notes)
    for message in found.warnings:
        notes.warn(message)
    if request.csv is not None:
        from stbn_cli.compare.comparison import write_csv
        from stbn_cli.files import whole_file

        with whole_file(request.csv) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            write_csv(file, found.frames)
    if request.report is not None:
        from stbn_cli.compare.report import build_report
        from stbn_cli.report.page import write_report

        facts = {"command": shlex.join(["stbn", *sys.argv[1:]]), **installed_versions()}
        write_report(request.report, build_report(found, places, facts))
    if request.json:
        show_json({**found.to_dict(), "output": request.output, "warnings": notes.warnings})
        return
    from stbn_cli.compare.tables import comparison_tables

    show_tables(comparison_tables(found))
    show(found.verdict.text)


def _compare(
    request: Request, clips: "Clips", layout: "Layout", encode: "EncodeOptions", notes: Events
) -> "tuple[Comparison, list[Place]]":
    """Measure, and write the video; also the places that the report shows."""
    from stbn_cli.compare.comparison import compare_clips
    from stbn_cli.compare.layouts import LayoutWriter
    from stbn_cli.jobs.source import Span

    with ExitStack() as stack:
        keeper = writer = None
        if request.report is not None:
            from stbn_cli.compare.report import PlaceKeeper

            keeper = PlaceKeeper(clips, request.limit, layout.gain)
        if request.output is not None:
            writer = LayoutWriter(
                request.output, clips, layout, encode, limit=request.limit, overwrite=request.overwrite
            )
            stack.enter_context(writer)
        expected = [count for count in (clips.expected_frames, request.limit) if count]
        progress = stack.enter_context(FrameProgress(min(expected, default=None), quiet=request.quiet))
        sinks = [sink for sink in (keeper, writer) if sink is not None]
        # Image sequences have the rate that they were opened with.
        span = Span(request.span["start"], request.span["end"], clips.metadata.average_rate)
        found = compare_clips(clips, span=span, limit=request.limit, sinks=sinks, progress=progress)
        if writer is not None:
            writer.finish()
            notes.warn_all(writer.warnings)
            if not request.quiet:
                say(f"{request.output}: {len(found.frames)} frames")
    return found, [] if keeper is None else keeper.places


def _check_outputs(
    request: Request, clips: "Clips", layout: "Layout", encode: "EncodeOptions", notes: Events
) -> None:
    """Refuse what could not be written after the work. Raises `OptionError` and `OutputError`."""
    from stbn_cli.files import check_file
    from stbn_cli.video.output import check_output

    sources = [Path(source) for source in request.sources if source is not None]
    files = [file for file in (request.csv, request.report) if file is not None]
    for file in files:
        if any(file.exists() and source.exists() and file.samefile(source) for source in sources):
            raise OutputError(f"The output {file} is an input. Name another file; inputs are never replaced.")
        check_file(file, request.overwrite)
    written = [*files, *([] if request.output is None else [Path(request.output)])]
    if len({path.resolve() for path in written}) < len(written):
        raise OptionError("Two outputs have the same name. Name a file for each.")
    if request.output is not None:
        from stbn_cli.compare.layouts import canvas

        for source in sources:
            check_output(source, request.output, request.overwrite)
        plan_encoding(canvas(clips, layout).metadata, request.output, encode, notes)
