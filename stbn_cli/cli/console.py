"""Where output goes: data on stdout, everything for people on stderr."""

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from stbn_cli.video.formats import STANDARD_STREAM

if TYPE_CHECKING:
    from stbn_cli.report.model import Table

PIPED_WIDTH = 200  # columns where stdout is no terminal


def say(message: str) -> None:
    """A line for people."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """A line for people that something is not as they may expect."""
    typer.echo(f"Warning: {message}", err=True)


def say_beginning(source: str, *, measuring: bool) -> None:
    """What happens first, before the libraries for it are loaded, which takes seconds on a cold disk."""
    named = "standard input" if source == STANDARD_STREAM else source
    say(f"Analysing the noise of {named}" if measuring and source != STANDARD_STREAM else f"Reading {named}")


def show(text: str) -> None:
    """Data, for people or programs."""
    # A file name that is not UTF-8 holds surrogates, which become the escapes that JSON has for them.
    typer.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    sys.stdout.flush()  # a closed pipe must be noticed here, not when the interpreter ends


def show_json(document: Any, *, one_line: bool = False) -> None:
    """One JSON document; infinities and NaN, which JSON does not have, are null."""
    show(json.dumps(_plain(document), indent=None if one_line else 2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, never cut or wrapped, so that they can be searched."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_wrapped_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, the last one wrapped to a terminal's width; for programs one line a row."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    begin = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        last = [row[-1]] if columns is None else textwrap.wrap(row[-1], max(columns - begin, 20))
        show("  ".join([*cells, (last or [""])[0]]).rstrip())
        for line in last[1:]:
            show(" " * begin + line)


def show_tables(tables: "Iterable[Table]") -> None:
    """Tables for people, with title and note."""
    from rich import box, table
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    for shown in tables:
        grid = table.Table(title=shown.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, column in enumerate(shown.columns):
            grid.add_column(Text(column), justify="right" if shown.numeric and index else "left")
        for row, cells in enumerate(shown.rows):
            styles = ["bold" if (row, column) in shown.best else "" for column in range(len(cells))]
            grid.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
        console.print(grid)
        if shown.note:
            console.print(Text(shown.note, style="dim"), end="\n\n")
    sys.stdout.flush()
