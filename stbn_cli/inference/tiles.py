"""Cuts a picture into overlapping tiles: pure integers, and the weights that join the tiles again.

A tile's core is what it is responsible for; its extent adds a halo that gives the network context. Halos stop at the
picture's border, where the network's own zero padding takes over. Where the halo reaches as far as the network does,
cores computed in tiles equal those of the whole picture; with smaller halos the overlaps are blended.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Tiles start at multiples of this many pixels: two for the pixel parities, times two for the expansion's unshuffle.
TILE_GRID = 4
SMALLEST_TILE = 64  # pixels


@dataclass(frozen=True, slots=True)
class TileSpan:
    """Half-open ranges of one axis: core `[start, stop)` within extent `[outer_start, outer_stop)`, pixels."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int

    @property
    def outer(self) -> slice:
        return slice(self.outer_start, self.outer_stop)

    @property
    def core(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def core_in_outer(self) -> slice:
        return slice(self.start - self.outer_start, self.stop - self.outer_start)

    def reduced(self, scale: int) -> "TileSpan":
        """The same of an axis with one pixel for `scale` of this one, a divisor of all edges."""
        return TileSpan(
            *(edge // scale for edge in (self.start, self.stop, self.outer_start, self.outer_stop))
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its rows and its columns."""

    rows: TileSpan
    columns: TileSpan

    def reduced(self, scale: int) -> "Tile":
        """The same tile of a picture at 1 / `scale` of the size."""
        return Tile(self.rows.reduced(scale), self.columns.reduced(scale))


def plan_tiles(height: int, width: int, tile: int | None, halo: int) -> tuple[Tile, ...]:
    """Tiles whose cores cover the picture once; one tile of the whole picture for `tile=None`.

    Cores are at most `tile` pixels (rounded up to the grid) on each axis and as even as the grid allows.
    """
    if tile is None:
        return (Tile(TileSpan(0, height, 0, height), TileSpan(0, width, 0, width)),)
    return tuple(
        Tile(rows, columns) for rows in _split(height, tile, halo) for columns in _split(width, tile, halo)
    )


def _split(size: int, tile: int, halo: int) -> list[TileSpan]:
    count = math.ceil(size / max(tile, TILE_GRID))
    edges = [min(size, TILE_GRID * round(size * index / count / TILE_GRID)) for index in range(count)]
    edges = sorted({*edges, size} | {0})
    halo = TILE_GRID * math.ceil(halo / TILE_GRID)
    return [
        TileSpan(start, stop, max(0, start - halo), min(size, stop + halo))
        for start, stop in itertools.pairwise(edges)
    ]


def blend_weights(tile: Tile) -> Tensor:
    """Weights `(rows, columns)` of a tile's extent, positive, falling off linearly in its overlaps, float32.

    Nothing falls off at the picture's own border. The tiles are joined as the sum of weighted tiles over the sum of
    weights.
    """
    rows, columns = _ramp(tile.rows), _ramp(tile.columns)
    return rows[:, None] * columns[None, :]


def _ramp(span: TileSpan) -> Tensor:
    weights = torch.ones(span.outer_stop - span.outer_start)
    # The overlap of two neighbours is both halos together, centred on the edge between the cores.
    before, after = 2 * (span.start - span.outer_start), 2 * (span.outer_stop - span.stop)
    if before:
        length = min(before, len(weights))
        weights[:length] *= (torch.arange(length) + 0.5) / before
    if after:
        length = min(after, len(weights))
        weights[-length:] *= (torch.arange(length).flip(0) + 0.5) / after
    return weights
