"""Where the filter begins scenes, and that still pictures are cheap. Needs neither VapourSynth nor torch."""

from collections.abc import Generator, Iterator, Sequence
from itertools import islice

import numpy as np
import pytest

from stbn_cli.inference.parts import SceneFinder
from stbn_cli.inference.windows import LONGEST_SECTION, SeekableClip


class Plain:
    """Gives frames back; knows what scenes begin with, and how many frames it was shown."""

    chunk = 4
    opening = 1

    def __init__(self) -> None:
        self.first: list[np.ndarray] = []

    def noise(self, opening: Sequence[np.ndarray]) -> float:
        self.first.append(opening[0])
        return 0.0

    def run(self, frames: Iterator[np.ndarray], noise: float, skip: int) -> Generator[np.ndarray, None, None]:
        yield from islice(frames, skip, None)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((14, 20, 3), np.float32).repeat(8, 0).repeat(8, 1)


def moving(seed: int, length: int) -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    still = picture(seed)
    return [
        (np.roll(still, number, 1) + 0.02 * noise.standard_normal(still.shape)).astype(np.float32)
        for number in range(length)
    ]


def shown(frames: Sequence[np.ndarray], times: int) -> list[np.ndarray]:
    return [frame for frame in frames for _ in range(times)]


def filtered_scenes(frames: Sequence[np.ndarray]) -> list[int]:
    denoiser = Plain()
    clip = SeekableClip(frames.__getitem__, len(frames), denoiser, cache_bytes=2**24)
    # Backwards, so that nothing is known of what lies before.
    for number in reversed(range(len(frames))):
        np.testing.assert_array_equal(clip.frame(number), frames[number])
    return sorted(next(n for n, frame in enumerate(frames) if frame is first) for first in denoiser.first)


def streamed_scenes(frames: Sequence[np.ndarray]) -> list[int]:
    finder = SceneFinder()
    return [number for number, frame in enumerate(frames) if finder.begins_scene(frame)]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_scenes_are_those_of_a_stream(times: int) -> None:
    """Also where each frame is shown several times: a foreign one among them begins one scene, not two."""
    frames = moving(1, 12)
    frames[6:7] = moving(9, 1)
    frames += moving(2, 8) + moving(3, 10)
    scenes = filtered_scenes(shown(frames, times))
    assert scenes == streamed_scenes(shown(frames, times)) == [times * first for first in (0, 6, 12, 20)]


def test_a_still_picture_in_a_moving_scene_is_no_scene() -> None:
    frames = moving(1, 40)
    frames[20:20] = shown(frames[19:20], 45)
    assert filtered_scenes(frames) == streamed_scenes(frames) == [0]


def test_a_still_picture_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    still = picture(1)[:16, :16]
    length = 20 * LONGEST_SECTION
    clip = SeekableClip(lambda _: still, length, Plain(), begins=lambda _: False, cache_bytes=2**24)
    for number in (length - 1, length // 2, length - 2):
        assert clip.frame(number) is clip.frame(0)
    looked: list[int] = []
    repeats = clip._survey.repeats
    monkeypatch.setattr(clip._survey, "repeats", lambda number: looked.append(number) or repeats(number))
    assert clip.frame(length - 3) is clip.frame(0)
    assert len(looked) <= LONGEST_SECTION
