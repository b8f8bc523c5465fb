"""One file of an archive, denoised in steps that any worker can do, on any machine that sees the same storage.

A long file is cut at scenes into parts. Each part's frames go to a store of its own in the output's hidden folder, and
the last step makes one store of them and runs the ordinary job, which finds all its frames done: it copies the sound,
verifies and renames. Knows nothing of Ray, or of which worker does what.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from stbn_cli.chunkstore import STATE_FILE, ChunkStore, RunKey, estimated_bytes, has_room
from stbn_cli.errors import InputError, OutputError
from stbn_cli.files import whole_file
from stbn_cli.inference.parts import Part, SceneFinder, parts_of
from stbn_cli.inference.resume import ChunkSizes, StreamState
from stbn_cli.jobs.denoise import DenoiseJob, DenoiseResult, PreparedDenoising
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.finished import Finished, about_to_rename, begin, finish, is_finished
from stbn_cli.jobs.noise import measure_clip
from stbn_cli.jobs.resume import PARTS, SMALLEST_KEPT
from stbn_cli.pipeline import denoise_video_resumably
from stbn_cli.video.fields import rows_by_field
from stbn_cli.video.frames import Frame, FrameReader, FrameWriter
from stbn_cli.video.output import resolve_output
from stbn_cli.video.reader import VideoReader
from stbn_cli.video.workfolder import WorkFolder
from stbn_cli.video.writer import create_video

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.jobs.model import LoadedDenoiser

SPLIT_FILE = "split.json"
DONE_FILE = "done.json"
FORMAT = 1
# Frames: some chunks, so that what each part costs beside the work (opening, seeking, planning) is little.
SHORTEST_PART = 128
# Seconds that a step waits for another worker to leave its folder: one that was cut off from the cluster may be at work
# yet, or its lock be held by a file server that has not noticed.
PATIENCE = 120.0
# Of each frame, one row in so many is compared to know it again, other ones in each frame.
COMPARED_ROWS = 8

Report = Callable[[int], None]  # called with the frames of a step that are done
# A run's line and document, as the command has them.
Tell = Callable[[PreparedDenoising, DenoiseResult], tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """A part, where it begins, and how its frames are known again."""

    part: Part
    pts: int  # of its first frame
    digests: tuple[str, ...]  # of each scene's frames

    @property
    def name(self) -> str:
        """That of its folder."""
        return f"{self.part.first:08d}"


@dataclass(frozen=True, slots=True)
class Split:
    """How a file is cut. All workers must be told the same, whatever memory they have."""

    key: RunKey
    sizes: ChunkSizes
    frames: int
    parts: tuple[CheckedPart, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A long file before it is cut."""

    key: RunKey
    sizes: ChunkSizes
    measured: "Analysis | None"
    frames: int | None = None  # an estimate
    split: Split | None = None  # an earlier run's
    done: tuple[int, ...] = ()  # the numbers of the parts that it finished


@dataclass(frozen=True, slots=True)
class PartDone:
    """What one part came to."""

    seconds: float
    fp32_chunks: int
    replans: int
    warnings: tuple[str, ...]


def _uncounted(count: int) -> None:
    """For steps that nobody counts."""


class UnlikeError(Exception):
    """Frames are others than those that were looked at when the file was cut."""


