"""The models that stbn knows by name, read from registry.toml. Knows nothing of torch or the network."""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from stbn_cli.errors import CheckpointError

AUTO = "auto"
FAST, BALANCED, BEST = QUALITIES = ("fast", "balanced", "best")
REGISTRY_FILE = Path(__file__).with_name("registry.toml")


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """One row of the registry."""

    name: str
    file: str  # file name, in weights/ and in the Hub repository
    description: str
    licence: str
    sigma_range: tuple[float, float]  # noise levels it was trained for, 0-255 scale
    sha256: str
    size: int  # bytes
    noise: tuple[str, ...] = ("white",)  # kinds of noise it was trained for, of noise.kinds.KINDS
    kind: Literal["denoiser", "flow"] = "denoiser"  # "flow": a stand-alone network for --flow light
    bundled: bool = False  # comes with the package
    repo: str = ""  # Hub repository "owner/name"; "" = none
    revision: str = "main"  # commit, tag or branch of that repository
    default_on: tuple[str, ...] = ()  # device types on which it is the default
    fast: bool = False  # what --quality fast takes for its kind of noise
    metrics: dict[str, float] = field(default_factory=dict)


@cache
def load_registry() -> dict[str, CheckpointSpec]:
    """All known models by name, the best first."""
    rows: list[dict[str, Any]] = tomllib.loads(REGISTRY_FILE.read_text(encoding="utf-8")).get("model", [])
    specs = [
        CheckpointSpec(
            **{
                **row,
                "sigma_range": tuple(row["sigma_range"]),
                "noise": tuple(row.get("noise", ("white",))),
                "default_on": tuple(row.get("default_on", ())),
            }
        )
        for row in rows
    ]
    return {spec.name: spec for spec in specs}


def default_model(device: str, noise: str = "white", quality: str = BALANCED) -> CheckpointSpec:
    """The model for a kind of noise: at BALANCED the best that runs well on `device` ("cpu", "cuda:1", "xpu"...).

    At FAST the one that the registry calls fast, at BEST the first one for this noise whatever it takes; that of
    BALANCED where there is none. Raises `CheckpointError` if there is none at all.
    """
    device_type = device.partition(":")[0]
    known = [spec for spec in load_registry().values() if spec.kind == "denoiser" and noise in spec.noise]
    chosen = {FAST: [spec for spec in known if spec.fast], BEST: known}.get(quality, [])
    usual = [spec for spec in known if device_type in spec.default_on]
    if chosen and usual:
        return chosen[0]
    if usual:
        return usual[0]
    raise CheckpointError(
        f"This installation has no default model for {noise} noise on device {device_type!r}. "
        "Give --model the path of a .safetensors file (see stbn weights list and stbn weights import)."
    )


def has_model(device: str, noise: str) -> bool:
    """Whether `default_model` finds one."""
    try:
        default_model(device, noise)
    except CheckpointError:
        return False
    return True


def is_for_several_kinds(model: str) -> bool:
    """Whether the model of this name takes more than one kind of noise, so that a clip's own has to be measured."""
    spec = load_registry().get(model)
    return spec is not None and len(spec.noise) > 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with a leading space, or "" where nothing is similar."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
