"""Files on the Hugging Face Hub, through its own client and its own cache. Knows nothing of torch.

The client's settings work as its users expect: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN. What it
does not do is to check hashes; `fetch` has its caller do that before a file is used.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from stbn_cli import __version__
from stbn_cli.errors import CheckpointError

DEFAULT_REVISION = "main"
REFERENCE = "hf:owner/repository[@revision]/file.safetensors"
_REFERENCE_PATTERN = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([^/@]+))?/(.+\.safetensors)")
_LFS_ETAG = re.compile(r"[0-9a-f]{64}")
_LIBRARY = "stbn"  # as the Hub sees who asks
_LOG_IN = "log in with: hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a Hub repository at one revision."""

    repo: str
    file: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{quote(self.revision, safe='')}"
        return f"{self.repo}{revision}/{self.file}"

    @property
    def url(self) -> str:
        """Where a person can download the file, at the endpoint that the client uses."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.file, revision=self.revision)

    def cached(self) -> Path | None:
        """The file in the client's cache, unchecked; asks no server."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self.file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Commit:
    """What a push made."""

    revision: str
    url: str


def parse_reference(reference: str) -> HubFile:
    """What "hf:owner/repository[@revision]/file.safetensors" names; a "/" in the revision is written %2F.

    Raises `CheckpointError` if it is not of that form.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    found = _REFERENCE_PATTERN.fullmatch(reference)
    if found is None:
        raise CheckpointError(f"{reference!r} does not name a file on the Hub. Write it as {REFERENCE}.")
    repo, revision, file = found.groups()
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise CheckpointError(
            f"{reference!r} names no file on the Hub ({_first_line(error)}). Write it as {REFERENCE}."
        ) from error
    return HubFile(repo, file, unquote(revision) if revision else DEFAULT_REVISION)


def fetch(source: HubFile, fault: Callable[[Path], str], *, by_hand: str, look_first: bool = False) -> Path:
    """The file in the client's cache, downloaded where needed.

    Args:
        source: the file.
        fault: says what is wrong with a file, "" if nothing; a faulty one is fetched once more, then refused.
        by_hand: the sentence on what to do without a network.
        look_first: take a cached file without asking the Hub whether it is still the newest.

    Raises:
        CheckpointError: the file is not to be had, or what the Hub gives is not the file that was meant.
    """
    path = (source.cached() if look_first else None) or _download(source, by_hand)
    if not fault(path):
        return path
    # The cached file is damaged, or older than the row that names it, or the transfer went wrong: fetch it once more.
    # The client replaces the content in one step, so a process that reads it meanwhile sees a whole file. Where the
    # cache has no links, though, it would keep the file that is there.
    if not path.is_symlink():
        _remove(path)
    path = _download(source, by_hand, force=True)
    if problem := fault(path):
        _remove(path.resolve(), path)
        raise CheckpointError(
            f"The Hub's {source} is not the file that was expected: {problem}. It was removed from the cache; "
            "try again later, or update stbn."
        )
    return path


def lfs_sha256(path: Path) -> str | None:
    """The SHA-256 that the Hub stated for a file of the client's cache; None if it stated none.

    The cache names the content after the ETag, which is the SHA-256 for large files, and links to it. Only that one
    link is followed: the content may itself be a link, named after another kind of hash. Where the cache has to do
    without links nothing is known.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if _LFS_ETAG.fullmatch(name) else None


def push(
    repo: str, files: Mapping[str, Path | bytes], *, revision: str, private: bool, message: str
) -> Commit:
    """Upload `files` (by their names there) to a model repository in one commit; makes the repository if needed.

    Raises `CheckpointError` if there is no token, or the Hub does not take them.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    try:
        if (token := get_token()) is None:
            raise CheckpointError(f"Uploading needs a token with write access to {repo}: {_LOG_IN}.")
        api = HfApi(token=token, library_name=_LIBRARY, library_version=__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    except CheckpointError:
        raise
    except Exception as error:  # of the client, of its HTTP library, of hf_xet
        raise CheckpointError(f"Pushing to {repo} failed: {_why_not_pushed(error, revision)}") from error
    return Commit(commit.oid, commit.commit_url)


def _download(source: HubFile, by_hand: str, *, force: bool = False) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    # Its retries would be reported line by line; what became of them is reported once, below.
    logging.set_verbosity_error()
    try:
        found = hf_hub_download(
            source.repo,
            source.file,
            revision=source.revision,
            force_download=force,
            library_name=_LIBRARY,
            library_version=__version__,
        )
    except Exception as error:  # of the client, of its HTTP library, of hf_xet
        raise CheckpointError(_why_not_fetched(error, source, by_hand, force)) from error
    return Path(found)


def _why_not_fetched(error: Exception, source: HubFile, by_hand: str, force: bool) -> str:
    from huggingface_hub import errors

    # The client wraps whatever kept it from finding the file in one of these.
    unfound = isinstance(error, errors.LocalEntryNotFoundError) or (
        force and isinstance(error, ValueError) and not isinstance(error, errors.HfHubHTTPError)
    )
    if unfound and isinstance(error.__cause__, Exception):
        error = error.__cause__
    here = "is damaged in the cache" if force else "is not on this machine"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"The model {source} {here} and HF_HUB_OFFLINE is set. {by_hand}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"The repository {source.repo} asks for its terms to be accepted. Accept them on its page and "
            f"{_LOG_IN}."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"The Hub has no public repository {source.repo!r}. Check the name; if it is private, {_LOG_IN} "
            "as someone who may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"The repository {source.repo} has no revision {source.revision!r}. Check the name."
    if isinstance(error, errors.HfHubHTTPError) and _status(error) == 401:
        return f"The Hub does not accept the token in use (for {source.repo}). To change it, {_LOG_IN}."
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"The repository {source.repo} has no file {source.file!r} at {source.revision!r}. Check the name."
    if unfound and not isinstance(error, errors.HfHubHTTPError | errors.FileMetadataError):
        return f"The model {source} {here} and the Hub cannot be reached. {by_hand}"
    return f"The model {source} cannot be downloaded ({_first_line(error)}). {by_hand}"


def _why_not_pushed(error: Exception, revision: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's "Error while uploading"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it and try again."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no branch {revision!r}. Make that branch on its page, or leave --revision out."
    if isinstance(error, errors.HfHubHTTPError) and _status(error) in (401, 403, 404):
        return f"the token in use may not write there. With a token that may, {_LOG_IN}."
    return f"{_first_line(error)}. Try again; what was sent already is not sent twice."


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):  # a cache that cannot be written: the file stays, and is refused every time
            path.unlink()
