"""What a job reports while it runs. The command line prints it; a program may take what it needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult


def _nothing(message: str) -> None:
    """For messages that nobody wants."""


def _unheard(result: "FinetuneResult") -> None:
    """For results that nobody wants."""


def _silent() -> "AbstractContextManager[Callable[[FinetuneProgress], None]]":
    return nullcontext(lambda progress: None)


def _uncounted() -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


@dataclass(slots=True)
class Events:
    """Where messages go. `warn`: what is not as the user may expect; each sentence comes once.

    `say`: what is being done. `analysing`: a display of how many frames were looked at, while that lasts.
    `finetuning`: one of a finetuning run.
    """

    show_warning: Callable[[str], None] = _nothing
    say: Callable[[str], None] = _nothing
    analysing: Callable[[], AbstractContextManager[Callable[[int], None]]] = _uncounted
    finetuning: "Callable[[], AbstractContextManager[Callable[[FinetuneProgress], None]]]" = _silent
    adapted: "Callable[[FinetuneResult], None]" = _unheard  # receives what that run came to
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Show a warning, once, and remember it."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.show_warning(message)

    def warn_all(self, messages: Any) -> None:
        """Show these warnings."""
        for message in messages:
            self.warn(message)
