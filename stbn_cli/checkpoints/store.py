"""From what the user calls a model to a verified file on this machine. Knows nothing of torch.

A known model is looked for in the package (weights/), in the models folder, and on the Hugging Face Hub,
whose own cache keeps what was downloaded.
"""

import hashlib
import os
import re
from pathlib import Path

from stbn_cli.checkpoints.registry import AUTO, CheckpointSpec, default_model, did_you_mean, load_registry
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


def resolve(model: str, *, device: object = "cpu") -> Path:
    """The file of a model: "auto", a name of the registry, a path, or "hf:owner/repo/file.safetensors".

    `device` (a `torch.device` or its name) decides what "auto" is. Downloads where needed; checks the SHA-256
    of known models. Raises `CheckpointError` that says what to do.
    """
    if model == AUTO:
        return find(default_model(str(device)))
    if model in load_registry():
        return find(load_registry()[model])
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
    """The verified file of a known model, downloaded if it is not here. Raises `CheckpointError`."""
    path = find_local(spec)
    if path is None:
        if not spec.repo:
            raise CheckpointError(
                f"The file of model {spec.name!r} is missing: {bundled_folder() / spec.file} does not exist. "
                f"Install stbn again, or put the file at {models_folder() / spec.file}."
            )
        path = _download(
            spec.repo,
            spec.file,
            f"Fetch {spec.url} on another machine and put it at {models_folder() / spec.file}.",
        )
    verify(path, spec.sha256)
    return path


def find_local(spec: CheckpointSpec) -> Path | None:
    """The file of a known model if it is on this machine, not verified."""
    for folder in (bundled_folder(), models_folder()):
        if (folder / spec.file).is_file():
            return folder / spec.file
    if not spec.repo:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(spec.repo, spec.file)
    return Path(cached) if isinstance(cached, str) else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"The model file {path} cannot be read ({reason}). Check it.") from error


def verify(path: Path, sha256: str) -> None:
    """Raise `CheckpointError` unless the file has this SHA-256; "" is not checked."""
    if not sha256:
        return
    found = sha256_of(path)
    if found != sha256.lower():
        raise CheckpointError(
            f"The model file {path} is damaged: its SHA-256 starts with {found[:_HASH_SHOWN]} instead of "
            f"{sha256[:_HASH_SHOWN]}. Delete it and try again, or install stbn again."
        )


def _from_hub_reference(model: str) -> Path:
    parts = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)/(.+\.safetensors)", model)
    if parts is None:
        raise CheckpointError(
            f"{model!r} names no file on the Hub. Write it as hf:owner/repository/file.safetensors."
        )
    repo, file = parts.groups()
    url = f"https://huggingface.co/{repo}/resolve/main/{file}"
    return _download(repo, file, f"Fetch {url} on another machine and give --model the path of the file.")


def _download(repo: str, file: str, by_hand: str) -> Path:
    """Path of a Hub file in the Hub's cache. `by_hand`: what to do without a network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, file, library_name="stbn"))
    except LocalEntryNotFoundError as error:
        # A subclass of EntryNotFoundError, which is why it comes first.
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the Hub cannot be reached"
        raise CheckpointError(
            f"The model {repo}/{file} is not on this machine and {why}. {by_hand}"
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"The repository {repo} asks for its terms to be accepted. Accept them on huggingface.co and log "
            "in with: hf auth login"
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise CheckpointError(
            f"The Hub has no file {file!r} in a public repository {repo!r}. Check the name."
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The model {repo}/{file} cannot be downloaded ({reason}). {by_hand}"
        ) from error


def _unknown(model: str) -> CheckpointError:
    names = [AUTO, *load_registry()]
    return CheckpointError(
        f"There is no model called {model!r}.{did_you_mean(model, names)} Give one of {', '.join(names)}, "
        "the path of a .safetensors file, or hf:owner/repository/file.safetensors."
    )
