"""Which model for which noise: what the user says, or what the analysis of the clip finds."""

from typing import Any

from stbn_cli.cli.console import say
from stbn_cli.cli.parsing import AUTO, PIPE

# Runs of frames that are looked at before a clip is denoised: its beginning, its middle and its end.
RUNS = 3


def with_noise_model(
    engine: dict[str, Any], source: str, span: dict[str, Any], *, quiet: bool = False
) -> dict[str, Any]:
    """Arguments of `load_denoiser` with the kind of noise in place of "auto".

    A clip is analysed where --model and --noise-model are both left to stbn; a pipe, which passes once, cannot be.
    Where there is no model for the kind on the device, it is that for white noise.
    """
    wanted = engine["noise_model"]
    if wanted != AUTO:
        return engine
    if engine["model"] != AUTO or source == PIPE:
        return {**engine, "noise_model": None}
    from stbn_cli.analysis.analysis import analyze
    from stbn_cli.checkpoints.registry import has_model
    from stbn_cli.inference.device import resolve_devices
    from stbn_cli.runs import Span

    found = analyze(source, Span(**span), most_runs=RUNS)
    kind = found.verdict.kind
    if not has_model(str(resolve_devices(engine["device"])[0]), kind):
        kind = "white"
    if not quiet:
        say(f"{found.verdict.sentences[0]} Noise model: {kind} (--noise-model changes it).")
    return {**engine, "noise_model": kind}
