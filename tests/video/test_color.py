"""YUV <-> RGB: exact over a round trip, right against known colours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.video import color
from stbn_cli.video.color import (
    LUMA_WEIGHTS,
    PixelLayout,
    downsample_chroma,
    planes_to_rgb,
    rgb_to_planes,
    upsample_chroma,
)

SUBSAMPLINGS = [(1, 1), (2, 1), (2, 2), (4, 1), (1, 2), (4, 4)]
SIZES = [(6, 8), (7, 9), (5, 6), (1, 1), (2, 3)]


def random_planes(layout: PixelLayout, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Code values over the whole range: most triples lie outside RGB's gamut."""
    generator = np.random.default_rng(seed)
    shapes = [layout.plane_shape(index, height, width) for index in range(layout.planes)]
    return [generator.integers(0, 2**layout.depth, shape).astype(layout.dtype) for shape in shapes]


def assert_planes_equal(actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=f"plane {index}")


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("depth", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS, ids=str)
def test_yuv_survives_rgb_bit_for_bit(subsampling, depth, full_range):
    layout = PixelLayout("yuv", depth, *subsampling)
    for matrix in LUMA_WEIGHTS:
        for height, width in SIZES:
            planes = random_planes(layout, height, width)
            rgb = planes_to_rgb(planes, layout, matrix, full_range)
            assert rgb.shape == (height, width, 3)
            assert rgb.dtype == np.float32
            assert_planes_equal(rgb_to_planes(rgb, layout, matrix, full_range), planes)


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("family", ["rgb", "gray"])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_rgb_and_gray_survive_bit_for_bit(family, depth, full_range):
    layout = PixelLayout(family, depth)
    planes = random_planes(layout, 5, 7)
    rgb = planes_to_rgb(planes, layout, "bt709", full_range)
    assert_planes_equal(rgb_to_planes(rgb, layout, "bt709", full_range), planes)


@settings(max_examples=30)
@given(
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    seed=st.integers(0, 2**32 - 1),
)
def test_chroma_upsampling_has_an_exact_left_inverse(height, width, subsampling, seed):
    layout = PixelLayout("yuv", 8, *subsampling)
    chroma = np.random.default_rng(seed).normal(size=layout.plane_shape(1, height, width)).astype(np.float32)
    picture = upsample_chroma(chroma, layout, height, width)
    assert picture.shape == (height, width)
    np.testing.assert_allclose(downsample_chroma(picture, layout), chroma, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "codes", "rgb"),
    [
        ("bt709", (16, 128, 128), (0, 0, 0)),
        ("bt709", (235, 128, 128), (1, 1, 1)),
        # The 100 % red bar of BT.709 and of BT.601, as colour-bar generators write them.
        ("bt709", (63, 102, 240), (1, 0, 0)),
        ("bt601", (81, 90, 240), (1, 0, 0)),
        ("bt709", (173, 42, 26), (0, 1, 0)),
        ("bt601", (41, 240, 110), (0, 0, 1)),
    ],
)
def test_known_colours(matrix, codes, rgb):
    planes = [np.full((2, 2), code, np.uint8) for code in codes]
    found = planes_to_rgb(planes, PixelLayout("yuv", 8), matrix, False)
    np.testing.assert_allclose(found, np.broadcast_to(rgb, (2, 2, 3)), atol=0.006)


def test_flat_chroma_stays_flat_and_smooth_chroma_stays_monotone():
    layout = PixelLayout("yuv", 8, 2, 2)
    flat = upsample_chroma(np.full((4, 4), 0.25, np.float32), layout, 8, 8)
    np.testing.assert_allclose(flat, 0.25, atol=1e-7)
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32), (4, 4)).copy()
    assert (np.diff(upsample_chroma(ramp, layout, 8, 8), axis=1) > 0).all()


def test_rgb_beyond_the_code_range_is_clipped_not_wrapped():
    rgb = np.array([[[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]]], np.float32)
    luma = rgb_to_planes(rgb, PixelLayout("yuv", 8), "bt709", False)[0]
    assert luma.tolist() == [[255, 0]]


@pytest.mark.parametrize("size", [(23, 17), (24, 16), (9, 1), (1, 9)], ids=str)
@pytest.mark.parametrize("layout", [PixelLayout("yuv", 12, x, y) for x, y in SUBSAMPLINGS], ids=str)
def test_pictures_of_many_bands_are_those_of_one(layout, size, monkeypatch):
    planes = random_planes(layout, *size)
    whole = planes_to_rgb(planes, layout, "bt709", False)
    for pixels in (1, 4 * size[1], 12 * size[1]):
        monkeypatch.setattr(color, "BAND_PIXELS", pixels)
        np.testing.assert_allclose(planes_to_rgb(planes, layout, "bt709", False), whole, rtol=0, atol=1e-6)
        assert_planes_equal(rgb_to_planes(whole, layout, "bt709", False), planes)


def test_a_picture_of_ordinary_size_is_cut_into_bands():
    layout = PixelLayout("yuv", 8, 2, 2)
    planes = random_planes(layout, 541, 961)
    assert len(list(color._bands(layout, 541, 961))) > 3
    rgb = planes_to_rgb(planes, layout, "bt709", False)
    assert_planes_equal(rgb_to_planes(rgb, layout, "bt709", False), planes)


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("depth", [8, 10, 16])
def test_neutral_colours_stay_exactly_neutral(depth, full_range):
    layout = PixelLayout("yuv", depth, 2, 2)
    planes = random_planes(layout, 6, 8)
    for plane in planes[1:]:
        plane[:] = 2 ** (depth - 1)
    for matrix in LUMA_WEIGHTS:
        rgb = planes_to_rgb(planes, layout, matrix, full_range)
        np.testing.assert_array_equal(rgb, rgb[..., :1].repeat(3, axis=2))


def test_chroma_of_code_values_comes_back_without_any_error():
    for subsampling in SUBSAMPLINGS:
        layout = PixelLayout("yuv", 16, *subsampling)
        plane = random_planes(layout, 20, 24)[1].astype(np.float32)
        again = downsample_chroma(upsample_chroma(plane, layout, 20, 24), layout)
        np.testing.assert_array_equal(again, plane)


def test_a_turned_view_is_converted_like_its_copy_and_left_alone():
    rgb = np.random.default_rng(3).random((12, 16, 3), np.float32)
    before = rgb.copy()
    layout = PixelLayout("yuv", 8, 2, 2)
    for turns in (1, 2, 3):
        view = np.rot90(rgb, turns)
        copied = rgb_to_planes(view.copy(), layout, "bt709", False)
        assert_planes_equal(rgb_to_planes(view, layout, "bt709", False), copied)
    np.testing.assert_array_equal(rgb, before)
