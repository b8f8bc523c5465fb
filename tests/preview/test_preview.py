"""What a preview shows equals the full run, wherever the moment lies; where it looks; what it predicts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from stbn_cli.api import load_denoiser
from stbn_cli.errors import OptionError
from stbn_cli.jobs.model import LoadedDenoiser
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.noise.model import SceneNoise
from stbn_cli.preview import location
from stbn_cli.preview.forecast import TrialResult, seconds_per_frame
from stbn_cli.preview.location import LocatedMoment, choose_moment, locate
from stbn_cli.preview.make import differences, timestamp
from stbn_cli.preview.moment import Shot, StageTimings, preview_frames
from stbn_cli.preview.picture import JOINT, PANEL, compose_sheet
from stbn_cli.preview.places import detailed_places, noisiest_places
from stbn_cli.preview.timing import StageTiming
from stbn_cli.source import Source
from stbn_cli.video.reader import open_video
from tests.cli.conftest import save_tiny_model

SMALL_FRAMES = 84
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small_bikes(bikes_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the real clip, with its cuts at frames 30 and 76, at a seventh of its size."""
    path = tmp_path_factory.mktemp("clips") / "bikes.mkv"
    with av.open(str(bikes_clip)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 40, "yuv444p"
        for index, picture in enumerate(source.decode(video=0)):
            if index == SMALL_FRAMES:
                break
            small = picture.reformat(96, 40, "yuv444p")
            small.pts, small.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(small))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedDenoiser]:
    path = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.safetensors", flow="dis")
    own = DenoiserOptions(path, device="cpu", precision="fp32")

    def load(on_message: Callable[[str], None] | None = None, **options: Any) -> LoadedDenoiser:
        return load_denoiser(options=replace(own, **options), on_message=on_message)

    return load


def full_run(path: Path, denoiser: LoadedDenoiser, end: float | None = None) -> list[np.ndarray]:
    with open_video(path, end=end) as reader:
        return list(denoiser.stream(frame.rgb for frame in reader))


def surveyed(path: Path, denoiser: LoadedDenoiser, at: float, duration: float = 0.0) -> LocatedMoment:
    with open_video(path) as reader:
        moment = choose_moment(reader.metadata, at, duration)
    return locate(Source(path), denoiser, moment)


def largest_difference(shots: list[Shot], full: list[np.ndarray], rate: int = 25) -> float:
    assert shots
    return max(float(np.abs(shot.after - full[round(shot.time * rate)]).max()) for shot in shots)


@pytest.mark.parametrize("sigma", [None, 25.0])
def test_frames_equal_the_full_run_everywhere(small_bikes, tiny, sigma) -> None:
    denoiser = tiny(sigma=sigma, chunk=3, chunk_overlap=2)
    full = full_run(small_bikes, denoiser)
    assert [scene.first_frame for scene in denoiser.report.scenes] == [0, 30, 76]
    for index in (0, 17, 29, 30, 31, 75, 76, 83):
        (shot,) = preview_frames(Source(small_bikes), denoiser, at=index / 25)
        assert shot.time == Fraction(index, 25)
        assert largest_difference([shot], full) < 1e-6


def test_a_span_over_a_cut_equals_the_full_run(small_bikes, tiny) -> None:
    denoiser = tiny(chunk=4, chunk_overlap=1)
    full = full_run(small_bikes, denoiser)
    shots = preview_frames(Source(small_bikes), denoiser, at=1.2, duration=0.6)
    assert [shot.time for shot in shots] == [Fraction(index, 25) for index in range(22, 38)]
    assert largest_difference(shots, full) < 1e-6


def test_the_shipped_model_at_its_own_chunks(small_bikes) -> None:
    denoiser = load_denoiser("stbn-xs", device="cpu", precision="fp32")
    full = full_run(small_bikes, denoiser, end=1.2)  # the first scene
    for at in (0.0, 1.0):
        assert largest_difference(preview_frames(Source(small_bikes), denoiser, at=at), full) < 1e-6


def test_a_warm_up_in_the_middle_of_a_scene_is_enough(small_bikes) -> None:
    options = DenoiserOptions(
        "stbn-xs", device="cpu", precision="fp32", scene_cuts=False, sigma=25, chunk=4, chunk_overlap=2
    )
    denoiser = load_denoiser(options=options)
    full = full_run(small_bikes, denoiser)
    found = surveyed(small_bikes, denoiser, at=3.28)
    assert 0 < found.parts[0].start <= 82 - location.WARMUP
    assert largest_difference(preview_frames(Source(small_bikes), denoiser, at=3.28), full) < 2e-4


def test_half_precision_starts_with_the_scene(small_bikes, tiny, monkeypatch) -> None:
    denoiser = tiny(
        precision="bf16", scene_cuts=False, sigma=25, chunk=4, chunk_overlap=2, on_message=lambda _: None
    )
    # Few frames: a CPU may only emulate bf16.
    full = full_run(small_bikes, denoiser, end=1.2)
    assert largest_difference(preview_frames(Source(small_bikes), denoiser, at=1.0), full) == 0
    monkeypatch.setattr(location, "HALF_PRECISION_FRAMES", 20)
    monkeypatch.setattr(location, "WARMUP", 8)
    found = surveyed(small_bikes, denoiser, at=1.0)
    assert found.parts[0].start > 0 and not found.parts[0].exact
    assert "--precision fp32" in differences(found)[0]


