"""The residual's statistics on made-up pictures, and the verdicts drawn from them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from stbn_cli.compare.residual import ResidualStatistics, ResidualSummary, Whiteness
from stbn_cli.compare.verdict import judge

HEIGHT, WIDTH, FRAMES = 144, 256, 4
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """Frames (T, H, W, 3) float32 in 0.15 .. 0.85: patches with sharp edges and slow shading; they move."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    frames = []
    for time in range(FRAMES):
        x = columns + 6 * time
        patches = np.sin(1.7 * (x // 24)) * np.cos(2.3 * (rows // 18))
        picture = 0.5 + 0.25 * patches + 0.1 * np.sin(x / 60)
        frames.append(np.stack([picture, 0.9 * picture, 0.8 * picture + 0.05], axis=-1))
    return np.stack(frames).astype(np.float32)


def white(shape: tuple[int, ...], sigma: float, seed: int = 0) -> np.ndarray:
    """White noise of std sigma (0-255 scale), float32 on [0, 1]."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(sigma / 255)


def blurred(frames: np.ndarray, std: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), std) for frame in frames])


def summary(a: np.ndarray, b: np.ndarray) -> ResidualSummary:
    statistics = ResidualStatistics()
    for pair in zip(a, b, strict=True):
        statistics.add(*pair)
    return statistics.summary()


def found(value: float | None) -> float:
    assert value is not None
    return value


def test_moments_and_correlations_are_those_of_numpy(clean) -> None:
    a = blurred(clean + white(clean.shape, 20), 0.7)
    result = summary(a, clean)
    residual = 255 * (a.astype(np.float64) - clean)
    assert result.mean == pytest.approx(residual.mean(axis=(0, 1, 2)), abs=1e-4)
    assert result.std == pytest.approx(residual.std(axis=(0, 1, 2)), rel=1e-5)
    assert result.largest == pytest.approx(np.abs(residual).max(), rel=1e-5)
    luma = residual @ LUMA
    pairs = {
        "right": (luma[:, :, 1:], luma[:, :, :-1]),
        "down": (luma[:, 1:], luma[:, :-1]),
        "diagonal": (luma[:, 1:, 1:], luma[:, :-1, :-1]),
        "two_right": (luma[:, :, 2:], luma[:, :, :-2]),
        "two_down": (luma[:, 2:], luma[:, :-2]),
        "next_frame": (luma[1:], luma[:-1]),
    }
    for name, (x, y) in pairs.items():
        expected = np.corrcoef(x.ravel(), y.ravel())[0, 1]
        assert getattr(result.whiteness, name) == pytest.approx(expected, abs=1e-5), name


def test_frames_are_described_alone(clean) -> None:
    a = clean + white(clean.shape, 10)
    frame = ResidualStatistics().add(a[1], clean[1])
    residual = 255 * (a[1] - clean[1])
    assert frame.mean == pytest.approx(residual.mean(axis=(0, 1)), abs=1e-4)
    assert frame.std == pytest.approx(residual.std(axis=(0, 1)), rel=1e-4)
    assert frame.largest == pytest.approx(np.abs(residual).max())


@pytest.mark.parametrize("sigma", [5, 25])
def test_white_noise_is_neither_coarse_nor_structure(clean, sigma) -> None:
    result = summary(clean + white(clean.shape, sigma), clean)
    assert result.std == pytest.approx((sigma,) * 3, rel=0.02)
    assert result.level == pytest.approx(sigma, rel=0.02)
    assert abs(found(result.whiteness.coarsest)) < 0.02
    assert found(result.edge_ratio) == pytest.approx(1, abs=0.06)
    assert abs(found(result.detail_correlation)) < 0.05


@pytest.mark.parametrize("sigma", [0, 10, 25])
@pytest.mark.parametrize("std", [0.6, 1.0, 2.0])
def test_blur_follows_the_detail(clean, sigma, std) -> None:
    noisy = clean + white(clean.shape, sigma)
    assert found(summary(noisy, blurred(noisy, std)).detail_correlation) > 0.3


def test_noise_that_is_left_is_no_structure(clean) -> None:
    noise = white(clean.shape, 25)
    result = summary(clean + noise, clean + np.float32(0.4) * noise)
    assert abs(found(result.detail_correlation)) < 0.1
    assert found(result.edge_ratio) == pytest.approx(1, abs=0.1)


def test_ghosts_of_what_moves_are_strong_at_edges(clean) -> None:
    noisy = clean + white(clean.shape, 5)
    mean = (noisy[:-2] + noisy[1:-1] + noisy[2:]) / 3
    assert found(summary(noisy[1:-1], mean).edge_ratio) > 2


def test_noise_that_depends_on_brightness_is_no_structure() -> None:
    """Its edges lie in the bright half, where the noise is strong."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    stripes = 0.75 + 0.05 * np.sign(np.sin(columns / 6))
    picture = np.where(columns < 100, 0.25, np.where(rows < 70, stripes, 0.74 + 0.0004 * rows))
    clean = np.repeat(picture[None, ..., None], 3, axis=3).astype(np.float32).repeat(4, axis=0)
    noise = white(clean.shape, 20) * np.where(clean > 0.5, np.float32(1), np.float32(0.2))
    result = summary(clean + noise, clean)
    assert found(result.edge_ratio) == pytest.approx(1, abs=0.1)
    assert np.var(noise[:, :70, 110:]) > 5 * np.var(noise[:, :, :100])


def test_a_constant_residual_has_a_mean_and_nothing_else(clean) -> None:
    result = summary(clean, clean + np.float32(3 / 255))
    assert result.mean == pytest.approx((-3, -3, -3), abs=1e-3)
    assert result.std == pytest.approx((0, 0, 0), abs=1e-2)
    assert result.whiteness == Whiteness(None, None, None, None, None, None)
    assert result.whiteness.coarsest is None
    assert (result.detail_correlation, result.edge_ratio) == (None, None)


def test_pictures_without_edges_or_of_a_few_pixels() -> None:
    flat = np.full((2, 48, 48, 3), 0.5, np.float32)
    noisy = flat + white(flat.shape, 10)
    result = summary(noisy, flat)
    assert (result.detail_correlation, result.edge_ratio) == (None, None)
    tiny = summary(noisy[:, :1, :1], flat[:, :1, :1])
    assert tiny.whiteness.right is None and tiny.edge_ratio is None


def test_nothing_counted() -> None:
    with pytest.raises(ValueError, match="no frame"):
        ResidualStatistics().summary()


WHITE = Whiteness(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
# All of the noise, and nothing else, was removed.
IDEAL = ResidualSummary((0.0, 0.0, 0.0), (20.0, 20.0, 20.0), 20.0, 90.0, WHITE, 0.0, 1.0)
COARSE = replace(WHITE, down=0.2)


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({}, "no_structure", "No sign"),
        ({"largest": 0.0}, "identical", "identical"),
        ({"level": 0.95}, "nothing_removed", "Almost nothing"),
        ({"detail_correlation": 0.25}, "structure", "0.25"),
        ({"edge_ratio": 2.5}, "structure", "2.5 times"),
        ({"edge_ratio": 1.5}, "possible_structure", "1.5 times"),
        ({"detail_correlation": -0.3}, "possible_structure", "gained"),
        ({"whiteness": COARSE}, "possible_structure", "alike"),
        ({"level": 25.0}, "possible_structure", "more was removed (25) than there was noise (20)"),
        ({"level": 25.0, "whiteness": COARSE}, "structure", "alike"),
        ({"detail_correlation": None, "edge_ratio": None}, "no_structure", "No sign"),
    ],
)
def test_verdicts(change, kind, word) -> None:
    verdict = judge(replace(IDEAL, **change), 20, 1, reliable=True)
    assert verdict.kind == kind and word in verdict.text
    assert not verdict.colours_moved


def test_an_uneven_noise_level_is_not_compared_with() -> None:
    strong = replace(IDEAL, level=40.0)
    assert judge(strong, 20, 1, reliable=False).kind == "no_structure"


def test_the_noisier_one_should_be_first() -> None:
    verdict = judge(IDEAL, 1, 20, reliable=True)
    assert verdict.kind == "noisier" and "noisy video first" in verdict.text


def test_colours_that_moved_are_told_in_the_direction_from_a_to_b() -> None:
    shifted = replace(IDEAL, mean=(-4.0, 0.0, 0.0))
    verdict = judge(shifted, 20, 1, reliable=True)
    assert verdict.kind == "no_structure" and verdict.colours_moved
    assert "+4 (red)" in verdict.text and "clipped" not in verdict.text
    little = judge(replace(IDEAL, mean=(0.0, 1.5, 0.0)), 20, 1, reliable=True)
    assert "-1.5 (green)" in little.text and "clipped" in little.text