class ArchiveWorker:
    """Does one step at a time, and keeps the model of the last one loaded."""

    def __init__(self, tell: Tell, shortest: int = SHORTEST_PART) -> None:
        self._tell, self._shortest = tell, shortest
        self._events = Events()  # one for all: a loaded model goes on telling it
        self._denoiser: LoadedDenoiser | None = None

    def open(self, job: DenoiseJob, report: Report) -> Opened | Finished:
        """Denoise a short file, or see what a long one is to be cut for. Raises as `DenoiseJob.prepare` and `run`."""
        if (known := _already(job)) is not None:
            return known
        with self._prepared(replace(job, dry_run=True), None) as prepared:
            if self._is_long(prepared):
                denoiser, metadata = prepared.denoiser, prepared.metadata
                sizes = ChunkSizes.of(denoiser.plan_for(metadata.height, metadata.width))
                key = prepared.key()
                split = read_split(job, key)
                done = () if split is None else finished_parts(job, split)
                return Opened(key, sizes, prepared.measured, metadata.frame_count, split, done)
            measured = prepared.measured
        return self.whole(job, measured, report)

    def whole(self, job: DenoiseJob, measured: "Analysis | None", report: Report) -> Finished:
        """Denoise a file that is not cut; a run that was interrupted goes on."""
        return _already(job) or self._run(job, measured, report)

    def part(
        self, job: DenoiseJob, split: Split, number: int, measured: "Analysis | None", report: Report
    ) -> PartDone:
        """Denoise one part into its store; nothing, if that has been done.

        Raises InputError where the file changes or does not decode to the same frames again.
        """
        checked = split.parts[number]
        folder = _made(parts_folder(job) / checked.name)
        try:
            with FileLock(folder / "lock", timeout=PATIENCE):
                done = _read_done(folder)
                if done is None:
                    done = self._denoise_part(job, split, checked, folder, measured, report)
                    _write_json(folder / DONE_FILE, asdict(done))
        except Timeout as error:
            raise OutputError(
                f"Another worker is at work in {folder}. Start the run again when it has ended."
            ) from error
        report(checked.part.count)
        return done

    def join(self, job: DenoiseJob, split: Split, measured: "Analysis | None", report: Report) -> Finished:
        """Make the output of the finished parts."""
        if (known := _already(job)) is not None:
            return known
        with WorkFolder(job.output, PATIENCE) as work:
            if (known := is_finished(job)) is not None:
                return known
            work.keep()
            parts = [_read_done(work.path / PARTS / checked.name) for checked in split.parts]
            if not (work.path / STATE_FILE).exists():
                names = [(checked.part.first, f"{PARTS}/{checked.name}") for checked in split.parts]
                ChunkStore(work.path, split.key).adopt(names, split.sizes)
        return self._run(job, measured, report, [part for part in parts if part is not None])

    def _run(
        self,
        job: DenoiseJob,
        measured: "Analysis | None",
        report: Report,
        parts: Iterable[PartDone] = (),
    ) -> Finished:
        """Denoise what is left to do, and tell. A worker that was cut off may do so yet: the first one ends it."""
        try:
            return self._run_alone(job, measured, report, parts)
        except OutputError:
            if (known := _already(job)) is not None:
                return known
            raise

    def _run_alone(
        self, job: DenoiseJob, measured: "Analysis | None", report: Report, parts: Iterable[PartDone]
    ) -> Finished:
        with self._prepared(replace(job, resume=True, patience=PATIENCE), measured) as prepared:
            if (known := is_finished(job)) is not None:
                return known  # by the worker that held the lock until now
            begin(job)
            for part in parts:
                self._events.warn_all(part.warnings)
            prepared.open_progress()
            result = prepared.run(report, verifying=lambda: about_to_rename(job))
            found = prepared.denoiser.report
            found.fp32_chunks += sum(part.fp32_chunks for part in parts)
            found.replans += sum(part.replans for part in parts)
            seconds = result.summary.seconds + sum(part.seconds for part in parts)
            result = replace(result, summary=replace(result.summary, seconds=seconds))
            summary, document = self._tell(prepared, result)
            finished = Finished(summary, document, tuple(self._events.warnings))
            finish(job, finished)
        return finished

    @contextmanager
    def _prepared(self, job: DenoiseJob, measured: "Analysis | None") -> Iterator[PreparedDenoising]:
        self._events.warnings = []
        with job.prepare(self._events, self._denoiser) as prepared:
            if prepared.metadata.bayer is None:
                prepared.measured = measured or measure_clip(job.options, job.source, self._events)
            yield prepared
            self._denoiser = prepared.denoiser

    def _is_long(self, prepared: PreparedDenoising) -> bool:
        """Whether it is worth looking for scenes, and the frames would be the same."""
        metadata = prepared.metadata
        count = metadata.frame_count
        return (
            isinstance(prepared.reader, VideoReader)
            and metadata.bayer is None
            and prepared.job.options.scene_cuts
            and resolve_output(prepared.job.output).kind == "video"
            and min(metadata.width, metadata.height) >= SMALLEST_KEPT
            and (count is None or count >= 2 * self._shortest)
            and has_room(Path(prepared.job.output).parent, estimated_bytes(metadata) or 0)
        )

    def _denoise_part(
        self,
        job: DenoiseJob,
        split: Split,
        checked: CheckedPart,
        folder: Path,
        measured: "Analysis | None",
        report: Report,
    ) -> PartDone:
        key = replace(
            split.key, options=split.key.options | {PARTS: [checked.part.first, asdict(split.sizes)]}
        )
        # What is strict is the last step's business, which sees the whole file.
        job = replace(job, dry_run=True, overwrite=True, encode=replace(job.encode, strict=False))
        started = time.perf_counter()
        for seeking in (True, False):
            with self._prepared(job, measured) as prepared:
                if (difference := prepared.key().difference(split.key)) is not None:
                    raise InputError(
                        f"{job.source.path} was cut {difference} on another worker. See that all of them have the "
                        "same version, models and files, and start again with --restart."
                    )
                denoiser = prepared.denoiser
                store = _store(folder, key)
                reader = PartReader(prepared.reader, checked, seeking=seeking)
                try:
                    with (
                        TemporaryDirectory() as scratch,
                        create_video(
                            job.output, prepared.reader, job.encode, overwrite=True, folder=Path(scratch)
                        ) as writer,
                    ):
                        store.begin(writer.layout, asdict(writer.color))
                        denoise_video_resumably(
                            reader,
                            PartDenoiser(denoiser, checked.part, split.sizes),
                            PlanesWriter(writer),
                            store,
                            progress=report,
                        )
                except UnlikeError:
                    store.close()
                    _clear(folder)
                    continue
                found = denoiser.report
                return PartDone(
                    time.perf_counter() - started,
                    found.fp32_chunks,
                    found.replans,
                    tuple(self._events.warnings),
                )
        raise InputError(
            f"{job.source.path} does not decode to the same frames twice. See that nothing writes to it and that all "
            "workers have the same version of PyAV, and denoise it without --cluster."
        )


