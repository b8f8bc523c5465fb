"""Where output goes: data on stdout, everything for people on stderr."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer


def say(message: str) -> None:
    """A line for people."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """A line for people that something is not as they may expect."""
    typer.echo(f"Warning: {message}", err=True)


def show(text: str) -> None:
    """Data, for people or programs."""
    typer.echo(text)
    sys.stdout.flush()  # a closed pipe must be noticed here, not when the interpreter ends


def show_json(document: Any, *, one_line: bool = False) -> None:
    """One JSON document."""
    show(json.dumps(document, indent=None if one_line else 2, ensure_ascii=False))


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, never cut or wrapped, so that they can be searched."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
