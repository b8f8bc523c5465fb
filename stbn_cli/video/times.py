"""Times: those a user typed, exactly, and those of a whole film in little memory."""

from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction


class Times:
    """Times in seconds as integers on one clock: 8 bytes for each, as iteration gives a `Fraction` for each."""

    def __init__(self, time_base: Fraction, ticks: Iterable[int] = ()) -> None:
        """time_base: seconds of a tick."""
        self._base = time_base
        self._ticks = array("q", ticks)

    def add(self, ticks: int, time_base: Fraction) -> None:
        """Append a time. Raises ValueError for one that is no whole tick of this clock."""
        exact = Fraction(ticks) if time_base == self._base else ticks * time_base / self._base
        if exact.denominator != 1:
            raise ValueError(f"{ticks} ticks of {time_base} s are no whole ticks of {self._base} s")
        self._ticks.append(exact.numerator)

    def __len__(self) -> int:
        return len(self._ticks)

    def __iter__(self) -> Iterator[Fraction]:
        return (ticks * self._base for ticks in self._ticks)


def exact_seconds(seconds: float) -> Fraction:
    """A time the user typed, to the microsecond: 0.2 is 1/5, not the float a little above it."""
    return Fraction(seconds).limit_denominator(1_000_000)
