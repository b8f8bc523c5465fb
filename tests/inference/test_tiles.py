"""The tile planner, for any size: cores cover the picture once, halos stay inside, weights join seamlessly."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.inference.tiles import TILE_GRID, blend_weights, plan_tiles

sizes = st.integers(8, 700)


@given(height=sizes, width=sizes, tile=st.integers(64, 300), halo=st.integers(0, 90))
@settings(max_examples=100)
def test_cores_cover_the_picture_once(height: int, width: int, tile: int, halo: int) -> None:
    covered = torch.zeros(height, width, dtype=torch.int32)
    for part in plan_tiles(height, width, tile, halo):
        covered[part.rows.core, part.columns.core] += 1
        for span, size in ((part.rows, height), (part.columns, width)):
            assert 0 <= span.outer_start <= span.start < span.stop <= span.outer_stop <= size
            assert span.outer_start % TILE_GRID == 0
            assert span.outer_stop % TILE_GRID == 0 or span.outer_stop == size
            assert span.start - span.outer_start >= min(halo, span.start)
            assert span.outer_stop - span.stop >= min(halo, size - span.stop)
            assert span.stop - span.start <= tile + TILE_GRID
    assert torch.equal(covered, torch.ones_like(covered))


@given(height=sizes, width=sizes, tile=st.integers(64, 300), halo=st.integers(0, 90))
@settings(max_examples=50)
def test_blended_tiles_of_the_same_picture_give_it_back(
    height: int, width: int, tile: int, halo: int
) -> None:
    picture = torch.rand(height, width)
    joined, total = torch.zeros_like(picture), torch.zeros_like(picture)
    for part in plan_tiles(height, width, tile, halo):
        outer = (part.rows.outer, part.columns.outer)
        weights = blend_weights(part)
        assert weights.min() > 0
        joined[outer] += weights * picture[outer]
        total[outer] += weights
    torch.testing.assert_close(joined / total, picture, atol=1e-5, rtol=1e-4)


def test_no_tile_is_the_whole_picture() -> None:
    (whole,) = plan_tiles(31, 47, None, 20)
    assert (whole.rows.core, whole.columns.outer) == (slice(0, 31), slice(0, 47))
