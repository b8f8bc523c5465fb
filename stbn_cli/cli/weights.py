"""`stbn weights`: the models that are known, where their files are, and how official ones are brought in."""

from pathlib import Path
from typing import Annotated

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show, show_json, show_table
from stbn_cli.cli.parsing import AUTO
from stbn_cli.errors import CheckpointError, OutputError, StbnError

app = typer.Typer(
    help="Models: list, find, import and verify.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
JsonOpt = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command("list", epilog=opt.EXIT_CODES)
def list_models(json: JsonOpt = False) -> None:
    """List the models known by name, the best first."""
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import find_local

    rows = []
    for spec in load_registry().values():
        local = find_local(spec)
        state = str(local) if local else "downloaded on first use" if spec.repo else "missing"
        row = {"name": spec.name, "sigma_range": list(spec.sigma_range), "licence": spec.licence}
        rows.append(
            {**row, "default_on": list(spec.default_on), "file": state, "description": spec.description}
        )
    if json:
        show_json(rows)
        return
    if not rows:
        say("This installation knows no model by name; give --model a .safetensors file.")
        return
    table = [("name", "noise levels", "default on", "licence", "file", "description")]
    for row in rows:
        low, high = row["sigma_range"]
        default = ", ".join(row["default_on"]) or "-"
        table.append(
            (row["name"], f"{low:g}-{high:g}", default, row["licence"], row["file"], row["description"])
        )
    show_table(table)


@app.command("path", epilog=opt.EXIT_CODES)
def path(
    model: Annotated[str, typer.Argument(help="A model as --model takes it.")] = AUTO,
    device: opt.DeviceOpt = "cpu",
) -> None:
    """Print where a model's file is, after downloading and checking it."""
    from stbn_cli.checkpoints.store import resolve

    if device == AUTO:
        from stbn_cli.inference.device import resolve_device

        device = str(resolve_device(device))
    show(str(resolve(model, device=device)))


@app.command("import", epilog=opt.epilog("stbn weights import model.pth -o model.safetensors"))
def import_model(
    source: Annotated[Path, typer.Argument(metavar="PTH", help="An official STBN checkpoint (.pth).")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="A .safetensors file.", show_default="<stem>.safetensors"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What the model is called in messages.", show_default="<stem>"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Convert an official checkpoint; nothing in it is executed."""
    from stbn_cli.checkpoints.store import MODEL_SUFFIX

    target = output or source.with_suffix(MODEL_SUFFIX)
    _check_target(target, MODEL_SUFFIX, overwrite)
    from dataclasses import replace

    from stbn_cli.checkpoints import import_official, save_checkpoint

    checkpoint = import_official(source)
    if name is not None:
        checkpoint = replace(checkpoint, info=replace(checkpoint.info, name=name))
    try:
        save_checkpoint(target, checkpoint)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}). Name another file."
        ) from error
    config = checkpoint.config
    kind = "raw" if config.head == "plain" else "RGB"
    what = f"{kind} model, {config.channels} channels, flow {checkpoint.info.flow}"
    say(f"{target}: {what}. {checkpoint.info.licence}")
    show(str(target))


@app.command("verify", epilog=opt.EXIT_CODES)
def verify_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="As --model takes them.", show_default="all on this machine"
        ),
    ] = None,
) -> None:
    """Check that model files are whole: their SHA-256 where it is known, and that they can be loaded."""
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import find_local, resolve

    known = load_registry().values()
    names = models or [spec.name for spec in known if spec.bundled or find_local(spec)]
    failed = 0
    for name in names:
        from stbn_cli.checkpoints import load_checkpoint

        try:
            file = resolve(name)
            load_checkpoint(file)
        except StbnError as error:
            failed += 1
            show(f"{name}: FAILED. {error}")
        else:
            show(f"{name}: ok ({file})")
    if not names:
        say("No known model is on this machine.")
    if failed:
        raise CheckpointError(f"{failed} of {len(names)} models failed the check. Get those files again.")


def _check_target(target: Path, suffix: str, overwrite: bool) -> None:
    """Refuse an impossible output before the work."""
    if target.suffix != suffix:
        raise OutputError(f"The output {target} has to end with {suffix}. Name it so.")
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target} exists already. Use --overwrite to replace it, or name another file with -o."
        )
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} does not exist. Create it or name another one.")
