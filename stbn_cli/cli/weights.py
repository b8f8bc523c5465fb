"""`stbn weights`: the models that are known, where their files are, how they come in and how they are published."""

import re
from pathlib import Path
from typing import Annotated

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show, show_json, show_sentence, show_table
from stbn_cli.cli.help import HelpCommand, HelpGroup
from stbn_cli.cli.parsing import AUTO
from stbn_cli.devices import NAMES
from stbn_cli.errors import CheckpointError, OptionError, OutputError, StbnError
from stbn_cli.words import counted

app = typer.Typer(
    cls=HelpGroup,
    rich_markup_mode=None,
    help="List, find, import, check and publish models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DOWNLOADED = "downloaded on first use"
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list", cls=HelpCommand)
def list_models(json: JsonOpt = False) -> None:
    """List the models that --model knows by name, the best first."""
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import find_local

    rows = []
    for spec in load_registry().values():
        local = find_local(spec)
        state = str(local) if local else DOWNLOADED if spec.repo else "missing"
        row = {
            "name": spec.name,
            "kind": spec.kind,
            "noise": list(spec.noise),
            "fast": spec.fast,
            "sigma_range": list(spec.sigma_range),
            "licence": spec.licence,
        }
        row["source"] = spec.repo or "bundled only"
        rows.append(
            {**row, "default_on": list(spec.default_on), "file": state, "description": spec.description}
        )
    if json:
        show_json(rows)
        return
    if not rows:
        say("This installation has no models of its own. Use --model with a .safetensors file.")
        return
    table = [("name", "for noise", "levels", "used for", "file", "description")]
    for row in rows:
        low, high = row["sigma_range"]
        noise = ", ".join(row["noise"]) if row["kind"] == "denoiser" else "(flow)"
        ready = {"missing": "missing", DOWNLOADED: "to download"}.get(row["file"], "ready")
        devices = ["all"] if len(row["default_on"]) == len(NAMES) else row["default_on"]
        used = ", ".join([*devices, *(["fast"] if row["fast"] else [])]) or "-"
        table.append((row["name"], noise, f"{low:g}-{high:g}", used, ready, row["description"]))
    show_table(table)
    missing = [row["name"] for row in rows if row["file"] == "missing"]
    if missing:
        say(f"Missing: {', '.join(missing)}. `stbn weights path NAME` says where to get a file.")
    else:
        show_sentence(
            f'All {counted(len(rows), "model")} can be used. "Used for": devices where the model is the default, '
            "and --quality fast. `stbn weights path NAME` prints where a file is."
        )


@app.command("path", cls=HelpCommand)
def path(
    model: Annotated[str, typer.Argument(help="A model, as for --model.")] = AUTO,
    device: opt.DeviceOpt = "cpu",
) -> None:
    """Print where a model's file is. Downloads and checks it if needed."""
    if device == AUTO:
        from stbn_cli.inference.device import resolve_device

        device = str(resolve_device(device))
    show(str(_find(model, device)))


@app.command(
    "import", cls=HelpCommand, epilog=opt.epilog("stbn weights import model.pth -o model.safetensors")
)
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
    """Convert an official STBN checkpoint. No code in it is run."""
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


@app.command("verify", cls=HelpCommand)
def verify_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="As --model takes them.", show_default="all on this machine"
        ),
    ] = None,
) -> None:
    """Check that model files are complete and can be loaded."""
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import find_local

    known = load_registry()
    names = models or [spec.name for spec in known.values() if spec.bundled or find_local(spec)]
    failed = 0
    for name in names:
        from stbn_cli.checkpoints.flow import load_any_checkpoint

        try:
            file = _find(name)
            load_any_checkpoint(file)
        except StbnError as error:
            failed += 1
            show(f"{name}: FAILED. {error}")
        else:
            show(f"{name}: ok ({file})")
    if not names:
        say("No known model is on this machine.")
    if failed:
        raise CheckpointError(f"{failed} of {len(names)} models failed the check. Get those files again.")


@app.command(
    "push",
    cls=HelpCommand,
    epilog=opt.epilog("stbn weights push mine.safetensors --repo me/stbn-models --dry-run"),
)
def push_models(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Models (.safetensors).")],
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="Hub repository to push to.")],
    revision: Annotated[
        str, typer.Option("--revision", metavar="BRANCH", help="Branch to commit to.")
    ] = "main",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="Commit message.", show_default="Add FILE..."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the files and print the card without uploading.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Publish models and a model card on the Hugging Face Hub, and print their registry rows.

    Needs a token with write access (hf auth login, or HF_TOKEN). The card describes only the files of this push, so
    push all models of a repository together.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise OptionError(f"--repo {repo} is not a Hub repository. Write it as OWNER/NAME.")
    from dataclasses import asdict

    from stbn_cli.checkpoints import hub, publish

    candidates = publish.examine(files)
    card = publish.model_card(candidates, repo, revision)
    commit = None
    if dry_run:
        say(f"{card}\nNothing was uploaded (--dry-run). This is the card; the rows lack the commit.")
    else:
        commit = hub.push(
            repo,
            publish.hub_files(candidates, card),
            revision=revision,
            private=private,
            message=message or publish.default_message(candidates),
        )
        say(f"Pushed {counted(len(candidates), 'file')} and the model card to {repo}. Rows for the registry:")
    rows = [
        publish.registry_row(candidate, repo, commit.revision if commit else revision)
        for candidate in candidates
    ]
    if json:
        show_json(
            {
                "repo": repo,
                "commit": asdict(commit) if commit else None,
                "card": card,
                "models": [asdict(row) for row in rows],
            }
        )
        return
    if commit:
        show(f"# {commit.url}")  # a comment, so that the whole output can be pasted
    for row in rows:
        show(publish.as_toml(row))


def _find(model: str, device: str = "cpu") -> Path:
    """The verified file of any known model, flow networks included, or of what --model takes."""
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import find, resolve

    spec = load_registry().get(model)
    return find(spec) if spec else resolve(model, device=device)


def _check_target(target: Path, suffix: str, overwrite: bool) -> None:
    """Refuse an impossible output before the work."""
    if target.suffix != suffix:
        raise OutputError(f"The output {target} must end in {suffix}.")
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target} exists already. Use --overwrite to replace it, or name another file with -o."
        )
    if not target.parent.is_dir():
        raise OutputError(f"The folder {target.parent} does not exist. Create it or name another one.")
