"""What a clip's noise is, before it is denoised, and which model that asks for."""

from typing import TYPE_CHECKING, Any

from stbn_cli.cli.console import say
from stbn_cli.cli.parsing import AUTO, PIPE

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.cli.report import Notes


def measure_clip(
    engine: dict[str, Any], source: str, span: dict[str, Any], notes: "Notes"
) -> "Analysis | None":
    """The clip's noise, where its level or the model depends on it; None where all is given, and for pipes.

    A pipe passes once, and cannot be measured all over.
    """
    if source == PIPE or not (engine["sigma"] is None or _is_open(engine)):
        return None
    from stbn_cli.analysis.analysis import analyze
    from stbn_cli.runs import Span

    found = analyze(source, Span(**span))
    if found.verdict.hint is not None:
        notes(found.verdict.hint)
    return found


def with_noise_model(
    engine: dict[str, Any], found: "Analysis | None", *, quiet: bool = False
) -> dict[str, Any]:
    """Arguments of `load_denoiser` with the kind of noise in place of "auto": the kind that was `found`.

    Where there is no model for that kind on the device, or nothing was measured, it is that for white noise.
    """
    if engine["noise_model"] != AUTO:
        return engine
    if not _is_open(engine) or found is None:
        return {**engine, "noise_model": None}
    from stbn_cli.checkpoints.registry import has_model
    from stbn_cli.inference.device import resolve_devices

    kind = found.verdict.kind
    if not has_model(str(resolve_devices(engine["device"])[0]), kind):
        kind = "white"
    if not quiet:
        say(f"{found.verdict.sentences[0]} Noise model: {kind} (--noise-model changes it).")
    return {**engine, "noise_model": kind}


def _is_open(engine: dict[str, Any]) -> bool:
    """Whether the user leaves the choice of the model to the clip."""
    return engine["noise_model"] == AUTO and str(engine["model"]) == AUTO
