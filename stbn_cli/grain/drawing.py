"""How strong the grain is that a decoder draws from coefficients: its templates, drawn as AV1 prescribes.

Follows the film grain synthesis process of the AV1 specification (7.18.3), but for the sequence of Gaussian numbers,
of which the standard deviation alone matters here.
"""

from functools import lru_cache

import numpy as np

from stbn_cli.grain.parameters import LAG, NEIGHBOURS

# Of the Gaussian numbers, which have 12 bits, as dav1d draws them.
GAUSSIAN_SIGMA = 509
GAUSSIAN_BITS = 12
LUMA_TEMPLATE = (73, 82)  # rows and columns
# Blocks of the picture are cut from the templates from here on (luma pixels).
FIRST_USED = 9
# Templates that are drawn at the same time: more make the strength surer.
DRAWN = 48


def chroma_template(sub_x: int, sub_y: int) -> tuple[int, int]:
    """Rows and columns of a chroma template."""
    return 38 if sub_y > 1 else LUMA_TEMPLATE[0], 44 if sub_x > 1 else LUMA_TEMPLATE[1]


def draw_luma(coefficients: np.ndarray, shift: int, grain_shift: int, depth: int) -> np.ndarray:
    """Luma templates (73, 82, DRAWN) in code values of `depth` bits; coefficients (24,) are integers."""
    grain = _white(LUMA_TEMPLATE, 0, grain_shift, depth)
    return _filtered(grain, coefficients, shift, depth, None)


def draw_chroma(
    coefficients: np.ndarray,
    shift: int,
    grain_shift: int,
    depth: int,
    luma: np.ndarray,
    sub: tuple[int, int],
    seed: int,
) -> np.ndarray:
    """Chroma templates (rows, columns, DRAWN) beside the luma templates; sub: (horizontal, vertical)."""
    rows, columns = chroma_template(*sub)
    grain = _white((rows, columns), seed, grain_shift, depth)
    return _filtered(
        grain, coefficients[:-1], shift, depth, coefficients[-1] * _beside(luma, sub, (rows, columns))
    )


def used(template: np.ndarray, sub: tuple[int, int] = (1, 1)) -> np.ndarray:
    """What of a template gets into pictures."""
    return template[FIRST_USED // sub[1] :, FIRST_USED // sub[0] : template.shape[1] - LAG]


def _beside(luma: np.ndarray, sub: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The luma grain at each place of a chroma template, rounded."""
    sub_x, sub_y = sub
    rows, columns = size
    beside = np.zeros((rows, columns, luma.shape[2]))
    height, width = rows - LAG, columns - 2 * LAG
    area = luma[LAG : LAG + height * sub_y, LAG : LAG + width * sub_x]
    total = area.reshape(height, sub_y, width, sub_x, -1).sum(axis=(1, 3))
    count = sub_x * sub_y
    beside[LAG:, LAG : columns - LAG] = np.floor(total / count + (0.5 if count > 1 else 0.0))
    return beside


@lru_cache(maxsize=8)
def _numbers(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(0.0, GAUSSIAN_SIGMA, (*size, DRAWN)))


def _white(size: tuple[int, int], seed: int, grain_shift: int, depth: int) -> np.ndarray:
    return np.floor(_numbers(size, seed) / 2 ** (GAUSSIAN_BITS - depth + grain_shift) + 0.5)


def _filtered(
    grain: np.ndarray, coefficients: np.ndarray, shift: int, depth: int, added: np.ndarray | None
) -> np.ndarray:
    """Each value gets what its neighbours before it give; added: in parts of 2**shift, as the coefficients are."""
    if not coefficients.any() and added is None:
        return grain
    lowest, highest = -(2 ** (depth - 1)), 2 ** (depth - 1) - 1
    rows, columns, count = grain.shape
    above = coefficients[: LAG * (2 * LAG + 1)].astype(np.float64)
    before = coefficients[len(NEIGHBOURS) - LAG :].astype(np.float64)
    scale = 1.0 / 2**shift
    for row in range(LAG, rows):
        for column in range(LAG, columns - LAG):
            window = grain[row - LAG : row, column - LAG : column + LAG + 1].reshape(-1, count)
            total = above @ window + before @ grain[row, column - LAG : column]
            if added is not None:
                total = total + added[row, column]
            value = grain[row, column] + np.floor(total * scale + 0.5)
            grain[row, column] = np.minimum(np.maximum(value, lowest), highest)
    return grain
