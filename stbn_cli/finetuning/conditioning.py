"""The noise level to condition a network on: two numbers, which hardly any footage is too short to find.

Networks for a camera's noise are conditioned on levels of luma and colour noise. What was measured may not be
what works best: noise that is smoother than any that was trained on looks like picture at the measured level. So the
levels are multiplied by factors, both by the same first and then each by itself; what is better by more than chance
stays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stbn_cli.finetuning.frame_judge import Judgement

# Rows of luma and of colour, as in `SceneNoise.levels`.
Levels = tuple[tuple[float, ...], ...]
STEP = 2**0.5
LUMA, COLOUR = 0, 1
ORDER = ((LUMA, COLOUR), (COLOUR,), (LUMA,))
MOST_STEPS = 4  # either way


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The levels that a network is conditioned on, and what was found of it with them."""

    levels: Levels
    factors: tuple[float, float]  # of luma and colour, over what was measured
    judgement: Judgement


def search(
    levels: Levels,
    judge: Callable[[Levels, Judgement | None], Judgement],
    enough: Callable[[], bool] = lambda: False,
) -> Conditioning:
    """The levels that `judge` likes best, from `levels` on by steps of STEP.

    `judge` receives levels, and what it found with the first ones. `enough`: whether to keep what was found so far.
    """
    best = Conditioning(levels, (1.0, 1.0), judge(levels, None))
    first = best.judgement
    for rows in ORDER:
        for factor in (STEP, 1.0 / STEP):
            moved = False
            for candidate in _steps(best, rows, factor):
                if enough():
                    return best
                found = Conditioning(*candidate, judge(candidate[0], first))
                if not best.judgement.gain_of(found.judgement).is_certain:
                    break
                best, moved = found, True
            if moved:
                break
    return best


def _steps(
    start: Conditioning, rows: tuple[int, ...], factor: float
) -> Iterator[tuple[Levels, tuple[float, float]]]:
    levels = start.levels
    luma, colour = start.factors
    for _ in range(MOST_STEPS):
        levels = tuple(
            tuple(factor * value for value in values) if number in rows else values
            for number, values in enumerate(levels)
        )
        luma, colour = (
            factor * value if row in rows else value for row, value in ((LUMA, luma), (COLOUR, colour))
        )
        yield levels, (luma, colour)
