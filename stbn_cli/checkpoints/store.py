"""From what the user calls a model to a verified file on this machine. Knows nothing of torch.

A known model is looked for in the package (weights/), in the models folder, in the Hugging Face Hub's cache on this
machine, and on the Hub.
"""

import hashlib
import os
from pathlib import Path

from stbn_cli.checkpoints import hub
from stbn_cli.checkpoints.registry import (
    AUTO,
    BALANCED,
    CheckpointSpec,
    default_model,
    did_you_mean,
    load_registry,
)
from stbn_cli.errors import CheckpointError

HUB_PREFIX = "hf:"
MODEL_SUFFIX = ".safetensors"
FOREIGN_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")  # pickles, which have to be imported first
MODELS_VARIABLE = "STBN_MODELS"
_PACKAGE = Path(__file__).resolve().parents[1]
_HASH_SHOWN = 12  # digits of a SHA-256 in messages


def bundled_folder() -> Path:
    """Where the files that come with stbn lie: in the installed package, or in the source checkout."""
    installed = _PACKAGE / "weights"
    return installed if installed.is_dir() else _PACKAGE.parent / "weights"


def models_folder() -> Path:
    """Where files put by hand are found: $STBN_MODELS, or stbn/models in the user's cache folder."""
    if chosen := os.environ.get(MODELS_VARIABLE):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "stbn" / "models"


def resolve(model: str, *, device: object = "cpu", noise: str = "white", quality: str = BALANCED) -> Path:
    """The file of a denoiser: "auto", a name of the registry, a path, or "hf:owner/repo[@revision]/file.safetensors".

    `device` (a `torch.device` or its name), the kind of noise and the quality (one of QUALITIES) decide what "auto" is.
    Downloads where needed; checks size and SHA-256 of known models, and of others what the Hub states. Raises
    `CheckpointError` that says what to do.
    """
    if model == AUTO:
        return find(default_model(str(device), noise, quality))
    if spec := load_registry().get(model):
        if spec.kind != "denoiser":
            raise CheckpointError(
                f"{model!r} is an optical-flow network, not a denoiser: it is used by --flow light. "
                f"Give --model one of {', '.join(_denoisers())}."
            )
        return find(spec)
    if model.startswith(HUB_PREFIX):
        return _from_hub_reference(model)
    path = Path(model).expanduser()
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        raise CheckpointError(
            f"{model} is a PyTorch file, which stbn does not run directly. "
            f"Convert it first: stbn weights import {model} -o {path.with_suffix(MODEL_SUFFIX)}"
        )
    if path.is_file():
        return path
    if path.suffix == MODEL_SUFFIX or len(path.parts) > 1:
        raise CheckpointError(f"The model file {model} does not exist. Check the path.")
    raise _unknown(model)


def find(spec: CheckpointSpec) -> Path:
    """The verified file of a known model, of whatever kind, downloaded if it is not here. Raises `CheckpointError`.

    A file in the Hub's cache that turns out to be damaged is fetched again.
    """
    if path := _find_placed(spec):
        verify(path, spec.sha256, spec.size)
        return path
    if not spec.repo:
        raise CheckpointError(
            f"The file of model {spec.name!r} is missing: {bundled_folder() / spec.file} does not exist. "
            f"This model is not on the Hub: take {spec.file} from the folder weights/ of stbn's source repository or "
            f"from its wheel, and put it at {models_folder() / spec.file}."
        )
    source = _on_hub(spec)
    return hub.fetch(
        source,
        lambda path: _fault(path, spec.sha256, spec.size),
        by_hand=f"Fetch {source.url} on another machine and put it at {models_folder() / spec.file}.",
        look_first=True,  # its hash shows whether it is the right one
    )


def find_flow() -> Path:
    """The verified file of the flow network that every denoiser can use. Raises `CheckpointError`."""
    for spec in load_registry().values():
        if spec.kind == "flow":
            return find(spec)
    raise CheckpointError("This installation has no flow network. Use --flow dis instead.")


def find_local(spec: CheckpointSpec) -> Path | None:
    """The file of a known model if it is on this machine, not verified."""
    return _find_placed(spec) or (_on_hub(spec).cached() if spec.repo else None)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"The model file {path} cannot be read ({reason}). Check it.") from error


def verify(path: Path, sha256: str, size: int) -> None:
    """Raise `CheckpointError` unless the file has this SHA-256 and this size in bytes."""
    if problem := _fault(path, sha256, size):
        raise CheckpointError(
            f"The model file {path} is damaged: {problem}. Delete it and try again, or install stbn again."
        )


def _fault(path: Path, sha256: str, size: int | None) -> str:
    """What is wrong with the file, "" if nothing. The size comes first: it costs nothing and says more."""
    if size is not None and path.is_file() and (found_size := path.stat().st_size) != size:
        return f"it has {found_size} bytes instead of {size}"
    found = sha256_of(path)
    if found != sha256.lower():
        return f"its SHA-256 starts with {found[:_HASH_SHOWN]} instead of {sha256[:_HASH_SHOWN]}"
    return ""


def _find_placed(spec: CheckpointSpec) -> Path | None:
    """The file of a known model where it came with stbn or was put by hand."""
    for folder in (bundled_folder(), models_folder()):
        if (folder / spec.file).is_file():
            return folder / spec.file
    return None


def _on_hub(spec: CheckpointSpec) -> hub.HubFile:
    return hub.HubFile(spec.repo, spec.file, spec.revision)


def _from_hub_reference(model: str) -> Path:
    def fault(path: Path) -> str:
        stated = hub.lfs_sha256(path)
        return _fault(path, stated, None) if stated else ""

    source = hub.parse_reference(model)
    by_hand = f"Fetch {source.url} on another machine and give --model the path of the file."
    return hub.fetch(source, fault, by_hand=by_hand)


def _denoisers() -> list[str]:
    """What --model takes by name."""
    return [AUTO, *(spec.name for spec in load_registry().values() if spec.kind == "denoiser")]


def _unknown(model: str) -> CheckpointError:
    names = _denoisers()
    return CheckpointError(
        f"There is no model called {model!r}.{did_you_mean(model, names)} Give one of {', '.join(names)}, "
        f"the path of a .safetensors file, or {hub.REFERENCE}."
    )
