"""`stbn doctor`: what is installed here, what it can compute with, what it can write."""

import platform
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from stbn_cli import __version__
from stbn_cli.cli import options as opt
from stbn_cli.cli.console import show, show_json, show_table
from stbn_cli.devices import CPU, DeviceKind
from stbn_cli.errors import StbnError
from stbn_cli.words import counted

GIB = 2**30
EXAMPLES = opt.epilog("stbn doctor", "stbn doctor --json")
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
PACKAGES = (
    "torch",
    "numpy",
    "av",
    "opencv-python-headless",
    "safetensors",
    "huggingface-hub",
    "typer",
    "rich",
)


def doctor(json: JsonOpt = False) -> None:
    """Check the installation: versions, devices, encoders and models. Fails if something needed does not work."""
    problems: list[str] = []
    found = {
        "versions": installed_versions(),
        "devices": _ask(_devices, "torch", problems),
        "ffmpeg": _ask(_ffmpeg, "PyAV", problems),
        "encoders": _ask(_encoders, "PyAV", problems),
        "models": _ask(_models, "models", problems),
        "problems": problems,
    }
    if json:
        show_json(found)
    else:
        for title, rows in _sections(found):
            show(typer.style(f"{title}:", bold=True))
            show_table([("  " + name, value) for name, value in rows])
        if not problems:
            show("Everything that stbn needs works here.")
    if problems:
        raise StbnError(f"{counted(len(problems), 'problem')}: {'; '.join(problems)}. Install stbn again.")


def _sections(found: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What was found, for people."""
    yield "Versions", list(found["versions"].items())
    devices = dict(found["devices"])
    if chosen := devices.pop("auto", None):
        yield (
            "Devices",
            [
                (name, f"{text} (used by default)" if name.startswith(chosen) else text)
                for name, text in devices.items()
            ],
        )
    if found["encoders"]:
        yield "Encoders", list(found["encoders"].items())
    if found["models"]:
        yield "Models", list(found["models"].items())


def _ask(question: Callable[[], dict[str, Any]], what: str, problems: list[str]) -> dict[str, Any]:
    """The answer, or {} and a problem: whatever is broken here is what this command is there to tell."""
    try:
        return question()
    except Exception as error:
        problems.append(f"{what}: {error}")
        return {}


def installed_versions() -> dict[str, str]:
    """Versions of stbn, Python and the packages that results may depend on, and the system."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"stbn": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _devices() -> dict[str, Any]:
    import torch

    from stbn_cli.devices import device_name, found_devices, kind_of, total_memory
    from stbn_cli.inference.device import precision_name, resolve_device, resolve_precision, usable_memory

    found: dict[str, Any] = {"auto": str(resolve_device("auto"))}
    for device in found_devices():
        kind, total = kind_of(device), total_memory(device)
        name = counted(torch.get_num_threads(), "thread") if device.type == "cpu" else device_name(device)
        memory = (
            f"{usable_memory(device) / GIB:.1f} GiB to plan with"
            if total is None
            else f"{total / GIB:.1f} GiB"
        )
        precision = precision_name(resolve_precision("auto", device))
        found[str(device)] = ", ".join([name, memory, f"{precision} by default", *_abilities(kind)])
    return found


def _abilities(kind: DeviceKind) -> Iterator[str]:
    """What sets the kind apart from a CPU, in a few words each."""
    if kind.kernels != "no":
        yield "GPU kernels" if kind.kernels == "tried" else "GPU kernels if they prove right"
    if kind.flow != CPU.flow:
        yield f"{kind.flow} flow"
    if kind.several:
        yield "several at once"
    if kind.decoder:
        yield "decoding"
    if not kind.tested:
        yield f"{kind.title}: untested so far"


def _ffmpeg() -> dict[str, str]:
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}


def _encoders() -> dict[str, str]:
    from stbn_cli.video.encoders import FAMILIES, find_encoder

    return {family: find_encoder(family) or "none" for family in FAMILIES}


def _models() -> dict[str, Any]:
    from stbn_cli.checkpoints.registry import load_registry
    from stbn_cli.checkpoints.store import bundled_folder, find_local, models_folder, verify

    found: dict[str, Any] = {"bundled_folder": str(bundled_folder()), "models_folder": str(models_folder())}
    for spec in load_registry().values():
        local = find_local(spec)
        if local is not None:
            verify(local, spec.sha256, spec.size)
        elif spec.bundled:
            raise StbnError(f"{spec.file} is missing from {bundled_folder()}")
        found[spec.name] = str(local or "not here yet")
    return found
