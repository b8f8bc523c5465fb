"""`stbn train`: a thin command over `training.trainer.Trainer`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show_json, warn
from stbn_cli.cli.flags import flattened, gathered
from stbn_cli.cli.help import HelpCommand
from stbn_cli.cli.parsing import AUTO
from stbn_cli.cli.progress import StepProgress
from stbn_cli.errors import (
    InterruptedByUserError,
    MemoryExhaustedError,
    OptionError,
    OutputError,
    checked_options,
)
from stbn_cli.raw.pattern import parse_pattern
from stbn_cli.training.options import RAW_RECIPE, RGB_RECIPE, TrainOptions, published_recipe

DATA = "Data"
RECIPE = "Recipe"
SCHEDULE = "Schedule"
FLOW = "Optical flow"
RAW = "Raw models"
EXAMPLES = opt.epilog(
    "stbn train --train-dir footage/ --still-dir photos/ --hold-out park.mp4 -o runs/mine",
    "stbn train --train-dir footage/ -o runs/mine --model stbn-xs --lr 2e-3 --schedule cosine --epochs 1",
    "stbn train --train-dir footage/ -o runs/mine --resume",
    "torchrun --nproc-per-node 2 -m stbn_cli train --train-dir footage/ -o runs/mine",
)
MAIN_OPTIONS = (
    "--log-dir",
    "--train-dir",
    "--still-dir",
    "--hold-out",
    "--model",
    "--initial",
    "--resume",
    "--epochs",
    "--noise",
    "--lr",
    "--schedule",
    "--max-minutes",
    "--device",
)


class TrainCommand(HelpCommand):
    """`--milestones 2 4 6 8` is one list, as the reference repository takes it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined: list[str] = []
        listing = False
        for word in args:
            if listing and word.isdecimal() and joined[-1][-1:].isdecimal():
                joined[-1] += f",{word}"
                continue
            if not (listing and word.isdecimal()):
                listing = word in ("--milestones", "--milestone")
            joined.append(word)
        return super().parse_args(ctx, joined)


DEFAULTS = TrainOptions(log_dir=Path())


def _by_model(name: str) -> str:
    """The default of an option, in words, where raw models have another one."""
    return f"{getattr(RGB_RECIPE, name):g}; raw models {getattr(RAW_RECIPE, name):g}"


@dataclass(frozen=True, slots=True)
class DataFlags:
    """What it is trained and validated on."""

    train_dirs: Annotated[
        list[Path] | None,
        opt.option(
            DATA,
            "--train-dir",
            metavar="DIR",
            help="Clean videos or folders of frames; for raw models, noisy mosaics. Repeatable.",
            default=False,
        ),
    ] = None
    still_dirs: Annotated[
        list[Path] | None,
        opt.option(
            DATA,
            "--still-dir",
            metavar="DIR",
            help="Photographs, seen by a moving camera. Repeatable.",
            default=False,
        ),
    ] = None
    pool: Annotated[
        Path | None,
        opt.option(
            DATA,
            "--pool",
            metavar="DIR",
            help="Noisy clips that the models for real noise learn from (benchmarks/make_pool.py makes them).",
            default=False,
        ),
    ] = DEFAULTS.pool
    validation_dirs: Annotated[
        list[Path] | None,
        opt.option(
            DATA, "--validation-dir", metavar="DIR", help="Clips to validate on. Repeatable.", default=False
        ),
    ] = None
    hold_out: Annotated[
        list[str] | None,
        opt.option(
            DATA,
            "--hold-out",
            metavar="NAME",
            help="A clip of --train-dir to validate on instead of training. Repeatable.",
            default=False,
        ),
    ] = None
    still_share: Annotated[
        float,
        opt.option(DATA, "--still-share", min=0.0, max=1.0, help="Share of sequences made from photographs."),
    ] = DEFAULTS.still_share
    augment: Annotated[
        bool,
        opt.option(
            DATA, "--augment/--no-augment", help="Vary the speed, direction, size and colour of the footage."
        ),
    ] = DEFAULTS.augment