def cut(job: DenoiseJob, opened: Opened, shortest: int, report: Report = _uncounted) -> Split | None:
    """Look through a long file for its scenes and note how it is cut; None where it is better left whole.

    Needs neither model nor GPU. Raises InputError for a file that cannot be read.
    """
    finder = SceneFinder()
    scenes: list[tuple[int, int, Any]] = []  # first frame, its time, digest
    count = 0
    with job.source.open(once=True) as reader:
        by_fields = reader.metadata.by_fields
        for count, frame in enumerate(reader, 1):
            if finder.begins_scene(rows_by_field(frame.rgb) if by_fields else frame.rgb):
                scenes.append((count - 1, frame.pts, hashlib.sha256()))
            first, _, digest = scenes[-1]
            digest.update(_compared(frame.rgb, count - 1 - first))
            report(count)
        damage = getattr(reader, "damage", None)
    # How a decoder conceals damage depends on where it began.
    if damage is not None and (damage.missing or damage.concealed):
        return None
    found = parts_of([first for first, _, _ in scenes], count, shortest)
    if len(found) < 2:
        return None
    by_first = {first: (pts, digest.hexdigest()) for first, pts, digest in scenes}
    parts = tuple(
        CheckedPart(part, by_first[part.first][0], tuple(by_first[scene][1] for scene in part.scenes))
        for part in found
    )
    split = Split(opened.key, opened.sizes, count, parts)
    folder = _made(parts_folder(job))
    _write_json(folder / SPLIT_FILE, {"format": FORMAT, **asdict(split)})
    return split


def parts_folder(job: DenoiseJob) -> Path:
    """Where the parts of a file lie."""
    return WorkFolder(job.output).path / PARTS


