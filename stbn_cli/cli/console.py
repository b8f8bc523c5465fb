"""Where output goes: data on stdout, everything for people on stderr."""

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from stbn_cli.video.formats import STANDARD_STREAM

if TYPE_CHECKING:
    from stbn_cli.report.model import Table

PIPED_WIDTH = 200  # columns where stdout is no terminal
NARROWEST_COLUMN = 20  # of a table on a terminal


def say(message: str) -> None:
    """A line for people."""
    typer.echo(_fitted(message, sys.stderr), err=True)


def warn(message: str) -> None:
    """A line for people that something is not as they may expect."""
    say(f"Warning: {message}")


def say_beginning(source: str, *, measuring: bool) -> None:
    """What happens first, before the libraries for it are loaded, which takes seconds on a cold disk."""
    named = "standard input" if source == STANDARD_STREAM else source
    say(f"Analysing the noise of {named}" if measuring and source != STANDARD_STREAM else f"Reading {named}")


def show(text: str) -> None:
    """Data, for people or programs."""
    # A file name that is not UTF-8 holds surrogates, which become the escapes that JSON has for them.
    typer.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    sys.stdout.flush()  # a closed pipe must be noticed here, not when the interpreter ends


def show_sentence(text: str) -> None:
    """Data that is prose, broken between words where it is read on a terminal."""
    show(_fitted(text, sys.stdout))


def _fitted(text: str, stream: TextIO) -> str:
    """Lines that fit the terminal, if it is one; for programs and files a sentence stays one line."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = (
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


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
    """Aligned columns, the last one wrapped where it is read on a terminal; for programs one line a row."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    begin = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        last = [row[-1]]
        if columns is not None:
            room = max(columns - begin, NARROWEST_COLUMN)
            last = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        show("  ".join([*cells, last[0]]).rstrip())
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
