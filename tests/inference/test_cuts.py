"""Scene cuts: found in noise, and not found in motion, flashes and black, nor in fades but those that begin a scene."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbn_cli.inference.cuts import CutDetector, scenes_of

HEIGHT, WIDTH = 180, 320
STRONG_NOISE = 50 / 255


def scene(seed):
    """Large random RGB picture (360, 640, 3) in 0 .. 1 with coarse and fine structure."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.random((side, 2 * side, 3), dtype=np.float32), (640, 360), interpolation=cv2.INTER_CUBIC
        )
        for side in (4, 9, 40)
    ]
    return np.clip(sum(layers) / 3, 0, 1)


def shot(seed, frames=10, speed=3):
    """Pan over a scene: list of (180, 320, 3) float32."""
    picture = scene(seed)
    return [picture[20 : 20 + HEIGHT, speed * t : speed * t + WIDTH].copy() for t in range(frames)]


def cuts(frames, sigma=0.0):
    rng = np.random.default_rng(99)
    detector = CutDetector()
    found = []
    for number, frame in enumerate(frames):
        noise = np.float32(sigma) * rng.standard_normal(frame.shape, dtype=np.float32)
        if detector.is_cut(frame + noise):
            found.append(number)
    return found


@pytest.mark.parametrize("sigma", [0.0, STRONG_NOISE])
def test_cuts_between_moving_shots(sigma):
    frames = [frame for seed in range(6) for frame in shot(seed)]
    assert cuts(frames, sigma) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("sigma", [0.0, STRONG_NOISE])
@pytest.mark.parametrize("speed", [0, 5, 12])
def test_motion_is_no_cut(sigma, speed):
    assert cuts(shot(0, 20, speed), sigma) == []


@pytest.mark.parametrize("sigma", [0.0, STRONG_NOISE])
@pytest.mark.parametrize("flash", [1.0, 0.6, 0.0])
def test_flash_is_no_cut(sigma, flash):
    frames = shot(1)
    frames[5] = np.clip(frames[5] * (1 - flash) + flash, 0, 1) if flash else frames[5] * 0
    assert cuts(frames, sigma) == []


def test_single_foreign_frame_is_reported_once():
    frames = shot(1)
    frames[5] = shot(2)[0]
    assert cuts(frames) == [5]


@pytest.mark.parametrize("sigma", [0.0, STRONG_NOISE])
def test_fade_to_black_and_back_is_no_cut(sigma):
    levels = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    frames = [np.float32(level) * frame for level, frame in zip(levels, shot(3, 12, 1), strict=True)]
    assert cuts(frames, sigma) == []


@pytest.mark.parametrize("sigma", [0.0, STRONG_NOISE])
def test_a_scene_that_is_faded_in_begins_anew_until_it_is_there(sigma):
    """What was measured in the dark would not hold in the light; afterwards all is as in any scene."""
    frames = shot(3, 40, 1)
    for number, frame in enumerate(frames[:20]):
        frame *= np.float32(number / 20)
    found = cuts(frames, sigma)
    assert 2 <= len(found) <= 5
    assert found[-1] < 20 < 2.0 * found[-1]


def test_new_scene_after_black_is_a_cut_where_it_appears():
    black = [np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)] * 5
    assert cuts(shot(3) + black + shot(4), STRONG_NOISE) == [15]


def test_letterbox_does_not_hide_a_cut():
    frames = shot(5) + shot(6)
    for frame in frames:
        frame[:40] = frame[-40:] = 0
    assert cuts(frames) == [10]


def test_repeated_frames_are_no_cut():
    frames = shot(7, 3)
    assert cuts([frames[0]] * 6 + frames) == []


def test_change_of_size_is_a_cut():
    assert cuts([*shot(0, 3), cv2.resize(shot(0, 1)[0], (160, 90))]) == [3]


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (16, 24)])
def test_small_frames(size):
    rng = np.random.default_rng(0)
    frame = rng.random((*size, 3), dtype=np.float32)
    assert cuts([frame, frame, frame]) == []


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="expected a frame"):
        CutDetector().is_cut(np.zeros((4, 4), dtype=np.float32))


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 6), st.booleans())
def test_scenes_hold_every_frame_once_and_begin_at_cuts(cuts: list[bool], opening: int, whole: bool) -> None:
    asked: list[int] = []

    def is_cut(frame: int) -> bool:
        asked.append(frame)
        return cuts[frame]

    scenes: list[tuple[list[int], list[int]]] = []
    for scene in scenes_of(range(len(cuts)), is_cut, lambda: opening):
        head = list(scene.opening)
        # No further ahead than to the first frame of the next scene.
        assert len(asked) <= head[-1] + 2
        scenes.append((head, list(scene.rest) if whole else []))
    assert asked == list(range(len(cuts)))
    starts = [frame for frame, cut in enumerate(cuts) if cut or frame == 0]
    expected = [list(range(start, end)) for start, end in pairwise([*starts, len(cuts)])]
    assert [head for head, _ in scenes] == [frames[:opening] for frames in expected]
    if whole:
        assert [head + rest for head, rest in scenes] == expected
