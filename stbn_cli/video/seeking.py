"""Find a place in a file by its time."""

import math
from collections.abc import Iterator
from fractions import Fraction

from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream

from stbn_cli.video.pixels import to_fraction
from stbn_cli.video.probe import CONTAINER_TICKS

# Where a search ends behind what is wanted, how much earlier (seconds) the next one aims; each after that goes back
# about twice as far as the one before.
FIRST_STEP_BACK = Fraction(1)


def steps_back(time: Fraction, beginning: Fraction) -> Iterator[Fraction]:
    """Times to look for, `time` first, then earlier ones in growing steps while they are behind `beginning`.

    Containers without an index (MPEG-TS, MPEG-PS) find a place by its time, not the key frame before it.
    """
    back = Fraction(0)
    while time - back > beginning:
        yield time - back
        back = 2 * back + FIRST_STEP_BACK


def seek(container: InputContainer, time: Fraction, stream: Stream | None = None) -> bool:
    """Go to the last key frame of `stream` (None: the container's choice) that is not behind `time`, in seconds.

    False where a damaged or missing index forbids it; the container may have lost packets then: open it anew.
    """
    base = Fraction(1, CONTAINER_TICKS) if stream is None else to_fraction(stream.time_base)
    try:
        container.seek(math.floor(time / (base or Fraction(1, 1000))), stream=stream)
    except (FFmpegError, OSError, OverflowError):
        return False
    return True
