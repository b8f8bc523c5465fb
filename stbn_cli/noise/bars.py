"""Borders without picture around frames `(T, 3, H, W)` float32 of one scene, nominal [0, 1]: letterbox, pillarbox."""

from dataclasses import dataclass

from torch import Tensor

from stbn_cli.noise.estimate import BORDER_RANGE


@dataclass(frozen=True, slots=True)
class Bars:
    """Width in pixels of the borders without picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return any((self.top, self.bottom, self.left, self.right))


def find_bars(frames: Tensor) -> Bars:
    """Letterbox and pillarbox: rows and columns that are of one colour in every frame."""
    most, least = frames.amax(dim=0), frames.amin(dim=0)  # (3, H, W)
    rows = (most.amax(dim=2) - least.amin(dim=2)).amax(0) <= BORDER_RANGE
    columns = (most.amax(dim=1) - least.amin(dim=1)).amax(0) <= BORDER_RANGE
    if bool(rows.all()) or bool(columns.all()):
        return Bars()
    return Bars(_leading(rows), _leading(rows.flip(0)), _leading(columns), _leading(columns.flip(0)))


def _leading(flags: Tensor) -> int:
    """How many of `flags (n,)` are true before the first that is not."""
    return int(flags.int().cumprod(0).sum())


def without_bars(frames: Tensor, bars: Bars) -> Tensor:
    """The picture between the bars."""
    height, width = frames.shape[-2:]
    return frames[..., bars.top : height - bars.bottom, bars.left : width - bars.right]
