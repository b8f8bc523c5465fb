"""RGB clips as three planes in which white noise stays white, and those as the code values that filters take."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.scale import BYTE_SCALE

WHITE = 3**0.5  # of the first plane
# Rows: luma, red against blue, green against magenta. Orthonormal: noise stays white and equally strong in each.
OPPONENT = np.array(
    [[1 / 3**0.5] * 3, [1 / 2**0.5, 0.0, -1 / 2**0.5], [1 / 6**0.5, -2 / 6**0.5, 1 / 6**0.5]], np.float32
)


def to_opponent(rgb: np.ndarray) -> np.ndarray:
    """One picture `(H, W, 3)` float32 RGB on [0, 1] as luma on [0, 1.73] and two colour differences, `(3, H, W)`."""
    return np.ascontiguousarray((rgb @ OPPONENT.T).transpose(2, 0, 1))


def from_opponent(planes: np.ndarray) -> np.ndarray:
    """The inverse of `to_opponent`."""
    return planes.transpose(1, 2, 0) @ OPPONENT


@dataclass(frozen=True, slots=True)
class PlaneCode:
    """Opponent planes as integers. Linear, with room beyond black and white: clipped noise would have another mean.

    depth: bits, 8 to 16.
    headroom: standard deviations of the noise that fit beyond black and beyond white.
    chroma: scale of the colour differences against the luma; less than 1 makes a filter treat them more strongly.
    sigma: of the noise in the clip, 0-255 scale.
    """

    depth: int
    headroom: float
    chroma: float
    sigma: float

    @property
    def luma_sigma(self) -> float:
        """Standard deviation of the luma's noise when the whole range of codes counts as 0-255."""
        return self.sigma / self._span

    @property
    def _span(self) -> float:
        return WHITE + 2.0 * self.headroom * self.sigma / BYTE_SCALE

    @property
    def _top(self) -> int:
        return 2**self.depth - 1

    @property
    def _scale(self) -> np.ndarray:
        """Codes per unit of each plane."""
        return np.array((1.0, self.chroma, self.chroma), np.float32)[:, None, None] * (self._top / self._span)

    @property
    def _middle(self) -> np.ndarray:
        """The value of each plane that lies in the middle of the codes."""
        return np.array((WHITE / 2.0, 0.0, 0.0), np.float32)[:, None, None]

    def encode(self, clip: np.ndarray) -> np.ndarray:
        """RGB `(T, H, W, 3)` float32 on [0, 1] as codes `(T, 3, H, W)` uint8 or uint16, rounded and clipped."""
        frames, height, width, _ = clip.shape
        codes = np.empty((frames, 3, height, width), np.uint8 if self.depth == 8 else np.uint16)
        for target, rgb in zip(codes, clip, strict=True):
            exact = (to_opponent(rgb) - self._middle) * self._scale + self._top / 2.0
            target[...] = np.rint(exact).clip(0, self._top)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes `(T, 3, H, W)` as RGB `(T, H, W, 3)` float32: the inverse of `encode` but for its rounding."""
        frames, _, height, width = codes.shape
        clip = np.empty((frames, height, width, 3), np.float32)
        for target, planes in zip(clip, codes, strict=True):
            values = (planes.astype(np.float32) - np.float32(self._top / 2.0)) / self._scale + self._middle
            target[...] = from_opponent(values)
        return clip
