"""From a model's name to a verified file on this machine: registry, folders, paths. Downloads are in test_hub.py."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from stbn_cli.checkpoints import load_checkpoint, registry, store
from stbn_cli.checkpoints.registry import CheckpointSpec, load_registry
from stbn_cli.errors import CheckpointError

SPEC = CheckpointSpec(
    name="small",
    file="small.safetensors",
    description="for tests",
    licence="CC0-1.0",
    sigma_range=(5.0, 55.0),
    sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",  # of "hello"
    size=5,
    bundled=True,
    default_on=("cpu",),
)


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
            store.verify(path, spec.sha256, spec.size)
            assert spec.kind == "flow" or load_checkpoint(path).info.sigma_range == spec.sigma_range


def test_every_row_can_be_had_and_is_unique() -> None:
    specs = list(load_registry().values())
    assert len({spec.file for spec in specs}) == len(specs)
    rows = tomllib.loads(registry.REGISTRY_FILE.read_text(encoding="utf-8"))["model"]
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["size"] > 0 and len(row["sha256"]) == 64
    for spec in specs:
        assert spec.bundled or spec.repo
        assert spec.kind == "denoiser" or (spec.kind == "flow" and not spec.default_on)
        assert spec.name != registry.AUTO and spec.description and spec.licence


def test_registry_reads_rows(tmp_path, monkeypatch) -> None:
    text = """
    [[model]]
    name = "a"
    file = "a.safetensors"
    size = 5
    sha256 = "aa"
    bundled = false
    repo = "me/models"
    revision = "v1"
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
    assert (spec.size, spec.sha256, spec.revision, spec.kind) == (5, "aa", "v1", "denoiser")


def test_auto_takes_the_first_that_suits_the_device(folders, know) -> None:
    bundled, _ = folders
    large = replace(SPEC, name="large", file="large.safetensors", default_on=("cuda",))
    know(large, SPEC)
    for spec in (large, SPEC):
        (bundled / spec.file).write_bytes(b"hello")
    assert store.resolve("auto") == bundled / "small.safetensors"
    assert store.resolve("auto", device="cuda:1") == bundled / "large.safetensors"
    with pytest.raises(CheckpointError, match="no default model for white noise on device 'mps'"):
        store.resolve("auto", device="mps")


def test_a_known_model_is_found_bundled_or_put_by_hand(folders, know) -> None:
    bundled, models = folders
    know(SPEC)
    (models / SPEC.file).write_bytes(b"hello")
    assert store.resolve("small") == models / SPEC.file
    (bundled / SPEC.file).write_bytes(b"hello")
    assert store.resolve("small") == bundled / SPEC.file


def test_damaged_and_missing_bundled_files(folders, know) -> None:
    bundled, models = folders
    know(SPEC)
    with pytest.raises(CheckpointError, match="missing") as caught:
        store.resolve("small")
    assert str(models / SPEC.file) in str(caught.value)
    for content, words in ((b"hell", "4 bytes instead of 5"), (b"hellO", "SHA-256 starts with")):
        (bundled / SPEC.file).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"damaged: .*{words}"):
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


def test_flow_networks_are_no_denoisers(folders, know) -> None:
    bundled, _ = folders
    flow = replace(SPEC, name="light-flow", file="flow.safetensors", kind="flow")
    know(flow, SPEC)
    for spec in (flow, SPEC):
        (bundled / spec.file).write_bytes(b"hello")
    assert store.find(flow) == bundled / flow.file
    assert store.resolve("auto") == bundled / SPEC.file
    with pytest.raises(CheckpointError, match=r"optical-flow network.*--model one of auto, small\."):
        store.resolve("light-flow")
    with pytest.raises(CheckpointError, match=r"Give one of auto, small, the path"):
        store.resolve("zebra")


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:x.safetensors",
        "hf:me/x.safetensors",
        "hf:me/models/x.pth",
        "hf:me/models@/x.safetensors",
        "hf:-me/models/x.safetensors",
        "hf:me/a--b/x.safetensors",
    ],
)
def test_hub_references_are_spelt_out(name) -> None:
    with pytest.raises(CheckpointError, match=r"hf:owner/repository\[@revision\]/file\.safetensors"):
        store.resolve(name)
