"""What an interrupted run leaves for the next one: finished frames as they will be encoded, and where it stood.

Segments of frames (video/segments.py) and one file with the engine's state, which replaces the last one in one step
after each chunk. Whatever the moment of a crash, the state and the segments before it are whole.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stbn_cli.checkpoints.store import sha256_of
from stbn_cli.errors import OutputError
from stbn_cli.files import whole_file
from stbn_cli.inference.report import SceneReport
from stbn_cli.inference.resume import ChunkSizes, StreamState
from stbn_cli.noise.model import Clipping
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.frames import VideoMetadata
from stbn_cli.video.segments import USUAL_RATIO, SegmentWriter, read_segment
from stbn_cli.words import counted

STATE_FILE = "state.safetensors"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunKey:
    """What a run's frames depend on: all equal, and one run can go on where another ended."""

    input: str
    model: str
    options: dict[str, Any]  # plain values
    version: str

    def difference(self, other: "RunKey") -> str | None:
        """What differs, in words; None if nothing does."""
        if self.version != other.version:
            return f"by version {self.version} of stbn, and this is {other.version}"
        if self.input != other.input:
            return "from another input"
        if self.model != other.model:
            return "with another model"
        names = [
            name for name in self.options | other.options if self.options.get(name) != other.options.get(name)
        ]
        return f"with another value of {', '.join(names)}" if names else None


class ChunkStore:
    """The store of one run in the folder `folder`, which is its own.

    `planes` are those of the writer: `layout` and `color` must be the first run's.
    """

    def __init__(self, folder: Path, key: RunKey) -> None:
        self.folder, self.key = folder, key
        self.state: StreamState | None = None
        self._layout: PixelLayout | None = None
        self._picture: dict[str, Any] = {}
        self._digests: dict[str, str] = {}  # of the segments, by name
        self._segment: SegmentWriter | None = None

    @property
    def frames(self) -> int:
        """Frames that are kept."""
        return self.state.frames if self.state is not None else 0

    @property
    def bytes(self) -> int:
        """Size on the disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def load(self) -> None:
        """Take up what an earlier run left; nothing if it left nothing.

        Raises OutputError if that is damaged or another run's.
        """
        found = read_state(self.folder)
        if found is None:
            return
        key, state = found.key, found.state
        self._picture, self._digests = found.picture, found.digests
        if (difference := key.difference(self.key)) is not None:
            raise OutputError(
                f"The interrupted run in {self.folder} ({counted(state.frames, 'frame')} kept) was made "
                f"{difference}. Repeat its options, or start again with --restart."
            )
        self.state = state

    def begin(self, layout: PixelLayout, picture: dict[str, Any]) -> None:
        """Say what will be kept: planes of `layout`; `picture` describes them and must be what it was.

        Raises OutputError if it is not.
        """
        picture = json.loads(json.dumps({"layout": asdict(layout), **picture}))  # as it is read back
        if self.state is not None and picture != self._picture:
            raise OutputError(
                f"The interrupted run wrote pictures of another format ({_words(self._picture, picture)}). Repeat its "
                "encoding options, or start again with --restart."
            )
        self._layout, self._picture = layout, picture
        for file in self.folder.glob("frames-*"):
            if file.name not in self._digests:
                file.unlink()  # begun after the last state that is there

    def stored(self) -> Iterator[list[np.ndarray]]:
        """The planes of the frames that are kept, in order. Raises OutputError if some are damaged or missing."""
        assert self._layout is not None
        count = 0
        for name, digest in self._digests.items():
            file = self.folder / name
            if not file.exists() or sha256_of(file) != digest:
                break
            for planes in read_segment(file, self._layout):
                count += 1
                yield planes
        if count != self.frames:
            raise OutputError(
                f"What was kept of the interrupted run is damaged: {count} of {self.frames} frames are there. Start "
                "again with --restart."
            )

    def add(self, planes: list[np.ndarray]) -> None:
        """Append a frame's planes, which count from the next `commit` on. Raises OutputError if the disk is full."""
        assert self._layout is not None
        if self._segment is None:
            name = f"frames-{self.frames:08d}.mkv"
            self._segment = SegmentWriter(self.folder / name, self._layout)
        self._segment.add(planes)

    def commit(self, state: StreamState) -> None:
        """Keep all that was added, and where the engine stands after it. Raises OutputError if the disk refuses it."""
        if self._segment is not None:
            self._segment.finish()
            self._digests[self._segment.path.name] = sha256_of(self._segment.path)
            self._segment = None
        content = {
            "format": FORMAT,
            "key": asdict(self.key),
            "picture": self._picture,
            "segments": self._digests,
            "frames": state.frames,
            "sizes": asdict(state.sizes),
            "scenes": [asdict(scene) for scene in state.scenes],
        }
        tensors = {} if state.state is None else {"state": state.state.cpu().contiguous()}
        try:
            with whole_file(self.folder / STATE_FILE, durable=True) as partial:
                save_file(tensors, partial, {"stbn": json.dumps(content)})
        except (OutputError, SafetensorError) as error:
            reason = getattr(error.__cause__, "strerror", None) or error
            raise OutputError(
                f"The progress cannot be kept in {self.folder} ({reason}). Free some space, or give --no-keep-progress."
            ) from error
        self.state = state

    def adopt(self, parts: Sequence[tuple[int, str]], sizes: ChunkSizes) -> None:
        """Take all frames of a video from finished stores in folders inside this one's.

        parts: the number of each one's first frame, and its folder's name, in order. Nothing is copied: the segments
        stay where they are. Raises OutputError where a part is missing, damaged or of another format.
        """
        frames, scenes = 0, []
        for first, name in parts:
            kept = read_state(self.folder / name)
            if kept is None or first != frames or (frames and kept.picture != self._picture):
                raise OutputError(
                    f"A part of what was kept in {self.folder} is missing or of another format ({name}). Start again "
                    "with --restart."
                )
            self._picture = kept.picture
            self._digests |= {f"{name}/{segment}": digest for segment, digest in kept.digests.items()}
            scenes += [replace(scene, first_frame=first + scene.first_frame) for scene in kept.state.scenes]
            frames += kept.state.frames
        self.commit(StreamState(frames, tuple(scenes), sizes, None))

    def close(self) -> None:
        """Remove what was begun and not committed."""
        if self._segment is not None:
            self._segment.discard()
            self._segment = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run left: what it was, what its pictures were, its segments' SHA-256 by name, and where it stood."""

    key: RunKey
    picture: dict[str, Any]
    digests: dict[str, str]
    state: StreamState


