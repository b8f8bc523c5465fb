"""A file that is denoised in parts: its frames are those of one run, whatever happens between. Needs no Ray."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from filelock import FileLock

from stbn_cli.chunkstore import ChunkStore
from stbn_cli.errors import OutputError
from stbn_cli.inference.parts import Part, SceneFinder, parts_of
from stbn_cli.jobs import parts
from stbn_cli.jobs.denoise import DenoiseJob, PreparedDenoising
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.finished import Finished, begin, finish, is_finished
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.parts import (
    ArchiveWorker,
    Opened,
    PartReader,
    Split,
    UnlikeError,
    cut,
    discard,
    finished_parts,
    parts_folder,
)
from stbn_cli.source import Source, Span
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.reader import VideoReader
from tests.cluster.conftest import SCENES, same_frames

SHORTEST = 15


def tell(prepared, result) -> tuple[str, dict]:
    return "done", {"frames": result.summary.frames, "scenes": len(prepared.denoiser.report.scenes)}


def nothing(count: int) -> None:
    """For progress that is not shown."""


def job_for(clip: Path, model: Path, **options) -> DenoiseJob:
    engine: dict[str, Any] = {"sigma": 20.0, "chunk": 4, "chunk_overlap": 2} | options
    return DenoiseJob(
        Source(clip),
        str(clip.with_name("out.mkv")),
        DenoiserOptions(model=model, **engine),
        EncodeOptions(codec="ffv1"),
        keep_progress=True,
    )


def whole_run(job: DenoiseJob) -> Path:
    output = Path(job.output).with_name("whole.mkv")
    with replace(job, output=output, keep_progress=False).prepare(Events()) as prepared:
        prepared.run()
    return output


def worker() -> ArchiveWorker:
    return ArchiveWorker(tell, SHORTEST)


def begun(job: DenoiseJob, own: ArchiveWorker) -> tuple[Opened, Split]:
    opened = own.open(job, nothing)
    assert isinstance(opened, Opened)
    split = opened.split or cut(job, opened, SHORTEST, nothing)
    assert split is not None
    return opened, split


def denoised(job: DenoiseJob) -> tuple[Finished, Split]:
    """All steps, each part by a worker of its own, the last part first."""
    opened, split = begun(job, worker())
    for number in reversed(range(len(split.parts))):
        worker().part(job, split, number, opened.measured, nothing)
    return worker().join(job, split, opened.measured, nothing), split


@pytest.mark.parametrize("encoder", ["ffv1", "libx264", "mpeg2video"])
def test_frames_are_those_of_one_run(make_scenes, tiny_model_path: Path, encoder: str) -> None:
    clip = make_scenes(f"{encoder}.mkv", encoder=encoder)
    # Once with the noise of each scene measured, which takes its time.
    job = job_for(clip, tiny_model_path, sigma=None if encoder == "ffv1" else 20.0)
    finished, split = denoised(job)
    assert [part.part.count for part in split.parts] == [20, 25, 27, 30]
    assert finished.document == {"frames": sum(SCENES), "scenes": len(SCENES)}
    assert same_frames(Path(job.output), whole_run(job))
    assert {path.name for path in clip.parent.iterdir()} == {
        clip.name,
        "out.mkv",
        "whole.mkv",
        ".stbn-cluster",
    }


def test_scenes_are_those_that_the_engine_finds(make_scenes, tiny_model_path: Path) -> None:
    clip = make_scenes(scenes=(24, 10, 14), fade=16)
    job = job_for(clip, tiny_model_path)
    with replace(job, output=clip.with_name("whole.mkv"), keep_progress=False).prepare(Events()) as prepared:
        finder = SceneFinder()
        found = [index for index, frame in enumerate(prepared.reader) if finder.begins_scene(frame.rgb)]
        prepared.run()
        assert found == [scene.first_frame for scene in prepared.denoiser.report.scenes]
    # A fade begins anew as it goes.
    assert len(found) > 3 and {0, 24, 34} <= set(found)


def test_parts_are_whole_scenes_and_long_enough() -> None:
    assert parts_of([0, 10, 30, 35, 70], 100, 20) == [
        Part(0, 30, (0, 10)),
        Part(30, 40, (30, 35)),
        Part(70, 30, (70,)),
    ]
    assert parts_of([0, 95], 100, 20) == [Part(0, 100, (0, 95))]
    assert parts_of([0], 7, 20) == [Part(0, 7, (0,))]


def test_a_range_is_cut_as_well(make_scenes, tiny_model_path: Path) -> None:
    clip = make_scenes(encoder="libx264")
    job = replace(job_for(clip, tiny_model_path), source=Source(clip, Span(start=0.4, end=3.0)))
    finished, split = denoised(job)
    assert finished.document["frames"] == 65 and [part.part.first for part in split.parts] == [0, 35]
    assert same_frames(Path(job.output), whole_run(job))


def test_a_worker_that_dies_leaves_its_chunks(
    make_scenes, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(20, 20))
    job = job_for(clip, tiny_model_path)
    opened, split = begun(job, worker())
    commit, states = ChunkStore.commit, []

    def failing(self: ChunkStore, state) -> None:
        if len(states) == 2:
            raise OutputError("Gone.")
        states.append(state.frames)
        commit(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "commit", failing)
        with pytest.raises(OutputError, match="Gone"):
            worker().part(job, split, 1, opened.measured, nothing)

    def counted(self: ChunkStore, state) -> None:
        states.append(state.frames)
        commit(self, state)

    monkeypatch.setattr(ChunkStore, "commit", counted)
    worker().part(job, split, 1, opened.measured, nothing)
    assert states == sorted(set(states)) and states[-1] == 20  # no chunk twice
    worker().part(job, split, 1, opened.measured, nothing)
    assert finished_parts(job, split) == (1,)
    # A run that begins anew finds all of it, and cuts nothing again.
    again = worker().open(job, nothing)
    assert isinstance(again, Opened) and again.split == split and again.done == (1,)
    worker().part(job, split, 0, opened.measured, nothing)
    worker().join(job, split, opened.measured, nothing)
    assert same_frames(Path(job.output), whole_run(job))


def test_a_file_that_cannot_be_entered_in_the_middle_is_read_from_its_beginning(
    make_scenes, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(20, 20))
    job = job_for(clip, tiny_model_path)
    since = VideoReader.since
    monkeypatch.setattr(VideoReader, "since", lambda self, pts: since(self, pts - 40))
    opened, split = begun(job, worker())
    with job.source.open() as reader, pytest.raises(UnlikeError):
        list(PartReader(reader, split.parts[1], seeking=True))
    for number in range(2):
        worker().part(job, split, number, opened.measured, nothing)
    worker().join(job, split, opened.measured, nothing)
    assert same_frames(Path(job.output), whole_run(job))


def test_unfinished_parts_are_guarded(make_scenes, tiny_model_path: Path, stbn) -> None:
    clip = make_scenes(scenes=(20, 20))
    job = job_for(clip, tiny_model_path)
    opened, split = begun(job, worker())
    worker().part(job, split, 0, opened.measured, nothing)
    with pytest.raises(OutputError, match=r"another value of strength.*--restart"):
        worker().open(replace(job, options=replace(job.options, strength=0.5)), nothing)
    options = (
        "-m",
        tiny_model_path,
        "--sigma",
        "20",
        "--codec",
        "ffv1",
        "--chunk",
        "4",
        "--chunk-overlap",
        "2",
    )
    result = stbn("denoise", clip, "-o", job.output, *options)
    assert result.code == 6 and "--cluster" in result.err and "--restart" in result.err
    assert finished_parts(job, split) == (0,)
    assert stbn("denoise", clip, "-o", job.output, *options, "--restart").code == 0
    assert not parts_folder(job).exists()


def test_a_worker_that_dies_after_the_renaming_has_finished(
    make_scenes, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(6,))
    job = job_for(clip, tiny_model_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            worker().open(job, nothing)
    moment = Path(job.output).stat().st_mtime_ns
    assert is_finished(job) is not None
    assert worker().open(job, nothing).document["output"] == job.output
    assert Path(job.output).stat().st_mtime_ns == moment
    # Of another run it is not.
    assert is_finished(replace(job, options=replace(job.options, strength=0.5))) is None


def test_another_file_at_the_output_is_not_taken_for_ours(make_scenes, tiny_model_path: Path) -> None:
    job = job_for(make_scenes(scenes=(6,)), tiny_model_path)
    begin(job)
    Path(job.output).write_bytes(b"of another program")
    assert is_finished(job) is None


def test_a_model_that_has_changed_is_run_again(make_scenes, tiny_model_path: Path, tmp_path: Path) -> None:
    model = tmp_path / "own.safetensors"
    model.write_bytes(tiny_model_path.read_bytes())
    job = job_for(make_scenes(scenes=(6,)), model)
    Path(job.output).touch()
    finish(job, Finished("done", {}))
    assert is_finished(job) is not None
    model.write_bytes(tiny_model_path.read_bytes() + b" ")
    assert is_finished(job) is None


@pytest.mark.parametrize("scenes", [(6,), (20, 20)])
def test_a_step_that_a_lost_worker_ends_is_not_done_twice(
    make_scenes, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: tuple[int, ...]
) -> None:
    job = job_for(make_scenes(scenes=scenes), tiny_model_path)
    if len(scenes) == 1:
        step = partial(ArchiveWorker.whole, job=job, measured=None, report=nothing)
    else:
        opened, split = begun(job, worker())
        for number in range(2):
            worker().part(job, split, number, opened.measured, nothing)
        step = partial(ArchiveWorker.join, job=job, split=split, measured=opened.measured, report=nothing)
    repeated: list[Finished] = []
    run = PreparedDenoising.run

    def slow(self: PreparedDenoising, *arguments: Any, **options: Any) -> Any:
        # The lost one holds the lock, and the other one waits for it from here on.
        other.start()
        return run(self, *arguments, **options)

    def repeat() -> None:
        repeated.append(step(worker()))

    other = Thread(target=repeat)
    monkeypatch.setattr(PreparedDenoising, "run", slow)
    ended = step(worker())
    other.join()
    assert ended.document["frames"] == sum(scenes) and repeated == [ended]
    assert {path.name for path in Path(job.output).parent.iterdir()} == {
        "long.mkv",
        "out.mkv",
        ".stbn-cluster",
    }


def test_what_a_worker_is_at_is_not_removed(
    make_scenes, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(make_scenes(scenes=(20, 20)), tiny_model_path)
    opened, split = begun(job, worker())
    worker().part(job, split, 0, opened.measured, nothing)
    monkeypatch.setattr(parts, "PATIENCE", 0.0)
    with FileLock(parts_folder(job) / split.parts[0].name / "lock"):
        with pytest.raises(OutputError, match="at work on a part"):
            discard(job)
        assert finished_parts(job, split) == (0,)
    discard(job)
    assert not parts_folder(job).parent.exists()
