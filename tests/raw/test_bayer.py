"""Tests of packing: order of the planes, phases, odd sides, levels."""

import numpy as np
import pytest
import torch

from stbn_cli.raw.bayer import pack, pseudo_rgb, unpack
from stbn_cli.raw.pattern import PATTERNS, BayerFormat, cell_pattern, parse_pattern

CRVD = BayerFormat("GBRG", 240, 4095)


def test_gbrg_is_packed_as_the_published_network_takes_it() -> None:
    mosaic = np.array([[1240, 2240], [3240, 340]], np.uint16)  # G B / R G
    planes = pack(mosaic, CRVD)[:, 0, 0]
    assert planes == pytest.approx(np.array([3000, 100, 1000, 2000]) / 3855)
    assert pseudo_rgb(torch.from_numpy(pack(mosaic, CRVD)))[:, 0, 0] == pytest.approx(
        np.array([3000, 550, 2000]) / 3855
    )


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (6, 9), (7, 8)])
def test_all_patterns_and_odd_sides_come_back(pattern: str, size: tuple[int, int]) -> None:
    mosaic = np.random.default_rng(0).integers(0, 4096, (2, *size)).astype(np.uint16)
    bayer = BayerFormat(pattern, (60.0, 62.0, 64.0, 66.0), 4000.0)
    planes = pack(mosaic, bayer)
    assert planes.shape == (2, 4, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert np.array_equal(np.rint(unpack(planes, bayer, size)), mosaic)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_plane_holds_its_colour_wherever_a_crop_begins(pattern: str) -> None:
    rows, columns = np.indices((12, 14)) % 2
    colours = np.array([ord(c) for c in pattern], np.uint16)[rows * 2 + columns]
    for top in (0, 1):
        for left in (0, 1):
            bayer = BayerFormat(pattern, 0.0, 1.0).moved(top, left)
            planes = pack(colours[top:11, left:13], bayer)
            for plane, colour in zip(planes, "RGGB", strict=True):
                assert (plane == ord(colour)).all()


def test_the_first_green_lies_in_the_row_of_red() -> None:
    for pattern in PATTERNS:
        red, green, other, blue = BayerFormat(pattern, 0, 1).places
        assert green[0] == red[0]
        assert other[0] == blue[0]


def test_black_levels_follow_a_crop() -> None:
    bayer = BayerFormat("RGGB", (1.0, 2.0, 3.0, 4.0), 100.0)
    moved = bayer.moved(1, 0)
    assert moved.pattern == "GBRG"
    assert moved.blacks == (3.0, 4.0, 1.0, 2.0)
    assert [moved.black_of(plane) for plane in range(4)] == [bayer.black_of(plane) for plane in range(4)]


def test_values_below_black_are_clamped_only_on_demand() -> None:
    mosaic = np.full((2, 2), 200, np.uint16)
    assert (pack(mosaic, CRVD) < 0).all()
    assert (pack(mosaic, CRVD, clamp=True) == 0).all()


def test_what_is_no_bayer_format_is_refused() -> None:
    with pytest.raises(ValueError, match="RGGB"):
        BayerFormat("RGBG", 0, 1)
    with pytest.raises(ValueError, match="black level"):
        BayerFormat("RGGB", 4095, 4095)
    with pytest.raises(ValueError, match="2x2"):
        pack(np.zeros((1, 5), np.uint16), CRVD)
    with pytest.raises(ValueError, match="one of"):
        parse_pattern("xtrans")
    assert parse_pattern(" gbrg") == "GBRG"
    assert cell_pattern((1, 2, 0, 1)) == "GBRG"
    assert cell_pattern((0, 1, 1, 3)) is None
