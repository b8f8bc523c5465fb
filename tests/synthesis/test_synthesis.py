"""Noise made on purpose has the statistics that it claims."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stbn_cli.noise.kinds import KINDS, NoiseKind
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.codec import H264, sampled
from stbn_cli.synthesis.isp import CameraPipeline, Grain, gaussian
from stbn_cli.synthesis.kinds import degrade, lead_of
from stbn_cli.synthesis.sensor import draw_sensor_noise, poisson_gaussian


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(frames: int = 6, height: int = 64, width: int = 80) -> torch.Tensor:
    """A smooth coloured picture (T, 3, H, W) that drifts."""
    coarse = torch.rand((1, 3, 6, 8), generator=generator(5)) * 0.7 + 0.15
    picture = F.interpolate(coarse, (height, width + 4 * frames), mode="bicubic")[0].clamp(0.0, 1.0)
    return torch.stack([picture[..., 2 * t : 2 * t + width] for t in range(frames)])


def correlation(noise: torch.Tensor) -> float:
    """Of horizontal neighbours."""
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


@pytest.mark.parametrize("brightness", [0.1, 0.5, 0.9])
def test_poisson_gaussian_noise_has_the_variance_of_its_function(brightness: float) -> None:
    noise = poisson_gaussian((0.01, 0.02, 0.0), (0.02, 0.01, 0.05))
    clean = torch.full((2, 3, 128, 128), brightness)
    measured = (noise.add_to(clean, generator()) - clean).var(dim=(0, 2, 3))
    expected = torch.tensor((0.01, 0.02, 0.0)) * brightness + torch.tensor((0.02, 0.01, 0.05)) ** 2
    torch.testing.assert_close(measured, expected, rtol=0.04, atol=0.0)


def test_clipped_noise_is_of_eight_bits_and_its_rounding_counts() -> None:
    noise = poisson_gaussian(0.0, 0.3 / 255, clipped=True)
    noisy = noise.add_to(torch.full((1, 3, 200, 200), 0.50098), generator())
    assert torch.equal((noisy * 255).round() / 255, noisy)
    assert float(noise.model.variance_at(torch.zeros(3, 1, 1)).max()) * 255**2 == pytest.approx(0.09 + 1 / 12)
    assert poisson_gaussian(0.0, 1.0, clipped=True).add_to(torch.zeros(1, 3, 9, 9), generator()).min() == 0.0


def test_drawn_sensor_noise_has_the_level_asked_for_at_middle_brightness() -> None:
    for seed in range(20):
        model = draw_sensor_noise(np.random.default_rng(seed), 0.1).model
        middle = model.variance_at(torch.full((3, 1, 1), 0.5)).expand(3, 1, 1)
        assert float(middle.mean().sqrt()) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("shift", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("corrected", [True, False])
def test_a_camera_without_noise_shows_a_grey_ramp_as_it_is(shift: tuple[int, int], corrected: bool) -> None:
    ramp = torch.linspace(0.2, 0.9, 64).expand(1, 3, 48, 64)
    shown = CameraPipeline(0.0, 0.0, shift=shift, corrected=corrected).deliver(ramp, None)
    inner = (..., slice(4, -4), slice(4, -4))
    assert float((shown - ramp)[inner].abs().max()) < 1.5 / 255


def test_a_flat_colour_survives_white_balance_and_demosaicing() -> None:
    colour = torch.tensor((0.7, 0.4, 0.2)).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    shown = CameraPipeline(0.0, 0.0, gains=(2.2, 1.4)).deliver(colour, None)
    assert float((shown - colour).abs().max()) < 1 / 255


def test_demosaicing_spreads_noise_over_neighbours_and_sharpening_takes_some_back() -> None:
    clean = torch.full((2, 3, 96, 96), 0.5)
    plain = CameraPipeline(0.004, 0.0, corrected=False).deliver(clean, generator()) - clean
    sharp = CameraPipeline(0.004, 0.0, corrected=False, sharpening=1.0).deliver(clean, generator()) - clean
    assert correlation(plain[:, 1:2]) > 0.2
    assert correlation(sharp[:, 1:2]) < correlation(plain[:, 1:2])
    assert sharp.std() > plain.std()


@pytest.mark.parametrize("size", [0.5, 1.0, 1.4])
def test_grain_has_its_level_and_its_size(size: float) -> None:
    clean = torch.full((2, 3, 128, 128), 0.5)
    noise = Grain(NoiseLevelFunction.white(0.08), size).add_to(clean, generator()) - clean
    assert float(noise.std()) == pytest.approx(0.08, rel=0.03)
    kernel = gaussian(size, noise)
    expected = float((kernel[1:] * kernel[:-1]).sum() / kernel.square().sum())
    assert correlation(noise) == pytest.approx(expected, abs=0.04)


def test_shared_grain_is_grey() -> None:
    clean = torch.full((1, 3, 64, 64), 0.5)
    noise = Grain(NoiseLevelFunction.white(0.08), 0.6, shared=1.0).add_to(clean, generator()) - clean
    assert float((noise[:, 0] - noise[:, 2]).abs().max()) < 1e-6


def test_fewer_bits_are_further_from_the_frames_and_a_bitrate_is_kept() -> None:
    noisy = poisson_gaussian(0.0, 0.08, clipped=True).add_to(scene(10, 96, 128), generator())
    errors, sizes = [], []
    for crf in (10.0, 28.0, 40.0):
        coded, size = H264(crf=crf).code(noisy)
        assert coded.shape == noisy.shape
        errors.append(float((coded - noisy).square().mean()))
        sizes.append(size)
    assert errors == sorted(errors) and sizes == sorted(sizes, reverse=True)
    _, few = H264(bitrate=100_000).code(noisy)
    _, many = H264(bitrate=1_000_000).code(noisy)
    assert few < many


def test_sampling_keeps_grey_and_halves_colour() -> None:
    grey = torch.rand((1, 1, 32, 32), generator=generator()).expand(1, 3, 32, 32)
    assert float((sampled(grey) - grey).abs().max()) < 2 / 255
    dots = torch.zeros(1, 3, 32, 32)
    dots[:, 0, ::2, ::2] = 1.0
    assert float((sampled(dots) - dots).abs().max()) > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_drawn_twice_from_one_seed_is_the_same(kind: NoiseKind) -> None:
    clean = scene(4 + lead_of(kind))
    for seed in range(4):
        first, second = (
            degrade(kind, clean, np.random.default_rng(seed), (5 / 255, 40 / 255)) for _ in range(2)
        )
        assert torch.equal(first.clean, second.clean)
        if kind == "compressed":
            # libx264 itself does not always code a frame in the same way.
            assert first.noise.level(first.noisy) == pytest.approx(second.noise.level(second.noisy), rel=0.05)
        else:
            assert torch.equal(first.noisy, second.noisy) and first.noise == second.noise
        assert first.noisy.shape == first.clean.shape == (4, 3, 64, 80)
        if kind in ("camera", "compressed"):
            rms = float((first.noisy - first.clean).square().mean().sqrt())
            assert first.noise.level(first.noisy) == pytest.approx(rms, rel=1e-4)
