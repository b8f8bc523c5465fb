"""`stbn compare`: two videos against each other, and what a denoiser took away."""

import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show_json, show_sentence, show_tables, warn
from stbn_cli.cli.doctor import installed_versions
from stbn_cli.cli.flags import EncodingFlags, MessageFlags, RangeFlags, flattened, gathered
from stbn_cli.cli.progress import FrameProgress
from stbn_cli.errors import InterruptedByUserError, OptionError, OutputError
from stbn_cli.jobs.encoding import plan_encoding
from stbn_cli.jobs.events import Events
from stbn_cli.source import Span

if TYPE_CHECKING:
    from stbn_cli.compare.clips import Clips
    from stbn_cli.compare.comparison import Comparison
    from stbn_cli.compare.layouts import Layout
    from stbn_cli.compare.report import Place
    from stbn_cli.video.encoders import EncodeOptions

COMPARING = "Comparing"
EXAMPLES = opt.epilog(
    "stbn compare noisy.mp4 denoised.mp4",
    "stbn compare noisy.mp4 denoised.mp4 --reference clean.mp4 --csv frames.csv --report page.html",
    "stbn compare noisy.mp4 denoised.mp4 -o difference.mkv --layout difference --gain 8",
    "stbn compare frames/ frames.denoised/ --start 10 --frames 50 --json",
)
# What the short help shows.
MAIN_OPTIONS = (
    "--reference",
    "--frames",
    "--output",
    "--layout",
    "--gain",
    "--csv",
    "--report",
    "--overwrite",
    "--start",
    "--end",
    "--quiet",
    "--json",
)

ReferenceOpt = Annotated[
    str | None,
    opt.option(
        COMPARING,
        "--reference",
        "-r",
        metavar="CLEAN",
        help="A clean version. Both are measured against it.",
        default=False,
    ),
]
FramesOpt = Annotated[
    int | None,
    opt.option(COMPARING, "--frames", help="Compare at most this many frames.", default="all", min=1),
]
CsvOpt = Annotated[
    Path | None,
    opt.option(
        opt.INPUT_OUTPUT, "--csv", metavar="FILE", help="Write the measurements of each frame.", default=False
    ),
]
ReportOpt = Annotated[
    Path | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--report",
        metavar="FILE.html",
        help="Write a page with plots and crops.",
        default=False,
    ),
]
OutputOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="OUT",
        help="Write a comparison video (.mkv .mp4 .m4v .mov .webm .ts), or a folder/ or pattern of images.",
        default=False,
    ),
]
LayoutOpt = Annotated[
    str | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--layout",
        metavar="side|split|difference",
        help="side: A beside B. split: left half of A, right half of B. difference: A - B on grey.",
        default="side",
    ),
]
GainOpt = Annotated[
    float,
    opt.option(opt.INPUT_OUTPUT, "--gain", help="How much to amplify A - B."),
]
FpsOpt = Annotated[
    float | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--fps",
        help="Frame rate of image sequences. Videos keep their own timing.",
        default="as the video, or 25",
    ),
]
OverwriteOpt = Annotated[
    bool,
    opt.option(opt.INPUT_OUTPUT, "--overwrite", help="Replace existing files, but never the inputs."),
]


@dataclass(frozen=True, slots=True)
class OutputFlags:
    """What is written of the comparison."""

    output: OutputOpt = None
    layout: LayoutOpt = None
    gain: GainOpt = 4.0
    csv: CsvOpt = None
    report: ReportOpt = None
    overwrite: OverwriteOpt = False


@dataclass(frozen=True, slots=True)
class CompareJob:
    """What to compare, and what to write of it."""

    a: str
    b: str
    span: Span
    layout: "Layout"
    encode: "EncodeOptions"
    reference: str | None = None
    limit: int | None = None  # frames
    output: str | None = None
    csv: Path | None = None
    report: Path | None = None
    overwrite: bool = False