@dataclass(frozen=True, slots=True)
class RecipeFlags:
    """Which model learns, and from how much of which noise."""

    model: Annotated[
        str,
        opt.option(
            RECIPE,
            "--model",
            "-m",
            help="stbn, stbn-s, stbn-xs, stbn-published, stbn-raw, stbn-raw-xs, real-fast, real, real-large, or "
            "flow-light: the flow network.",
        ),
    ] = DEFAULTS.model
    residual_blocks: Annotated[
        int | None,
        opt.option(
            RECIPE,
            "--num-resblocks",
            min=1,
            help="Residual blocks in each branch of an STBN.",
            default="as the model has them",
        ),
    ] = DEFAULTS.residual_blocks
    initial: Annotated[
        Path | None,
        opt.option(
            RECIPE, "--initial", metavar="FILE", help="A .safetensors model to start from.", default="random"
        ),
    ] = DEFAULTS.initial
    resume: Annotated[bool, opt.option(RECIPE, "--resume", help="Continue the run in RUN.")] = DEFAULTS.resume
    epochs: Annotated[
        int | None,
        opt.option(RECIPE, "--epochs", min=1, help="Number of epochs.", default=_by_model("epochs")),
    ] = None
    patches_per_epoch: Annotated[
        int, opt.option(RECIPE, "--patches-per-epoch", min=1, help="Sequences in an epoch.")
    ] = DEFAULTS.patches_per_epoch
    batch_size: Annotated[
        int | None,
        opt.option(
            RECIPE,
            "--batch-size",
            min=1,
            help="Sequences in a step, over all processes.",
            default=_by_model("batch_size"),
        ),
    ] = None
    patch_size: Annotated[
        int | None,
        opt.option(
            RECIPE,
            "--patch-size",
            help="Size of a training crop, in pixels; for raw models of the packed planes, half as many as the "
            "mosaic's.",
            default=_by_model("patch_size"),
        ),
    ] = None
    train_length: Annotated[
        int | None,
        opt.option(RECIPE, "--train-length", help="Frames in a sequence.", default=_by_model("train_length")),
    ] = None
    noise: Annotated[
        str,
        opt.option(
            RECIPE,
            "--noise",
            metavar="white|sensor|camera|compressed",
            help="Noise to add. white: the same everywhere. sensor: depends on brightness and channel. camera: after "
            "demosaicing and sharpening, or film grain. compressed: any of these after H.264.",
        ),
    ] = DEFAULTS.noise
    noise_interval: Annotated[
        tuple[float, float],
        opt.option(RECIPE, "--noise-interval", metavar="LOW HIGH", help="Noise levels, 0-255 scale."),
    ] = DEFAULTS.noise_interval
    validation_noise: Annotated[
        list[float] | None,
        opt.option(
            RECIPE,
            "--validation-noise",
            metavar="SIGMA",
            help="Noise level to validate at, 0-255 scale. Repeatable.",
            default=", ".join(f"{level:g}" for level in DEFAULTS.validation_noise),
        ),
    ] = None
    seed: Annotated[int, opt.option(RECIPE, "--seed", min=0, help="Random seed.")] = DEFAULTS.seed


@dataclass(frozen=True, slots=True)
class ScheduleFlags:
    """How the weights follow the gradients."""

    learning_rate: Annotated[
        float | None,
        opt.option(SCHEDULE, "--lr", help="Highest learning rate.", default=_by_model("learning_rate")),
    ] = None
    optimizer: Annotated[
        str,
        opt.option(
            SCHEDULE,
            "--optimizer",
            metavar="adam|muon",
            help="muon: for hidden layers of denoisers; recurrent networks then learn in far fewer steps.",
        ),
    ] = DEFAULTS.optimizer
    schedule: Annotated[
        str,
        opt.option(
            SCHEDULE,
            "--schedule",
            metavar="milestones|cosine|timed",
            help="How the learning rate falls. timed: a cosine over --max-minutes.",
        ),
    ] = DEFAULTS.schedule
    milestones: Annotated[
        list[str] | None,
        opt.option(
            SCHEDULE,
            "--milestones",
            "--milestone",
            metavar="EPOCHS",
            help="Epochs after which the learning rate is multiplied by --gamma, such as 2,4,6,8.",
            default=",".join(map(str, DEFAULTS.milestones)),
        ),
    ] = None
    gamma: Annotated[
        float, opt.option(SCHEDULE, "--gamma", help="Factor for the learning rate at each milestone.")
    ] = DEFAULTS.gamma
    final_learning_rate: Annotated[
        float, opt.option(SCHEDULE, "--final-lr", help="Learning rate at the end of the cosine.")
    ] = DEFAULTS.final_learning_rate
    warmup_steps: Annotated[
        int, opt.option(SCHEDULE, "--warmup-steps", min=0, help="Steps over which the learning rate rises.")
    ] = DEFAULTS.warmup_steps
    gradient_clip: Annotated[
        float, opt.option(SCHEDULE, "--gradient-clip", help="Largest gradient norm.")
    ] = DEFAULTS.gradient_clip
    ema_decay: Annotated[
        float,
        opt.option(
            SCHEDULE, "--ema-decay", min=0.0, max=1.0, help="Decay of the averaged weights that are saved."
        ),
    ] = DEFAULTS.ema_decay


