"""Whether a grey picture is a mosaic that nobody named: its four phases differ as three colours make them."""

import numpy as np

# Cells along a block's side: small ones follow the scene's colours, large ones average strong noise.
BLOCKS = (8, 24)
# Fewer blocks than this are too few to judge.
FEWEST_BLOCKS = 12
FEWEST_LEVELS = 64
# A difference counts from so many standard errors, and from so much of the block's brightness, on.
ERRORS = 6.0
CONTRAST = 0.02
# The part of a picture in which greens differ from both other colours, and red from blue. Real textures and dithers
# of two pixels fill less, or keep both diagonals alike.
COLOURED, TWO_COLOURED = 0.6, 0.3
# How much of the colours' energy the difference of both greens may have.
GREENS = 0.08


def looks_like_mosaic(picture: np.ndarray) -> bool:
    """Whether a picture (H, W), uint8 or uint16, of one channel is a Bayer mosaic, as far as one can see.

    A mosaic of a scene without colour, as such from a camera that balances white, looks as a grey picture does.
    """
    # Dithers of two pixels differ as filters do, and have few levels.
    if np.count_nonzero(np.bincount(picture.ravel())) < FEWEST_LEVELS:
        return False
    return any(_looks_like_mosaic(picture, side) for side in BLOCKS)


def _looks_like_mosaic(picture: np.ndarray, side: int) -> bool:
    rows, columns = (length // (2 * side) for length in picture.shape)
    if rows * columns < FEWEST_BLOCKS:
        return False
    inside = picture[: rows * 2 * side, : columns * 2 * side].astype(np.float32)
    # (rows, columns, 4 phases, cells of the block)
    cells = inside.reshape(rows, side, 2, columns, side, 2).transpose(0, 3, 2, 5, 1, 4)
    cells = cells.reshape(rows, columns, 4, side * side)
    used = np.ptp(cells, axis=(2, 3)) > 0  # all of it black or clipped says nothing
    if used.mean() < 0.25:
        return False
    cells = cells[used]
    floor = CONTRAST * cells.mean((1, 2))
    # Greens lie on one diagonal, red and blue on the other.
    for first, second, one, other in ((1, 2, 0, 3), (0, 3, 1, 2)):
        green = (cells[:, first] + cells[:, second]) / 2
        colours = [_difference(cells[:, place], green) for place in (one, other)]
        greens = _difference(cells[:, first], cells[:, second])
        opposite = _difference(cells[:, one], cells[:, other])
        coloured = np.logical_or(*(_counts(difference, floor) for difference in colours)).mean()
        energy = sum(float(np.square(mean).mean()) for mean, _ in colours)
        if (
            coloured >= COLOURED
            and _counts(opposite, floor).mean() >= TWO_COLOURED
            and float(np.square(greens[0]).mean()) <= GREENS * energy
        ):
            return True
    return False


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of the difference of two phases, block by block."""
    difference = one - other
    return difference.mean(-1), difference.std(-1) / np.sqrt(difference.shape[-1])


def _counts(difference: tuple[np.ndarray, np.ndarray], floor: np.ndarray) -> np.ndarray:
    mean, error = difference
    return np.abs(mean) > np.maximum(ERRORS * error, floor)