def test_a_scene_that_begins_too_early_is_said(small_bikes, tiny, monkeypatch) -> None:
    monkeypatch.setattr(location, "LEAD_FRAMES", 20)
    early = surveyed(small_bikes, tiny(), at=2.8)
    assert not early.parts[0].known
    assert "begins before 0:00:02.000" in differences(early)[0]
    # The cut at frame 76 lies within the lead: nothing is left open.
    assert differences(surveyed(small_bikes, tiny(), at=3.2)) == []


def test_lead_does_not_change_what_is_found(small_bikes, tiny, monkeypatch) -> None:
    denoiser = tiny(chunk=3, chunk_overlap=2)
    full = full_run(small_bikes, denoiser)
    monkeypatch.setattr(location, "LEAD_FRAMES", 25)
    shots = preview_frames(Source(small_bikes), denoiser, at=1.68)
    assert surveyed(small_bikes, denoiser, at=1.68).lead is not None
    assert largest_difference(shots, full) < 1e-6


def test_little_is_read_and_denoised(small_bikes, tiny) -> None:
    denoiser = tiny(chunk=3, chunk_overlap=2)
    found = surveyed(small_bikes, denoiser, at=0.4)
    assert found.frames == 6  # the moment's chunk and one more, for the time it takes
    assert len(found.times) == 15  # up to the chunk's end and its look-ahead, and one to know where that is


def test_frames_that_repeat_the_one_before(tmp_path, tiny) -> None:
    """The network does not see them, and its chunks do not count them."""
    path = tmp_path / "repeats.mkv"
    shown = [number for number in range(12) for _ in range(1 + number % 3)]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray"
        for index, number in enumerate(shown):
            values = np.random.default_rng(number).integers(90, 110, (24, 32), np.uint8)
            picture = av.VideoFrame.from_ndarray(values, format="gray")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    denoiser = tiny(sigma=25, scene_cuts=False, chunk=2, chunk_overlap=1)
    full = full_run(path, denoiser)
    assert denoiser.report.repeated_frames == len(shown) - 12
    for index in (0, 4, 5, 11, 17, len(shown) - 1):
        shots = preview_frames(Source(path), denoiser, at=index / 25 + 0.001)
        assert len(shots) == 1
        assert float(np.abs(shots[0].after - full[index]).max()) < 1e-6


def test_variable_times_and_a_late_start(make_clip, tiny) -> None:
    ticks = (500, 540, 640, 650, 800, 1200, 1240)
    clip = make_clip(ticks=ticks, time_base=Fraction(1, 1000))
    denoiser = tiny(sigma=25, scene_cuts=False, chunk=2, chunk_overlap=1)
    full = full_run(clip, denoiser)
    for at, index in ((0.0, 0), (0.539, 0), (0.54, 1), (0.79, 3), (1.19, 4), (1.2, 5), (1.25, 6)):
        (shot,) = preview_frames(Source(clip), denoiser, at=at)
        assert shot.time == Fraction(ticks[index], 1000)  # Matroska's clock begins before the first frame
        np.testing.assert_allclose(shot.after, full[index], atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2])
