"""Finetuning runs for tests."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from stbn_cli.api import finetune
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.result import FinetuneResult

SHORTCUTS = {"sigma", "minutes"}


def finetune_with(clips: Any, output: Path | None = None, **options: Any) -> FinetuneResult:
    """`finetune` with the fields of `FinetuneOptions` as keywords beside its own."""
    names = {field.name for field in fields(FinetuneOptions)} - SHORTCUTS
    learning = FinetuneOptions(**{name: options.pop(name) for name in names & options.keys()})
    return finetune(clips, output, options=learning, **options)