@dataclass(frozen=True, slots=True)
class FlowFlags:
    """Whose optical flow, and whether that learns too."""

    flow: Annotated[
        str,
        opt.option(
            FLOW, "--flow", metavar="auto|dis|light|none|FILE", help="auto: dis on a CPU, light on a GPU."
        ),
    ] = DEFAULTS.flow
    distillation: Annotated[
        bool,
        opt.option(FLOW, "--distill", help="Second stage: also train the flow network, on denoised frames."),
    ] = DEFAULTS.distillation
    distillation_weight: Annotated[
        float, opt.option(FLOW, "--distillation-weight", help="Weight of the flow loss.")
    ] = DEFAULTS.distillation_weight
    flow_learning_rate: Annotated[
        float, opt.option(FLOW, "--flow-lr", help="Learning rate of the flow network with --distill.")
    ] = DEFAULTS.flow_learning_rate


@dataclass(frozen=True, slots=True)
class RawFlags:
    """How the mosaics of raw models are packed."""

    bayer: Annotated[
        str,
        opt.option(
            RAW,
            "--bayer",
            metavar="RGGB|GRBG|GBRG|BGGR",
            help="Colours of a mosaic's 2x2 cell, in reading order.",
        ),
    ] = DEFAULTS.bayer
    black: Annotated[float, opt.option(RAW, "--black", help="Value of a mosaic without light.")] = (
        DEFAULTS.black
    )
    white: Annotated[float, opt.option(RAW, "--white", help="Value at which a mosaic clips.")] = (
        DEFAULTS.white
    )


@dataclass(frozen=True, slots=True)
class MachineFlags:
    """Where it runs."""

    device: opt.DeviceOpt = AUTO
    precision: Annotated[
        str,
        opt.option(opt.MEMORY, "--precision", metavar="auto|bf16|fp16|fp32", help="Number format."),
    ] = DEFAULTS.precision
    compile: Annotated[
        bool,
        opt.option(
            opt.MEMORY, "--compile", help="Use torch.compile; for white noise on a GPU, a CUDA graph too."
        ),
    ] = DEFAULTS.compile
    threads: Annotated[
        int | None,
        opt.option(opt.MEMORY, "--threads", min=1, help="CPU threads.", default="torch's choice"),
    ] = DEFAULTS.threads


@dataclass(frozen=True, slots=True)
class RunFlags:
    """When it stops, validates, saves and tells."""

    max_minutes: Annotated[
        float | None,
        opt.option(
            opt.LOGGING,
            "--max-minutes",
            metavar="MINUTES",
            help="Stop and save after this time.",
            default="none",
        ),
    ] = DEFAULTS.max_minutes
    validate_every: Annotated[int, opt.option(opt.LOGGING, "--validate-every", min=1, help="In steps.")] = (
        DEFAULTS.validate_every
    )
    save_every: Annotated[
        float, opt.option(opt.LOGGING, "--save-every", min=0.0, help="Minutes between saves.")
    ] = DEFAULTS.save_every
    keep_epochs: Annotated[
        bool, opt.option(opt.LOGGING, "--keep-epochs", help="Keep RUN/epoch-N.safetensors of every epoch.")
    ] = DEFAULTS.keep_epochs
    log_every: Annotated[int, opt.option(opt.LOGGING, "--log-every", min=1, help="In steps.")] = (
        DEFAULTS.log_every
    )


