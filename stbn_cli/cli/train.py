"""`stbn train`: a thin command over `training.trainer.Trainer`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show_json
from stbn_cli.cli.exits import InterruptedByUserError
from stbn_cli.errors import OptionError

DATA = "Data"
TRAINING = "Training"
EXAMPLES = opt.epilog(
    "stbn train --clips footage/ --stills photos/ -o runs/mine --validation park.mp4",
    "stbn train --clips footage/ -o runs/mine --resume",
)


def train(
    output: Annotated[
        Path,
        opt.option(
            DATA,
            "--output",
            "-o",
            metavar="RUN",
            help="Folder of the run: log, state, models.",
            default=False,
        ),
    ],
    clips: Annotated[
        list[Path] | None,
        opt.option(
            DATA,
            "--clips",
            metavar="DIR",
            help="Folder of videos or of folders of frames; repeatable.",
            default=False,
        ),
    ] = None,
    stills: Annotated[
        list[Path] | None,
        opt.option(
            DATA,
            "--stills",
            metavar="DIR",
            help="Folder of photographs, given motion; repeatable.",
            default=False,
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        opt.option(
            DATA,
            "--validation",
            metavar="NAME",
            help="Clip held out to validate on; repeatable.",
            default=False,
        ),
    ] = None,
    model: Annotated[
        str, opt.option(TRAINING, "--model", "-m", help="Size: stbn, stbn-s or stbn-xs.")
    ] = "stbn-xs",
    initial: Annotated[
        Path | None,
        opt.option(
            TRAINING,
            "--initial",
            metavar="FILE",
            help="A .safetensors model to start from.",
            default="random",
        ),
    ] = None,
    resume: Annotated[bool, opt.option(TRAINING, "--resume", help="Go on with the run in RUN.")] = False,
    steps: Annotated[int, opt.option(TRAINING, "--steps", min=1, help="Optimiser steps.")] = 20_000,
    max_minutes: Annotated[
        float | None,
        opt.option(TRAINING, "--max-minutes", help="Stop and save after this long.", default="none"),
    ] = None,
    batch_size: Annotated[int, opt.option(TRAINING, "--batch-size", min=1, help="Sequences a step.")] = 4,
    patch_size: Annotated[int, opt.option(TRAINING, "--patch-size", help="Pixels.")] = 64,
    train_length: Annotated[int, opt.option(TRAINING, "--train-length", help="Frames of a sequence.")] = 5,
    sigma_range: Annotated[
        tuple[float, float],
        opt.option(TRAINING, "--sigma-range", metavar="LOW HIGH", help="Noise levels, 0-255 scale."),
    ] = (5.0, 55.0),
    learning_rate: Annotated[
        float, opt.option(TRAINING, "--learning-rate", help="Of Adam, at its highest.")
    ] = 2e-3,
    still_share: Annotated[
        float, opt.option(TRAINING, "--still-share", min=0.0, max=1.0, help="Of sequences, made from stills.")
    ] = 0.4,
    seed: Annotated[int, opt.option(TRAINING, "--seed", help="Of weights, crops and noise.")] = 0,
    device: opt.DeviceOpt = "auto",
    precision: Annotated[
        str, opt.option(opt.MEMORY, "--precision", metavar="bf16|fp32", help="Of the network's arithmetic.")
    ] = "bf16",
    workers: Annotated[int, opt.option(opt.MEMORY, "--workers", min=0, help="Processes that load data.")] = 1,
    threads: Annotated[
        int | None,
        opt.option(
            opt.MEMORY, "--threads", min=1, help="CPU threads of the network.", default="torch's choice"
        ),
    ] = None,
    validate_every: Annotated[int, opt.option(opt.LOGGING, "--validate-every", min=1, help="Steps.")] = 500,
    log_every: Annotated[int, opt.option(opt.LOGGING, "--log-every", min=1, help="Steps.")] = 50,
) -> None:
    """Train a model on noise-free footage, to which noise is added; writes RUN/best.safetensors.

    The last line on stdout is a JSON document. Ctrl-C saves the run; --resume goes on.
    """
    values = dict(locals())
    values.update({name: tuple(values[name] or ()) for name in ("clips", "stills", "validation")})
    if not values["clips"] and not values["stills"]:
        raise OptionError(
            "There is nothing to train on. Give --clips or --stills, folders of footage or photographs."
        )
    _run(values)


def _run(values: dict[str, Any]) -> None:
    from stbn_cli.inference.device import resolve_device
    from stbn_cli.training.options import TrainOptions
    from stbn_cli.training.trainer import Trainer

    if values["precision"] not in ("bf16", "fp32"):
        raise OptionError(f"--precision {values['precision']} is not known here. Choose bf16 or fp32.")
    device = str(resolve_device(values["device"]))
    try:
        options = TrainOptions(**{**values, "device": device})
    except ValueError as error:
        raise OptionError(f"The options cannot be used: {error}.") from error
    interrupted = False

    def report(row: dict[str, Any]) -> None:
        nonlocal interrupted
        interrupted |= row.get("event") == "interrupted"
        say(_line(row))

    result = Trainer(options).run(report)
    show_json({"output": str(options.output), **asdict(result)}, one_line=True)
    if interrupted:
        raise InterruptedByUserError(
            f"Interrupted after {result.steps} steps; the run is saved in {options.output}. "
            "Go on with --resume."
        )


def _line(row: dict[str, Any]) -> str:
    """A log row for people."""
    words = [f"step {row['step']}", f"{row['minutes']:.1f} min"]
    for name, value in row.items():
        if isinstance(value, dict):
            words.append(f"{name} " + " ".join(f"{key}:{number}" for key, number in value.items()))
        elif name not in ("step", "minutes"):
            words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)
