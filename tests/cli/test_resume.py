"""Interrupted runs: what they leave, how they go on, and that their frames are those of an unbroken run."""

import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from stbn_cli.chunkstore import STATE_FILE, ChunkStore
from stbn_cli.cli.app import main
from stbn_cli.errors import OutputError
from stbn_cli.video.workfolder import WorkFolder
from stbn_cli.video.writer import VideoWriter
from tests.cli.signals import signalled
from tests.conftest import planes_of

FRAMES = 30
BASIC = ("--sigma", "20", "--chunk", "4", "--chunk-overlap", "2", "--no-scene-cuts")
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    """Lossless, so that its frames are what the writer was given."""
    return make_clip(name="in.mkv", frames=FRAMES, audio="flac", encoder="ffv1")


def frames_of(path: Path) -> list[list[np.ndarray]]:
    with av.open(str(path)) as container:
        return [planes_of(picture) for picture in container.decode(video=0)]


def same_frames(first: Path, second: Path) -> bool:
    pairs = zip(frames_of(first), frames_of(second), strict=True)
    return all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def content(folder: Path) -> set[str]:
    return {child.name for child in folder.iterdir()}


@pytest.fixture
def broken(clip: Path, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The output of a run that failed while it wrote frame 18; its work folder is there."""
    output = clip.with_name("out.mkv")
    write = VideoWriter.write_planes
    count = 0

    def failing(self: VideoWriter, planes: list[np.ndarray], frame) -> None:
        nonlocal count
        count += 1
        if count == 18:
            raise OutputError("The disk is full.")
        write(self, planes, frame)

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write_planes", failing)
        result = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC)
    assert result.code == 6 and "The disk is full. 16 finished frames saved" in result.err
    assert content(clip.parent) == {"in.mkv", ".out.mkv.stbn"}
    yield output


def whole(stbn, clip: Path, model: Path, *options: str) -> Path:
    output = clip.with_name("whole.mkv")
    result = stbn("denoise", clip, "-o", output, "-m", model, *BASIC, *options)
    assert result.code == 0, result.err
    return output


def test_a_broken_run_goes_on_and_its_frames_are_those_of_an_unbroken_one(
    broken: Path, clip: Path, tiny_model_path: Path, stbn
) -> None:
    result = stbn("denoise", clip, "-o", broken, "-m", tiny_model_path, *BASIC, "--resume")
    assert result.code == 0, result.err
    assert "Resuming after frame 16." in result.err
    assert content(clip.parent) == {"in.mkv", "out.mkv"}
    assert same_frames(broken, whole(stbn, clip, tiny_model_path))
    with av.open(str(broken)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


def test_without_an_answer_nothing_is_lost(broken: Path, clip: Path, tiny_model_path: Path, stbn) -> None:
    before = content(broken.with_name(".out.mkv.stbn"))
    result = stbn("denoise", clip, "-o", broken, "-m", tiny_model_path, *BASIC)
    assert result.code == 6 and "--resume" in result.err and "--restart" in result.err
    assert content(broken.with_name(".out.mkv.stbn")) == before and not broken.exists()


def test_restart_begins_again(broken: Path, clip: Path, tiny_model_path: Path, stbn) -> None:
    result = stbn("denoise", clip, "-o", broken, "-m", tiny_model_path, *BASIC, "--restart")
    assert result.code == 0 and "Resuming" not in result.err
    assert content(clip.parent) == {"in.mkv", "out.mkv"}
    assert same_frames(broken, whole(stbn, clip, tiny_model_path))


@pytest.mark.parametrize(
    "change, difference",
    [
        (("--strength", "0.5"), "strength"),
        (("--sigma", "21"), "sigma"),
        (("--end", "0.9"), "end"),
        (("--codec", "h264", "--pix-fmt", "yuv444p"), "layout"),
    ],
)
def test_other_options_are_another_run(
    broken: Path, clip: Path, tiny_model_path: Path, stbn, change: tuple[str, ...], difference: str
) -> None:
    result = stbn("denoise", clip, "-o", broken, "-m", tiny_model_path, *BASIC, *change, "--resume")
    assert result.code == 6 and difference in result.err and "--restart" in result.err
    assert (broken.with_name(".out.mkv.stbn") / STATE_FILE).exists()


def test_another_input_is_another_run(
    broken: Path, clip: Path, tiny_model_path: Path, stbn, make_clip
) -> None:
    other = make_clip(name="other.mkv", frames=FRAMES, encoder="ffv1", seed=1)
    result = stbn("denoise", other, "-o", broken, "-m", tiny_model_path, *BASIC, "--resume")
    assert result.code == 6 and "from another input" in result.err
    # The same content under another name is the same input.
    moved = clip.rename(clip.with_name("moved.mkv"))
    assert stbn("denoise", moved, "-o", broken, "-m", tiny_model_path, *BASIC, "--resume").code == 0


@pytest.mark.parametrize("what", [STATE_FILE, "frames-00000008.mkv"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_store_is_not_trusted(
    broken: Path, clip: Path, tiny_model_path: Path, stbn, what: str, damage: str
) -> None:
    file = broken.with_name(".out.mkv.stbn") / what
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    result = stbn("denoise", clip, "-o", broken, "-m", tiny_model_path, *BASIC, "--resume")
    if what == STATE_FILE and damage == "gone":
        assert result.code == 0  # then there is nothing to go on with
    elif what == STATE_FILE and damage == "changed":
        # A flipped bit may only change a hidden value; what must not be is a traceback.
        assert result.code in (0, 6)
    else:
        assert result.code == 6 and "--restart" in result.err
    assert "Traceback" not in result.err


def test_resume_with_nothing_to_resume_is_an_ordinary_run(clip: Path, tiny_model_path: Path, stbn) -> None:
    output = clip.with_name("out.mkv")
    result = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC, "--resume")
    assert result.code == 0 and content(clip.parent) == {"in.mkv", "out.mkv"}
    both = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, "--resume", "--restart")
    assert both.code == 2


def test_images_go_on_too(clip: Path, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch) -> None:
    output = clip.with_name("images")
    commit = ChunkStore.commit

    def failing(self: ChunkStore, state) -> None:
        if self.frames >= 8:
            raise OutputError("No space.")
        commit(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "commit", failing)
        assert stbn("denoise", clip, "-o", f"{output}/", "-m", tiny_model_path, *BASIC).code == 6
    assert not output.exists()
    result = stbn("denoise", clip, "-o", f"{output}/", "-m", tiny_model_path, *BASIC, "--resume")
    assert result.code == 0, result.err
    whole_images = clip.with_name("whole")
    assert stbn("denoise", clip, "-o", f"{whole_images}/", "-m", tiny_model_path, *BASIC).code == 0
    names = content(output)
    assert len(names) == FRAMES and names == content(whole_images)
    assert all((output / name).read_bytes() == (whole_images / name).read_bytes() for name in names)
    assert content(clip.parent) == {"in.mkv", "images", "whole"}


def test_two_runs_on_one_output_are_refused(clip: Path, tiny_model_path: Path, stbn) -> None:
    output = clip.with_name("out.mkv")
    with WorkFolder(output) as folder:
        result = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC)
        assert result.code == 6 and "Another run is writing" in result.err
        assert folder.path.is_dir()
    assert content(clip.parent) == {"in.mkv"}


def test_a_lock_whose_owner_died_is_no_lock(clip: Path, tiny_model_path: Path, stbn) -> None:
    output = clip.with_name("out.mkv")
    folder = output.with_name(".out.mkv.stbn")
    script = (
        "import os, sys; from stbn_cli.video.workfolder import WorkFolder; "
        "WorkFolder(sys.argv[1]).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, output], check=False).returncode == 9
    assert folder.is_dir()
    assert stbn("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC).code == 0
    assert content(clip.parent) == {"in.mkv", "out.mkv"}


@posix
def test_the_work_folder_is_private(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / ("n" * 250 + ".mkv")) as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700


# Processes


@posix
def test_ctrl_c_finishes_the_chunk_and_tells_how_to_go_on(clip: Path, tiny_model_path: Path, stbn) -> None:
    output = clip.with_name("out.mkv")
    arguments = ("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC)
    done = signalled(signal.SIGINT, "stbn_cli.chunkstore:ChunkStore.commit", 2, *arguments)
    printed = done.stderr
    assert done.returncode == 130 and "Finishing the current chunk" in printed and "Traceback" not in printed
    assert not output.exists()
    command = re.search(r"Resume with: stbn (.*)", printed)
    assert command is not None
    import shlex

    assert main(shlex.split(command[1])) == 0
    assert same_frames(output, whole(stbn, clip, tiny_model_path))
    assert content(clip.parent) == {"in.mkv", "out.mkv", "whole.mkv"}


# What a run calls, and how often at least: in the midst of a chunk, while the output or the state is given its name,
# and before there is anything to go on with.
MOMENTS = {
    "stbn_cli.chunkstore:ChunkStore.add": FRAMES,
    "stbn_cli.video.writer:VideoWriter.write_planes": FRAMES,
    "os:fsync": 24,
    "os:replace": 12,
    "os:mkdir": 1,
}


def kill_and_resume(clip: Path, model: Path, place: str, count: int) -> Path:
    """Kill -9 at the call number `count` of `place`, then go on; the output."""
    output = clip.with_name("out.mkv")
    arguments = ("denoise", clip, "-o", output, "-m", model, *BASIC)
    assert signalled(signal.SIGKILL, place, count, *arguments).returncode == -signal.SIGKILL
    if output.exists():
        # Nothing has the name that is not whole; a kill after that can leave no more than the folder.
        shutil.rmtree(output.with_name(".out.mkv.stbn"), ignore_errors=True)
        return output
    assert main([str(argument) for argument in (*arguments, "--resume")]) == 0
    return output


@posix
@pytest.mark.parametrize("runs", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_go_on(clip: Path, tiny_model_path: Path, stbn, runs: int) -> None:
    digest = hashlib.sha256(clip.read_bytes()).digest()
    expected = whole(stbn, clip, tiny_model_path)
    moments = random.Random(7)
    for place in itertools.islice(itertools.cycle(MOMENTS), runs):
        output = kill_and_resume(clip, tiny_model_path, place, moments.randint(1, MOMENTS[place]))
        assert same_frames(output, expected)
        assert content(clip.parent) == {"in.mkv", "out.mkv", "whole.mkv"}
        output.unlink()
    assert hashlib.sha256(clip.read_bytes()).digest() == digest


@posix
@pytest.mark.parametrize(
    ("full", "word"), [("output", "out.mkv failed"), ("progress", "The progress cannot be kept")]
)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(
    make_clip, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch, full: str, word: str
) -> None:
    """A limit on the size of files stands for the full disk: it takes no rights to set, and lets one file fail."""
    import resource

    clip = make_clip(name="in.mkv", frames=FRAMES, encoder="ffv1", pix_fmt="yuv444p10le")
    output = clip.with_name("out.mkv")
    arguments = ("denoise", clip, "-o", output, "-m", tiny_model_path, *BASIC)
    commit, states = ChunkStore.commit, []

    def measured(self: ChunkStore, state) -> None:
        commit(self, state)
        states.append((self.folder / STATE_FILE).stat().st_size)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "commit", measured)
        expected = whole(stbn, clip, tiny_model_path)
    # The state is the largest file of the progress, and the output grows larger than that.
    assert max(states) < 0.8 * expected.stat().st_size
    limit = int(1.1 * max(states)) if full == "output" else min(states) - 1

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.run(
        [sys.executable, "-m", "stbn_cli", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit_files,
        check=False,
    )
    assert process.returncode == 6 and word in process.stderr, process.stderr
    assert ("--resume" in process.stderr) == (full == "output") and "Traceback" not in process.stderr
    assert not output.exists()
    assert stbn(*arguments, "--resume").code == 0
    assert same_frames(output, expected)