@flattened
def train(
    log_dir: Annotated[
        Path,
        opt.option(
            DATA,
            "--log-dir",
            "-o",
            metavar="RUN",
            help="Folder for the log, the state and the models.",
            default=False,
        ),
    ],
    data: DataFlags,
    recipe: RecipeFlags,
    schedule: ScheduleFlags,
    flow: FlowFlags,
    raw: RawFlags,
    machine: MachineFlags,
    running: RunFlags,
) -> None:
    """Train a model on clean footage with added noise.

    Writes RUN/model.safetensors at every save and, if there are clips to validate on, RUN/best.safetensors.

    The defaults are the published training options. RUN/log.jsonl holds all measurements; TensorBoard shows them if it
    is installed. The last line on stdout is a JSON document. Ctrl-C saves the run after the current step; --resume
    continues exactly where it stopped.
    """
    if not data.train_dirs and not data.still_dirs and data.pool is None:
        raise OptionError(
            "Nothing to train on. Use --train-dir or --still-dir with folders of footage or photographs."
        )
    milestones = _epochs(schedule.milestones)
    with checked_options():
        bayer = parse_pattern(raw.bayer)
    groups = (data, recipe, schedule, flow, raw, machine, running)
    flags = {**asdict(recipe), "learning_rate": schedule.learning_rate}
    defaults = {
        name: value for name, value in asdict(published_recipe(recipe.model)).items() if flags[name] is None
    }
    _run(gathered(TrainOptions, *groups, log_dir=log_dir, milestones=milestones, bayer=bayer, **defaults))


def _epochs(lists: list[str] | None) -> tuple[int, ...] | None:
    if lists is None:
        return None
    words = [word for text in lists for word in text.replace(",", " ").split()]
    if not all(word.isdecimal() for word in words):
        raise OptionError(f"--milestones takes epochs such as 2,4,6,8, not {' '.join(lists)!r}.")
    return tuple(map(int, words))


def _run(options: TrainOptions) -> None:
    import torch

    from stbn_cli.inference.device import emulation_warning, is_out_of_memory, resolve_device
    from stbn_cli.training.trainer import Trainer

    trainer = Trainer(replace(options, device=str(resolve_device(options.device))))
    warning = emulation_warning(trainer.precision, trainer.device)
    if warning and trainer.processes.is_main:
        warn(warning)
    try:
        with StepProgress(
            "training", "steps", options.steps, quiet=not trainer.processes.is_main
        ) as progress:

            def report(row: dict[str, Any]) -> None:
                if progress.has_bar:
                    progress.show(row["step"], options.steps, _words(row))
                if not progress.has_bar or "loss" not in row:  # rows of losses come often
                    say(f"Step {row['step']} of {options.steps}, {_words(row)}")

            result = trainer.run(report)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"Memory ran out with {options.batch_size} sequences of {options.train_length} frames of "
            f"{options.patch_size}x{options.patch_size}. Give a smaller --batch-size, --patch-size or --train-length."
        ) from error
    except OSError as error:
        raise OutputError(
            f"The run cannot be written to {str(options.log_dir)!r} ({error.strerror or error}). "
            "Choose another folder, or free some space and use --resume."
        ) from error
    if trainer.processes.is_main:
        show_json({"log_dir": str(options.log_dir), **asdict(result)}, one_line=True)
    if result.interrupted:
        raise InterruptedByUserError(
            f"Interrupted after {result.steps} steps; the run is saved in {options.log_dir}. "
            "Use --resume to continue."
        )


def _words(row: dict[str, Any]) -> str:
    """A log row for people, without its step."""
    words = [f"{row['minutes']:.1f} min"]
    if "minutes_left" in row:
        words.append(f"{row['minutes_left']:.1f} min left")
    for name, value in row.items():
        if isinstance(value, dict):
            words.append(f"{name} " + " ".join(f"{key}:{number}" for key, number in value.items()))
        elif name not in ("step", "minutes", "minutes_left"):
            words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)
