"""Downloads by the real client from a Hub on this machine: what is asked, checked, kept and said."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from stbn_cli.checkpoints import registry, store
from stbn_cli.checkpoints.hub import HubFile, parse_reference
from stbn_cli.checkpoints.registry import CheckpointSpec
from stbn_cli.errors import CheckpointError
from tests.conftest import PATIENCE
from tests.hub import READ, Blob, Fault, Hub, running_hub

REPO, FILE = "someone/models", "small.safetensors"
REFERENCE = f"hf:{REPO}/{FILE}"
CONTENT = bytes(range(256)) * 40  # ten chunks
WRONG = CONTENT[::-1]
RESOLVE = "import sys; from stbn_cli.checkpoints.store import resolve; print(resolve(sys.argv[1]))"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client's empty cache, in this process; no model is anywhere else."""
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(store, "bundled_folder", lambda: tmp_path / "bundled")
    monkeypatch.setenv(store.MODELS_VARIABLE, str(tmp_path / "models"))
    return hub.use(monkeypatch, tmp_path)


@pytest.fixture
def spec(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointSpec:
    """The only row of the registry, a file that is on the Hub at a pinned commit."""
    commit = hub.add(REPO, FILE, CONTENT)
    blob = Blob(CONTENT)
    row = CheckpointSpec(
        name="small",
        file=FILE,
        description="for tests",
        licence="CC0-1.0",
        sigma_range=(5.0, 55.0),
        sha256=blob.sha256,
        size=len(CONTENT),
        repo=REPO,
        revision=commit,
    )
    for module in (registry, store):
        monkeypatch.setattr(module, "load_registry", lambda: {row.name: row})
    return row


def refusal(model: str) -> str:
    """The sentence by which a model is refused."""
    with pytest.raises(CheckpointError) as caught:
        store.resolve(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gets(hub: Hub) -> int:
    return sum(request.method == "GET" for request in hub.cdn_requests)


def kept(cache: Path) -> list[Path]:
    """All contents and links to contents in the cache."""
    return [
        path for path in cache.rglob("*") if {"blobs", "snapshots"} & set(path.parts) and not path.is_dir()
    ]


def test_a_known_model_is_downloaded_once(hub, spec) -> None:
    path = store.resolve("small")
    assert path.read_bytes() == CONTENT and store.find_local(spec) == path
    assert f"/{REPO}/resolve/{spec.revision}/{FILE}" in {request.path for request in hub.requests}
    assert all(request.headers["user-agent"].startswith("stbn/") for request in hub.requests)
    hub.requests.clear()
    hub.cdn_requests.clear()
    assert store.resolve("small") == path
    assert not hub.requests and not hub.cdn_requests


def test_what_is_here_comes_before_the_hub(hub, spec, tmp_path) -> None:
    for folder in (tmp_path / "models", tmp_path / "bundled"):
        folder.mkdir(exist_ok=True)
        (folder / FILE).write_bytes(CONTENT)
        assert store.resolve("small") == folder / FILE
    assert not hub.requests


def test_references_with_and_without_revision(hub, cache) -> None:
    first = hub.add(REPO, "sub/x.safetensors", b"first")
    hub.add(REPO, "sub/x.safetensors", b"second")
    hub.add(REPO, "sub/x.safetensors", b"third", branch="a/branch")
    for revision, content in (("", b"second"), (f"@{first}", b"first"), ("@a%2Fbranch", b"third")):
        assert store.resolve(f"hf:{REPO}{revision}/sub/x.safetensors").read_bytes() == content
    hub.add(REPO, "sub/x.safetensors", b"fourth")
    assert store.resolve(f"hf:{REPO}/sub/x.safetensors").read_bytes() == b"fourth"
    hub.requests.clear()
    assert store.resolve(f"hf:{REPO}@{first}/sub/x.safetensors").read_bytes() == b"first"
    assert not hub.requests


def test_references_read_and_written_agree() -> None:
    source = HubFile(REPO, FILE, "refs/pr/1")
    assert parse_reference(f"hf:{source}") == source
    assert parse_reference(REFERENCE) == HubFile(REPO, FILE)


def test_small_files_kept_in_git_need_no_hash(hub, cache) -> None:
    hub.add(REPO, FILE, CONTENT, lfs=False)
    assert store.resolve(REFERENCE).read_bytes() == CONTENT


def test_what_the_hub_does_not_have(hub, cache, tmp_path, monkeypatch) -> None:
    hub.add(REPO, FILE, CONTENT)
    assert "no file 'x.safetensors' at 'main'" in refusal(f"hf:{REPO}/x.safetensors")
    assert "no revision 'v9'" in refusal(f"hf:{REPO}@v9/{FILE}")
    assert "no public repository 'someone/nothing'" in refusal(f"hf:someone/nothing/{FILE}")
    assert "cannot be downloaded" in refusal(f"hf:{REPO}/../../{FILE}")
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "does not accept the token" in refusal(REFERENCE)


def test_private_and_gated_repositories_need_the_users_token(hub, cache, tmp_path, monkeypatch) -> None:
    hub.tokens["secret"] = READ
    hub.add(REPO, FILE, CONTENT)
    hub.repositories[REPO].private = True
    assert "if it is private, log in with: hf auth login (or set HF_TOKEN)" in refusal(REFERENCE)
    hub.repositories[REPO].private, hub.repositories[REPO].gated = False, True
    assert "terms to be accepted" in refusal(REFERENCE)
    hub.repositories[REPO].private = True
    (tmp_path / "token").write_text("secret")  # as hf auth login leaves it
    assert store.resolve(REFERENCE).read_bytes() == CONTENT
    assert hub.requests[-1].headers["authorization"] == "Bearer secret"
    assert not any("authorization" in request.headers for request in hub.cdn_requests)


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub, spec, monkeypatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what the client writes at a time
    hub.faults[FILE] = Fault(cut_at=3000)
    assert store.resolve("small").read_bytes() == CONTENT
    assert [request.headers.get("range") for request in hub.cdn_requests] == [None, "bytes=3000-"]


def test_a_download_that_is_always_cut_off_leaves_nothing(hub, spec, cache, tmp_path) -> None:
    hub.faults[FILE] = Fault(cut_at=3000, cuts=100)
    message = refusal("small")
    assert f"{REPO}@{spec.revision}/{FILE} cannot be downloaded" in message
    assert f"{hub.endpoint}/{REPO}/resolve/{spec.revision}/{FILE}" in message
    assert str(tmp_path / "models" / FILE) in message
    assert kept(cache) == [] and store.find_local(spec) is None
    hub.faults.clear()
    assert store.resolve("small").read_bytes() == CONTENT


def test_slow_and_stalled_downloads(hub, spec, cache, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults[FILE] = Fault(pause=PATIENCE)
    assert "cannot be downloaded" in refusal("small")
    assert kept(cache) == []
    # Longer as a whole than the client waits for a part.
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1.0)
    hub.faults[FILE] = Fault(pause=0.1)
    assert store.resolve("small").read_bytes() == CONTENT


def test_a_size_other_than_stated_is_refused(hub, spec, cache) -> None:
    hub.faults[FILE] = Fault(stated_size=len(CONTENT) + 1)
    for model in ("small", REFERENCE):
        assert "file should be of size 10241 but has size 10240" in refusal(model)
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [(CONTENT[:-1], "it has 10239 bytes instead of 10240"), (WRONG, "its SHA-256 starts with")],
)
def test_a_wrong_file_is_never_used_and_not_in_the_way(hub, spec, cache, body, words) -> None:
    hub.faults[FILE] = Fault(body=body, stated_size=len(body))
    message = refusal("small")
    assert f"not the file that was expected: {words}" in message
    assert gets(hub) == 2  # one more try before it is given up
    assert kept(cache) == []
    hub.faults.clear()
    assert store.resolve("small").read_bytes() == CONTENT


def test_the_hash_that_the_hub_states_is_checked(hub, cache) -> None:
    hub.add(REPO, FILE, CONTENT)
    hub.faults[FILE] = Fault(body=WRONG)
    assert "its SHA-256 starts with" in refusal(REFERENCE)
    assert kept(cache) == []
    hub.faults.clear()
    assert store.resolve(REFERENCE).read_bytes() == CONTENT


@pytest.mark.parametrize("links", [True, False])
def test_a_damaged_file_in_the_cache_is_fetched_again(hub, spec, cache, monkeypatch, links) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links, raising=False)
    path = store.resolve("small")
    assert path.is_symlink() == links
    for content in (WRONG, b""):
        path.resolve().write_bytes(content)
        assert store.resolve("small").read_bytes() == CONTENT


