"""What the commands that finetune a model say about it."""

import math
from typing import TYPE_CHECKING, Any

from stbn_cli.cli.progress import clock
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.finetuning.result import FinetuneResult


def gained(result: "FinetuneResult") -> str:
    """The outcome in a line: what it gained by its own estimate, or that it is the start."""
    from stbn_cli.finetuning.result import Outcome

    effort = (
        f"{counted(result.steps, 'step')} on {counted(result.frames, 'frame')} in {clock(result.seconds)}"
    )
    noise = f"noise level {_level(result):.3g}"
    untried = {
        Outcome.CORRELATED_NOISE: "the noise is spread over neighbouring pixels",
        Outcome.REPEATED_NOISE: "the noise repeats from frame to frame",
        Outcome.TOO_SHORT: "there are too few frames",
        Outcome.NOTHING_NEW: "hardly any pixel could be compared with the next frame",
        Outcome.CODED_NOISE: "compression has changed the noise too much to learn from it",
    }
    if result.improved:
        assert result.gain is not None
        gain = f"{result.gain.decibel:.2f} dB (±{2 * result.gain.error:.2f}) better than"
        told = f"by its own estimate ({effort}, {noise})"
        if result.passes > 1:
            # Not only for what was learned: the user should know what the gain costs.
            told += f"; takes {result.passes} mirrored passes (--passes 1 is faster)"
        if result.outcome is Outcome.AVERAGED:
            return f"{result.against} in {result.passes} passes, {gain} in one, {told}"
        part = " in brightness" if result.luma_only else ""
        return f"{gain} {result.against}{part} {told}"
    if result.outcome in untried:
        return f"{result.against}, unchanged: {untried[result.outcome]}"
    reason = "nothing was clearly better" if result.steps else "there was no time for a single step"
    if result.outcome is Outcome.IDENTITY:
        reason = "training started to keep the noise"
    return f"{result.against}, unchanged: {reason} ({effort}, {noise})"


def _level(result: "FinetuneResult") -> float:
    """The noise level to show, on the 0-255 scale: as given, or as every command measures it."""
    if result.known or result.measured is None:
        return result.level
    return BYTE_SCALE * result.measured.level


def explanation(result: "FinetuneResult") -> str | None:
    """Why nothing could be learned, and what to do; None if something could."""
    from stbn_cli.finetuning.result import Outcome

    if result.outcome is Outcome.IDENTITY:
        return (
            "Training started to keep the noise instead of removing it, as happens when noise is spread over pixels or "
            "repeats in time. The model is unchanged. Use the original recording if you have it."
        )
    kept = f"The result is {result.against}, which stbn denoise takes for this noise."
    spread = "The noise is spread over neighbouring pixels"
    if result.outcome is Outcome.AVERAGED:
        kept = f"The result is {result.against} in {result.passes} passes."
    reason = result.not_learned_because or result.outcome
    if reason is Outcome.REPEATED_NOISE:
        return f"{spread} and repeats from frame to frame, so nothing tells it from the picture. {kept}"
    if reason is Outcome.TOO_SHORT:
        return f"{spread}. Learning from such noise takes at least six frames of one scene. {kept}"
    if reason is Outcome.NOTHING_NEW:
        return f"{spread}. Learning from it takes frames that show the same under new noise; hardly any do. {kept}"
    if reason is Outcome.CODED_NOISE:
        return f"Compression has changed the noise too much to learn from it. Use the original if you have it. {kept}"
    tried = result.outcome in (Outcome.NO_GAIN, Outcome.AVERAGED)
    if tried and result.steps == 0 and not (result.finished or result.interrupted):
        minutes = math.ceil(result.seconds / 30.0)  # twice as many
        return (
            f"The preparation took {clock(result.seconds)} and left no time to learn. Give at least "
            f"{counted(minutes, 'minute')}."
        )
    if result.outcome is not Outcome.CORRELATED_NOISE:
        return None
    where, cure = "", "use the original recording if you have it, or halve the picture first"
    found = result.correlation
    if found is not None and found.reliable:
        where = f" (correlation: {found.luma:.2f} in brightness, {found.chroma:.2f} in colour)"
        if found.luma_is_white and not found.is_white:
            where = f" in its colours (correlation: {found.chroma:.2f}; 4:2:0 video stores one colour for four pixels)"
            cure = "use a recording with full colour (4:4:4 or RGB) if you have it"
    return (
        f"The noise is spread over neighbouring pixels{where}. This model cannot learn from such noise, so it is "
        f"unchanged. Leave out --model, so that stbn chooses one that can, or {cure}."
    )


def describe(result: "FinetuneResult") -> dict[str, Any]:
    """The outcome as plain values."""
    gain, correlation = result.gain, result.correlation
    return {
        "outcome": str(result.outcome),
        "improved": result.improved,
        "interrupted": result.interrupted,
        "finished": result.finished,
        "against": result.against,
        "estimated_gain_db": None if gain is None else round(gain.decibel, 3),
        "standard_error_db": None if gain is None else round(gain.error, 3),
        "steps": result.steps,
        "frames": result.frames,
        "seconds": round(result.seconds, 1),
        "noise_level": round(_level(result), 3),
        "noise": None if result.measured is None else result.measured.summary(),
        "assumed": {
            "sigma": round(result.level, 3),
            "sigma_by_brightness": result.noise_levels(),
        },
        "noise_correlation": None
        if correlation is None
        else {"luma": round(correlation.luma, 3), "chroma": round(correlation.chroma, 3)},
        "flow_distilled": result.flow_distilled,
        "luma_only": result.luma_only,
        "passes": result.passes,
        "not_learned_because": None
        if result.not_learned_because is None
        else str(result.not_learned_because),
        "explanation": explanation(result),
    }
