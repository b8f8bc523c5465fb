"""stbn.toml: values for options that are not typed, and presets with names.

    [denoise]            # options of `stbn denoise`, without the dashes; `stbn preview` takes those it shares
    crf = 14

    [presets.archive]    # --use-preset archive
    codec = "ffv1"

What is typed goes first, then the preset, then the table of the command.
"""

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from stbn_cli.errors import OptionError

FILE = "stbn.toml"
DENOISE, PREVIEW, PRESETS = "denoise", "preview", "presets"
TABLES = (DENOISE, PREVIEW)
# What names one run's files, or this file, is no default for others.
NOT_KEPT = frozenset({"config", "use_preset", "help", "output", "uncertainty", "resume", "restart", "at"})
# `stbn preview` has options of the same names for its own output, which are not the full run's.
NOT_SHARED = frozenset({"overwrite"})
# A preset that chooses a codec takes the place of all of the table's encoding.
ENCODING_CHOICES = frozenset({"codec", "lossless"})
ENCODING = frozenset({"codec", "lossless", "crf", "preset", "pix_fmt"})

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says: options by command, and by preset."""

    path: Path
    commands: Mapping[str, Values]
    presets: Mapping[str, Values]


def find_config(named: str | None) -> Path | None:
    """The file that was named, else the one in this folder, else the user's; None if there is none.

    Raises `OptionError` if the named one does not exist.
    """
    if named is not None:
        path = Path(named).expanduser()
        if not path.is_file():
            raise OptionError(f"The config file {named} does not exist. Check --config.")
        return path
    for path in (Path(FILE), _users_folder() / FILE):
        if path.is_file():
            return path
    return None


def _users_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or "~/AppData/Roaming").expanduser() / "stbn"
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "stbn"


def read_config(path: Path) -> Config:
    """Read a file. Raises `OptionError` if it is no TOML, or has tables that mean nothing."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"The config file {path} cannot be read ({error}). Correct it.") from error
    presets = document.pop(PRESETS, {})
    for name, values in document.items():
        if name not in TABLES or not isinstance(values, dict):
            raise OptionError(
                f"The config file {path} has {name!r} at its top. Write options into [denoise] or [preview], and "
                "presets into [presets.NAME]."
            )
    if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
        raise OptionError(f"The config file {path}: presets are tables. Write [presets.NAME].")
    return Config(path, document, presets)


def take_config(ctx: typer.Context, value: str | None) -> str | None:
    """For --config: returns the path of the file that is read."""
    ctx.meta["stbn.config"] = (value,)
    _apply(ctx)
    return None if ctx.resilient_parsing or (path := find_config(value)) is None else str(path)


def take_preset(ctx: typer.Context, value: str | None) -> str | None:
    """For --use-preset."""
    ctx.meta["stbn.preset"] = (value,)
    _apply(ctx)
    return value


def _apply(ctx: typer.Context) -> None:
    """Give the command what the file says in place of its defaults, once both options are known."""
    if ctx.resilient_parsing or not {"stbn.config", "stbn.preset"} <= ctx.meta.keys():
        return
    (named,), (preset,) = ctx.meta["stbn.config"], ctx.meta["stbn.preset"]
    path = find_config(named)
    if path is None:
        if preset is not None:
            raise OptionError(
                f"--use-preset {preset}: there is no {FILE} here or in {_users_folder()}. Write one."
            )
        return
    config = read_config(path)
    if preset is not None and preset not in config.presets:
        names = ", ".join(config.presets) or "none"
        raise OptionError(f"{path} has no preset called {preset!r}. It has: {names}.")
    command = ctx.info_name
    options = _options(ctx.command)
    denoising = options if command == DENOISE else _options(_sibling(ctx, DENOISE))
    values: dict[str, Any] = {}
    for table in (DENOISE, PREVIEW):
        given = config.commands.get(table, {})
        known = denoising if table == DENOISE else _options(_sibling(ctx, PREVIEW))
        understood = _understood(given, known, f"[{table}] of {path}")
        if table in (DENOISE, command):
            values |= _shared(understood, options, own=table == command)
    for name, given in config.presets.items():
        understood = _understood(given, denoising, f"[presets.{name}] of {path}")
        if name == preset:
            if not ENCODING_CHOICES.isdisjoint(understood):
                # What was tuned for another codec does not fit this one.
                values = {option: value for option, value in values.items() if option not in ENCODING}
            values |= _shared(understood, options, own=command == DENOISE)
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _sibling(ctx: typer.Context, name: str) -> Any:
    parent: Any = ctx.parent
    return parent.command.get_command(parent, name) if parent is not None else ctx.command


def _options(command: Any) -> dict[str, Any]:
    """The options that a file may give, by their names without dashes."""
    found = {}
    for option in command.params:
        if option.param_type_name == "option" and option.name not in NOT_KEPT:
            found |= {name[2:]: option for name in option.opts if name.startswith("--")}
    return found


def _shared(values: Values, options: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """Of a file's values those that the command has."""
    names = {option.name for option in options.values()}
    return {
        name: value for name, value in values.items() if name in names and (own or name not in NOT_SHARED)
    }


def _understood(given: Values, options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Values by the parameters' names, as if they had been typed. Raises `OptionError` for a key that is no option."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            raise OptionError(
                f"{place}: there is no option {key!r}, or it cannot be set in a file. Correct or remove it."
            )
        is_flag = bool(getattr(option, "is_flag", False))
        if is_flag is not isinstance(value, bool) or not isinstance(value, bool | int | float | str):
            wanted = "true or false" if is_flag else "a number or a text"
            raise OptionError(f"{place}: {key} is {wanted}, not {value!r}. Correct it.")
        found[option.name] = value if is_flag else str(value)
    return found