def test_a_damaged_file_of_a_reference_is_fetched_again(hub, cache) -> None:
    hub.add(REPO, FILE, CONTENT)
    store.resolve(REFERENCE).resolve().write_bytes(WRONG)
    assert store.resolve(REFERENCE).read_bytes() == CONTENT


def test_a_newer_row_replaces_the_cached_file_of_a_branch(hub, spec, monkeypatch) -> None:
    old = replace(spec, revision="main")
    hub.add(REPO, FILE, WRONG)
    new = replace(old, sha256=Blob(WRONG).sha256)
    hub.repositories[REPO].branches["main"] = spec.revision
    assert store.find(old).read_bytes() == CONTENT
    hub.add(REPO, FILE, WRONG)
    assert store.find(new).read_bytes() == WRONG


def test_offline_with_and_without_the_file(hub, spec, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal("small")
    assert "is not on this machine and HF_HUB_OFFLINE is set. Fetch http" in message
    assert "give --model the path" in refusal(REFERENCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    paths = [store.resolve("small"), store.resolve(REFERENCE)]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [store.resolve("small"), store.resolve(REFERENCE)] == paths
    paths[0].resolve().write_bytes(WRONG)
    assert "is damaged in the cache and HF_HUB_OFFLINE is set" in refusal("small")


def test_a_hub_that_cannot_be_reached_or_fails(hub, spec, monkeypatch) -> None:
    for status, words in ((503, "Server error '503 Service Unavailable'"), (200, "does not seem to be")):
        hub.status = status
        message = refusal("small")
        assert "cannot be downloaded (" in message and words in message
    with running_hub() as gone:
        gone.use(monkeypatch, Path(constants.HF_HUB_CACHE).parent)
    assert "is not on this machine and the Hub cannot be reached. Fetch http" in refusal("small")


def test_the_environment_is_heeded(hub, tmp_path) -> None:
    hub.tokens["secret"] = READ
    hub.add(REPO, FILE, CONTENT)
    hub.repositories[REPO].private = True
    environment = {"PYTHONPATH": ":".join(sys.path), **hub.environment(tmp_path, HF_TOKEN="secret")}
    command = [sys.executable, "-W", "error", "-c", RESOLVE, REFERENCE]
    # Two processes at once: each gets the whole file, and neither is in the other's way.
    hub.faults[FILE] = Fault(pause=0.05)
    pair = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        results = [process.communicate(timeout=PATIENCE) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], results
    paths = {Path(out.strip()) for out, _ in results}
    assert len(paths) == 1 and paths.pop().read_bytes() == CONTENT
    assert {path.name for path in kept(tmp_path / "hub")} == {Blob(CONTENT).sha256, FILE}
    hub.requests.clear()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and Path(done.stdout.strip()).is_relative_to(tmp_path)
    command[-1] = f"hf:{REPO}/other.safetensors"
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=PATIENCE)
    assert f"HF_HUB_OFFLINE is set. Fetch {hub.endpoint}" in done.stderr.splitlines()[-1]
    assert not hub.requests
