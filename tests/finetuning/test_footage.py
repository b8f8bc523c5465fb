"""Runs of frames from arrays, videos and images: all of a short clip, an even choice of a long one."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli import runs
from stbn_cli.errors import InputError
from stbn_cli.finetuning.footage import (
    HELD_OUT,
    RUN_FRAMES,
    NoisyRun,
    _places,
    read_runs,
    some_frames,
)
from stbn_cli.noise.estimate import MAXIMUM_FRAMES
from stbn_cli.runs import frames_of_array
from stbn_cli.source import Span
from stbn_cli.video.reader import open_video

ALL = 10**9
SIDE = 32


def shot(seed: int, frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A slow pan over a picture, `(frames, height, width, 3)` uint8, different in every frame and every value."""
    random = np.random.default_rng(seed)
    coarse = random.random((6, 8, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width + frames, height), interpolation=cv2.INTER_CUBIC)
    moving = np.stack([picture[:, t : t + width] for t in range(frames)])
    return (200 * moving + 20 * random.random(moving.shape)).clip(0, 255).astype(np.uint8)


def counted(frames: int, side: int = SIDE) -> np.ndarray:
    """A still picture whose first pixel counts the frames, float32."""
    picture = cv2.resize(shot(0, 1)[0], (side, side)).astype(np.float32) / 255
    clip = np.repeat(picture[None], frames, axis=0)
    clip[:, 0, 0] = np.arange(frames, dtype=np.float32)[:, None]
    return clip


def numbers(run: NoisyRun) -> list[int]:
    """Which frames of a `counted` clip a run has."""
    return [int(value) for value in run.noisy[:, 0, 0, 0]]


def as_tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames_of_array(frames)).permute(0, 3, 1, 2)


def write_images(folder: Path, frames: Iterable[np.ndarray]) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{index:04d}.png"), frame[..., ::-1])
    return folder


