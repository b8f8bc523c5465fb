"""CRVD's protocol: what is found of the data set, and how planes are judged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stbn_cli.bench.crvd import CrvdSequence, as_shown, as_stored, find_crvd_sequences, score_planes
from stbn_cli.bench.crvd_results import CrvdFailure, CrvdResult, CrvdScore, listed
from stbn_cli.errors import InputError
from stbn_cli.raw.crvd import CRVD_TEST_SCENES
from stbn_cli.raw.noise import CRVD_NOISE, CRVD_RANGE
from tests.raw.crvd import clean_planes, write_crvd


@pytest.mark.parametrize("nested", [False, True])
def test_test_scenes_are_found_and_gaps_are_named(tmp_path: Path, nested: bool) -> None:
    root = write_crvd(
        tmp_path, scenes=(1, 7, 8, 10), isos=(1600, 3200), frames=7, draws=2, nested=nested, size=(4, 4)
    )
    places = {path: path for path in root.rglob("ISO*")}
    (lost,) = (path for path in places if "raw_gt" in str(path) and path.match("scene8/ISO3200"))
    shutil.rmtree(lost)
    (short,) = (path for path in places if "raw_noisy" in str(path) and path.match("scene10/ISO1600"))
    (short / "frame3_noisy0.tiff").unlink()
    for folder in (tmp_path, root):
        sequences, missing = find_crvd_sequences(folder)
        assert [sequence.name for sequence in sequences] == [
            *("scene7-iso1600", "scene7-iso3200", "scene8-iso1600", "scene10-iso1600", "scene10-iso3200")
        ]
        assert [len(sequence.noisy) for sequence in sequences] == [7, 7, 7, 6, 7]
        for sequence in sequences:
            pairs = zip(sequence.noisy, sequence.truth, strict=True)
            assert all(noisy.name.split("_")[0] == truth.name.split("_")[0] for noisy, truth in pairs)
            assert all(path.stem.endswith("noisy0") for path in sequence.noisy)
        words = listed(missing)
        assert "scene8-iso3200 (clean frames)" in words and "scene10-iso1600 (1 of 7 frames)" in words
        assert words.count("scene9") == words.count("scene11") == 1 and "scene7-iso6400" in words
        assert len(missing) == len(CRVD_TEST_SCENES) * len(CRVD_NOISE) - 4


def test_folders_without_what_is_measured(tmp_path: Path) -> None:
    outdoor = write_crvd(tmp_path / "outdoor", scenes=(), outdoor=(1,), size=(4, 4))
    training = write_crvd(tmp_path / "training", scenes=(1,), size=(4, 4))
    noisy = write_crvd(tmp_path / "noisy", size=(4, 4))
    shutil.rmtree(noisy / "indoor_raw_gt")
    (tmp_path / "empty").mkdir()
    for folder, word in (
        (outdoor, "only outdoor scenes"),
        (training, "scenes 7 to 11"),
        (noisy, "no clean frames"),
        (tmp_path / "empty", "nothing of CRVD"),
        (tmp_path / "none", "no folder"),
        (None, "--data DIR"),
    ):
        with pytest.raises(InputError, match=word) as caught:
            find_crvd_sequences(folder)
        assert "RViDeNet" in str(caught.value)


def test_values_are_rounded_as_a_sensor_stores_them() -> None:
    codes = torch.arange(CRVD_RANGE + 1, dtype=torch.float64)
    assert torch.equal(as_stored((codes + 0.49) / CRVD_RANGE), as_stored(codes / CRVD_RANGE))
    assert torch.equal(as_stored((codes[1:] - 0.49) / CRVD_RANGE), as_stored(codes[1:] / CRVD_RANGE))
    assert as_stored(torch.tensor([-0.1, 1.1])).tolist() == [0.0, 1.0]


def test_the_rendering_has_the_colours_of_the_planes() -> None:
    grey = torch.tensor([0.1, 0.2, 0.2, 0.2 / 1.7]).view(4, 1, 1).expand(4, 6, 8)
    shown = as_shown(grey)
    assert shown.shape == (3, 12, 16)
    expected = 1.055 * 0.2 ** (1 / 2.4) - 0.055
    torch.testing.assert_close(shown, torch.full_like(shown, expected), atol=1e-4, rtol=0)
    for plane, channel in ((0, 0), (1, 1), (2, 1), (3, 2)):
        alone = torch.zeros(4, 6, 8)
        alone[plane] = 0.5
        means = as_shown(alone).mean((1, 2))
        assert means[channel] > 0.2 and means.sum() - means[channel] < 0.01


def test_planes_are_judged_frame_by_frame() -> None:
    clean = as_stored(clean_planes(7, 2, (32, 48)))
    sequence = CrvdSequence(7, 1600, (), ())
    perfect = score_planes("it", sequence, clean + 0.4 / CRVD_RANGE, clean)
    assert perfect.psnr == perfect.rgb_psnr == (np.inf, np.inf), "what rounding takes away is no error"
    assert perfect.ssim == perfect.rgb_ssim == (1.0, 1.0)
    other = clean.clone()
    other[1, 2, 5, 5] = 0.0
    score = score_planes("it", sequence, other, clean)
    error = float(clean[1, 2, 5, 5]) ** 2 / clean[1].numel()
    assert score.psnr == (np.inf, pytest.approx(-10 * np.log10(error), abs=1e-3))
    assert score.ssim[1] < 1.0 and score.rgb_psnr[1] < np.inf


def test_averages_are_over_frames_then_scenes() -> None:
    scores = tuple(
        CrvdScore(method, scene, iso, psnr, psnr, psnr, psnr, seconds=2.0)
        for method, iso in (("one", 1600), ("two", 1600), ("one", 3200))
        for scene, psnr in ((7, (30.0, 32.0)), (8, (40.0,)))
        if (method, scene) != ("two", 8)
    )
    failures = (CrvdFailure("two", 8, 1600, "It broke."),)
    result = CrvdResult("CRVD", (), (), (1600, 3200), 7, scores, failures, {})
    found = {(row.method, row.iso): row for row in result.averages}
    assert found["one", 1600].psnr.mean == 35.5 and found["two", 1600].psnr.mean == 31.0
    assert found["one", 1600].frames_per_second == 3 / 4
    assert [row.partial for row in result.averages] == [False, True, False]
    assert result.document()["failures"] == [
        {"method": "two", "scene": 8, "iso": 1600, "reason": "It broke."}
    ]
