"""Fixtures of the command-line tests: a tiny random model, and the command line run in this process."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
from stbn_cli.cli import progress
from stbn_cli.cli.app import main
from stbn_cli.models.config import STBNConfig
from stbn_cli.models.stbn import STBN
from tests.networks import TINY


def save_tiny_model(path: Path, config: STBNConfig = TINY, **info) -> Path:
    """A small network with random weights, as a model file."""
    torch.manual_seed(0)
    network = STBN(config)
    fields = {"name": "tiny", "flow": "none", "sigma_range": (5.0, 55.0), "licence": "CC0-1.0", **info}
    save_checkpoint(path, Checkpoint(config, ModelInfo(**fields), network.state_dict()))
    return path


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.safetensors")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def stbn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """stbn("denoise", ...) -> exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("STBN_DEBUG", raising=False)
    monkeypatch.setattr(progress, "LINE_SECONDS", math.inf)  # how many lines there are is a matter of speed

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def small_registry(tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one bundled and one remote model; the path of the bundled one's file."""
    from stbn_cli.checkpoints import registry, store

    folder = tmp_path / "bundled"
    folder.mkdir()
    file = folder / "small.safetensors"
    file.write_bytes(tiny_model_path.read_bytes())
    spec = registry.CheckpointSpec(
        name="small",
        file=file.name,
        description="for tests",
        licence="CC0-1.0",
        sigma_range=(5.0, 55.0),
        sha256=store.sha256_of(file),
        size=file.stat().st_size,
        bundled=True,
        default_on=("cpu", "cuda", "mps", "xpu"),
    )
    remote = replace(spec, name="remote", file="remote.safetensors", bundled=False, repo="someone/models")
    known = {row.name: row for row in (spec, remote)}
    for module in (registry, store):
        monkeypatch.setattr(module, "load_registry", lambda: known)
    monkeypatch.setattr(store, "bundled_folder", lambda: folder)
    monkeypatch.setenv(store.MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return file