def read_split(job: DenoiseJob, key: RunKey) -> Split | None:
    """How an earlier run cut the file. Raises OutputError if that was another run's."""
    path = parts_folder(job) / SPLIT_FILE
    try:
        stated = json.loads(path.read_text("utf-8"))
        if stated["format"] != FORMAT:
            return None
        split = Split(
            RunKey(**stated["key"]),
            ChunkSizes(**stated["sizes"]),
            stated["frames"],
            tuple(
                CheckedPart(
                    Part(row["part"]["first"], row["part"]["count"], tuple(row["part"]["scenes"])),
                    row["pts"],
                    tuple(row["digests"]),
                )
                for row in stated["parts"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if (difference := split.key.difference(_read_back(key))) is not None:
        raise OutputError(
            f"The unfinished run with --cluster in {path.parent.parent} was made {difference}. Repeat its options, or "
            "start again with --restart."
        )
    return replace(split, key=key)


def finished_parts(job: DenoiseJob, split: Split) -> tuple[int, ...]:
    """The numbers of the parts that are done."""
    folder = parts_folder(job)
    return tuple(
        number for number, checked in enumerate(split.parts) if _read_done(folder / checked.name) is not None
    )


class PartReader(FrameReader):
    """The frames of one part; iterating raises UnlikeError if they are not those that were looked at."""

    def __init__(self, reader: FrameReader, checked: CheckedPart, *, seeking: bool) -> None:
        """seeking: find the first frame by its time; else read from the file's beginning."""
        super().__init__(reader.path)
        self.metadata = reader.metadata
        self._reader, self._checked, self._seeking = reader, checked, seeking

    def __iter__(self) -> Iterator[Frame]:
        part = self._checked.part
        digest = hashlib.sha256()
        scene, number, count = 0, -1, 0
        for count, frame in enumerate(islice(self._frames(), part.count), 1):
            if part.begins_scene(count - 1):
                self._compare(number, digest.hexdigest())
                digest, number, scene = hashlib.sha256(), number + 1, count - 1
            digest.update(_compared(frame.rgb, count - 1 - scene))
            yield frame
        self._compare(number, digest.hexdigest())
        if count != part.count:
            raise UnlikeError

    def _frames(self) -> Iterator[Frame]:
        if self._seeking and self._checked.part.first and isinstance(self._reader, VideoReader):
            return self._reader.since(self._checked.pts)
        return islice(self._reader, self._checked.part.first, None)

    def _compare(self, number: int, digest: str) -> None:
        if number >= 0 and digest != self._checked.digests[number]:
            raise UnlikeError


class PartDenoiser:
    """A denoiser for the frames of one part, with chunks of the sizes that all parts have."""

    def __init__(self, denoiser: "LoadedDenoiser", part: Part, sizes: ChunkSizes) -> None:
        self._denoiser, self._part = denoiser, part
        self._beginning = StreamState(0, (), sizes, None)

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        resume: StreamState | None = None,
        on_chunk: Callable[[StreamState], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """As `Denoiser.stream`."""
        return self._denoiser.stream(
            frames, resume=resume or self._beginning, on_chunk=on_chunk, part=self._part
        )


class PlanesWriter(FrameWriter):
    """Makes another writer's planes and writes nothing."""

    def __init__(self, writer: FrameWriter) -> None:
        super().__init__()
        self.layout, self.color = writer.layout, writer.color
        self._writer = writer

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        """As the writer that was given."""
        return self._writer.to_planes(rgb)

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        """Nothing: the store has them."""

    def _complete(self) -> None:
        """Nothing."""

    def _discard(self) -> None:
        """Nothing."""


def _made(folder: Path) -> Path:
    """The folder, which its owner alone can read: nobody else's business before it is finished."""
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be created ({error.strerror or error}). Choose another --output-dir."
        ) from error
    return folder


def _compared(rgb: np.ndarray, index: int) -> bytes:
    return rgb[index % COMPARED_ROWS :: COMPARED_ROWS].tobytes()


def _store(folder: Path, key: RunKey) -> ChunkStore:
    """The store of a part, with what a worker left there that died; begun anew where that is of no use."""
    store = ChunkStore(folder, _read_back(key))
    try:
        store.load()
    except OutputError:
        _clear(folder)
        store = ChunkStore(folder, _read_back(key))
    return store


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.name != "lock":
            child.unlink()


def _read_back(key: RunKey) -> RunKey:
    """The key as files give it back."""
    return replace(key, options=json.loads(json.dumps(key.options)))


def _read_done(folder: Path) -> PartDone | None:
    try:
        stated = json.loads((folder / DONE_FILE).read_text("utf-8"))
        return PartDone(**{**stated, "warnings": tuple(stated["warnings"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path, durable=True) as partial:
        partial.write_text(json.dumps(content), "utf-8")


def discard(job: DenoiseJob) -> None:
    """Remove what earlier runs have kept for the output. Raises OutputError where one is at work there."""
    folder = WorkFolder(job.output, PATIENCE)
    if folder.path.is_dir():
        with folder:
            folder.clear()


def _already(job: DenoiseJob) -> Finished | None:
    """What became of a file that is finished; what is left of a worker that was killed after the renaming goes."""
    known = is_finished(job)
    if known is not None:
        with suppress(OutputError):  # one that was cut off may be at work yet
            discard(job)
    return known
