"""Whether a grey picture is a mosaic that nobody named: its four phases differ as three colours make them."""

import numpy as np

# Cells along a block's side: small ones follow the scene's colours, large ones average strong noise.
BLOCKS = (8, 24)
# Fewer blocks than this are too few to judge.
FEWEST_BLOCKS = 12
# The part of a picture that has to be neither black nor clipped, and how many values it has to have.
FEWEST_USED = 0.25
FEWEST_LEVELS = 64
# A difference counts from so many standard errors on, and so much of the block's brightness, and more than rounding.
ERRORS = 7.0
CONTRAST = 0.02
ROUNDING = 0.75
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
    if (
        min(picture.shape) < 2 * BLOCKS[0] + 4
        or np.count_nonzero(np.bincount(picture.ravel())) < FEWEST_LEVELS
    ):
        return False
    values = picture.astype(np.float32)
    # To neighbours on all sides, so that no slope of brightness counts: above, below and beside; and diagonally.
    beside = (values[1:-3, 2:-2] + values[3:-1, 2:-2] + values[2:-2, 1:-3] + values[2:-2, 3:-1]) / 4
    across = (values[1:-3, 1:-3] + values[1:-3, 3:-1] + values[3:-1, 1:-3] + values[3:-1, 3:-1]) / 4
    inside = values[2:-2, 2:-2]
    return any(_looks_like_mosaic(inside, inside - beside, inside - across, side) for side in BLOCKS)


def _looks_like_mosaic(inside: np.ndarray, beside: np.ndarray, across: np.ndarray, side: int) -> bool:
    brightness = _blocks(inside, side)
    used = np.ptp(brightness, axis=(1, 2)) > 0  # all of it black or clipped says nothing
    if len(used) < FEWEST_BLOCKS or used.mean() < FEWEST_USED:
        return False
    floor = np.maximum(CONTRAST * brightness[used].mean((1, 2)), ROUNDING)
    beside, across = _blocks(beside, side)[used], _blocks(across, side)[used]
    # Greens lie on one diagonal, red and blue on the other.
    for green, red, blue in ((1, 0, 3), (0, 1, 2)):
        colours = [_mean_and_error(beside[:, place]) for place in (red, blue)]
        greens = _mean_and_error(across[:, green])
        opposite = _mean_and_error(across[:, red])
        coloured = np.logical_or(*(_counts(difference, floor) for difference in colours)).mean()
        energy = sum(float(np.square(mean).mean()) for mean, _ in colours)
        if (
            coloured >= COLOURED
            and _counts(opposite, floor).mean() >= TWO_COLOURED
            and float(np.square(greens[0]).mean()) <= GREENS * energy
        ):
            return True
    return False


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """(blocks, 4 phases, cells of a block) of a picture (H, W)."""
    rows, columns = (length // (2 * side) for length in values.shape)
    cells = values[: rows * 2 * side, : columns * 2 * side].reshape(rows, side, 2, columns, side, 2)
    return cells.transpose(0, 3, 2, 5, 1, 4).reshape(rows * columns, 4, side * side)


def _mean_and_error(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error, block by block."""
    return differences.mean(-1), differences.std(-1) / np.sqrt(differences.shape[-1])


def _counts(difference: tuple[np.ndarray, np.ndarray], floor: np.ndarray) -> np.ndarray:
    mean, error = difference
    return np.abs(mean) > np.maximum(ERRORS * error, floor)
