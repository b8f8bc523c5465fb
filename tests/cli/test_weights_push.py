"""`stbn weights push` to a Hub on this machine, by the real client; what was pushed denoises."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from stbn_cli.checkpoints import registry
from stbn_cli.checkpoints.flow import FlowCheckpoint, save_flow_checkpoint
from stbn_cli.checkpoints.official import FLOW_LICENCE
from stbn_cli.checkpoints.registry import CheckpointSpec
from stbn_cli.checkpoints.serial import ModelInfo
from stbn_cli.checkpoints.store import find, sha256_of
from stbn_cli.models.lightflow import LightFlowNet
from tests.cli.conftest import save_tiny_model
from tests.hub import READ, WRITE, Hub, running_hub

REPO = "someone/models"
# How the client itself sends a file by LFS's basic transfer is deprecated by its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on which "writer" may write; the user is logged in."""
    with running_hub() as running:
        running.use(monkeypatch, tmp_path / "home")
        running.tokens.update(writer=WRITE, reader=READ)
        monkeypatch.setenv("HF_TOKEN", "writer")
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose header has everything that a card shows."""
    training = {"steps": 7, "recipe": {"learning_rate": 0.002}, "validation": {"mean": 30.4612}}
    return save_tiny_model(tmp_path / "mine.safetensors", licence="Apache-2.0", training=training)


def test_a_model_is_pushed_and_used(stbn, hub, model, make_clip, tmp_path) -> None:
    result = stbn("weights", "push", model, "--repo", REPO)
    assert result.code == 0, result.err
    assert f"Pushed 1 file and the model card to {REPO}" in result.err
    repository = hub.repositories[REPO]
    commit = repository.branches["main"]
    assert len(repository.commits) == 2 and not repository.private  # the new repository's own, and ours
    assert set(repository.commits[commit]) == {"README.md", "mine.safetensors"}
    assert repository.commits[commit]["mine.safetensors"].content == model.read_bytes()
    assert hub.messages == ["Add mine.safetensors"]
    assert not any("authorization" in request.headers for request in hub.cdn_requests)

    assert result.out.startswith(f"# {hub.endpoint}/{REPO}/commit/{commit}\n[[model]]\n")
    (row,) = tomllib.loads(result.out)["model"]
    expected = {"size": model.stat().st_size, "sha256": sha256_of(model), "repo": REPO, "revision": commit}
    assert {key: row[key] for key in expected} == expected
    assert row["metrics"] == {"validation PSNR": 30.46} and row["sigma_range"] == [5.0, 55.0]
    spec = CheckpointSpec(**row)
    assert find(spec).read_bytes() == model.read_bytes()  # the pasted row fetches what was pushed

    card = repository.commits[commit]["README.md"].content.decode()
    for words in (
        "license: apache-2.0",
        "sigma 5 to 55",
        '"learning_rate": 0.002',
        sha256_of(model),
        "validation PSNR: 30.46",
    ):
        assert words in card
    (use,) = (line for line in card.splitlines() if line.startswith("stbn denoise "))
    denoised = stbn("denoise", make_clip(frames=2), "-s", "20", "--json", *use.split()[3:])
    assert denoised.code == 0, denoised.err
    missing = stbn("weights", "path", f"hf:{REPO}/other.safetensors")
    assert missing.code == 4 and missing.err.count("\n") == 1 and "has no file" in missing.err


def test_a_second_push_adds_and_json_says_all(stbn, hub, model, tmp_path) -> None:
    stbn("weights", "push", model, "--repo", REPO)
    hub.repositories[REPO].branches["next"] = hub.repositories[REPO].branches["main"]
    other = save_tiny_model(tmp_path / "other.safetensors", name="other", licence="mine, all mine")
    options = ("--repo", REPO, "--revision", "next", "--message", "Two of them", "--json")
    result = stbn("weights", "push", model, other, *options)
    assert result.code == 0, result.err
    document = json.loads(result.out)
    commit = hub.repositories[REPO].branches["next"]
    assert document["commit"] == {"revision": commit, "url": f"{hub.endpoint}/{REPO}/commit/{commit}"}
    assert [row["revision"] for row in document["models"]] == [commit, commit]
    assert set(hub.repositories[REPO].commits[commit]) == {"README.md", model.name, other.name}
    assert hub.messages[-1] == "Two of them"
    assert "license: other" in document["card"] and "hf:someone/models@next/other" in document["card"]
    assert len(hub.uploads) == 2  # mine.safetensors was there already
    again = stbn("weights", "push", model, other, *options)
    assert again.code == 0 and json.loads(again.out)["commit"]["revision"] == commit


def test_private_repositories_and_rows_that_are_known(stbn, hub, small_registry, monkeypatch) -> None:
    known = registry.load_registry()["small"]
    result = stbn("weights", "push", small_registry, "--repo", REPO, "--private")
    assert result.code == 0, result.err
    assert hub.repositories[REPO].private
    (row,) = tomllib.loads(result.out)["model"]
    assert row["name"] == "small" and row["description"] == known.description and row["bundled"]
    assert row["default_on"] == list(known.default_on)


def test_dry_run_asks_nobody(stbn, hub, model, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = stbn("weights", "push", model, "--repo", REPO, "--dry-run")
    assert result.code == 0, result.err
    assert tomllib.loads(result.out)["model"][0]["revision"] == "main"
    assert "license: apache-2.0" in result.err and "Nothing was uploaded" in result.err
    assert (
        json.loads(stbn("weights", "push", model, "--repo", REPO, "--dry-run", "--json").out)["commit"]
        is None
    )
    assert not hub.requests and not hub.repositories


def test_pushes_that_the_hub_refuses(stbn, hub, model, monkeypatch) -> None:
    def refused(*options: object) -> str:
        result = stbn("weights", "push", model, "--repo", REPO, *options)
        assert result.code == 4 and result.out == ""
        (line,) = (line for line in result.err.splitlines() if line.startswith("Error: "))
        assert "Traceback" not in result.err
        return line

    assert "has no branch 'next'" in refused("--revision", "next")
    for token in ("reader", "nonsense"):
        monkeypatch.setenv("HF_TOKEN", token)
        assert "the token in use may not write there" in refused()
    monkeypatch.delenv("HF_TOKEN")
    hub.requests.clear()
    assert "log in with: hf auth login (or set HF_TOKEN)" in refused()
    assert not hub.requests
    monkeypatch.setenv("HF_TOKEN", "writer")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.status = 500
    assert "failed: Server error '500" in refused()
    assert all(set(commit) == set() for commit in hub.repositories[REPO].commits.values())


def test_files_that_must_not_be_pushed(stbn, hub, model, tmp_path) -> None:
    cut, text = tmp_path / "cut.safetensors", tmp_path / "model.txt"
    cut.write_bytes(model.read_bytes()[:-10])
    (tmp_path / "more").mkdir()
    twin = save_tiny_model(tmp_path / "more" / model.name)
    imported = save_tiny_model(tmp_path / "imported.safetensors", licence=f"Theirs.{FLOW_LICENCE}")
    for files, words in (
        ((tmp_path / "none.safetensors",), "does not exist"),
        ((cut,), "cannot be read"),
        ((text,), "does not end with .safetensors"),
        ((model, twin), "Two files are called mine.safetensors"),
        ((imported,), "not for redistribution"),
    ):
        result = stbn("weights", "push", *files, "--repo", REPO)
        assert result.code == 4 and words in result.err, result.err
    for repo in ("models", "https://huggingface.co/someone/models", "a/b/c"):
        result = stbn("weights", "push", model, "--repo", repo)
        assert result.code == 2 and "OWNER/NAME" in result.err
    assert stbn("weights", "push", model).code == 2
    assert not hub.requests


def test_a_flow_network_is_pushed_with_its_row(stbn, hub, tmp_path) -> None:
    file = tmp_path / "flow.safetensors"
    info = ModelInfo("my-flow", "light", (0.0, 60.0), "Apache-2.0")
    save_flow_checkpoint(file, FlowCheckpoint(info, dict(LightFlowNet().state_dict())))
    result = stbn("weights", "push", file, "--repo", REPO)
    assert result.code == 0, result.err
    (row,) = tomllib.loads(result.out)["model"]
    assert (row["kind"], row["name"], row["sigma_range"]) == ("flow", "my-flow", [0.0, 60.0])
    assert find(CheckpointSpec(**row)).read_bytes() == file.read_bytes()
    card = (
        hub.repositories[REPO].commits[hub.repositories[REPO].branches["main"]]["README.md"].content.decode()
    )
    assert "optical flow between noisy frames" in card and "stbn denoise" not in card
