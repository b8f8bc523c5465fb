"""Finetune a model for a clip before it is denoised."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stbn_cli.jobs.events import Events
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.source import Source

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.finetuning.result import FinetuneResult

ADAPTED_FILE = "adapted.safetensors"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The options that denoise with what was learned, and the run; None if an interrupted run had done it before."""

    options: DenoiserOptions
    result: "FinetuneResult | None"


def adapt(
    options: DenoiserOptions,
    source: Source,
    minutes: float,
    folder: Path,
    measured: "Analysis | None",
    events: Events,
) -> Adaptation:
    """Finetune for the clip into a file in `folder`."""
    from stbn_cli.api import finetune

    model = folder / ADAPTED_FILE
    # The file says what the noise is, for every brightness, and holds the flow network if that was finetuned.
    adapted = replace(options, model=model, sigma=None)
    useless = model.with_suffix(".useless")
    if model.exists() or useless.exists():
        return Adaptation(options if useless.exists() else adapted, None)
    span = source.span
    with events.finetuning() as display:
        result = finetune(
            source.path,
            model,
            model=options.model,
            sigma=options.sigma,
            flow=options.flow,
            precision=options.precision,
            device=options.device.split(",")[0],  # several can denoise, one can learn
            start=span.start,
            end=span.end,
            rate=span.rate,
            field=span.field,
            max_pixels=span.max_pixels,
            minutes=minutes,
            progress=display,
            on_message=events.warn,
            measured=measured,
        )
    events.adapted(result)
    if not result.improved:
        model.rename(useless)
        return Adaptation(options, result)
    return Adaptation(adapted, result)
