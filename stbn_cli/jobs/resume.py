"""What is kept of a run beside its output, and whether an interrupted one can be resumed."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from stbn_cli import __version__
from stbn_cli.errors import OutputError
from stbn_cli.jobs.events import Events
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.chunkstore import ChunkStore, RunKey
    from stbn_cli.jobs.model import LoadedDenoiser
    from stbn_cli.video.frames import FrameReader, VideoMetadata
    from stbn_cli.video.workfolder import WorkFolder

# Read of a video to know it again: its begin, middle and end.
SAMPLE_BYTES = 1 << 20
# Pixels along the shorter side: FFV1 refuses some pictures of a few pixels, and they are no work to do again.
SMALLEST_KEPT = 16
# What a run on a cluster keeps in the folder before its frames are joined (jobs/parts.py).
PARTS = "parts"
# From here on the size that the store will have is reported.
LARGE_BYTES = 100 << 20


def take_over(folder: "WorkFolder", *, resume: bool, restart: bool, choices: str) -> None:
    """Clear what an earlier run left, unless there is something to go on with.

    Raises OutputError if there is and the user has not said what to do with it, with the `choices` there are.
    """
    from stbn_cli.chunkstore import STATE_FILE, read_state

    begun = (folder.path / STATE_FILE).exists()
    if not begun and not restart and (folder.path / PARTS).exists():
        folder.keep()
        raise OutputError(
            f"An unfinished run with --cluster has kept parts of {folder.output}. Start it again with the same "
            "options, or discard them with --restart."
        )
    if restart or not begun:
        folder.clear()
        return
    if resume:
        return
    folder.keep()
    found = read_state(folder.path)
    frames = found.state.frames if found is not None else 0
    raise OutputError(
        f"An interrupted run for {folder.output} has kept {counted(frames, 'frame')}. {choices}"
    )


def open_store(
    folder: "WorkFolder", reader: "FrameReader", denoiser: "LoadedDenoiser", options: dict[str, Any]
) -> "ChunkStore":
    """The store for a run in `folder`, with what an interrupted one left.

    options: plain values that decide on the result. Raises OutputError if the interrupted run was another one.
    """
    from stbn_cli.chunkstore import ChunkStore

    store = ChunkStore(folder.path, run_key(reader, denoiser, options))
    try:
        store.load()
    except OutputError:
        folder.keep()  # it is somebody's work
        raise
    return store


def run_key(reader: "FrameReader", denoiser: "LoadedDenoiser", options: dict[str, Any]) -> "RunKey":
    """What a run's frames depend on; `options`: plain values."""
    from stbn_cli.checkpoints.store import sha256_of
    from stbn_cli.chunkstore import RunKey

    options = options | {
        "flow": denoiser.flow_name,
        "precision": str(denoiser.dtype),
        "device": denoiser.device.type,
    }
    return RunKey(_fingerprint(reader), sha256_of(denoiser.model_path), options, __version__)


def room_for(folder: "WorkFolder", metadata: "VideoMetadata", events: Events) -> bool:
    """Whether the store fits beside the output; says what it will take if that is much, and why not."""
    from stbn_cli.chunkstore import estimated_bytes, has_room

    if min(metadata.width, metadata.height) < SMALLEST_KEPT:
        return False
    needed = estimated_bytes(metadata)
    if needed is None:
        return True
    if not has_room(folder.path, needed):
        events.warn(
            f"Progress cannot be kept: it needs about {decimal(needed)} beside the output, and the disk is too full. "
            "If this run is interrupted, it starts again."
        )
        return False
    if needed >= LARGE_BYTES:
        events.say(
            f"Progress is kept beside the output until it is done (up to {decimal(needed)}). --no-keep-progress turns "
            "this off."
        )
    return True


def kept_words(folder: "WorkFolder", store: "ChunkStore") -> str:
    """What is kept of a run that did not end."""
    return f"{counted(store.frames, 'finished frame')} saved ({decimal(store.bytes)} in {folder.path})."


def _fingerprint(reader: "FrameReader") -> str:
    """Knows an input again, whatever its name: sizes, and a digest of some of the content."""
    digest = hashlib.sha256()
    names = reader.image_names
    if names is not None:
        folder = reader.path if reader.path.is_dir() else reader.path.parent
        for name in names:
            digest.update(f"{name}\0{(folder / name).stat().st_size}\0".encode("utf-8", "surrogateescape"))
        _sample(folder / names[0], digest)
    else:
        _sample(reader.path, digest)
    return digest.hexdigest()


def _sample(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for place in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
