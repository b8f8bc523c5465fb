"""Frames by number: the same in any order, computed once, in bounded memory, from where their scene begins."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch

from stbn_cli.flow.dis import DisFlow
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.inference.windows import LONGEST_SECTION, DenoiserOfScenes, SceneDenoiser, SeekableClip
from stbn_cli.models.stbn import STBN
from tests.networks import TINY

SIDE = 32
FRAME_BYTES = SIDE * SIDE * 3 * 4


class Recurrent:
    """A stand-in whose frames depend on all before, on two after them, on their place in a chunk, and the noise."""

    chunk = 4
    opening = 6

    def __init__(self, memory: float = 0.5) -> None:
        self.memory = memory
        self.measured: list[float] = []
        self.skipped = self.given = self.runs = 0
        self.open = 0

    def noise(self, opening: Sequence[np.ndarray]) -> float:
        self.measured.append(float(np.mean([frame.mean() for frame in opening])))
        return self.measured[-1]

    def run(self, frames: Iterator[np.ndarray], noise: float, skip: int) -> Generator[np.ndarray, None, None]:
        assert self.open == 0, "only one run is open at a time"
        self.runs += 1
        self.open += 1
        try:
            yield from self._chunks(frames, noise, skip)
        finally:
            self.open -= 1

    def _chunks(self, frames: Iterator[np.ndarray], noise: float, skip: int) -> Iterator[np.ndarray]:
        state = np.zeros((SIDE, SIDE, 3), np.float32)
        for _ in range(skip):
            state = self.memory * state + next(frames)
            self.skipped += 1
        waiting = list(islice(frames, self.chunk + 2))
        while waiting:
            for place, frame in enumerate(waiting[: self.chunk]):
                state = self.memory * state + frame
                ahead = sum((f.mean() for f in waiting[place + 1 :]), 0.0)
                self.given += 1
                yield (state + ahead + 10 * noise + place).astype(np.float32)
            del waiting[: self.chunk]
            waiting += islice(frames, self.chunk + 2 - len(waiting))


def clip_of(length: int, scenes: Sequence[int] = (), repeats: Sequence[int] = ()) -> np.ndarray:
    """Noise over a picture of its own for each scene: (T, 32, 32, 3) float32."""
    random = np.random.default_rng(0)
    frames = np.empty((length, SIDE, SIDE, 3), np.float32)
    for number in range(length):
        if number == 0 or number in scenes:
            picture = random.random((4, 4, 3)).repeat(8, 0).repeat(8, 1)
        frames[number] = picture + 0.02 * random.standard_normal(picture.shape)
    for number in repeats:
        frames[number] = frames[number - 1]
    return frames


def seekable(
    frames: np.ndarray,
    denoiser: SceneDenoiser,
    scenes: Sequence[int] | None = (),
    windows: int = 1000,
) -> SeekableClip:
    begins: Callable[[int], bool] | None = None if scenes is None else lambda number: number in scenes
    cache = windows * 4 * FRAME_BYTES
    return SeekableClip(frames.__getitem__, len(frames), denoiser, begins=begins, cache_bytes=cache)


def played(clip: SeekableClip, length: int) -> np.ndarray:
    return np.stack([clip.frame(number) for number in range(length)])


@pytest.mark.parametrize("windows", [0, 2, 1000])
@pytest.mark.parametrize(("scenes", "repeats"), [((), ()), ((7, 30), ()), ((20,), (3, 4, 5, 21, 39))])
def test_any_order_gives_the_same_frames(
    windows: int, scenes: tuple[int, ...], repeats: tuple[int, ...]
) -> None:
    frames = clip_of(40, scenes, repeats)
    expected = played(seekable(frames, Recurrent(), scenes), 40)
    clip = seekable(frames, Recurrent(), scenes, windows)
    for number in np.random.default_rng(1).permutation(np.repeat(np.arange(40), 2)):
        np.testing.assert_array_equal(clip.frame(number), expected[number])


def test_playing_computes_each_frame_once() -> None:
    denoiser = Recurrent()
    clip = seekable(clip_of(40, (18,)), denoiser, (18,), windows=2)
    played(clip, 40)
    assert (denoiser.given, denoiser.skipped, denoiser.runs) == (40, 0, 2)


def test_what_was_seen_is_not_computed_again() -> None:
    denoiser = Recurrent()
    clip = seekable(clip_of(40), denoiser)
    for number in (33, 34, 35, 32, 33):
        clip.frame(number)
    assert (denoiser.given, denoiser.skipped) == (4, 32)


def test_the_cache_is_bounded() -> None:
    clip = seekable(clip_of(40), Recurrent(), windows=3)
    for number in np.random.default_rng(1).permutation(40):
        clip.frame(number)
        assert 0 < clip.cached_bytes <= 3 * 4 * FRAME_BYTES


def test_nothing_is_carried_across_scenes() -> None:
    frames = clip_of(30, (11,))
    whole = played(seekable(frames, Recurrent(), (11,)), 30)
    parts = [played(seekable(part, Recurrent()), len(part)) for part in (frames[:11], frames[11:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_cuts_are_found_where_nobody_tells_them() -> None:
    frames = clip_of(60, (13, 40))
    found = played(seekable(frames, Recurrent(), None), 60)
    np.testing.assert_array_equal(found, played(seekable(frames, Recurrent(), (13, 40)), 60))


def test_a_picture_behind_long_black_is_a_scene() -> None:
    frames = clip_of(90, (60,))
    frames[15:60] = 0.01 * np.random.default_rng(0).random((45, 1, 1, 1), np.float32)  # no two alike
    found = played(seekable(frames, Recurrent(), None), 90)
    np.testing.assert_array_equal(found[60:], played(seekable(frames[60:], Recurrent()), 30))


@pytest.mark.parametrize("order", [(0, 25), (39, 25, 0), (25, 12, 39)])
def test_noise_is_measured_once_where_a_scene_begins(order: tuple[int, ...]) -> None:
    frames = clip_of(40, (20,))
    denoiser = Recurrent()
    clip = seekable(frames, denoiser, (20,), windows=0)
    for number in order * 2:
        clip.frame(number)
    assert sorted(denoiser.measured) == sorted(
        float(frames[s : s + 6].mean((1, 2, 3)).mean()) for s in (0, 20)
    )


def test_a_repeat_gets_the_result_of_its_predecessor() -> None:
    frames = clip_of(20, repeats=(5, 6, 12))
    clip = seekable(frames, Recurrent())
    for number, shown in ((6, 4), (5, 4), (12, 11)):
        assert clip.frame(number) is clip.frame(shown)
    distinct = np.delete(frames, (5, 6, 12), 0)
    np.testing.assert_array_equal(clip.frame(19), played(seekable(distinct, Recurrent()), 17)[16])


def test_seeks_in_long_scenes_are_short() -> None:
    frames = clip_of(5 * LONGEST_SECTION)
    expected = played(seekable(frames, Recurrent()), len(frames))
    for number in (len(frames) - 1, 3 * LONGEST_SECTION, 3 * LONGEST_SECTION - 1):
        denoiser = Recurrent()
        np.testing.assert_array_equal(seekable(frames, denoiser).frame(number), expected[number])
        assert denoiser.skipped + denoiser.given <= 1.5 * LONGEST_SECTION
    # And the recurrence goes on as if nothing had been between: what ran up decays to nothing.
    whole = Recurrent()
    noise = whole.noise(frames[3 * LONGEST_SECTION :][:6])
    one_run = list(whole.run(iter(frames), noise, 3 * LONGEST_SECTION))
    np.testing.assert_allclose(one_run[0], expected[3 * LONGEST_SECTION], atol=1e-5)


def test_a_long_scene_is_not_split_right_after_it_began() -> None:
    scenes = (LONGEST_SECTION - 5,)
    frames = clip_of(LONGEST_SECTION + 40, scenes)
    denoiser = Recurrent()
    played(seekable(frames, denoiser, scenes), len(frames))
    assert denoiser.runs == 2 and denoiser.skipped == 0


def test_threads_get_the_same_frames() -> None:
    frames = clip_of(40, (18,))
    expected = played(seekable(frames, Recurrent(), (18,)), 40)
    clip = seekable(frames, Recurrent(), (18,), windows=2)
    order = np.random.default_rng(2).permutation(40)
    with ThreadPoolExecutor(8) as threads:
        for number, frame in zip(order, threads.map(clip.frame, order), strict=True):
            np.testing.assert_array_equal(frame, expected[number])


def test_after_a_failure_frames_come_again() -> None:
    frames = clip_of(20)
    broken = True

    def read(number: int) -> np.ndarray:
        if broken and number == 9:
            raise OSError("the disk is gone")
        return frames[number]

    clip = SeekableClip(read, 20, Recurrent(), begins=lambda _: False, cache_bytes=0)
    with pytest.raises(OSError, match="the disk is gone"):
        clip.frame(6)
    broken = False
    np.testing.assert_array_equal(clip.frame(6), seekable(frames, Recurrent()).frame(6))


@pytest.mark.parametrize("number", [-1, 20])
def test_frames_that_are_not_there_are_refused(number: int) -> None:
    with pytest.raises(IndexError, match="no frame"):
        seekable(clip_of(20), Recurrent()).frame(number)


def test_frames_are_those_of_a_stream() -> None:
    frames = clip_of(24, (13,), (5, 6))
    torch.manual_seed(4)
    options = EngineOptions(chunk=4, chunk_overlap=2)
    denoiser = Denoiser(
        STBN(TINY).eval(), DisFlow(), options, device=torch.device("cpu"), dtype=torch.float32
    )
    streamed = list(denoiser.stream(frames))
    assert [scene.first_frame for scene in denoiser.report.scenes] == [0, 13]
    clip = seekable(frames, DenoiserOfScenes(denoiser, SIDE, SIDE), None, windows=1)
    for number in np.random.default_rng(3).permutation(24):
        np.testing.assert_allclose(clip.frame(number), streamed[number], atol=1e-6)
