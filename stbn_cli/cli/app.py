"""The `stbn` command: its subcommands, and the boundary where errors become messages and exit codes."""

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from stbn_cli import __version__
from stbn_cli.cli import analyze, bench, compare, denoise, doctor, finetune, preview, train, weights
from stbn_cli.cli.console import show
from stbn_cli.cli.exits import FAILED, report_error
from stbn_cli.cli.help import HelpCommand, HelpGroup, with_main_options
from stbn_cli.cli.options import EXIT_CODES

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
# The reference repository spells its options with underscores.
UNDERSCORES = {"token_normalize_func": lambda name: name.replace("_", "-")}

app = typer.Typer(
    name="stbn",
    cls=HelpGroup,
    help="Self-supervised video denoising with a spatiotemporal blind-spot network.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
)
app.command(
    "denoise", cls=with_main_options(*denoise.MAIN_OPTIONS), epilog=denoise.EXAMPLES, no_args_is_help=True
)(denoise.denoise)
app.command(
    "preview", cls=with_main_options(*preview.MAIN_OPTIONS), epilog=preview.EXAMPLES, no_args_is_help=True
)(preview.preview)
app.command("analyze", cls=HelpCommand, epilog=analyze.EXAMPLES, no_args_is_help=True)(analyze.analyze)
app.command(
    "compare", cls=with_main_options(*compare.MAIN_OPTIONS), epilog=compare.EXAMPLES, no_args_is_help=True
)(compare.compare)
app.command(
    "finetune", cls=with_main_options(*finetune.MAIN_OPTIONS), epilog=finetune.EXAMPLES, no_args_is_help=True
)(finetune.finetune)
app.command("bench", cls=with_main_options(*bench.MAIN_OPTIONS), epilog=bench.EXAMPLES)(bench.bench)
# The reference repository calls its measurement "test".
app.command("test", cls=HelpCommand, epilog=bench.EXAMPLES, hidden=True, context_settings=UNDERSCORES)(
    bench.bench
)
app.add_typer(weights.app, name="weights")
app.command("doctor", cls=HelpCommand, epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(
    "train",
    cls=with_main_options(*train.MAIN_OPTIONS, base=train.TrainCommand),
    epilog=train.EXAMPLES,
    no_args_is_help=True,
    context_settings=UNDERSCORES,
)(train.train)


def _version(wanted: bool) -> None:
    if wanted:
        show(f"stbn {__version__}")
        raise typer.Exit


@app.callback()
def stbn(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Self-supervised video denoising with a spatiotemporal blind-spot network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments=None`: those of the process."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="stbn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    except BrokenPipeError:
        # Whoever read stdout has gone; the interpreter must not try to flush it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        return report_error(error)
    return 0


def run() -> int:
    """The command of the shell: as `main`, and the process ends with it.

    What Python does at its end takes half a second of CPU once torch is loaded, and frees what the system frees anyway.
    """
    code = FAILED

    def leave() -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            os._exit(FAILED)  # nobody reads what was printed
        os._exit(code)

    atexit.register(leave)  # the first to be registered: it comes after all others
    code = main()
    return code
