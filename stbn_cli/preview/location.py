"""What has to be known before a moment of a video can be denoised as the whole video would be.

Which frames are wanted, in which scenes they lie, how noisy those are, and from where to where the network has to run.
Reads frames one by one and keeps none but a scene's opening.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from stbn_cli.errors import InputError, OptionError
from stbn_cli.inference.cuts import HISTORY, CutDetector, SceneFrames, scenes_of
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.parts import is_repeat
from stbn_cli.inference.plan import Plan
from stbn_cli.noise.model import SceneNoise
from stbn_cli.preview.timing import StageTiming
from stbn_cli.source import Source
from stbn_cli.video.fields import rows_by_field
from stbn_cli.video.formats import FALLBACK_RATE
from stbn_cli.video.frames import Frame, FrameReader, VideoMetadata
from stbn_cli.video.times import exact_seconds

# How far before the moment its scene's beginning is looked for: whichever is less.
LEAD_SECONDS = 20
LEAD_FRAMES = 600
# Frames after which a recurrence that started in the middle of a scene has forgotten that. The largest difference to
# the full run (stbn-xs in float32; seven clips, noise of sigma 5, 25 and 50, with DIS and without flow; the worst of
# 26 cases): 0.18 at the first frame, 1.6e-2 after 16 frames, 9.6e-4 after 32, 5.4e-5 after 48, 7.7e-6 after 56.
WARMUP = 48
# In half precision it never forgets: rounding keeps the difference at up to 5e-3 (bfloat16, seven clips; 3e-3 in
# 99.9 % of the values) from frame 20 on. So it starts with the scene, if that began so many frames before or fewer.
HALF_PRECISION_FRAMES = 250


@dataclass(frozen=True, slots=True)
class Moment:
    """What to show of a video, in seconds from its beginning.

    The frame that a player shows at `begin`, and those that follow before `end`; `end == begin`: that frame alone.
    """

    at: Fraction  # what the user asked for
    begin: Fraction
    end: Fraction


@dataclass(frozen=True, slots=True)
class Part:
    """A scene's share of the work. Frames are counted from the locator's first, chunks from the scene's."""

    start: int  # first frame that the network sees: a chunk's first
    first: int  # first frame that is denoised: a chunk's first
    stop: int  # one behind the last that is denoised: a chunk's end, or the scene's
    end: int  # one behind the last that the network sees
    noise: SceneNoise
    known: bool  # begins at a cut or with the video, so that chunks and noise level are the full run's
    exact: bool  # the network starts where the full run does: nothing is left to converge


@dataclass(frozen=True, slots=True)
class LocatedMoment:
    """Everything about a moment but its denoised frames."""

    source: Source  # the whole of it
    metadata: VideoMetadata  # of the whole video
    plan: Plan
    lead: Fraction | None  # where reading began, in seconds from the video's beginning; None: there
    # Of every frame read, in seconds from the video's beginning. Frames that repeat the one before do not count, here
    # and wherever a frame has a number: the network does not see them.
    times: tuple[Fraction, ...]
    ends: tuple[Fraction, ...]  # the times of their last repetitions
    wanted: range
    parts: tuple[
        Part, ...
    ]  # one for each scene that holds wanted frames; they follow each other without a gap
    detection: StageTiming  # of scene cuts

    @property
    def frames(self) -> int:
        """How many frames are denoised, more than are wanted."""
        return sum(part.stop - part.first for part in self.parts)

    def before(self, index: int) -> Fraction | None:
        """A time between frame `index` and the one before it; None: from the video's beginning."""
        if index == 0:
            return self.lead
        return (self.ends[index - 1] + self.times[index]) / 2

    def open(self, start: int, stop: int | None = None) -> FrameReader:
        """A reader of the frames from `start` to before `stop` (None: to the video's end)."""
        begin = self.before(start)
        end = self.before(stop) if stop is not None and stop < len(self.times) else None
        return self.source.open(
            start=None if begin is None else float(begin), end=None if end is None else float(end)
        )


def choose_moment(metadata: VideoMetadata, at: float | None, duration: float = 0.0) -> Moment:
    """`duration` seconds around `at` (None: the middle), moved to lie within the video; 0: a single frame.

    Raises `OptionError` for a time beyond the end, as far as the length is known.
    """
    length = metadata.duration_seconds
    if at is None:
        at = (length or 0.0) / 2
    elif length is not None and at >= length:
        raise _beyond_the_end(at, length)
    begin = at
    if duration:
        begin = at - duration / 2
        if length is not None:
            begin = min(begin, length - duration)
        begin = max(begin, 0.0)
    start = exact_seconds(begin)
    return Moment(exact_seconds(at), start, start + exact_seconds(duration))


def locate(source: Source, denoiser: Denoiser, moment: Moment) -> LocatedMoment:
    """Read up to the moment, and as far beyond it as the network looks ahead.

    Raises `OptionError` for a moment beyond the end, and what reading raises.
    """
    with source.open() as reader:
        metadata = reader.metadata
    frames_per_second = metadata.average_rate or FALLBACK_RATE
    lead = moment.begin - min(Fraction(LEAD_SECONDS), LEAD_FRAMES / frames_per_second)
    begin = exact_seconds(float(lead)) if lead > 0 else None
    try:
        start = None if begin is None else float(begin)
        reader = source.open(start=start)
    except InputError:
        # The video has frames, as was seen above, but none from here on.
        raise _beyond_the_end(float(moment.at), metadata.duration_seconds) from None
    with reader:
        locator = MomentLocator(denoiser, moment, metadata, begin is None)
        locator.read(reader, seconds_before(reader, begin))
        if locator.last_frame is not None:
            end = locator.ends[-1] + _duration(locator.last_frame, frames_per_second)
            if moment.at >= end:
                raise _beyond_the_end(float(moment.at), float(end))
    wanted = range(locator.first, locator.last + 1)
    return LocatedMoment(
        source=source,
        metadata=metadata,
        plan=locator.plan,
        lead=begin,
        times=tuple(locator.times),
        ends=tuple(locator.ends),
        wanted=wanted,
        parts=tuple(locator.parts),
        detection=locator.detection,
    )


