"""From a model's name to a verified file: registry, paths, the Hub, and every way it can go wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from stbn_cli.checkpoints import load_checkpoint, registry, store
from stbn_cli.checkpoints.registry import CheckpointSpec, load_registry
from stbn_cli.errors import CheckpointError

SPEC = CheckpointSpec(
    name="small",
    file="small.safetensors",
    description="for tests",
    licence="CC0-1.0",
    sigma_range=(5.0, 55.0),
    bundled=True,
    default_on=("cpu",),
)
HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders for bundled files and for those put by hand."""
    bundled, models = tmp_path / "bundled", tmp_path / "models"
    bundled.mkdir()
    models.mkdir()
    monkeypatch.setattr(store, "bundled_folder", lambda: bundled)
    monkeypatch.setenv(store.MODELS_VARIABLE, str(models))
    return bundled, models


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch):
    """know(spec, ...) replaces the registry."""

    def replace_registry(*specs: CheckpointSpec) -> None:
        known = {spec.name: spec for spec in specs}
        monkeypatch.setattr(registry, "load_registry", lambda: known)
        monkeypatch.setattr(store, "load_registry", lambda: known)

    return replace_registry


def test_every_bundled_model_is_there_and_whole() -> None:
    for spec in load_registry().values():
        if spec.bundled:
            path = store.bundled_folder() / spec.file
            assert path.is_file(), f"{path} is missing"
            assert spec.sha256 and store.sha256_of(path) == spec.sha256
            assert load_checkpoint(path).info.sigma_range == spec.sigma_range


def test_every_row_can_be_had_and_is_unique() -> None:
    specs = list(load_registry().values())
    assert len({spec.file for spec in specs}) == len(specs)
    for spec in specs:
        assert spec.bundled or spec.repo
        assert spec.name != registry.AUTO and spec.description and spec.licence


def test_registry_reads_rows(tmp_path, monkeypatch) -> None:
    text = """
    [[model]]
    name = "a"
    file = "a.safetensors"
    sha256 = ""
    bundled = false
    repo = "me/models"
    default_on = ["cuda"]
    sigma_range = [5, 55]
    licence = "Apache-2.0"
    description = "first"
    metrics = { "set8 30" = 31.5 }
    """
    file = tmp_path / "registry.toml"
    file.write_text(text)
    monkeypatch.setattr(registry, "REGISTRY_FILE", file)
    spec = load_registry.__wrapped__()["a"]
    assert spec.sigma_range == (5, 55) and spec.default_on == ("cuda",) and spec.metrics == {"set8 30": 31.5}
    assert spec.url == "https://huggingface.co/me/models/resolve/main/a.safetensors"


def test_auto_takes_the_first_that_suits_the_device(folders, know) -> None:
    bundled, _ = folders
    large = replace(SPEC, name="large", file="large.safetensors", default_on=("cuda",))
    know(large, SPEC)
    for spec in (large, SPEC):
        (bundled / spec.file).write_bytes(b"hello")
    assert store.resolve("auto") == bundled / "small.safetensors"
    assert store.resolve("auto", device="cuda:1") == bundled / "large.safetensors"
    with pytest.raises(CheckpointError, match="no default model for device 'mps'"):
        store.resolve("auto", device="mps")


def test_a_known_model_is_found_bundled_or_put_by_hand(folders, know) -> None:
    bundled, models = folders
    know(replace(SPEC, sha256=HELLO_SHA256))
    (models / SPEC.file).write_bytes(b"hello")
    assert store.resolve("small") == models / SPEC.file
    (bundled / SPEC.file).write_bytes(b"hello")
    assert store.resolve("small") == bundled / SPEC.file


def test_damaged_and_missing_bundled_files(folders, know) -> None:
    bundled, models = folders
    know(replace(SPEC, sha256=HELLO_SHA256))
    with pytest.raises(CheckpointError, match="missing") as caught:
        store.resolve("small")
    assert str(models / SPEC.file) in str(caught.value)
    (bundled / SPEC.file).write_bytes(b"hellO")
    with pytest.raises(CheckpointError, match="damaged"):
        store.resolve("small")


def test_paths(tmp_path) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert store.resolve(str(file)) == file
    with pytest.raises(CheckpointError, match="does not exist"):
        store.resolve(str(tmp_path / "other.safetensors"))
    for suffix in (".pth", ".pt", ".ckpt"):
        with pytest.raises(CheckpointError, match=r"stbn weights import .*model\S+ -o \S+\.safetensors"):
            store.resolve(str(tmp_path / f"model{suffix}"))


def test_misspelt_names(know) -> None:
    know(SPEC, replace(SPEC, name="stbn-xs"))
    with pytest.raises(CheckpointError, match="Did you mean 'stbn-xs'"):
        store.resolve("stbn_xs")
    with pytest.raises(CheckpointError, match=r"no model called 'zebra'.*auto, small, stbn-xs") as caught:
        store.resolve("zebra")
    assert "Did you mean" not in str(caught.value)


def test_hub_download_is_checked(folders, know, tmp_path, monkeypatch) -> None:
    cached = tmp_path / "cached.safetensors"
    cached.write_bytes(b"hello")
    asked = []

    def download(repo: str, file: str, **options) -> str:
        asked.append((repo, file))
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
    remote = replace(SPEC, bundled=False, repo="me/models", sha256=HELLO_SHA256)
    know(remote)
    assert store.resolve("small") == cached
    assert store.resolve("hf:you/things/sub/x.safetensors") == cached
    assert asked == [("me/models", "small.safetensors"), ("you/things", "sub/x.safetensors")]
    know(replace(remote, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="damaged"):
        store.resolve("small")


@pytest.mark.parametrize("name", ["hf:", "hf:x.safetensors", "hf:me/x.safetensors", "hf:me/models/x.pth"])
def test_hub_references_are_spelt_out(name) -> None:
    with pytest.raises(CheckpointError, match=r"hf:owner/repository/file\.safetensors"):
        store.resolve(name)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("no"), "cannot be reached"),
        (PermissionError(13, "denied"), "denied"),
        (ValueError("odd name\nmore"), "odd name"),
    ],
)
def test_download_failures_say_what_to_do(folders, know, monkeypatch, error, words) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
    know(replace(SPEC, bundled=False, repo="me/models"))
    with pytest.raises(CheckpointError) as caught:
        store.resolve("small")
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert "https://huggingface.co/me/models/resolve/main/small.safetensors" in message
    assert str(folders[1] / "small.safetensors") in message


def test_offline_is_said_without_a_network(tmp_path) -> None:
    code = "from stbn_cli.checkpoints.store import resolve; resolve('hf:me/models/x.safetensors')"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
