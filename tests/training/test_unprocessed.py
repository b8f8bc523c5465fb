"""Clips turned raw, and a network for Bayer planes that begins as one for RGB."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stbn_cli.models.config import MODEL_SIZES, STBNConfig
from stbn_cli.models.stbn import STBN
from stbn_cli.raw.bayer import pseudo_rgb
from stbn_cli.raw.noise import CRVD_NOISE
from stbn_cli.raw.pattern import PATTERNS
from stbn_cli.synthesis.isp import GAMMA
from stbn_cli.synthesis.raw import RawCamera, draw_camera, noise_at
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.unprocessed import raw_pair
from stbn_cli.training.widening import from_rgb
from tests.networks import TINY, narrowed

RAW = narrowed(MODEL_SIZES["stbn-raw-xs"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_flat_colour_becomes_its_planes(pattern: str) -> None:
    clean = torch.tensor([0.8, 0.5, 0.3]).view(1, 3, 1, 1).expand(2, 3, 6, 8)
    camera = RawCamera(gains=(2.0, 1.6), exposure=0.5, pattern=pattern)
    planes = camera.unprocess(clean)
    assert planes.shape == (2, 4, 3, 4)
    red, green, blue = (0.5 * value**GAMMA / gain for value, gain in ((0.8, 2.0), (0.5, 1.0), (0.3, 1.6)))
    expected = torch.tensor([red, green, green, blue]).view(4, 1, 1).expand(2, 4, 3, 4)
    torch.testing.assert_close(planes, expected, atol=1e-6, rtol=1e-5)


def test_noise_goes_through_the_calibrated_sensitivities() -> None:
    for iso, noise in CRVD_NOISE.items():
        found = noise_at(iso)
        assert (found.gain, found.floor) == pytest.approx((noise.gain, noise.floor))
    gains = [noise_at(iso).gain for iso in (200, 1600, 2000, 3200, 51200)]
    assert gains == sorted(gains)


def test_pairs_differ_by_white_noise_of_the_stated_level() -> None:
    random = np.random.default_rng(0)
    clean = torch.full((2, 3, 128, 128), 0.7)
    for _ in range(4):
        noisy, goal, level = raw_pair(clean, random)
        green = (noisy - goal)[:, 1]
        assert float(green.std()) == pytest.approx(level, rel=0.1)
        assert not torch.equal(noisy[:, 1], noisy[:, 2])
    camera, noise = draw_camera(random)
    assert camera.pattern in PATTERNS and math.isfinite(noise.stabiliser.sigma)


def test_a_network_for_planes_begins_as_the_one_for_rgb() -> None:
    torch.manual_seed(1)
    small, large = STBN(TINY).eval(), STBN(RAW).eval()
    from_rgb(small, large)
    rgb = torch.rand(1, 2, 3, 16, 18)
    planes = rgb[:, :, [0, 1, 1, 2]]
    assert torch.equal(pseudo_rgb(planes), rgb)
    still = torch.zeros(1, 2, 2, 16, 18)
    with torch.inference_mode():
        expected, found = (
            network(frames, 0.1, still, still) for network, frames in ((small, rgb), (large, planes))
        )
    torch.testing.assert_close(found[:, :, :4], expected[:, :, [0, 1, 1, 2]], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="does not lead"):
        from_rgb(small, STBN(STBNConfig(image_channels=4, channels=8)))


def test_which_models_take_planes() -> None:
    kinds = {
        name: (options.takes_planes, options.is_raw, options.unprocesses)
        for name in ("stbn-xs", "stbn-raw", "stbn-raw-xs")
        for options in [TrainOptions(log_dir=Path("x"), model=name)]
    }
    assert kinds == {
        "stbn-xs": (False, False, False),
        "stbn-raw": (True, True, False),
        "stbn-raw-xs": (True, False, True),
    }