def distinct(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Those that do not repeat the one before, value for value."""
    shown: np.ndarray | None = None
    for frame in frames:
        if shown is None or not is_repeat(frame.rgb, shown):
            shown = frame.rgb
            yield frame


def seconds_before(reader: FrameReader, start: Fraction | None) -> Fraction:
    """Seconds from the video's beginning to the time 0 of a reader that was opened at `start`."""
    source = reader.stream_source
    if source is None:
        # Images: the first is the first at or behind the start.
        step = reader.metadata.time_base
        return Fraction(0) if start is None else -(-start // step) * step
    return source.shift - source.origin


def _beyond_the_end(at: float, length: float | None) -> OptionError:
    ends = "ends before it" if length is None else f"ends at {length:.3f} s"
    return OptionError(f"--at {at:g} s is beyond the video, which {ends}. Give an earlier time.")


def _duration(frame: Frame, rate: Fraction) -> Fraction:
    """Seconds that a frame is shown, from the average where the source does not say."""
    return frame.duration * frame.time_base if frame.duration else 1 / rate


class MomentLocator:
    """Reads the frames one by one; what it has found is in its public attributes."""

    def __init__(
        self, denoiser: Denoiser, moment: Moment, metadata: VideoMetadata, at_beginning: bool
    ) -> None:
        self.plan = denoiser.plan_for(metadata.height, metadata.width)
        self.times: list[Fraction] = []
        self.ends: list[Fraction] = []
        self.first = self.last = 0  # frames wanted
        self.parts: list[Part] = []
        self.detection = StageTiming()
        self.last_frame: Frame | None = None  # the video's, where it was read up to there
        self._denoiser = denoiser
        self._moment = moment
        self._by_fields = metadata.by_fields
        self._at_beginning = at_beginning
        self._detector = CutDetector() if denoiser.options.scene_cuts else None
        self._scene = 0  # first frame of the current scene
        self._complete = False  # all wanted frames were seen

    def read(self, frames: Iterable[Frame], offset: Fraction) -> None:
        """Read as far as the network has to look ahead; `offset`: the seconds of the frames' time 0."""
        window = self.plan.chunk + self.plan.chunk_overlap
        for scene in scenes_of(self._seen(frames, offset), self._is_cut, lambda: window):
            end = self._end_of(scene)
            self._end_scene(end, scene.opening)
            self._scene = end
            if self._complete:
                return

    def _seen(self, frames: Iterable[Frame], offset: Fraction) -> Iterator[np.ndarray]:
        """The pictures `(H, W, 3)` as the network takes them, without repetitions; notes their times."""
        shown: np.ndarray | None = None
        for frame in frames:
            time = offset + frame.pts * frame.time_base
            if shown is not None and is_repeat(frame.rgb, shown):
                self.ends[-1] = time
                continue
            shown = frame.rgb
            self._note(time)
            yield rows_by_field(shown) if self._by_fields else shown
        self.last_frame = frame

    def _note(self, time: Fraction) -> None:
        index = len(self.times)
        self.times.append(time)
        self.ends.append(time)
        if time <= self._moment.begin or index == 0:
            self.first = self.last = index
        elif time < self._moment.end:
            self.last = index
        else:
            self._complete = True

    def _end_of(self, scene: SceneFrames[np.ndarray]) -> int:
        """One behind the scene's last frame, or behind the last that the network sees."""
        for index, _ in enumerate(scene, self._scene):
            # One frame more than the network sees, so that the locator knows where those end.
            if self._complete and index >= self._denoised()[1] + self.plan.chunk_overlap:
                return index
        return index + 1

    def _is_cut(self, rgb: np.ndarray) -> bool:
        if self._detector is None:
            return False
        with self.detection.measured():
            return self._detector.is_cut(rgb)

    def _chunk_start(self, index: int) -> int:
        """First frame of the current scene's chunk that holds frame `index`."""
        return index - (index - self._scene) % self.plan.chunk

    def _denoised(self) -> tuple[int, int]:
        """The chunks of the current scene that hold wanted frames, as (first frame, one behind the last)."""
        chunk = self.plan.chunk
        first = self._chunk_start(max(self.first, self._scene))
        stop = self._chunk_start(self.last) + chunk
        if stop - first > chunk or self.parts:
            return first, stop
        # One more, because the first chunk says little about speed: caches and kernels have to warm up.
        return (first - chunk, stop) if first > self._scene else (first, stop + chunk)

    def _end_scene(self, end: int, opening: list[np.ndarray]) -> None:
        """The current scene ends before frame `end`, or what is needed of it does."""
        if end <= self.first:
            return
        first, stop = self._denoised()
        wanted = max(self.first, self._scene)
        known = self._scene >= HISTORY or self._at_beginning
        start = self._scene
        if not known or not self._within_reach(wanted - self._scene):
            start = min(first, self._chunk_start(max(wanted - WARMUP, self._scene)))
        noise = self._denoiser.scene_noise(opening)
        exact = known and start == self._scene
        self.parts.append(Part(start, first, min(stop, end), end, noise, known, exact))

    def _within_reach(self, frames: int) -> bool:
        """Whether so many frames are better computed from the scene's beginning than from a warm-up."""
        return self._denoiser.dtype != torch.float32 and frames <= HALF_PRECISION_FRAMES
