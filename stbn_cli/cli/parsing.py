"""What the user types, understood: pure functions that raise `OptionError` with a sentence."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from stbn_cli.checkpoints.registry import AUTO
from stbn_cli.errors import OptionError, StbnError
from stbn_cli.raw.pattern import NO_MOSAIC, BayerOptions
from stbn_cli.video.formats import MUXERS, STANDARD_STREAM

MAXIMUM_SIGMA = 255.0
DENOISED = "denoised"
FALLBACK_SUFFIX = ".mkv"  # where the input's own container cannot be written
SOUND_SUFFIXES = (FALLBACK_SUFFIX, ".mov", ".ts")  # where the input's own does not hold its sound
PERCENT = 100.0
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def parse_sigma(text: str) -> float | None:
    """Standard deviation on the 0-255 scale; None for auto."""
    if text.lower() == AUTO:
        return None
    try:
        sigma = float(text)
    except ValueError:
        raise OptionError(f"--sigma {text} is not a number. Use 0 to 255, such as 25, or auto.") from None
    if not 0 <= sigma <= MAXIMUM_SIGMA:
        raise OptionError(f"--sigma {text} is out of range. Use 0 to 255, or auto.")
    return sigma


def parse_sigmas(text: str) -> tuple[float, ...]:
    """Standard deviations on the 0-255 scale, separated by commas, each once."""
    levels = [parse_sigma(part.strip()) for part in text.split(",")]
    if None in levels or 0.0 in levels:
        raise OptionError(f"--sigma {text}: bench adds noise, so use levels above 0, such as 10,30,50.")
    return tuple(dict.fromkeys(level for level in levels if level is not None))


def parse_names(text: str, known: Collection[str], option: str) -> list[str]:
    """Names separated by commas, each once and each one of `known`."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise OptionError(f"{option}: {name!r} is unknown. Choose from {', '.join(known)}.")
    return list(dict.fromkeys(names))


def parse_time(text: str | None, option: str) -> float | None:
    """Seconds of "75", "75.5", "1:15" or "0:01:15.5"; None stays None."""
    if text is None:
        return None
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        raise OptionError(f"{option} {text} is not a time. Use seconds (75.5), MM:SS (1:15.5) or HH:MM:SS.")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    if found[2] is not None and (seconds >= 60 or (found[1] is not None and minutes >= 60)):
        raise OptionError(f"{option} {text} is not a time: minutes and seconds end at 59.")
    return 3600 * hours + 60 * minutes + seconds


def check_choice(noise_model: str, model: str) -> None:
    """Refuse a kind of noise that is none, or that a named model is not asked for. Raises `OptionError`."""
    from stbn_cli.checkpoints.registry import is_for_several_kinds
    from stbn_cli.noise.kinds import KINDS

    if noise_model != AUTO and noise_model not in KINDS:
        raise OptionError(f"--noise-model {noise_model}: choose one of {AUTO}, {', '.join(KINDS)}.")
    if noise_model != AUTO and model != AUTO and not is_for_several_kinds(str(model)):
        raise OptionError(
            f"--model {model} is made for one kind of noise, so --noise-model has no effect. Use one of them."
        )


def parse_count(text: str, option: str, minimum: int) -> int | None:
    """A whole number of at least `minimum`; None for auto."""
    if text.lower() == AUTO:
        return None
    if not re.fullmatch(r"\d+", text) or int(text) < minimum:
        raise OptionError(f"{option} {text}: use auto or a whole number of at least {minimum}.")
    return int(text)


LARGEST_VALUE = 65535  # of a 16-bit picture


def parse_bayer(pattern: str | None, black: str | None, white: float | None) -> BayerOptions | None:
    """What --bayer, --black and --white say; None where they say nothing."""
    if pattern is None and black is None and white is None:
        return None
    if pattern is not None and pattern.lower() == NO_MOSAIC:
        if black is not None or white is not None:
            raise OptionError("--bayer none says that there is no mosaic: leave out --black and --white.")
        return BayerOptions(NO_MOSAIC)
    levels = None if black is None else _parse_levels(black)
    if white is not None and not 0 < white <= LARGEST_VALUE:
        raise OptionError(
            f"--white {white:g} is not between 0 and {LARGEST_VALUE}. Use the value at which the sensor clips, such as "
            "4095."
        )
    if pattern is not None:
        from stbn_cli.raw.pattern import parse_pattern

        try:
            pattern = parse_pattern(pattern)
        except ValueError as error:
            raise OptionError(f"--bayer: {error}. Use none for grey pictures.") from None
    return BayerOptions(pattern, levels, white)


def parse_raw_noise(text: str | None) -> tuple[float, float] | None:
    """What --raw-noise says: gain and floor. Raises OptionError."""
    if text is None:
        return None
    try:
        gain, floor = (float(part) for part in text.split(","))
    except ValueError:
        gain = floor = -1.0
    if not (0 <= gain < float("inf") and 0 <= floor < float("inf")):
        raise OptionError(
            f"--raw-noise {text}: use two numbers, neither negative, with a comma between them: 13.5,131."
        )
    return gain, floor


def _parse_levels(text: str) -> float | tuple[float, float, float, float]:
    """One black level, or one for each place of the pattern."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if len(levels) not in (1, 4) or not all(0 <= level < float("inf") for level in levels):
        raise OptionError(
            f"--black {text}: use a number that is not negative, such as 240, or four with commas between them."
        )
    return levels[0] if len(levels) == 1 else (levels[0], levels[1], levels[2], levels[3])


def check_pipes(source: str, output: str, *, adapt: bool, json: bool) -> None:
    """Refuse what a pipe, which passes once and carries nothing but pictures, cannot do. Raises OptionError."""
    if source == STANDARD_STREAM and adapt:
        raise OptionError(
            "--adapt has to read the video more than once, which a pipe does not allow. Save it to a file first."
        )
    if output == STANDARD_STREAM and json:
        raise OptionError(
            "--json and -o - both write to standard output. Drop --json, or name an output file."
        )


def default_output(source: str, writable_suffixes: Collection[str]) -> str:
    """`<stem>.denoised.<suffix>` beside the input; a folder (ends with /) for images; a pipe for a pipe."""
    if source == STANDARD_STREAM:
        return STANDARD_STREAM
    path = Path(source)
    is_folder = os.path.isdir(path)  # unlike Path's, false for a name that is too long
    if is_folder or (not os.path.exists(path) and any(mark in path.name for mark in "%*?[")):
        # Resolved, so that "." and ".." have a name.
        folder = (path if is_folder else path.parent).resolve()
        return f"{folder}.{DENOISED}/"
    return str(path.with_name(f"{path.stem}.{DENOISED}{default_suffix(path, writable_suffixes)}"))


def default_suffix(path: Path, writable_suffixes: Collection[str]) -> str:
    """The input's own where that can be written and its container holds the input's sound, else one that holds more."""
    own = path.suffix if path.suffix.lower() in writable_suffixes else None
    if not os.path.isfile(path):  # a missing file, or a FIFO that would wait
        return own or FALLBACK_SUFFIX
    from av.error import FFmpegError

    from stbn_cli.video.streams import sound_suffix

    if own is not None and own.lower() not in MUXERS:
        return own  # of an image
    suffixes = (*(() if own is None else (own,)), *SOUND_SUFFIXES)
    try:
        return sound_suffix(path, suffixes)
    except (FFmpegError, OSError, StbnError):
        return suffixes[0]  # no video; who reads it says so
