"""What one frame says of the grain that was removed from it, over its flat areas, in numbers that can be added up."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.grain.parameters import LAG, NEIGHBOURS

# Luma pixels of a block's side: that of the blocks in which a decoder lays grain.
BLOCK = 32
# Blocks of a frame that are looked at: more say nothing new.
MOST_BLOCKS = 400
# Brightness is counted in steps of 4 of 256, and blocks are chosen in groups of two such steps.
BINS, STEP = 64, 4
GROUP = 8
# Of the blocks of a group of brightness, the share that is flat enough, but not fewer than FEWEST.
FLAT_PART, FEWEST = 0.3, 4
# Standard deviation (0-255 scale) of what planes leave of the denoised luma; above, it is texture.
MOST_STRUCTURE = 5.0
# Where so many times the group's usual noise power was removed, it was texture that went.
MOST_POWER = 2.5
# Rows down and columns to the left and right of the autocovariance: between any two of NEIGHBOURS.
ROWS, COLUMNS = LAG + 1, 2 * LAG
# A block from which less than this was removed (root mean square, 0-255 scale) had no noise: bars, titles.
NOTHING = 0.02


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over flat blocks of one or more frames; planes: luma, cb, cr, or luma alone. All on the 0-255 scale.

    count, brightness: of pixels of each plane, and the sum of the denoised luma there, by bins of brightness (planes,
    BINS). total, power: sums of what was removed, and of its squares. clean: blocks without noise by the luma value
    that they have (256,). covariance: (planes, ROWS, 2 * COLUMNS + 1) sums of products, of values that are divided by
    the strength at their brightness, with their neighbours down and to the left or right; pairs: how many. crossing:
    (planes - 1, len(NEIGHBOURS) + 1) the same of chroma's NEIGHBOURS, and the pixel itself, with luma;
    crossing_pairs: how many. shared: that of luma at chroma's size with itself, and the number of these values.
    """

    count: np.ndarray
    brightness: np.ndarray
    total: np.ndarray
    power: np.ndarray
    clean: np.ndarray
    covariance: np.ndarray
    pairs: np.ndarray
    crossing: np.ndarray
    crossing_pairs: np.ndarray
    shared: np.ndarray

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def gather(noisy: list[np.ndarray], denoised: list[np.ndarray], sub: tuple[int, int]) -> Statistics | None:
    """Statistics of one frame.

    noisy, denoised: Y', Cb, Cr or Y' alone, (H, W) and chroma size, float32 on the 0-255 scale of 8-bit code values.
    sub: luma columns and rows of a chroma value. None where the picture has no flat block that says anything.
    """
    height, width = (size // BLOCK for size in denoised[0].shape)
    if sub[0] > 2 or sub[1] > 2 or not height or not width:
        return None
    luma = _blocks(denoised[0], (BLOCK, BLOCK), height, width)
    removed = _blocks(noisy[0], (BLOCK, BLOCK), height, width) - luma
    mean, power = luma.mean(axis=(1, 2)), np.square(removed).mean(axis=(1, 2))
    quiet = power < NOTHING**2
    clean = np.bincount(np.rint(mean[quiet]).astype(int).clip(0, 255), minlength=256).astype(np.float64)
    chosen = _chosen(luma, mean, power, quiet)
    if not len(chosen):
        return _nothing(len(denoised), clean) if 2 * np.count_nonzero(quiet) > len(quiet) else None
    luma, planes = luma[chosen], [removed[chosen]]
    tones = [luma]
    size = (BLOCK // sub[1], BLOCK // sub[0])
    for after, before in zip(denoised[1:], noisy[1:], strict=True):
        planes.append((_blocks(before, size, height, width) - _blocks(after, size, height, width))[chosen])
    small = _averaged(luma, sub)
    tones += [small] * (len(planes) - 1)
    sums = [_by_brightness(tone, plane) for tone, plane in zip(tones, planes, strict=True)]
    count, brightness, total, powers = (np.stack(rows) for rows in zip(*sums, strict=True))
    even = [
        _evened(tone, plane, *rows)
        for tone, plane, *rows in zip(tones, planes, count, total, powers, strict=True)
    ]
    covariances = [_covariance(plane) for plane in even]
    beside = _averaged(even[0], sub)
    crossings = [_crossing(plane, beside) for plane in even[1:]]
    empty = np.zeros((0, len(NEIGHBOURS) + 1))
    return Statistics(
        count,
        brightness,
        total,
        powers,
        clean,
        np.stack([products for products, _ in covariances]),
        np.stack([pairs for _, pairs in covariances]),
        np.stack([products for products, _ in crossings]) if crossings else empty,
        np.stack([pairs for _, pairs in crossings]) if crossings else empty,
        np.array([np.square(beside).sum(), beside.size], np.float64),
    )


def _nothing(planes: int, clean: np.ndarray) -> Statistics:
    """Of a frame from which nothing was removed."""
    bins, lags = np.zeros((planes, BINS)), np.zeros((planes, ROWS, 2 * COLUMNS + 1))
    crossings = np.zeros((planes - 1, len(NEIGHBOURS) + 1))
    return Statistics(bins, bins, bins, bins, clean, lags, lags, crossings, crossings, np.zeros(2))


def _blocks(plane: np.ndarray, size: tuple[int, int], height: int, width: int) -> np.ndarray:
    """(height * width, *size): the plane's blocks, `height` of them down and `width` across."""
    rows, columns = size
    whole = plane[: height * rows, : width * columns].reshape(height, rows, width, columns)
    return whole.transpose(0, 2, 1, 3).reshape(-1, rows, columns)


def _averaged(blocks: np.ndarray, sub: tuple[int, int]) -> np.ndarray:
    """Means of what shares a chroma value."""
    if sub == (1, 1):
        return blocks
    count, rows, columns = blocks.shape
    return blocks.reshape(count, rows // sub[1], sub[1], columns // sub[0], sub[0]).mean(axis=(2, 4))


def _chosen(luma: np.ndarray, mean: np.ndarray, power: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    """Indices of flat blocks with noise, of every brightness."""
    structure = _structure(luma)
    # Where some noise is left, the denoised luma is not flat either.
    flat = ~quiet & (structure <= np.maximum(MOST_STRUCTURE, np.sqrt(power)))
    groups = np.floor(mean / GROUP).astype(int)
    found = []
    for group in np.unique(groups[flat]):
        index = np.flatnonzero(flat & (groups == group))
        order = index[np.argsort(structure[index], kind="stable")]
        order = order[: max(round(FLAT_PART * np.count_nonzero(groups == group)), FEWEST)]
        found.append(order[power[order] <= MOST_POWER * np.median(power[order])])
    if not found:
        return np.empty(0, int)
    # Each brightness has its share.
    share = max(MOST_BLOCKS // len(found), 1)
    return np.concatenate([index[:: -(-len(index) // share)] for index in found])


def _structure(luma: np.ndarray) -> np.ndarray:
    """(n,): standard deviations of what planes leave of the blocks' quarters; shading is none."""
    side = BLOCK // 2
    parts = luma.reshape(-1, 2, side, 2, side).transpose(0, 1, 3, 2, 4)
    ramp = np.arange(side) - (side - 1) / 2
    length = float(np.square(ramp).sum())
    slopes = (parts @ ramp).sum(axis=-1), (ramp @ parts).sum(axis=-1)
    explained = sum(np.square(slope) for slope in slopes) / (side * length * side * side)
    return np.sqrt(np.maximum(parts.var(axis=(3, 4)) - explained, 0.0).mean(axis=(1, 2)))


def _bins(tone: np.ndarray) -> np.ndarray:
    return np.floor(tone / STEP).astype(int).clip(0, BINS - 1).ravel()


def _by_brightness(tone: np.ndarray, plane: np.ndarray) -> tuple[np.ndarray, ...]:
    place, values = _bins(tone), plane.ravel().astype(np.float64)
    weights = (None, tone.ravel(), values, np.square(values))
    return tuple(np.bincount(place, row, minlength=BINS).astype(np.float64) for row in weights)


def _evened(
    tone: np.ndarray, plane: np.ndarray, count: np.ndarray, total: np.ndarray, power: np.ndarray
) -> np.ndarray:
    """The plane less its mean at each brightness, divided by its strength there."""
    seen = count > 0
    centre = np.arange(BINS)[seen]
    # Wide bins: few pixels say little of the strength.
    window = np.ones(5)
    number = np.convolve(count, window, "same")[seen]
    mean = np.convolve(total, window, "same")[seen] / number
    sigma = np.sqrt(np.maximum(np.convolve(power, window, "same")[seen] / number - mean**2, 1e-6))
    place = tone / STEP - 0.5
    return ((plane - np.interp(place, centre, mean)) / np.interp(place, centre, sigma)).astype(np.float32)


def _covariance(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    products = np.zeros((ROWS, 2 * COLUMNS + 1))
    pairs = np.zeros_like(products)
    _, height, width = blocks.shape
    for row in range(ROWS):
        for column in range(-COLUMNS, COLUMNS + 1):
            left, right = max(-column, 0), max(column, 0)
            first = blocks[:, : height - row, left : width - right]
            second = blocks[:, row:, right : width - left]
            products[row, column + COLUMNS] = np.einsum("nij,nij->", first, second, dtype=np.float64)
            pairs[row, column + COLUMNS] = first.size
    return products, pairs


def _crossing(chroma: np.ndarray, luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    products, pairs = [], []
    inner = luma[:, LAG:, LAG : luma.shape[2] - LAG]
    height, width = inner.shape[1:]
    for row, column in (*NEIGHBOURS, (0, 0)):
        beside = chroma[:, LAG + row : LAG + row + height, LAG + column : LAG + column + width]
        products.append(np.einsum("nij,nij->", beside, inner, dtype=np.float64))
        pairs.append(inner.size)
    return np.array(products), np.array(pairs, np.float64)