def _scene(stated: dict[str, Any]) -> SceneReport:
    """Raises KeyError, TypeError or ValueError for what describes no scene."""
    variances, levels = (
        None if rows is None else tuple(tuple(float(value) for value in row) for row in rows)
        for rows in (stated["variances"], stated.get("levels"))
    )
    ends = {name: tuple(float(value) for value in row) for name, row in stated.get("clipping", {}).items()}
    return SceneReport(
        **{**stated, "variances": variances, "levels": levels, "clipping": Clipping(**ends)},
    )


def read_state(folder: Path) -> Kept | None:
    """What the run left that used `folder`; None if it kept nothing.

    Raises OutputError if it is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["stbn"])
            tensor = file.get_tensor("state") if "state" in file.keys() else None  # noqa: SIM118 (it is no mapping)
        if content["format"] != FORMAT:
            raise ValueError("another format")
        scenes = tuple(_scene(scene) for scene in content["scenes"])
        state = StreamState(content["frames"], scenes, ChunkSizes(**content["sizes"]), tensor)
        return Kept(RunKey(**content["key"]), content["picture"], content["segments"], state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"What was kept of an interrupted run in {folder} cannot be read ({error}). Start again with --restart."
        ) from error


def estimated_bytes(metadata: VideoMetadata) -> int | None:
    """About what a store takes at the end of a video, by what FFV1 usually saves; None if its length is not known."""
    if metadata.frame_count is None:
        return None
    from stbn_cli.video.pixels import describe_format

    layout = describe_format(metadata.pixel_format)
    shapes = [layout.plane_shape(index, metadata.height, metadata.width) for index in range(layout.planes)]
    values = sum(height * width for height, width in shapes)
    return round(metadata.frame_count * values * np.dtype(layout.dtype).itemsize * USUAL_RATIO)


def has_room(folder: Path, needed: int) -> bool:
    """Whether a store of so many bytes, and an output beside it, leave the disk usable."""
    return shutil.disk_usage(folder).free > 2 * needed


def _words(first: dict[str, Any], second: dict[str, Any]) -> str:
    names = [name for name in first | second if first.get(name) != second.get(name)]
    return ", ".join(f"{name}: {first.get(name)}, now {second.get(name)}" for name in names)
