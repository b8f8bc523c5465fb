"""What a clip's noise is, before it is denoised, and which model that asks for."""

from dataclasses import replace
from typing import TYPE_CHECKING

from stbn_cli.checkpoints.registry import AUTO, has_model
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.source import Source

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis


def measure_clip(options: DenoiserOptions, source: Source, events: Events) -> "Analysis | None":
    """The clip's noise, where its level or the model depends on it; None where all is given, and for pipes.

    A pipe passes once, and cannot be measured all over. Raises for a device or model that is not there before it
    measures, as that takes a while.
    """
    if source.is_pipe and options.open_kind:
        events.say(
            "A pipe cannot be measured beforehand: assuming white noise (--noise-model camera suits most video)."
        )
    if source.is_pipe or not options.needs_measuring:
        return None
    from stbn_cli.analysis.analysis import analyze
    from stbn_cli.jobs.model import check

    check(options)
    with events.analysing() as progress:
        found = analyze(source.path, source.span, progress=progress)
    if found.verdict.hint is not None:
        events.warn(found.verdict.hint)
    return found


def with_kind(options: DenoiserOptions, found: "Analysis | None", events: Events) -> DenoiserOptions:
    """The options with the kind of noise that was found in place of an open one.

    Where "auto" has no model for that kind on the device, or nothing was measured, it is white noise.
    """
    if not options.open_kind or found is None:
        return options
    from stbn_cli.inference.device import resolve_devices

    kind = found.verdict.kind
    if str(options.model) == AUTO and not has_model(str(resolve_devices(options.device)[0]), kind):
        kind = "white"
    what = found.verdict.sentences[0].partition(". ")[0].rstrip(".")
    events.say(f"{what}; using the model for {kind} noise.")
    return replace(options, noise_kind=kind)
