"""PSNR and SSIM against scikit-image on real clips; the temporal error against its definition."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stbn_cli.bench.clips import Clip, bundled_clip, load_clean
from stbn_cli.metrics import psnr, ssim, temporal_error
from stbn_cli.synthesis.protocol import protocol_noise

AGREEMENT = 1e-4


def moving_texture() -> torch.Tensor:
    """`(4, 3, 61, 83)`: smooth random texture that moves by two columns a frame."""
    generator = torch.Generator().manual_seed(3)
    wide = torch.rand(3, 61 + 8, 83 + 16, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(wide, 9, 1)
    return torch.stack([smooth[..., 2 * t : 2 * t + 83] for t in range(4)])


@pytest.fixture(params=["bikes", "demo", "texture"])
def clean(request: pytest.FixtureRequest) -> torch.Tensor:
    if request.param == "bikes":
        return load_clean(Clip("bikes", request.getfixturevalue("bikes_clip")), 3)
    return load_clean(bundled_clip(), 3) if request.param == "demo" else moving_texture()[:3]


@pytest.mark.parametrize("sigma", [5.0, 50.0])
def test_scores_equal_scikit_image(clean: torch.Tensor, sigma: float) -> None:
    noisy = protocol_noise(clean, sigma / 255)
    ours = psnr(noisy, clean), ssim(noisy, clean)
    for frame in range(len(clean)):
        truth = clean[frame].permute(1, 2, 0).double().numpy()
        estimate = noisy[frame].permute(1, 2, 0).double().clamp(0, 1).numpy()
        expected = (
            peak_signal_noise_ratio(truth, estimate, data_range=1.0),
            structural_similarity(
                truth,
                estimate,
                data_range=1.0,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
            ),
        )
        assert abs(float(ours[0][frame]) - expected[0]) < AGREEMENT
        assert abs(float(ours[1][frame]) - expected[1]) < AGREEMENT


def test_a_uniform_window_is_scikit_images_default(clean: torch.Tensor) -> None:
    noisy = protocol_noise(clean, 5 / 255)
    for frame, found in enumerate(ssim(noisy, clean, uniform=True)):
        pair = (clip[frame].double().clamp(0, 1).numpy() for clip in (clean, noisy))
        expected = structural_similarity(*pair, data_range=1.0, channel_axis=0)
        assert abs(found.item() - np.asarray(expected).item()) < AGREEMENT
    small = torch.rand(4, 7, 9)
    assert float(ssim(small, small, uniform=True)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="7x7"):
        ssim(small[:, 1:], small[:, 1:], uniform=True)


def test_equal_frames(clean: torch.Tensor) -> None:
    assert torch.isposinf(psnr(clean, clean)).all()
    assert torch.allclose(ssim(clean, clean), torch.ones(len(clean), dtype=torch.float64))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_estimates_are_clipped(measure: Callable) -> None:
    clean = moving_texture()
    clean[:, :, :20, :40] = 1.0
    clean[:, :, 20:40, :40] = 0.0
    beyond = clean.clone()
    beyond[:, :, :20, :40] += 0.5
    beyond[:, :, 20:40, :40] -= 0.5
    assert torch.equal(measure(beyond, clean), measure(clean, clean))


def test_ssim_needs_a_window() -> None:
    small = torch.zeros(1, 3, 10, 40)
    with pytest.raises(ValueError, match="11x11"):
        ssim(small, small)


def test_noise_is_the_protocols_bit_for_bit() -> None:
    clean = moving_texture()
    torch.manual_seed(0)
    noise = torch.empty_like(clean).normal_(mean=0, std=30 / 255)
    assert torch.equal(protocol_noise(clean, 30 / 255), clean + noise)


def test_white_noise_has_a_temporal_error_of_root_two_sigma() -> None:
    clean = torch.full((3, 3, 200, 300), 0.5)
    noisy = protocol_noise(clean, 10 / 255)
    flow = torch.zeros(3, 2, 200, 300)
    assert temporal_error(noisy, clean, flow).numpy() == pytest.approx(10 * math.sqrt(2), rel=0.01)


def test_an_error_that_moves_with_the_picture_is_no_flicker() -> None:
    clean = 0.25 + 0.5 * moving_texture()
    error = 0.2 * moving_texture()
    flow = torch.zeros(4, 2, *clean.shape[-2:])
    flow[:, 0] = 2.0  # a pixel was two columns to the right in the frame before
    assert temporal_error(clean + error, clean, flow).max() < 1e-4
    assert temporal_error(clean + error, clean, 0 * flow).min() > 0.5


def test_pixels_from_outside_do_not_count() -> None:
    clean = torch.zeros(2, 3, 20, 30)
    estimate = clean.clone()
    estimate[:, :, :, -5:] = 0.3  # where the motion comes from outside
    flow = torch.zeros(2, 2, 20, 30)
    flow[:, 0, :, -5:] = 100.0
    assert temporal_error(estimate, clean, flow).item() == 0.0
    assert math.isnan(temporal_error(estimate, clean, flow + 100.0).item())


def test_clean_frames_are_those_of_png_files(tmp_path: Path) -> None:
    import cv2

    pictures = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture[..., ::-1])
    expected = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(load_clean(Clip("pngs", tmp_path), 85), expected)
    assert torch.equal(load_clean(Clip("pngs", tmp_path), 2), expected[:2])
