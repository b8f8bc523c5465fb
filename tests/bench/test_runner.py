"""The protocol's loop with stand-in methods, each in its own process."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.bench.artifacts import CropKeeper, detailed_place, save_frames
from stbn_cli.bench.clips import Clip
from stbn_cli.bench.isolation import IsolatedMethod, MethodFailedError
from stbn_cli.bench.results import Failure, Score, average, estimate_mean
from stbn_cli.bench.runner import BenchOptions, run_bench
from stbn_cli.errors import InputError
from stbn_cli.metrics import psnr
from stbn_cli.synthesis.protocol import protocol_noise
from tests.bench.stand_ins import Failing, Halving, Hungry


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.frames: dict[tuple[str, float, str], torch.Tensor] = {}
        self.clean: dict[str, torch.Tensor] = {}
        self.scores: list[Score] = []
        self.failures: list[Failure] = []

    def clip_begins(self, clip: str, clean: torch.Tensor) -> None:
        self.clean[clip] = clean

    def frames_ready(self, clip: str, sigma: float, method: str, frames: torch.Tensor) -> None:
        self.frames[clip, sigma, method] = frames

    def scored(self, score: Score) -> None:
        self.scores.append(score)

    def failed(self, failure: Failure) -> None:
        self.failures.append(failure)


def write_pictures(folder: Path, count: int, first_value: int = 0, size: tuple[int, int] = (24, 32)) -> Clip:
    folder.mkdir()
    pictures = np.random.default_rng(1).integers(0, 200, (count, *size, 3), dtype=np.uint8)
    pictures[:, 0, 0] = first_value
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return Clip(folder.name, folder)


def test_every_method_gets_the_protocols_noise(tmp_path: Path) -> None:
    clips = [write_pictures(tmp_path / "a", 3), write_pictures(tmp_path / "b", 2)]
    watch = Recorder()
    options = BenchOptions(sigmas=(10.0, 50.0), seed=5)
    scores, failures = run_bench(clips, [Halving(), Halving("again")], options, watch)
    assert not failures
    assert scores == watch.scores
    assert [(s.clip, s.sigma, s.method) for s in scores] == [
        (clip, sigma, method)
        for clip in "ab"
        for sigma in (10.0, 50.0)
        for method in ("noisy", "halving", "again")
    ]
    for score in scores:
        noisy = protocol_noise(watch.clean[score.clip], score.sigma / 255, 5)
        estimate = noisy if score.method == "noisy" else 0.5 * noisy
        assert torch.equal(watch.frames[score.clip, score.sigma, score.method], estimate)
        assert score.psnr == pytest.approx(psnr(estimate, watch.clean[score.clip]).tolist())
        assert len(score.temporal_error) == score.frames - 1
    runs = [score for score in scores if score.method == "halving"]
    assert [score.details["sigma"] for score in runs] == [10.0, 50.0, 10.0, 50.0]
    assert len({score.details["process"] for score in runs}) == 1, "loaded once"
    assert os.getpid() not in {score.details.get("process") for score in scores}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "exit code 7"),
        ("known", "The model is missing."),
        ("unknown", "ZeroDivisionError"),
        ("shape", "returned"),
    ],
)
def test_a_failure_ends_nothing_else(tmp_path: Path, how: str, reason: str) -> None:
    clips = [
        write_pictures(tmp_path / name, 2, value) for name, value in (("good", 0), ("bad", 255), ("well", 0))
    ]
    watch = Recorder()
    scores, failures = run_bench(clips, [Failing(how), Halving()], BenchOptions(sigmas=(1.0,)), watch)
    assert [score.clip for score in scores if score.method == "failing"] == ["good", "well"]
    assert [score.clip for score in scores if score.method == "halving"] == ["good", "bad", "well"]
    assert failures == watch.failures
    assert [(f.method, f.clip, f.sigma) for f in failures] == [("failing", "bad", 1.0)]
    assert reason in failures[0].reason
    partial = {row.method: row.partial for row in average(scores, len(clips))}
    assert partial == {"noisy": False, "failing": True, "halving": False}


def test_peak_memory_is_the_methods_own() -> None:
    noisy = np.zeros((2, 32, 32, 3), np.float32)
    with IsolatedMethod(Halving()) as modest, IsolatedMethod(Hungry(300)) as hungry:
        peaks = [method(noisy, 1.0).peak_bytes for method in (modest, hungry)]
    if None in peaks:
        pytest.skip("this system does not report it")
    assert 290 < (peaks[1] - peaks[0]) / 2**20 < 400  # type: ignore[operator]


def test_a_closed_process_answers_no_more() -> None:
    method = IsolatedMethod(Halving())
    method.close()
    with pytest.raises(MethodFailedError):
        method(np.zeros((1, 32, 32, 3), np.float32), 1.0)


def test_small_pictures_are_refused(tmp_path: Path) -> None:
    clip = write_pictures(tmp_path / "small", 2, size=(16, 64))
    with pytest.raises(InputError, match="22x22"):
        run_bench([clip], [], BenchOptions(), Recorder())


def test_the_average_is_over_frames_then_clips() -> None:
    found = estimate_mean([[1.0, 2.0, 3.0], [10.0, 10.0]])
    assert found.mean == 6.0
    assert found.margin == pytest.approx(1.96 * (1.0 / 3) ** 0.5 / 2)
    assert estimate_mean([[1.0], [2.0, 3.0]]).margin is None
    assert estimate_mean([[float("inf"), 3.0]]).margin is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        found = estimate_mean([list(generator.normal(30, 1, 40)), list(generator.normal(20, 2, 25))])
        assert found.margin is not None
        hits += abs(found.mean - 25) < found.margin
    assert 0.91 < hits / 500 < 0.98


def test_crops_show_the_detailed_place() -> None:
    picture = np.full((600, 800, 3), 0.5, np.float32)
    picture[320:500, 400:600] = np.random.default_rng(0).random((180, 200, 3), np.float32)
    rows, columns = detailed_place(picture)
    assert rows.start <= 320 and rows.stop >= 500 and columns.start <= 400 and columns.stop >= 600
    assert rows.stop - rows.start == columns.stop - columns.start == 256
    assert detailed_place(picture[:40, :50]) == (slice(0, 40), slice(0, 50))


def test_kept_crops_are_the_frames_pixels() -> None:
    clean = torch.rand(3, 3, 40, 50)
    keeper = CropKeeper()
    keeper.clip_begins("a", clean)
    keeper.frames_ready("a", 10.0, "noisy", clean + 0.5)
    kept = keeper.sets["a", 10.0]
    assert list(kept) == ["clean", "noisy"]
    for name, frames in (("clean", clean), ("noisy", (clean + 0.5).clamp(0, 1))):
        pixels = cv2.imdecode(np.frombuffer(kept[name], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(pixels, np.rint(255 * frames[1].permute(1, 2, 0).numpy()).astype(np.uint8))


def test_saved_frames(tmp_path: Path) -> None:
    frames = torch.rand(2, 3, 24, 32) * 1.5 - 0.2
    save_frames(tmp_path / "out", "clip", 12.5, "method", frames)
    files = sorted((tmp_path / "out" / "clip" / "sigma12.5" / "method").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png"]
    pixels = cv2.imread(str(files[1]))[..., ::-1]
    assert np.abs(pixels / 255 - frames[1].clamp(0, 1).permute(1, 2, 0).numpy()).max() <= 0.5001 / 255
