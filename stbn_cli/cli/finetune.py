"""`stbn finetune`: parse, run the job, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.adaptation import describe, explanation, gained
from stbn_cli.cli.console import say, say_beginning, show_json, warn
from stbn_cli.cli.flags import MessageFlags, RangeFlags, ReadFlags, flattened, gathered
from stbn_cli.cli.parsing import AUTO, parse_sigma
from stbn_cli.cli.progress import FinetuneDisplay
from stbn_cli.errors import InterruptedByUserError
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.scale import to_unit
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.jobs.finetune import FinetuneJob

LEARNING = "Learning"
SUFFIX = ".finetuned.safetensors"
EXAMPLES = opt.epilog(
    "stbn finetune clip.mp4 -o mine.safetensors --preview gain.png",
    "stbn denoise clip.mp4 --model mine.safetensors",
    "stbn finetune night*.mov -o night.safetensors --minutes 30",
    "stbn finetune clip.mp4 -o mine.safetensors --resume",
)
# What the short help shows.
MAIN_OPTIONS = (
    "--output",
    "--preview",
    "--overwrite",
    "--start",
    "--end",
    "--model",
    "--minutes",
    "--resume",
    "--device",
    "--quiet",
    "--json",
)

ClipsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="CLIP",
        help="Noisy videos, folders of images, or patterns, all from one camera.",
        show_default=False,
    ),
]
OutputOpt = Annotated[
    Path | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="MODEL",
        help="Where to write the finetuned model (.safetensors).",
        default="<stem>.finetuned.safetensors",
    ),
]
PreviewOpt = Annotated[
    Path | None,
    opt.option(
        opt.INPUT_OUTPUT,
        "--preview",
        metavar="PICTURE",
        help="Also write a crop before and after (.png or .jpg).",
        default=False,
    ),
]
ModelOpt = Annotated[str, opt.option(LEARNING, "--model", "-m", help="The model to start from.")]
SigmaOpt = Annotated[
    str,
    opt.option(
        LEARNING,
        "--sigma",
        "-s",
        metavar="auto|NUMBER",
        help="Noise level (0-255), if you know it. auto learns it for each brightness.",
    ),
]
MinutesOpt = Annotated[float, opt.option(LEARNING, "--minutes", help="How long to take, reading included.")]
StepsOpt = Annotated[
    int | None,
    opt.option(
        LEARNING,
        "--steps",
        min=1,
        help="Number of training steps instead of a time. On a CPU the same --seed gives the same file.",
        default="what fits --minutes",
    ),
]
ScratchOpt = Annotated[bool, opt.option(LEARNING, "--from-scratch", help="Start from random weights.")]
DistillOpt = Annotated[
    bool,
    opt.option(
        LEARNING, "--distill/--no-distill", help="Also finetune the flow network (with --flow light)."
    ),
]
ResumeOpt = Annotated[
    bool, opt.option(LEARNING, "--resume", help="Continue an interrupted run for the same output.")
]
LearningRateOpt = Annotated[
    float | None, opt.option(LEARNING, "--lr", help="Highest learning rate.", default=AUTO)
]
BatchOpt = Annotated[
    int | None, opt.option(opt.MEMORY, "--batch-size", min=1, help="Sequences in a step.", default=AUTO)
]
PatchOpt = Annotated[
    int | None,
    opt.option(opt.MEMORY, "--patch-size", help="Size of a training crop, in pixels.", default=AUTO),
]
LengthOpt = Annotated[
    int | None,
    opt.option(opt.MEMORY, "--train-length", min=1, help="Frames in a sequence.", default=AUTO),
]
PrecisionOpt = Annotated[
    str,
    opt.option(opt.MEMORY, "--precision", metavar="auto|bf16|fp32", help="Number format."),
]


DEFAULTS = FinetuneOptions()


@dataclass(frozen=True, slots=True)
class OutputFlags:
    """What is written."""

    output: OutputOpt = None
    preview: PreviewOpt = None
    overwrite: Annotated[
        bool, opt.option(opt.INPUT_OUTPUT, "--overwrite", help="Replace the outputs if they exist.")
    ] = False


@dataclass(frozen=True, slots=True)
class LearningFlags:
    """What is learned, and from what model on."""

    model: ModelOpt = AUTO
    sigma: SigmaOpt = AUTO
    minutes: MinutesOpt = DEFAULTS.minutes
    steps: StepsOpt = DEFAULTS.steps
    from_scratch: ScratchOpt = DEFAULTS.from_scratch
    flow: opt.FlowOpt = None
    distillation: DistillOpt = DEFAULTS.distillation
    learning_rate: LearningRateOpt = DEFAULTS.learning_rate
    seed: Annotated[int, opt.option(LEARNING, "--seed", min=0, help="Random seed.")] = DEFAULTS.seed
    resume: ResumeOpt = False


@dataclass(frozen=True, slots=True)
class StepFlags:
    """Where it runs, and in steps of what size."""

    device: opt.DeviceOpt = AUTO
    precision: PrecisionOpt = AUTO
    batch_size: BatchOpt = DEFAULTS.batch_size
    patch_size: PatchOpt = DEFAULTS.patch_size
    train_length: LengthOpt = DEFAULTS.train_length


@flattened
def finetune(
    clips: ClipsArg,
    outputs: OutputFlags,
    part: RangeFlags,
    read: ReadFlags,
    learning: LearningFlags,
    steps: StepFlags,
    messages: MessageFlags,
) -> None:
    """Adapt a model to your own noisy footage. No clean video is needed.

    Some pixels are kept for testing. If the new model is not clearly better on them, you get the old one. Ctrl-C keeps
    the best so far. Use the result with stbn denoise CLIP --model MODEL.
    """
    target = outputs.output or _default_output(clips[0])
    span = read.span(part)
    options = gathered(FinetuneOptions, learning, steps, sigma=to_unit(parse_sigma(learning.sigma)))
    if not messages.quiet:
        say_beginning(clips[0], measuring=False)
    try:
        from stbn_cli.jobs.finetune import FinetuneJob

        groups = (outputs, learning, steps)
        job = gathered(FinetuneJob, *groups, clips=clips, output=target, span=span, options=options)
        _run(job, messages)
    except KeyboardInterrupt:
        from stbn_cli.finetuning.output import state_path

        # Of a run that was interrupted before.
        kept = " --resume still continues the run before." if state_path(target).exists() else ""
        raise InterruptedByUserError(f"Interrupted. Nothing was written to {target}.{kept}") from None


def _default_output(clip: str) -> Path:
    path = Path(clip)
    if path.is_dir() or any(mark in path.name for mark in "%*?["):
        path = (path if path.is_dir() else path.parent).resolve()  # a folder's images go by its name
        return path.with_name(path.name + SUFFIX)
    return path.with_name(path.stem + SUFFIX)


def _run(job: "FinetuneJob", messages: MessageFlags) -> None:
    with FinetuneDisplay(quiet=messages.quiet) as display:
        result = job.run(display, warn)
    text = explanation(result)
    if text and not result.improved:
        warn(text)
    if not messages.quiet:
        say(f"{job.output}: {gained(result)}")
        if text and result.improved:
            say(text)
    if messages.json:
        show_json({"output": str(job.output), **describe(result)})
    if result.interrupted:
        raise InterruptedByUserError(
            f"Interrupted after {counted(result.steps, 'step')}. {job.output} holds the best so far; "
            "--resume continues."
        )
