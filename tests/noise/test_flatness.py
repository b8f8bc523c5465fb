"""All of the noise of made-up scenes, whatever neighbours share of it."""

import cv2
import numpy as np
import pytest

from stbn_cli.noise.flatness import LAGS, measure_levels

LUMA = np.array((0.299, 0.587, 0.114))


def scene(frames: int = 1, height: int = 220, width: int = 300, seed: int = 0) -> np.ndarray:
    """Shaded, partly textured discs before each other that move by two pixels a frame; (T, H, W, 3) on [0, 1]."""
    random = np.random.default_rng(seed)
    pictures = []
    discs = [
        (
            random.uniform(0, width),
            random.uniform(0, height),
            random.uniform(15, 80),
            random.uniform(0.1, 0.9, 3),
        )
        for _ in range(120)
    ]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for frame in range(frames):
        picture = np.full((height, width, 3), 0.4, np.float32)
        for index, (x, y, radius, colour) in enumerate(discs):
            x = x + 2 * frame
            shade = 1 + 0.1 * (columns - x) / radius
            if index % 3 == 0:
                shade = shade * (1 + 0.15 * np.sin((columns - x) * 1.1) * np.sin(rows * 0.9))
            inside = np.hypot(columns - x, rows - y) < radius
            picture[inside] = (colour * shade[..., None])[inside]
        pictures.append(cv2.GaussianBlur(picture, None, 0.7))
    return np.stack(pictures).clip(0.05, 0.95)


def spread(draw: np.ndarray, size: float) -> np.ndarray:
    """White noise (T, H, W, C) blurred to grains of `size` pixels, of standard deviation 1."""
    blurred = np.stack([cv2.GaussianBlur(picture, None, size).reshape(picture.shape) for picture in draw])
    return blurred / blurred.std()


def eight_bits(frames: np.ndarray) -> np.ndarray:
    return np.round(frames.clip(0, 1) * 255).astype(np.float32) / 255


def levels(noise: np.ndarray) -> tuple[float, float]:
    luma = noise @ LUMA
    chroma = noise[..., (0, 2)] - luma[..., None]
    return float(luma.std()), float(np.sqrt(np.square(chroma - chroma.mean((0, 1, 2))).mean()))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    ("sigma", "size", "own"),
    [(4, 0.0, 1.0), (25, 0.0, 1.0), (6, 0.7, 0.5), (20, 1.2, 0.5)],
)
def test_finds_the_level_of_white_noise_and_of_grain(
    sigma: int, size: float, own: float, frames: int
) -> None:
    clean = scene(frames)
    random = np.random.default_rng(1)
    draw = random.normal(size=clean.shape).astype(np.float32)
    draw = np.sqrt(own) * draw + np.sqrt(1 - own) * draw[..., :1]
    noisy = eight_bits(clean + (spread(draw, size) if size else draw) * sigma / 255)
    luma, chroma = levels(noisy - eight_bits(clean))

    found = measure_levels(noisy)

    assert found.luma == pytest.approx(luma, rel=0.15)
    assert found.chroma == pytest.approx(chroma, rel=0.15, abs=0.5 / 255)
    assert found.rgb == pytest.approx(float((noisy - clean).std()), rel=0.15)
    assert found.neighbours_share == (size > 0)
    assert len(found.luma_lags) == LAGS + 1
    assert (found.luma_lags[1] > 0.3) == (size > 0)


def test_finds_blotchy_colour_beside_fine_luma() -> None:
    clean = scene()
    random = np.random.default_rng(2)
    luma = spread(random.normal(size=(*clean.shape[:3], 1)).astype(np.float32), 0.7) * 8 / 255
    red, blue = (
        spread(random.normal(size=clean.shape[:3]).astype(np.float32)[..., None], 2.0)[..., 0] * 8 / 255
        for _ in "rb"
    )
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    noise = luma + np.stack((red, green, blue), axis=-1)

    found = measure_levels(eight_bits(clean + noise))

    assert found.luma == pytest.approx(8 / 255, rel=0.15)
    assert found.chroma == pytest.approx(8 / 255, rel=0.2)
    assert found.chroma_lags[2] > found.luma_lags[2] + 0.2


def test_coarse_grain_comes_out_low_but_as_shared() -> None:
    """Grains as large as a scene's details are taken for texture in part."""
    clean = scene()
    grain = (
        spread(np.random.default_rng(1).normal(size=(*clean.shape[:3], 1)).astype(np.float32), 2.0) * 12 / 255
    )

    found = measure_levels(eight_bits(clean + grain))

    assert 0.45 * 12 / 255 < found.luma < 1.15 * 12 / 255
    assert found.neighbours_share


def test_clean_scenes_have_hardly_any() -> None:
    found = measure_levels(eight_bits(scene(3)))

    assert max(found.luma, found.chroma, found.rgb) < 0.5 / 255


def test_follows_brightness() -> None:
    clean = scene(seed=3)
    sigma = 3 / 255 + 17 / 255 * (clean @ LUMA)[..., None]
    noisy = clean + sigma * np.random.default_rng(4).normal(size=clean.shape)

    found = measure_levels(noisy.astype(np.float32))

    dark, bright = np.sqrt(found.luma_by_brightness.variances_at(np.array((0.25, 0.75)))[0])
    assert bright / dark == pytest.approx((3 + 17 * 0.75) / (3 + 17 * 0.25), rel=0.25)


def test_bars_and_repeated_frames_change_nothing() -> None:
    noisy = eight_bits(scene() + np.random.default_rng(5).normal(0, 10 / 255, (1, 220, 300, 3)))
    alone = measure_levels(noisy)
    barred = np.pad(noisy, ((0, 0), (40, 40), (0, 0), (0, 0)))

    assert measure_levels(barred) == alone
    assert measure_levels(np.repeat(noisy, 4, axis=0)) == alone


def test_clipped_darkness_does_not_hide_the_noise() -> None:
    clean = scene()
    clean[:, :, :150] = 0.0
    noisy = eight_bits(clean + np.random.default_rng(6).normal(0, 15 / 255, clean.shape))

    found = measure_levels(noisy)

    lit = levels(noisy[:, :, 160:] - clean[:, :, 160:])[0]
    at = found.luma_by_brightness.variances_at(np.array([0.4]))[0, 0]
    assert np.sqrt(at) == pytest.approx(lit, rel=0.2)
    assert found.luma < lit


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (15, 15), (17, 31), (64, 33)])
@pytest.mark.parametrize("frames", [1, 2])
def test_takes_any_size(size: tuple[int, int], frames: int) -> None:
    noisy = np.random.default_rng(7).normal(0.5, 0.05, (frames, *size, 3)).astype(np.float32)

    found = measure_levels(noisy)

    assert np.isfinite((found.luma, found.chroma, found.rgb, found.ratio)).all()
    assert found.limit or found.luma > 0


def test_no_picture_has_no_noise() -> None:
    found = measure_levels(np.full((2, 40, 40, 3), 0.3, np.float32))

    assert (found.luma, found.chroma, found.rgb) == (0, 0, 0)
    assert not found.neighbours_share
    assert found.limit


def test_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="expected frames of shape"):
        measure_levels(np.zeros((4, 4, 3), np.float32))