@flattened
def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The noisy video, a folder of images, or a pattern.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The denoised one.", show_default=False)],
    *,
    reference: ReferenceOpt = None,
    frames: FramesOpt = None,
    outputs: OutputFlags,
    part: RangeFlags,
    fps: FpsOpt = None,
    encoding: EncodingFlags,
    messages: MessageFlags,
) -> None:
    """Compare a noisy video with its denoised version.

    Says how much was removed and whether that looks like noise or like detail of the picture. With --reference, also
    says which of the two is closer to a clean version.
    """
    from stbn_cli.compare.layouts import Layout

    if outputs.output is None:
        for name, value in {"layout": outputs.layout, **asdict(encoding)}.items():
            if value not in (None, False):
                raise OptionError(
                    f"--{name.replace('_', '-')} is for the comparison video. Name one with -o."
                )
    job = gathered(
        CompareJob,
        outputs,
        a=a,
        b=b,
        reference=reference,
        span=Span(*part.seconds(), fps),
        limit=frames,
        layout=Layout(outputs.layout or "side", outputs.gain),
        encode=encoding.options(drop_alpha=True),
    )
    try:
        _run(job, messages)
    except KeyboardInterrupt:
        raise InterruptedByUserError("Interrupted. Unfinished files were removed.") from None


def _run(job: CompareJob, messages: MessageFlags) -> None:
    """Everything that can be refused cheaply comes first."""
    from stbn_cli.compare.clips import open_clips

    notes = Events(show_warning=warn)
    clips = open_clips(job.a, job.b, job.reference, job.span)
    _check_outputs(job, clips, notes)
    found, places = _compare(job, clips, notes, quiet=messages.quiet)
    for message in found.warnings:
        notes.warn(message)
    if job.csv is not None:
        from stbn_cli.compare.comparison import write_csv
        from stbn_cli.files import whole_file

        with whole_file(job.csv) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            write_csv(file, found.frames)
    if job.report is not None:
        from stbn_cli.compare.report import build_report
        from stbn_cli.report.page import write_report

        facts = {"command": shlex.join(["stbn", *sys.argv[1:]]), **installed_versions()}
        write_report(job.report, build_report(found, places, facts))
    if messages.json:
        show_json({**found.to_dict(), "output": job.output, "warnings": notes.warnings})
        return
    from stbn_cli.compare.tables import comparison_tables

    show_tables(comparison_tables(found))
    show_sentence(found.verdict.text)


def _compare(
    job: CompareJob, clips: "Clips", notes: Events, *, quiet: bool
) -> "tuple[Comparison, list[Place]]":
    """Measure, and write the video; also the places that the report shows."""
    from stbn_cli.compare.comparison import compare_clips
    from stbn_cli.compare.layouts import LayoutWriter

    with ExitStack() as stack:
        keeper = writer = None
        if job.report is not None:
            from stbn_cli.compare.report import PlaceKeeper

            keeper = PlaceKeeper(clips, job.limit, job.layout.gain)
        if job.output is not None:
            writer = LayoutWriter(
                job.output, clips, job.layout, job.encode, limit=job.limit, overwrite=job.overwrite
            )
            stack.enter_context(writer)
        expected = [count for count in (clips.expected_frames, job.limit) if count]
        progress = stack.enter_context(
            FrameProgress(min(expected, default=None), phase="comparing", quiet=quiet)
        )
        sinks = [sink for sink in (keeper, writer) if sink is not None]
        # Image sequences have the rate that they were opened with.
        span = replace(job.span, rate=clips.metadata.average_rate)
        found = compare_clips(clips, span=span, limit=job.limit, sinks=sinks, progress=progress)
        if writer is not None:
            writer.finish()
            notes.warn_all(writer.warnings)
            if not quiet:
                say(f"{job.output}: {len(found.frames)} frames")
    return found, [] if keeper is None else keeper.places


def _check_outputs(job: CompareJob, clips: "Clips", notes: Events) -> None:
    """Refuse what could not be written after the work. Raises `OptionError` and `OutputError`."""
    from stbn_cli.files import check_file
    from stbn_cli.video.output import check_output

    sources = [Path(source) for source in (job.a, job.b, job.reference) if source is not None]
    files = [file for file in (job.csv, job.report) if file is not None]
    for file in files:
        if any(file.exists() and source.exists() and file.samefile(source) for source in sources):
            raise OutputError(f"The output {file} is an input. Name another file; inputs are never replaced.")
        check_file(file, job.overwrite)
    written = [*files, *([] if job.output is None else [Path(job.output)])]
    if len({path.resolve() for path in written}) < len(written):
        raise OptionError("Two outputs have the same name. Name a file for each.")
    if job.output is not None:
        from stbn_cli.compare.layouts import canvas

        for source in sources:
            check_output(source, job.output, job.overwrite)
        plan_encoding(canvas(clips, job.layout).metadata, job.output, job.encode, notes)
