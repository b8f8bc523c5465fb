"""A file that is denoised in parts: its frames are those of one run, whatever happens between. Needs no Ray."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from stbn_cli.chunkstore import ChunkStore
from stbn_cli.cli.app import main
from stbn_cli.errors import OutputError
from stbn_cli.inference.parts import Part, SceneFinder, parts_of
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.finished import Finished, is_finished
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.parts import (
    DONE_FILE,
    ArchiveWorker,
    Opened,
    PartReader,
    Split,
    UnlikeError,
    cut,
    finished_parts,
    parts_folder,
)
from stbn_cli.source import Source, Span
from stbn_cli.video.encoders import EncodeOptions
from tests.cluster.conftest import SCENES, same_frames

SHORTEST = 15


def tell(prepared, result) -> tuple[str, dict]:
    return "done", {"frames": result.summary.frames, "scenes": len(prepared.denoiser.report.scenes)}


def nothing(count: int) -> None:
    """For progress that is not shown."""


def job_for(clip: Path, model: Path, **options) -> DenoiseJob:
    engine = {"chunk": 4, "chunk_overlap": 2} | options
    return DenoiseJob(
        Source(clip), str(clip.with_name("out.mkv")), DenoiserOptions(model=model, **engine), EncodeOptions(codec="ffv1"),
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
    job = job_for(clip, tiny_model_path)
    finished, split = denoised(job)
    assert [part.part.count for part in split.parts] == [20, 25, 27, 30]
    assert finished.document == {"frames": sum(SCENES), "scenes": len(SCENES)}
    assert same_frames(Path(job.output), whole_run(job))
    assert {path.name for path in clip.parent.iterdir()} == {clip.name, "out.mkv", "whole.mkv", ".stbn-cluster"}
