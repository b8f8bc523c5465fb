"""Finetune a model for a clip before it is denoised."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stbn_cli.errors import checked_options
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.scale import to_unit
from stbn_cli.source import Source

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
    from stbn_cli.jobs.finetune import FinetuneJob

    model = folder / ADAPTED_FILE
    # The file says what the noise is, for every brightness, and holds the flow network if that was finetuned.
    adapted = replace(options, model=model, sigma=None, noise_kind=None)
    useless = model.with_suffix(".useless")
    if model.exists() or useless.exists():
        return Adaptation(options if useless.exists() else adapted, None)
    with checked_options():
        learning = FinetuneOptions(sigma=to_unit(options.sigma), minutes=minutes)
    job = FinetuneJob(
        clips=[source.path],
        output=model,
        span=source.span,
        options=learning,
        model=options.model,
        noise_kind=options.noise_kind,
        quality=options.quality,
        passes=options.passes,
        flow=options.flow,
        device=options.device.split(",")[0],  # several can denoise, one can learn
        precision=options.precision,
    )
    with events.finetuning() as display:
        result = job.run(display, events.warn, measured)
    events.adapted(result)
    if not result.improved:
        model.rename(useless)
        return Adaptation(options, result)
    return Adaptation(adapted, result)
