"""What an analysis says of clips whose noise is known."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stbn_cli.analysis.analysis import RUN_FRAMES, Analysis, analyze, analyze_frames
from stbn_cli.analysis.picture import clipped_shares, find_repeats, grid_strength
from stbn_cli.noise.bars import Bars, find_bars, without_bars
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.codec import H264, sampled
from stbn_cli.synthesis.isp import CameraPipeline, Grain
from stbn_cli.synthesis.sensor import SensorNoise, poisson_gaussian


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """(T, 3, H, W): a smooth picture that drifts by two pixels a frame."""
    coarse = torch.rand((1, 3, 9, 13), generator=torch.Generator().manual_seed(5)) * 0.6 + 0.2
    picture = F.interpolate(coarse, (176, 300), mode="bicubic")[0].clamp(0.02, 0.98)
    return torch.stack([picture[..., 2 * t : 2 * t + 256] for t in range(8)])


def frames_of(noisy: torch.Tensor) -> np.ndarray:
    return noisy.permute(0, 2, 3, 1).contiguous().numpy()


def analysed(noisy: torch.Tensor) -> Analysis:
    return analyze(frames_of(noisy))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_white_noise(clean: torch.Tensor) -> None:
    found = analysed(SensorNoise(NoiseLevelFunction.white(15 / 255)).add_to(clean, seeded()))
    assert found.verdict.kind == "white" and not found.verdict.faint
    assert found.level == pytest.approx(15, rel=0.06)
    assert found.typical.correlation.length == pytest.approx(0.65, abs=0.1)
    assert (found.repeated, found.near_duplicates, found.skipped) == (0.0, 0.0, 0.0)
    assert not found.bars.any


def test_sensor_noise(clean: torch.Tensor) -> None:
    found = analysed(poisson_gaussian(0.02, 0.01).add_to(clean, seeded()))
    assert found.verdict.kind == "sensor"


@pytest.mark.parametrize("size", [0.6, 1.0])
def test_grain_is_correlated_noise(clean: torch.Tensor, size: float) -> None:
    found = analysed(Grain(NoiseLevelFunction.white(20 / 255), size).add_to(clean, seeded()))
    assert found.verdict.kind == "camera"
    expected = {0.6: 1.2, 1.0: 2.0}[size]
    assert found.typical.correlation.length == pytest.approx(expected, abs=0.4)
    assert found.level == pytest.approx(20, rel=0.2)


def test_noise_through_a_camera_is_correlated_noise(clean: torch.Tensor) -> None:
    found = analysed(CameraPipeline(0.02, 0.01, corrected=False).deliver(clean, seeded()))
    assert found.verdict.kind == "camera"


@pytest.mark.parametrize("bits", [0.15, 0.6])
def test_coded_noise_is_told_from_coded_pictures(clean: torch.Tensor, tmp_path: Path, bits: float) -> None:
    """`bits` of a pixel; 0.15 is 2 Mbit/s for 960x540 at 25 frames a second, which leaves little of the noise."""
    coder = H264(bitrate=round(bits * 256 * 176 * 25))
    coder.write(
        SensorNoise(NoiseLevelFunction.white(20 / 255), clipped=True).add_to(clean, seeded()),
        tmp_path / "n.mp4",
    )
    assert analyze(tmp_path / "n.mp4").verdict.kind == "compressed"
    H264(crf=24).write(clean, tmp_path / "c.mp4")
    found = analyze(tmp_path / "c.mp4")
    assert found.verdict.faint and found.verdict.kind == "white"


def test_frames_tell_that_they_were_coded(clean: torch.Tensor, tmp_path: Path) -> None:
    """Where no file says so: in arrays, and in what was decoded and stored without loss. 4:2:0 alone is no coder."""
    noisy = SensorNoise(NoiseLevelFunction.white(20 / 255), clipped=True).add_to(clean, seeded())
    for bits in (0.4, 0.8):
        coded, _ = H264(bitrate=round(bits * 256 * 176 * 25)).code(noisy)
        assert analysed(coded).verdict.kind == "compressed"
    # Other converters interpolate colour in another way.
    coder = H264(bitrate=round(0.8 * 256 * 176 * 25))
    coder.write(noisy, tmp_path / "coded.mkv")
    with av.open(tmp_path / "coded.mkv") as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert analyze(pictures).verdict.kind == "compressed"
    assert analysed(sampled(noisy)).verdict.kind == "camera"
    delivered = CameraPipeline(shot=0.008, read=0.008, sharpening=0.5).deliver(clean, seeded())
    assert analysed(sampled(delivered)).verdict.kind == "camera"


def test_hardly_any_noise_is_said_to_be_that(clean: torch.Tensor) -> None:
    found = analysed(SensorNoise(NoiseLevelFunction.white(0.4 / 255)).add_to(clean, seeded()))
    assert found.verdict.faint and found.verdict.kind == "white"
    assert "hardly any noise" in found.verdict.sentences[0]


def test_a_single_frame_is_measured_and_reported_as_little_evidence(clean: torch.Tensor) -> None:
    found = analysed(SensorNoise(NoiseLevelFunction.white(15 / 255)).add_to(clean[:1], seeded()))
    assert found.frames == 1 and found.level == pytest.approx(15, rel=0.1)
    assert found.verdict.kind == "white" and "too few" in found.verdict.sentences[0]


def test_runs_come_from_all_over_a_long_clip_and_no_more_than_asked_for(clean: torch.Tensor) -> None:
    strong, weak = (
        SensorNoise(NoiseLevelFunction.white(sigma / 255)).add_to(clean.repeat(3, 1, 1, 1), seeded())
        for sigma in (30, 10)
    )
    clip = frames_of(torch.cat((weak, strong)))
    found = analyze(clip, most_runs=3)
    assert [run.first_frame for run in found.runs] == [0, 20, 40]
    assert all(run.frames <= RUN_FRAMES for run in found.runs)
    assert found.runs[0].noise.level < found.runs[-1].noise.level / 2


def test_frames_by_number_are_measured_as_an_array_of_them_is(clean: torch.Tensor) -> None:
    noisy = torch.cat((clean, clean.flip(0))) + 0.05 * torch.randn(
        2 * len(clean), *clean.shape[1:], generator=seeded()
    )
    frames = frames_of(noisy)
    assert analyze_frames(frames.__getitem__, len(frames), deep=True) == analyze(frames)


def test_bars_are_found_and_left_out(clean: torch.Tensor) -> None:
    noisy = SensorNoise(NoiseLevelFunction.white(15 / 255)).add_to(clean, seeded())
    framed = torch.zeros(8, 3, 216, 272)
    framed[:, :, 20:196, 6:262] = noisy
    assert find_bars(framed) == Bars(20, 20, 6, 10)
    assert torch.equal(without_bars(framed, Bars(20, 20, 6, 10)), noisy)
    found = analysed(framed)
    assert found.bars == Bars(20, 20, 6, 10)
    assert found.level == pytest.approx(15, rel=0.06)
    assert find_bars(torch.zeros(2, 3, 16, 16)) == Bars()


def test_clipped_values_are_counted() -> None:
    frames = torch.full((1, 3, 10, 10), 0.5)
    frames[..., :2, :] = 0.0
    frames[..., 9, :] = 1.0
    assert clipped_shares(frames) == (pytest.approx(0.2), pytest.approx(0.1))


def test_a_grid_of_blocks_is_seen(clean: torch.Tensor) -> None:
    noisy = SensorNoise(NoiseLevelFunction.white(4 / 255)).add_to(clean, seeded())
    blocks = torch.rand((8, 3, 22, 32), generator=seeded()) * 0.05
    blocky = noisy + blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert grid_strength(noisy) == pytest.approx(1.0, abs=0.04)
    assert grid_strength(blocky) > 1.2


def test_repeated_frames_and_skipped_blocks(clean: torch.Tensor) -> None:
    noisy = SensorNoise(NoiseLevelFunction.white(8 / 255)).add_to(clean, seeded())
    noisy[3] = noisy[2]
    noisy[5] = noisy[4] + 0.0005 * torch.randn(noisy[4].shape, generator=seeded())
    noisy[7, :, :16, :128] = noisy[6, :, :16, :128]
    found = find_repeats(noisy)
    assert (found.pairs, found.same, found.near_duplicates) == (7, 1, 1)
    assert found.skipped == pytest.approx(8 / (11 * 16) / 5)
