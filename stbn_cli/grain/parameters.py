"""AV1's film-grain parameters of a stretch of time, and the text file of them that encoders read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

# Neighbours that an auto-regressive coefficient can belong to are so many rows above and columns beside.
LAG = 3
# (rows, columns) from a pixel to the neighbours that come before it, in the order of their coefficients.
NEIGHBOURS = tuple(
    (row, column) for row in range(-LAG, 1) for column in range(-LAG, LAG + 1) if row < 0 or column < 0
)
MOST_LUMA_POINTS, MOST_CHROMA_POINTS = 14, 10
COEFFICIENT_RANGE = (-128, 127)
COEFFICIENT_SHIFTS = range(6, 10)
SCALING_SHIFTS = range(8, 12)
GRAIN_SHIFTS = (0, 3)  # least and most
TABLE_MAGIC = "filmgrn1"
# Of a table's clock, in a second.
TICKS = 10_000_000
# How a chroma plane's strength is looked up: multipliers of its own value and of the luma there, and an offset, which
# say "by the luma alone".
BY_LUMA = (128, 192, 256)
# From frame to frame the seed goes on by this, which is odd: 65536 frames have different grain.
SEED_STEP = 40503
SEEDS = 2**16

Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FilmGrain:
    """What a decoder needs to draw grain.

    luma, cb, cr: points (brightness, strength), both 0 to 255, brightness increasing: the strength is interpolated
    between them. Brightness is luma's, for chroma too. A plane without points has no grain.
    scaling_shift: strengths are parts of 2**scaling_shift. luma_coefficients: one for each of NEIGHBOURS, in parts of
    2**coefficient_shift; those of chroma have one more at the end, for the luma grain at the same place.
    grain_shift: the white noise from which grain is made is divided by 2**grain_shift. seed: of the first frame.
    """

    luma: Points
    cb: Points
    cr: Points
    scaling_shift: int
    luma_coefficients: tuple[int, ...]
    cb_coefficients: tuple[int, ...]
    cr_coefficients: tuple[int, ...]
    coefficient_shift: int
    grain_shift: int = 0
    seed: int = 0
    overlap: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for what the format cannot hold."""
        for points, most in (
            (self.luma, MOST_LUMA_POINTS),
            (self.cb, MOST_CHROMA_POINTS),
            (self.cr, MOST_CHROMA_POINTS),
        ):
            places = [place for place, _ in points]
            if len(points) > most or places != sorted(set(places)):
                raise ValueError(f"there are up to {most} points of increasing brightness, not {points}")
            if any(not 0 <= value <= 255 for point in points for value in point):
                raise ValueError(f"points have values of 0 to 255, not {points}")
        lowest, highest = COEFFICIENT_RANGE
        for row, count in (
            (self.luma_coefficients, len(NEIGHBOURS)),
            (self.cb_coefficients, len(NEIGHBOURS) + 1),
            (self.cr_coefficients, len(NEIGHBOURS) + 1),
        ):
            if len(row) != count or not all(lowest <= value <= highest for value in row):
                raise ValueError(f"there are {count} coefficients of {lowest} to {highest}, not {row}")
        if (
            self.scaling_shift not in SCALING_SHIFTS
            or self.coefficient_shift not in COEFFICIENT_SHIFTS
            or not GRAIN_SHIFTS[0] <= self.grain_shift <= GRAIN_SHIFTS[1]
            or self.seed not in range(SEEDS)
        ):
            raise ValueError("a shift or the seed is out of range")

    def seed_of(self, frame: int) -> int:
        """Of the frame of this number, from 0 on."""
        return (self.seed + frame * SEED_STEP) % SEEDS


@dataclass(frozen=True, slots=True)
class GrainSegment:
    """A stretch of time and its grain, and what was measured for people to read.

    start, end: seconds on the output's clock; a frame at `end` is not in it. strengths: of luma, cb and cr, root mean
    squares over the picture on the 0-255 scale. correlation: of luma's grain with its neighbours 1, 2 and 3 pixels to
    the right, and below.
    """

    start: Fraction
    end: Fraction
    grain: FilmGrain
    strengths: tuple[float, float, float] = (0.0, 0.0, 0.0)
    correlation: tuple[tuple[float, ...], tuple[float, ...]] = field(default=((), ()))


def table_text(segments: Sequence[GrainSegment]) -> str:
    """The segments as a film-grain table of libaom's format, which SVT-AV1 and rav1e read too."""
    lines = [TABLE_MAGIC]
    for segment in segments:
        grain = segment.grain
        # A frame at the start must not be before it, and one at the end not before that.
        start, end = math.floor(segment.start * TICKS), math.floor(segment.end * TICKS)
        chroma = " ".join(map(str, BY_LUMA))
        lines += [
            f"E {start} {end} 1 {grain.seed} 1",
            f"\tp {LAG} {grain.coefficient_shift} {grain.grain_shift} {grain.scaling_shift} 0 {int(grain.overlap)} "
            f"{chroma} {chroma}",
            _points("sY", grain.luma),
            _points("sCb", grain.cb),
            _points("sCr", grain.cr),
            "\tcY " + " ".join(map(str, grain.luma_coefficients)),
            "\tcCb " + " ".join(map(str, grain.cb_coefficients)),
            "\tcCr " + " ".join(map(str, grain.cr_coefficients)),
        ]
    return "\n".join(lines) + "\n"


def _points(name: str, points: Points) -> str:
    return " ".join(["\t" + name, str(len(points)), *(f"{place} {value}" for place, value in points)])
