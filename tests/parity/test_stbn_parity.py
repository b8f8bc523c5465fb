"""The network, the posterior and the likelihood equal the published reference's, for even and odd sizes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.checkpoints import convert_reference
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.posterior import VARIANCE_FLOOR, gaussian_nll, posterior_mean
from stbn_cli.raw.bayer import pack
from stbn_cli.raw.crvd import CRVD_FORMAT
from tests.parity.vectors import load_vectors

TOLERANCE = 2e-5
# The reference inverts the prior covariance in float32. Where that matrix is worse conditioned than this, its own
# vectors are off by up to 0.03 (a literal float32 transcription of its formula, run again, differs from them as
# much), so they can be no golden value there; the exact float64 posterior is, at every pixel.
WELL_CONDITIONED = 1000.0


def assert_near(actual: Tensor, expected: Tensor) -> None:
    difference = (actual - expected).abs()
    assert difference.max() <= TOLERANCE, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def prior_in_float64(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., 3) and regularised covariance (..., 3, 3), written out as matrices."""
    channels = output.double().movedim(-3, -1)
    a = channels[..., 3:]
    factor = torch.zeros(*a.shape[:-1], 3, 3, dtype=torch.float64)
    factor[..., 0, :] = a[..., 0:3]
    factor[..., 1, :2] = a[..., 3:5]
    factor[..., 2, 0] = a[..., 5]
    covariance = factor.mT @ factor + VARIANCE_FLOOR * torch.eye(3, dtype=torch.float64)
    return channels[..., :3], covariance


@pytest.mark.parametrize("name", ["srgb_c8_even", "srgb_c8_odd", "raw_c8"])
def test_output_equals_reference(name: str) -> None:
    vectors, official = load_vectors(name)
    config, state_dict = convert_reference(official)
    network = STBN(config)
    network.load_state_dict(state_dict)
    with torch.inference_mode():
        output = network(
            vectors["noisy"], vectors["sigma"], vectors["flow_to_previous"], vectors["flow_to_next"]
        )
    assert_near(output, vectors["output"])


def test_raw_output_equals_reference_through_the_mosaic() -> None:
    vectors, official = load_vectors("raw_c8")
    config, state_dict = convert_reference(official)
    network = STBN(config)
    network.load_state_dict(state_dict)
    planes = vectors["noisy"]
    # Laid out by hand as the camera does, G B / R G, in its own values; float64, so that nothing is rounded.
    mosaic = np.empty((*planes.shape[:2], 2 * planes.shape[-2], 2 * planes.shape[-1]))
    for plane, (row, column) in enumerate(((1, 0), (1, 1), (0, 0), (0, 1))):
        mosaic[..., row::2, column::2] = planes[:, :, plane].double().numpy() * (4095 - 240) + 240
    packed = torch.from_numpy(pack(mosaic, CRVD_FORMAT))
    with torch.inference_mode():
        output = network(packed, vectors["sigma"], vectors["flow_to_previous"], vectors["flow_to_next"])
    assert_near(packed, planes)
    assert_near(output, vectors["output"])


@pytest.mark.parametrize("name", ["srgb_c8_even", "srgb_c8_odd"])
def test_posterior_and_likelihood_equal_reference(name: str) -> None:
    vectors, _ = load_vectors(name)
    output, noisy = vectors["output"], vectors["noisy"]
    sigma = broadcast_sigma(vectors["sigma"], noisy)
    estimate = posterior_mean(output, noisy, sigma)

    mean, covariance = prior_in_float64(output)
    variance = float(vectors["sigma"]) ** 2 + VARIANCE_FLOOR
    error = (noisy.double().movedim(-3, -1) - mean)[..., None]
    marginal = covariance + variance * torch.eye(3, dtype=torch.float64)
    exact = mean + (covariance @ torch.linalg.solve(marginal, error))[..., 0]
    assert_near(estimate, exact.movedim(-1, -3))

    trusted = torch.linalg.cond(covariance) < WELL_CONDITIONED
    assert trusted.double().mean() > 0.3
    golden = vectors["posterior_mean"].movedim(-3, -1)[trusted]
    assert_near(estimate.movedim(-3, -1)[trusted], golden)
    assert_near(gaussian_nll(output, noisy, sigma).mean(), vectors["nll"].squeeze())
