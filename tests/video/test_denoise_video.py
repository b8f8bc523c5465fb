"""The pipeline: order, bounded memory, and errors of every thread."""

import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stbn_cli import pipeline
from stbn_cli.errors import OutputError
from stbn_cli.pipeline import LONGEST_QUEUE, QUEUE_FRAMES, denoise_video
from stbn_cli.video.frames import ColorSpec, Frame, VideoMetadata
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.conftest import PATIENCE


class Reader:
    """Frames whose pixels are their number; fails at frame `fail_at`."""

    path, stream_source, image_names = Path("fake"), None, None
    metadata = VideoMetadata(
        width=2,
        height=2,
        pixel_format="gray",
        bit_depth=8,
        color=ColorSpec("bt601", full_range=True),
        frame_count=None,
        average_rate=None,
        time_base=Fraction(1, 100),
        duration_seconds=None,
    )

    def __init__(self, count, fail_at=None):
        self.count, self.fail_at, self.read, self.warnings = count, fail_at, 0, ["said by the reader"]

    def __iter__(self):
        for index in range(self.count):
            if index == self.fail_at:
                raise ValueError("decoder broke")
            self.read += 1
            yield Frame(np.full((2, 2, 3), index, np.float32), 10 * index, Fraction(1, 100), 10)

    def close(self):
        self.closed = True


class Writer:
    def __init__(self, fail_at=None):
        self.frames, self.fail_at, self.finished, self.warnings = [], fail_at, False, []

    def write(self, frame):
        if len(self.frames) == self.fail_at:
            raise OutputError("disk full")
        self.frames.append(frame)

    def finish(self):
        self.finished = True


class Plus:
    """Adds one half; looks `ahead` frames ahead; fails at frame `fail_at` with `error`."""

    def __init__(self, ahead=0, fail_at=None, error=None):
        self.ahead, self.fail_at, self.error = ahead, fail_at, error

    def stream(self, frames):
        held = []
        for index, frame in enumerate(frames):
            if index == self.fail_at:
                raise self.error
            held.append(frame + np.float32(0.5))
            if len(held) > self.ahead:
                yield held.pop(0)
        yield from held


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [0, 1, 7, 1000])
def test_every_frame_keeps_its_time(ahead):
    reader, writer, calls = Reader(40), Writer(), []
    summary = denoise_video(reader, Plus(ahead), writer, progress=calls.append)
    assert [frame.pts for frame in writer.frames] == [10 * index for index in range(40)]
    assert [frame.rgb[0, 0, 0] for frame in writer.frames] == [index + 0.5 for index in range(40)]
    assert all((f.time_base, f.duration) == (Fraction(1, 100), 10) for f in writer.frames)
    assert writer.finished
    assert calls == list(range(1, 41))
    assert summary.frames == 40
    assert summary.seconds > 0
    assert summary.warnings == ("said by the reader",)


@pytest.mark.parametrize(("room", "most"), [(0, QUEUE_FRAMES), (20, 20), (1000, LONGEST_QUEUE)])
def test_reading_stays_as_far_ahead_as_there_is_room(room, most, monkeypatch):
    reader, writer = Reader(500), Writer()
    monkeypatch.setattr(pipeline, "QUEUE_BYTES", room * next(iter(Reader(1))).rgb.nbytes)
    seen = []

    def record(done):
        if done == 100:
            # The reader's turn: until it is as far as it may be, and a moment longer, in which it must go no further.
            deadline = time.monotonic() + PATIENCE
            while reader.read - done < most - 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)
        seen.append(reader.read - done)

    denoise_video(reader, Plus(), writer, progress=record)
    assert most - 2 <= max(seen) <= most + 2


@pytest.mark.parametrize("fail_at", [0, 3, 60])
def test_an_error_while_reading_surfaces(fail_at):
    writer = Writer()
    with pytest.raises(ValueError, match="decoder broke"):
        denoise_video(Reader(100, fail_at), Plus(7), writer)
    assert not writer.finished


@pytest.mark.parametrize("fail_at", [0, 3, 99])
@pytest.mark.parametrize("ahead", [0, 200])
def test_an_error_while_writing_surfaces(fail_at, ahead):
    writer = Writer(fail_at)
    with pytest.raises(OutputError, match="disk full"):
        denoise_video(Reader(100), Plus(ahead), writer)
    assert not writer.finished


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "ctrl-c"]
)
@pytest.mark.parametrize("fail_at", [0, 50])
def test_an_error_while_denoising_surfaces(fail_at, error):
    writer = Writer()
    with pytest.raises(type(error)):
        denoise_video(Reader(1000), Plus(fail_at=fail_at, error=error), writer)
    assert not writer.finished


def test_ctrl_c_while_the_encoder_is_stuck_and_its_queue_full(monkeypatch):
    release = threading.Event()

    class Stuck(Writer):
        def write(self, frame):
            release.wait(10)
            super().write(frame)

    def interrupt(done):
        if done == QUEUE_FRAMES:
            threading.Timer(0.05, release.set).start()
            raise KeyboardInterrupt

    writer = Stuck()
    monkeypatch.setattr(pipeline, "QUEUE_BYTES", 0)
    with pytest.raises(KeyboardInterrupt):
        denoise_video(Reader(1000), Plus(), writer, progress=interrupt)
    assert not writer.finished
    release.set()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


class Drops:
    def stream(self, frames):
        for index, frame in enumerate(frames):
            if index != 5:
                yield frame


class Stops:
    def stream(self, frames):
        yield next(iter(frames))


class Doubles:
    def stream(self, frames):
        for frame in frames:
            yield frame
            yield frame


class Crops:
    def stream(self, frames):
        for frame in frames:
            yield frame[:1]


@pytest.mark.parametrize("denoiser", [Drops, Stops, Doubles, Crops])
def test_a_denoiser_that_loses_or_changes_frames_is_caught(denoiser):
    writer = Writer()
    with pytest.raises(RuntimeError, match="denoiser"):
        denoise_video(Reader(20), denoiser(), writer)
    assert not writer.finished


@pytest.mark.parametrize("output", ["out.mp4", "out.mkv", "frames/"])
def test_ctrl_c_leaves_nothing(make_clip, tmp_path, output):
    source = make_clip(frames=30, audio="aac")

    def interrupt(done):
        if done == 11:
            raise KeyboardInterrupt

    folder = tmp_path / "to"
    folder.mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        open_video(source) as reader,
        create_video(f"{folder}/{output}", reader, EncodeOptions(), overwrite=False) as writer,
    ):
        denoise_video(reader, Plus(), writer, progress=interrupt)
    assert list(folder.iterdir()) == []
    assert source.exists()


def test_leaving_without_finish_leaves_nothing(make_clip, tmp_path):
    folder = tmp_path / "to"
    folder.mkdir()
    with open_video(make_clip()) as reader, create_video(folder / "a.mkv", reader, EncodeOptions()) as writer:
        writer.write(next(iter(reader)))
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []
