"""A Hugging Face Hub on 127.0.0.1, for the real client: what it asks for downloads and commits, and ways to go wrong.

Two servers on two ports, as on the Hub: one answers, large files come from the other (the CDN), which must never see
a token. Xet is not spoken: the client takes plain HTTP for downloads and LFS's basic transfer for uploads.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import PATIENCE

READ, WRITE = "read", "write"
CHUNK = 1024
LIMIT = 2**24  # bytes of a request


@dataclass(frozen=True)
class Blob:
    """A file's content and how the repository keeps it."""

    content: bytes
    lfs: bool = True

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        git = hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()
        return self.sha256 if self.lfs else git


@dataclass
class Repository:
    """Commits by their id, and branches and tags by name."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], branch: str = "main") -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        seed = repr((len(self.commits), sorted(files))).encode()
        oid = hashlib.sha1(seed).hexdigest()
        self.commits[oid] = {**before, **files}
        self.branches[branch] = oid
        return oid


@dataclass
class Fault:
    """What goes wrong when the content of a file is sent."""

    body: bytes | None = None  # sent instead of the content
    stated_size: int | None = None  # in the headers instead of the size
    cut_at: int | None = None  # bytes of the file after which the connection breaks
    cuts: int = 1  # how often
    pause: float = 0.0  # seconds before each chunk


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """The state of the servers; `endpoint` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, str] = {}  # token -> READ or WRITE
        self.faults: dict[str, Fault] = {}  # by file name
        self.status = 0  # answers everything with this error
        self.requests: list[Request] = []
        self.cdn_requests: list[Request] = []
        self.uploads: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.messages: list[str] = []  # of the commits that were pushed
        self.lock = threading.Lock()
        self.endpoint = self.cdn = ""

    def add(self, repo: str, file: str, content: bytes, *, lfs: bool = True, branch: str = "main") -> str:
        """Commit a file; the commit's id."""
        return self.repositories.setdefault(repo, Repository()).commit({file: Blob(content, lfs)}, branch)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables by which a new process uses this Hub and keeps its cache in `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
        """Have the client in this process use this Hub, and never sleep between tries; its cache's folder."""
        from huggingface_hub import constants

        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        settings = {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value, raising=False)  # older clients have fewer
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        return home / "hub"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers as long as the block runs."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), partial(role, hub)) for role in (_Api, _Cdn)]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join(PATIENCE)


class _Handler(BaseHTTPRequestHandler):
    """What both servers share: bounded requests, answers, ranges, faults."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)  # answers the request

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at `Hub.requests`."""

    def record(self, requests: list[Request]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.hub.lock:
            requests.append(Request(self.command, self.path, headers))

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(min(size, LIMIT)))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(min(int(self.headers.get("Content-Length", 0)), LIMIT))

    def answer(self, status: int, headers: dict[str, Any] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        sent = {"Content-Length": len(body), "Connection": "close", **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, document: Any, status: int = 200) -> None:
        self.answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, {"X-Error-Code": code, "X-Error-Message": code, **headers})

    def send_content(self, name: str, blob: Blob, headers: dict[str, Any]) -> None:
        """The content or the asked range of it, and whatever is to go wrong."""
        fault = self.hub.faults.get(name, Fault())
        content = blob.content if fault.body is None else fault.body
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            if start >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send_response(206 if start else 200)
        headers = {**headers, "Content-Length": len(content) - start, "Connection": "close"}
        for header, value in headers.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(content)
        if fault.cut_at is not None and fault.cuts > 0:
            fault.cuts -= 1
            end = fault.cut_at
        for position in range(start, end, CHUNK):
            if fault.pause:
                threading.Event().wait(fault.pause)  # time.sleep is patched away
            try:
                self.wfile.write(content[position : min(position + CHUNK, end)])
            except OSError:  # the client has given up
                return


class _Cdn(_Handler):
    """Large files: sends and takes them, asks for no token."""

    def do_GET(self) -> None:
        self.record(self.hub.cdn_requests)
        _, sha256, name = self.path.split("/", 2)
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                if (blob := files.get(unquote(name))) and blob.sha256 == sha256:
                    self.send_content(unquote(name), blob, {})
                    return
        self.answer(404)

    def do_PUT(self) -> None:
        self.record(self.hub.cdn_requests)
        content = self.body()
        if hashlib.sha256(content).hexdigest() != self.path.rpartition("/")[2]:
            self.answer(400)
            return
        self.hub.uploads[self.path.rpartition("/")[2]] = content
        self.answer(200)


class _Api(_Handler):
    """huggingface.co itself."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.record(self.hub.requests)
        path = urlsplit(self.path).path
        if self.hub.status:
            self.answer(self.hub.status)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if repository := self._readable(found[1]):
                commit = repository.branches[unquote(found[2] or "main")]
                self.answer_json({"id": found[1], "sha": commit, "siblings": [], "tags": [], "downloads": 0})
        else:
            self.answer(404)

    def do_POST(self) -> None:
        self.record(self.hub.requests)
        body = self.body()
        path = unquote(urlsplit(self.path).path)
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/api/validate-yaml", self._validate_card),
            (r"/api/repos/create", self._create),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/verify", self._verify),
        ]
        for pattern, handle in routes:
            if found := re.fullmatch(pattern, path):
                if self.hub.status:
                    self.answer(self.hub.status)
                elif self._right() != WRITE and handle != self._validate_card:
                    self.refuse(403 if self._right() else 401, "Forbidden")
                else:
                    handle(body, *found.groups())
                return
        self.answer(404)

    def _right(self) -> str:
        return self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")

    def _readable(self, repo: str) -> Repository | None:
        """The repository, or None after an answer that says no; like the Hub, it does not tell why."""
        repository = self.hub.repositories.get(repo)
        if self.headers.get("Authorization") and not self._right():
            self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.private and not self._right()):
            self.refuse(404 if self._right() else 401, "RepoNotFound")
        elif repository.gated and not self._right():
            self.refuse(401, "GatedRepo")
        else:
            return repository
        return None

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        repository = self._readable(repo)
        if repository is None:
            return
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return
        blob = repository.commits[commit].get(file)
        if blob is None:
            self.refuse(404, "EntryNotFound", **{"X-Repo-Commit": commit})
            return
        headers: dict[str, Any] = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            self.send_content(file, blob, headers)
            return
        size = self.hub.faults.get(file, Fault()).stated_size or len(blob.content)
        headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": size}
        self.answer(302, {**headers, "Location": f"{self.hub.cdn}/{blob.sha256}/{file}"})

    def _validate_card(self, body: bytes) -> None:
        card = json.loads(body)["content"]
        errors = [] if card.startswith("---\nlicense: ") else [{"message": "no licence"}]
        self.answer_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        new = repo not in self.hub.repositories
        if new:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.repositories[repo] = Repository(private=private)
            self.hub.repositories[repo].commit({})
        self.answer_json({"url": f"{self.hub.endpoint}/{repo}"}, 200 if new else 409)

    def _branch(self, repo: str, revision: str) -> dict[str, Blob] | None:
        repository = self.hub.repositories[repo]
        if revision in repository.branches:
            return repository.commits[repository.branches[revision]]
        self.refuse(404, "RevisionNotFound")
        return None

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = self._branch(repo, revision)
        if files is None:
            return
        rows = []
        for wanted in json.loads(body)["files"]:
            mode = "lfs" if wanted["path"].endswith(".safetensors") else "regular"
            row = {"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False}
            known = files.get(wanted["path"])
            rows.append({**row, "oid": known.etag} if known else row)
        self.answer_json({"files": rows})

    def _batch(self, body: bytes, repo: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            verify = f"{self.hub.endpoint}/{repo}.git/info/lfs/objects/verify"
            upload = f"{self.hub.cdn}/upload/{wanted['oid']}"
            known = wanted["oid"] in self.hub.uploads
            actions = {} if known else {"actions": {"upload": {"href": upload}, "verify": {"href": verify}}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        self.answer_json({"transfer": "basic", "objects": objects})

    def _verify(self, body: bytes, repo: str) -> None:
        wanted = json.loads(body)
        whole = len(self.hub.uploads.get(wanted["oid"], b"")) == wanted["size"]
        self.answer_json({}, 200 if whole else 404)

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        if self._branch(repo, revision) is None:
            return
        files: dict[str, Blob] = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif item["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif item["key"] == "lfsFile":
                files[value["path"]] = Blob(self.hub.uploads[value["oid"]])
        oid = self.hub.repositories[repo].commit(files, revision)
        self.answer_json({"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"})