def test_very_short_clips(make_clip, tiny, frames) -> None:
    clip = make_clip(frames=frames)
    denoiser = tiny()
    (shot,) = preview_frames(Source(clip), denoiser)
    np.testing.assert_allclose(shot.after, full_run(clip, denoiser)[frames // 2], atol=1e-6)


def test_times_beyond_the_end_name_the_length(make_clip, tiny) -> None:
    clip = make_clip()
    for at in (0.32, 99.0):
        with pytest.raises(OptionError, match=r"ends at 0\.320 s"):
            preview_frames(Source(clip), tiny(), at=at)
    assert preview_frames(Source(clip), tiny(sigma=20), at=0.319)[0].time == Fraction(7, 25)


def test_an_unstated_length_is_found_by_reading(make_clip, tiny) -> None:
    clip = make_clip()
    with open_video(clip) as reader:
        unstated = replace(reader.metadata, duration_seconds=None)
    moment = choose_moment(unstated, 5.0)
    with pytest.raises(OptionError, match=r"--at 5 s is beyond the video"):
        locate(Source(clip), tiny(), moment)


def test_moments_lie_within_the_video(make_clip) -> None:
    with open_video(make_clip(frames=50)) as reader:
        metadata = reader.metadata
    assert choose_moment(metadata, None).begin == 1
    assert choose_moment(metadata, 0.1, 1.0).begin == 0
    last = choose_moment(metadata, 1.9, 1.0)
    assert (last.begin, last.end) == (1, 2)
    whole = choose_moment(metadata, 1.0, 99.0)
    assert whole.begin == 0 and whole.end >= 2


def test_skipping_only_carries_the_recurrence(small_bikes, tiny) -> None:
    denoiser = tiny(sigma=20, scene_cuts=False, chunk=4, chunk_overlap=3)
    full = full_run(small_bikes, denoiser)[:20]
    plan = denoiser.plan_for(40, 96)

    def frames() -> Iterator[np.ndarray]:
        with open_video(small_bikes) as reader:
            yield from (frame.rgb for frame, _ in zip(reader, range(23), strict=False))

    rest = list(denoiser.stream_scene(frames(), SceneNoise.white(20 / 255), plan, skip=8))
    assert len(rest) == 15
    for expected, actual in zip(full[8:], rest, strict=False):
        np.testing.assert_array_equal(actual, expected)


def test_places_are_where_noise_and_detail_are() -> None:
    after = np.full((200, 300, 3), 0.5, np.float32)
    after[20:60, 220:260] += 0.05 * (np.indices((40, 40)).sum(0) % 2)[..., None]
    before = after.copy()
    noise = np.random.default_rng(0).standard_normal((40, 40, 1))
    before[120:160, 40:80] += (0.1 * noise).astype(np.float32)
    noisy = noisiest_places(before, after, 40, 2)
    assert (noisy[0].top, noisy[0].left) == (120, 40)
    detailed = detailed_places(after, 40, 2, noisy)
    assert abs(detailed[0].top - 20) <= 1 and abs(detailed[0].left - 220) <= 1
    places = [*noisy, *detailed]
    covered = np.zeros((200, 300), int)
    for place in places:
        assert place.cut(covered).shape == (40, 40)
        place.cut(covered)[...] += 1
    assert len(places) == 4 and covered.max() == 1


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (24, 32), (300, 200), (1200, 2500)])
@pytest.mark.parametrize("turns", [0, 1])
def test_sheets_of_any_size_have_one_width(size, turns) -> None:
    frame = np.random.default_rng(1).random((*size, 3), dtype=np.float32)
    sheet = compose_sheet(frame, 0.5 * frame, "title", turns=turns, aspect=Fraction(4, 3))
    assert sheet.dtype == np.uint8 and sheet.shape[1] == compose_sheet(frame, frame, "").shape[1]


def test_sheets_hold_the_pixels_themselves() -> None:
    before = np.random.default_rng(2).random((600, 800, 3), dtype=np.float32)
    sheet = compose_sheet(before, 0.5 * before, "title")
    (place, _) = noisiest_places(before, 0.5 * before, PANEL // 4, 2)
    expected = np.rint(255 * place.cut(before)).astype(np.uint8)[:60].repeat(4, axis=0).repeat(4, axis=1)
    rows = [row for row in range(sheet.shape[0] - 240) if (sheet[row, :PANEL] == expected[0]).all()]
    assert any((sheet[row : row + 240, :PANEL] == expected).all() for row in rows)
    after = sheet[rows[0] : rows[0] + 240, PANEL + JOINT : 2 * PANEL + JOINT]
    np.testing.assert_allclose(after, 0.5 * expected, atol=1)


def trial(**fields) -> TrialResult:
    known = {"frames": 10, "key_frames": 1, "key_bytes": 1000, "other_bytes": 900, "copied_bytes": 50}
    known |= {"fixed_bytes": 7, "codec": "h264", "timing": StageTiming(), "warnings": ()}
    return TrialResult(**{**known, **fields})


def test_sizes_count_key_frames_apart() -> None:
    # Two key frames of 500 frames, the others as in the trial, the sound in proportion, the rest once.
    assert trial().extrapolate(500) == 2 * 1000 + round(1.08 * 498 * 100) + 50 * 50 + 7
    assert trial(codec="vp9").extrapolate(500) == 4 * 1000 + 496 * 100 + 50 * 50 + 7
    assert trial().extrapolate(10) == 1000 + 900 + 50 + 7
    assert trial().extrapolate(1) == 1000 + 5 + 7
    every = trial(key_frames=10, key_bytes=8000, other_bytes=0, codec="prores")
    assert every.extrapolate(100) == 80_000 + 500 + 7


def test_stages_overlap_as_far_as_the_processor_allows(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    reading, denoising, encoding = StageTiming(1, 1, 10), StageTiming(10, 10, 10), StageTiming(5, 5, 10)
    timings = StageTimings(reading, StageTiming(99, 99, 1), denoising)

    def seconds(cores: int, device: str = "cpu") -> float:
        return seconds_per_frame(StageTiming(), timings, encoding, torch.device(device), cores)

    assert seconds(1) == pytest.approx(1.6)  # one after another
    assert seconds(8) == pytest.approx(1.0)  # hidden behind the slowest
    denoising.wall = 1.0
    assert seconds(8, "cuda") == pytest.approx(0.5)  # the encoder is the slowest
    denoising.wall = 20.0
    assert seconds(1) == pytest.approx(3.2)  # half of the only core is someone else's


def test_time_stamps() -> None:
    assert timestamp(Fraction(83, 1)) == "0:01:23.000"
    assert timestamp(Fraction(3599_9996, 10_000)) == "1:00:00.000"
