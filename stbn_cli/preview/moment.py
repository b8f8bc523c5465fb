"""Denoises a surveyed moment: the frames that the full run would give there, one after another."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

import numpy as np

from stbn_cli.errors import InputError
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.preview.location import LocatedMoment, choose_moment, distinct, locate, seconds_before
from stbn_cli.preview.timing import StageTiming
from stbn_cli.source import Source
from stbn_cli.video.fields import rows_by_field, rows_woven
from stbn_cli.video.frames import Frame


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame before and after."""

    before: Frame
    after: np.ndarray  # (H, W, 3) float32, nominal [0, 1], not clipped
    time: Fraction  # seconds from the video's beginning
    wanted: bool  # to be shown, not only computed on the way


@dataclass(slots=True)
class StageTimings:
    """What was measured while a moment was denoised; reading and denoising did not overlap."""

    reading: StageTiming = field(default_factory=StageTiming)
    # The first chunk, with what came before it, and all the others.
    cold: StageTiming = field(default_factory=StageTiming)
    warm: StageTiming = field(default_factory=StageTiming)

    @property
    def denoising(self) -> StageTiming:
        """The best that is known of denoising: warm, if there was more than one chunk."""
        return self.warm if self.warm.frames else self.cold


def preview_frames(
    source: Source, denoiser: Denoiser, *, at: float | None = None, duration: float = 0.0
) -> list[Shot]:
    """The wanted frames of a moment, as `denoiser` gives them in a run over the whole video; repetitions are left out.

    Args:
        source: the whole video.
        at: seconds from its beginning; None: the middle.
        duration: seconds around `at`; 0: the frame that is shown at `at`.

    Raises:
        OptionError: `at` is beyond the end.
        InputError: the input cannot be read.
    """
    with source.open() as reader:
        moment = choose_moment(reader.metadata, at, duration)
    found = locate(source, denoiser, moment)
    return [shot for shot in denoise_moment(found, denoiser, StageTimings()) if shot.wanted]


def denoise_moment(found: LocatedMoment, denoiser: Denoiser, timings: StageTimings) -> Iterator[Shot]:
    """Every frame that is denoised on the way to the wanted ones and up to their chunks' ends, in order.

    Lazy; holds a chunk and its look-ahead. `timings` receives what was measured. Raises `InputError` for a file that
    gives other frames when it is read from elsewhere.
    """
    head = found.parts[0]
    by_fields = found.metadata.by_fields
    start, cold_stop = head.start, min(head.first + found.plan.chunk, head.stop)
    with found.open(start) as reader:
        offset = seconds_before(reader, found.before(start))
        frames = _measured(distinct(reader), timings.reading)
        for part in found.parts:
            waiting: deque[Frame] = deque()
            outputs = denoiser.stream_scene(
                _feed(
                    islice(frames, part.end - part.start),
                    waiting,
                    part.first - part.start,
                    by_fields=by_fields,
                ),
                part.noise,
                found.plan,
                skip=part.first - part.start,
            )
            for index in range(part.first, part.stop):
                after = _next(outputs, timings, timings.cold if index < cold_stop else timings.warm)
                if after is None or offset + waiting[0].pts * waiting[0].time_base != found.times[index]:
                    raise InputError(
                        f"{found.source.path} gives other frames when it is read from the middle: its index is "
                        "damaged. Copy it into a new container (ffmpeg -i INPUT -c copy OUT.mkv) first."
                    )
                if by_fields:
                    after = rows_woven(after)
                yield Shot(waiting.popleft(), after, found.times[index], index in found.wanted)


def _measured(frames: Iterator[Frame], timing: StageTiming) -> Iterator[Frame]:
    # Not measured: the first costs the way from the key frame before it.
    frame = next(frames, None)
    while frame is not None:
        yield frame
        with timing.measured():
            frame = next(frames, None)


def _feed(
    frames: Iterator[Frame], waiting: deque[Frame], skip: int, *, by_fields: bool
) -> Iterator[np.ndarray]:
    """The pixels of `frames` as the denoiser takes them.

    All but the first `skip` frames wait in `waiting` until they are denoised.
    """
    for index, frame in enumerate(frames):
        if index >= skip:
            waiting.append(frame)
        yield rows_by_field(frame.rgb) if by_fields else frame.rgb


def _next(outputs: Iterator[np.ndarray], timings: StageTimings, timing: StageTiming) -> np.ndarray | None:
    """The next denoised frame, its cost without that of the frames that were read for it."""
    reading = timings.reading
    wall, cpu = reading.wall, reading.cpu
    with timing.measured():
        after = next(outputs, None)
    timing.without(reading.wall - wall, reading.cpu - cpu)
    return after