@pytest.fixture
def no_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip is one scene, random ones too."""

    class Blind:
        def is_cut(self, frame: np.ndarray) -> bool:
            return False

    monkeypatch.setattr(runs, "CutDetector", Blind)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_short_array_is_one_run_of_all_its_values(dtype: type) -> None:
    frames = shot(0, 5)
    scaled = frames.astype(np.float64) / 255
    given = {np.uint8: frames, np.uint16: frames.astype(np.uint16) * 257}.get(dtype, scaled.astype(dtype))
    (run,) = read_runs([given], Span(), ALL, seed=0)
    assert run.name == "clip 1" and run.noisy.dtype == torch.float32 and run.held_out.dtype == torch.bool
    assert run.noisy.shape == (5, 3, 48, 64) and run.held_out.shape == (5, 1, 48, 64)
    assert run.pixels == 5 * 48 * 64
    np.testing.assert_allclose(run.noisy.permute(0, 2, 3, 1).numpy(), scaled, rtol=0, atol=1e-6)


def test_every_clip_gives_some_frames_however_large_it_is(no_cuts: None) -> None:
    """A large clip beside small ones is no clip of two frames."""
    small, large = np.zeros((30, 32, 32, 3), np.uint8), np.zeros((30, 96, 128, 3), np.uint8)
    read = read_runs([small, large, small + 1], Span(), 3 * 24 * 32 * 32, seed=0, fewest=8)
    assert sorted(len(run.noisy) for run in read) == [8, 24, 24]


def test_values_outside_the_scale_are_kept() -> None:
    frames = shot(0, 2).astype(np.float32) / 255
    frames[0, 0, 0], frames[1, 5, 7] = -0.5, 1.5
    (run,) = read_runs([frames], Span(), ALL, seed=0)
    assert torch.equal(run.noisy, as_tensor(frames))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 40, 40)),
        np.zeros((4, 40, 40, 4)),
        np.zeros((0, 40, 40, 3)),
        np.zeros((4, 40, 40, 3), np.int32),
        np.zeros((4, 40, 40, 3), bool),
    ],
    ids=["grey", "alpha", "empty", "int32", "bool"],
)
def test_arrays_that_are_no_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        frames_of_array(frames)
    with pytest.raises(ValueError, match="expected"):
        read_runs([frames], Span(), ALL, seed=0)


def test_a_video_gives_the_frames_of_its_reader(make_clip: Callable[..., Path], no_cuts: None) -> None:
    path = make_clip(name="my clip.mkv", width=64, height=48, frames=6)
    (run,) = read_runs([path], Span(), ALL, seed=0)
    with open_video(path) as reader:
        frames = np.stack([frame.rgb for frame in reader])
    assert run.name == "my clip.mkv" and len(frames) == 6
    assert torch.equal(run.noisy, as_tensor(frames))


def test_a_real_video_is_one_scene(bikes_clip: Path) -> None:
    (run,) = read_runs([str(bikes_clip)], Span(end=0.2), ALL, seed=0)
    assert run.noisy.shape == (5, 3, 272, 640) and run.name == "bikes.mp4"
    assert 0.2 < run.noisy.mean() < 0.8 and run.noisy.max() <= 1.1


def test_images_are_a_clip(tmp_path: Path) -> None:
    frames = shot(0, 4)
    folder = write_images(tmp_path / "frames", frames)
    for source in (folder, str(folder / "%04d.png")):
        (run,) = read_runs([source], Span(), ALL, seed=0)
        torch.testing.assert_close(run.noisy, as_tensor(frames), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["array", "images"])
def test_runs_end_at_scene_cuts_and_the_longest_comes_first(tmp_path: Path, kind: str) -> None:
    scenes = [shot(seed, frames, 180, 320) for seed, frames in ((1, 3), (2, 6), (3, 4))]
    frames = np.concatenate(scenes)
    clip = frames if kind == "array" else write_images(tmp_path / "frames", frames)
    runs = read_runs([clip], Span(), ALL, seed=0)
    assert [len(run.noisy) for run in runs] == [6, 4, 3]
    for run, scene in zip(runs, (scenes[1], scenes[2], scenes[0]), strict=True):
        torch.testing.assert_close(run.noisy, as_tensor(scene), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "wanted"), [(300, 96), (300, 24), (1000, 240), (200, 199), (100, 10), (50, 2)]
)
def test_of_a_long_clip_runs_are_spread_evenly(length: int, wanted: int) -> None:
    runs = read_runs([counted(length)], Span(), wanted * SIDE**2, seed=0)
    found = sorted(numbers(run) for run in runs)
    count = len(found)
    assert count == max(1, round(wanted / RUN_FRAMES))
    assert wanted - count < sum(map(len, found)) <= wanted
    for run in found:
        assert run == list(range(run[0], run[0] + len(run)))
    every = [number for run in found for number in run]
    assert len(set(every)) == len(every)
    # As much is left out before the first run and behind the last as half of what lies between any two.
    gaps = [later[0] - earlier[-1] - 1 for earlier, later in pairwise(found)]
    assert all(abs(gap - (length - wanted) / count) <= 2 for gap in gaps)
    for end in (found[0][0], length - 1 - found[-1][-1]):
        assert abs(end - (length - wanted) / count / 2) <= 2


def test_even_the_smallest_wish_gives_two_neighbours() -> None:
    (run,) = read_runs([counted(30)], Span(), 1, seed=0)
    assert len(run.noisy) == 2 and numbers(run)[1] == numbers(run)[0] + 1


def test_clips_have_equal_shares() -> None:
    runs = read_runs([counted(400), counted(100), counted(200)], Span(), 3 * 48 * SIDE**2, seed=0)
    frames = {
        name: sum(len(run.noisy) for run in runs if run.name == name)
        for name in ("clip 1", "clip 2", "clip 3")
    }
    assert frames == {"clip 1": 48, "clip 2": 48, "clip 3": 48}


@pytest.mark.parametrize("kind", ["video", "images"])
def test_long_files_give_spread_runs_of_the_frames_they_hold(
    make_clip: Callable[..., Path], tmp_path: Path, no_cuts: None, kind: str
) -> None:
    if kind == "video":
        clip = make_clip(name="long.mp4", width=SIDE, height=SIDE, frames=90)
    else:
        clip = write_images(
            tmp_path / "frames", np.random.default_rng(0).integers(0, 255, (90, SIDE, SIDE, 3))
        )
    with open_video(clip) as reader:
        frames = as_tensor(np.stack([frame.rgb for frame in reader]))
    assert len(frames) == 90
    runs = read_runs([clip], Span(), 48 * SIDE**2, seed=0)
    assert [len(run.noisy) for run in runs] == [24, 24]
    starts = []
    for run in runs:
        (start,) = (t for t in range(90) if torch.equal(frames[t], run.noisy[0]))
        assert torch.equal(frames[start : start + 24], run.noisy)
        starts.append(start)
    # In the middle of each half.
    assert starts == [pytest.approx(10.5, abs=1), pytest.approx(55.5, abs=1)]


def test_a_part_of_a_video_may_be_taken(make_clip: Callable[..., Path], no_cuts: None) -> None:
    clip = make_clip(width=SIDE, height=SIDE, frames=50)
    with open_video(clip) as reader:
        frames = as_tensor(np.stack([frame.rgb for frame in reader]))
    (run,) = read_runs([clip], Span(start=0.4, end=1.2), ALL, seed=0)
    assert torch.equal(run.noisy, frames[10:30])
    (run,) = read_runs([clip], Span(start=1.6), ALL, seed=0)
    assert torch.equal(run.noisy, frames[40:])
    # A spread choice stays inside as well: the middle 4 of frames 10 to 29.
    (run,) = read_runs([clip], Span(start=0.4, end=1.2), 4 * SIDE**2, seed=0)
    assert torch.equal(run.noisy, frames[18:22])


def test_the_rate_of_images_says_where_a_part_lies(tmp_path: Path) -> None:
    frames = shot(0, 20)
    folder = write_images(tmp_path / "frames", frames)
    (run,) = read_runs([folder], Span(start=1.0, end=2.0, rate=5), ALL, seed=0)
    torch.testing.assert_close(run.noisy, as_tensor(frames[5:10]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 31, 80, 3), (3, 80, 31, 3)])
def test_frames_that_are_too_small_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    frames = np.full(shape, 100, np.uint8)
    with pytest.raises(InputError, match=f"the frames is {shape[2]}x{shape[1]} pixels.*at least 32x32"):
        read_runs([frames], Span(), ALL, seed=0)
    folder = write_images(tmp_path / "frames", frames)
    with pytest.raises(InputError, match="at least 32x32"):
        read_runs([folder], Span(), ALL, seed=0)
    assert read_runs([np.full((3, 32, 32, 3), 100, np.uint8)], Span(), ALL, seed=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    frames = counted(4)
    frames[2, 9, 9, 1] = value
    with pytest.raises(InputError, match="Frame 2 of the frames holds values that are not finite"):
        read_runs([frames], Span(), ALL, seed=0)


def test_clips_that_are_not_there_are_named(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"missing\.mp4"):
        read_runs([tmp_path / "missing.mp4"], Span(), ALL, seed=0)
    with pytest.raises(InputError, match="no frame between"):
        read_runs([make_clip(width=SIDE, height=SIDE)], Span(start=100.0), ALL, seed=0)


def test_a_twentieth_of_the_pixels_is_held_out_the_same_for_a_seed() -> None:
    clips = [counted(10, 64), counted(10, 64)]

    def masks(seed: int) -> list[Tensor]:
        return [run.held_out for run in read_runs(clips, Span(), ALL, seed)]

    one, again, other = masks(3), masks(3), masks(4)
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert not torch.equal(one[0], one[1])
    for mask in (*one, *other):
        assert float(mask.float().mean()) == pytest.approx(HELD_OUT, abs=0.005)
        # In every frame others.
        assert float((mask[1:] & mask[:-1]).float().mean()) < 3 * HELD_OUT**2


def test_scenes_of_a_clip_hold_out_different_pixels() -> None:
    runs = read_runs([np.concatenate([shot(1, 4, 180, 320), shot(2, 4, 180, 320)])], Span(), ALL, seed=0)
    assert len(runs) == 2 and not torch.equal(runs[0].held_out, runs[1].held_out)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 23, 100])
def test_some_frames_are_few_and_reach_through_the_clip(count: int) -> None:
    chosen = some_frames(torch.arange(count)).tolist()
    assert chosen == sorted(set(chosen)) and 1 <= len(chosen) <= MAXIMUM_FRAMES
    assert len(chosen) >= min(count, MAXIMUM_FRAMES / 2)
    steps = {later - earlier for earlier, later in pairwise(chosen)}
    assert chosen[0] == 0 and len(steps) <= 1 and count - chosen[-1] <= max(steps, default=1)


def test_runs_never_overlap() -> None:
    for length in range(25, 200):
        for wanted in range(2, length):
            places = _places(length, wanted)
            assert all(first + count <= after for (first, count), (after, _) in pairwise(places))


def test_a_clip_named_twice_counts_once(make_clip: Callable[..., Path]) -> None:
    path = make_clip(width=32, height=32)
    assert len(read_runs([path, str(path)], Span(), 10**9, seed=0)) == len(
        read_runs([path], Span(), 10**9, seed=0)
    )


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected frames"):
        read_runs([np.zeros((5, 5))], Span(), 1000, seed=0)
