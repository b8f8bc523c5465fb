"""Denoised frames in any order: each window of a clip is computed once, from where its scene begins, and kept for a
while.

A window is a chunk of `Denoiser`, so that seeking gives the frames that playing gives. Knows nothing of files or of
what asks for the frames; a lock around everything makes it safe to ask from several threads.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stbn_cli.inference.cuts import CutDetector, thumbnail_of

if TYPE_CHECKING:
    from stbn_cli.inference.denoiser import Denoiser

# Frames of a section after which the next one may begin in the middle of a scene: what a seek may have to run through.
LONGEST_SECTION = 128
# A section is at least this long where no scene ends, in frames.
SHORTEST_SECTION = LONGEST_SECTION // 2
# Frames that the recurrence runs up before a section that begins in the middle of a scene. Against a run from the
# scene's first frame, in float32, what follows differs by at most 1e-5 (`stbn-xs`) to 1e-4 (`real`) of the range in a
# moving clip at sigma 15; in a still one at sigma 40 by 5e-5, and for `real`, which remembers longer, by 1e-3 (rms).
LEAD = 32
# What a frame costs that only carries the recurrence on, in denoised frames (`real` on a CPU).
SKIP_COST = 0.5
# Frames in which cuts are looked for at once, and those before them, repeats not counted, that show the detector how
# things move.
SURVEY = 16
SURVEY_LEAD = 16
# Frames before them that are looked at for those: a still picture may last.
FURTHEST_LEAD = 8 * SURVEY_LEAD
THUMBNAILS = 1024  # kept; 15 kB each


class SceneDenoiser(Protocol):
    """What denoises the frames `(H, W, C)` of one scene."""

    @property
    def chunk(self) -> int:
        """Frames that are denoised together."""
        ...

    @property
    def opening(self) -> int:
        """Frames of a scene's beginning that its noise is measured in."""
        ...

    def noise(self, opening: Sequence[np.ndarray]) -> Any:
        """The noise of a scene that begins like this."""
        ...

    def run(self, frames: Iterator[np.ndarray], noise: Any, skip: int) -> Generator[np.ndarray, None, None]:
        """The frames but the first `skip`, denoised, chunk by chunk. Only one run is open at a time."""
        ...


class DenoiserOfScenes:
    """A `Denoiser` as a `SceneDenoiser` for frames of one size, with the chunks that the memory free now allows."""

    def __init__(self, denoiser: "Denoiser", height: int, width: int) -> None:
        self._denoiser = denoiser
        self._plan = denoiser.plan_for(height, width)

    @property
    def chunk(self) -> int:
        """Frames that are denoised together."""
        return self._plan.chunk

    @property
    def opening(self) -> int:
        """As many as `Denoiser.stream` measures a scene by."""
        return self._plan.chunk + self._plan.chunk_overlap

    def noise(self, opening: Sequence[np.ndarray]) -> Any:
        """See `Denoiser.scene_noise`."""
        return self._denoiser.scene_noise(opening)

    def run(self, frames: Iterator[np.ndarray], noise: Any, skip: int) -> Generator[np.ndarray, None, None]:
        """See `Denoiser.stream_scene`."""
        yield from self._denoiser.stream_scene(frames, noise, self._plan, skip=skip)


@dataclass(slots=True)
class _Run:
    """A scene denoiser at work in a section; what it gives next is window number `following`."""

    section: int
    following: int
    frames: Generator[np.ndarray, None, None]


class SeekableClip:
    """A clip's denoised frames by number, the same in whatever order they are asked for.

    The clip consists of sections. One begins with each scene, and in long scenes one every LONGEST_SECTION frames; its
    noise is measured once, where it begins. Its windows, `chunk` frames each, are computed one after the other; to seek
    is to carry the recurrence on from the section's first frame.

    `read`: frame number n `(H, W, 3)` float32 RGB, nominal [0, 1]. `begins`: whether a scene begins with frame n; None
    finds that out. `cache_bytes`: what finished windows may take; the latest one is always kept.
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        length: int,
        denoiser: SceneDenoiser,
        *,
        begins: Callable[[int], bool] | None = None,
        cache_bytes: int,
    ) -> None:
        self._read = read
        self._length = length
        self._denoiser = denoiser
        self._survey = _Survey(read, length, begins)
        self._cache_bytes = cache_bytes
        self._windows: OrderedDict[tuple[int, int], list[np.ndarray]] = OrderedDict()
        self._noise: dict[int, Any] = {}  # by section; small
        self._located: dict[int, tuple[int, int]] = {}  # what `_locate` found, at some of the frames
        self._run: _Run | None = None
        self._lock = Lock()

    @property
    def cached_bytes(self) -> int:
        """What the windows take that are kept."""
        return sum(frame.nbytes for window in self._windows.values() for frame in window)

    def frame(self, number: int) -> np.ndarray:
        """Denoised frame `number`, of the shape that the denoiser gives. Do not write into it.

        Raises `IndexError` where there is none, and what `read` and the denoiser raise.
        """
        if not 0 <= number < self._length:
            raise IndexError(f"there is no frame {number} in a clip of {self._length} frames")
        with self._lock:
            section, place = self._locate(number)
            window, slot = divmod(place, self._denoiser.chunk)
            return self._window(section, window)[slot]

    def _locate(self, number: int) -> tuple[int, int]:
        """The first frame of the section that a frame lies in, and the frame's place there: both by the clip alone.

        A frame that repeats the one before gets the same result, is shown to nobody, and has no place of its own.
        """
        passed: list[tuple[int, int]] = []  # frames, and the distinct ones behind them
        behind = 0
        section, place = 0, 0
        # Back to where a section begins, or to what is known: through a still picture only once.
        for frame in range(number, 0, -1):
            if self._begins_section(frame):
                section = frame
                break
            if frame in self._located:
                section, place = self._located[frame]
                break
            if frame % SURVEY == 0:
                passed.append((frame, behind))
            behind += not self._survey.repeats(frame)
        place += behind
        self._located.update((frame, (section, place - behind)) for frame, behind in passed)
        return section, place

    def _begins_section(self, number: int) -> bool:
        """Whether one begins with this frame; not asked of the first."""
        if self._survey.begins(number):
            return True
        if number % LONGEST_SECTION or self._survey.repeats(number):
            return False
        return not any(self._survey.begins(other) for other in range(number - SHORTEST_SECTION + 1, number))

    def _window(self, section: int, number: int) -> list[np.ndarray]:
        window = self._windows.get((section, number))
        if window is not None:
            self._windows.move_to_end((section, number))
            return window
        run = self._run_up_to(section, number)
        try:
            while run.following <= number:
                window = list(islice(run.frames, self._denoiser.chunk))
                self._keep((section, run.following), window)
                run.following += 1
        except BaseException:
            self._run = None
            raise
        assert window
        return window

    def _keep(self, key: tuple[int, int], window: list[np.ndarray]) -> None:
        self._windows[key] = window
        while self.cached_bytes > self._cache_bytes and len(self._windows) > 1:
            self._windows.popitem(last=False)

    def _run_up_to(self, section: int, number: int) -> _Run:
        """The run that gets to a window with the least work: the open one, or one that skips what lies before."""
        chunk = self._denoiser.chunk
        whole = self._survey.begins(section) or section == 0
        start = section if whole else section - LEAD
        run = self._run
        restart = SKIP_COST * (section - start + number * chunk)
        if run is not None and run.section == section and 0 <= (number - run.following) * chunk <= restart:
            return run
        if section not in self._noise:
            opening = list(islice(self._frames(section), self._denoiser.opening))
            self._noise[section] = self._denoiser.noise(opening)
        if run is not None:
            self._run = None
            run.frames.close()
        lead = sum(other == start or not self._survey.repeats(other) for other in range(start, section))
        frames = self._denoiser.run(self._frames(start), self._noise[section], lead + number * chunk)
        self._run = _Run(section, number, frames)
        return self._run

    def _frames(self, start: int) -> Iterator[np.ndarray]:
        """The scene's frames from `start` on, without repeats."""
        for number in range(start, self._length):
            if number > start:
                if self._survey.begins(number):
                    return
                if self._survey.repeats(number):
                    continue
            yield self._read(number)


class _Survey:
    """Where scenes begin and frames repeat, found block by block: a block's result depends on the clip alone."""

    def __init__(
        self, read: Callable[[int], np.ndarray], length: int, begins: Callable[[int], bool] | None
    ) -> None:
        self._read, self._length, self._told = read, length, begins
        self._begins: dict[int, list[bool]] = {}  # by block
        self._repeats: dict[int, list[bool]] = {}
        self._thumbnails: OrderedDict[int, np.ndarray] = OrderedDict()

    def begins(self, number: int) -> bool:
        """Whether a scene begins with this frame; not asked of the first."""
        block, place = divmod(number, SURVEY)
        if block not in self._begins:
            frames = self._frames(block)
            told = self._told
            self._begins[block] = self._cuts(frames) if told is None else [told(frame) for frame in frames]
        return self._begins[block][place]

    def repeats(self, number: int) -> bool:
        """Whether this frame is the one before, value for value."""
        block, place = divmod(number, SURVEY)
        if block not in self._repeats:
            self._repeats[block] = [self._is_repeat(frame) for frame in self._frames(block)]
        return self._repeats[block][place]

    def _frames(self, block: int) -> range:
        return range(block * SURVEY, min((block + 1) * SURVEY, self._length))

    def _cuts(self, frames: range) -> list[bool]:
        """Whether each of them begins a scene. Repeats begin none, and the detector is not shown them."""
        detector = CutDetector()
        start = self._lead(frames.start)
        found = []
        for number in range(start, frames.stop):
            if number > start and self.repeats(number):
                found.append(False)
                continue
            # A picture behind black that lasted longer than the detector has looked: nothing to compare it with.
            blank = detector.is_blank and start > 0 and number in frames
            cut = detector.begins_with(self._thumbnail(number))
            found.append(cut or (blank and not detector.is_blank))
        return found[frames.start - start :]

    def _lead(self, first: int) -> int:
        """The first frame that the detector is shown before `first`."""
        wanted = SURVEY_LEAD
        for number in range(first - 1, max(first - FURTHEST_LEAD, 0), -1):
            wanted -= not self.repeats(number)
            if not wanted:
                return number
        return max(first - FURTHEST_LEAD, 0)

    def _is_repeat(self, number: int) -> bool:
        if number == 0 or not np.array_equal(self._thumbnail(number - 1), self._thumbnail(number)):
            return False
        return np.array_equal(self._read(number - 1), self._read(number))

    def _thumbnail(self, number: int) -> np.ndarray:
        thumbnail = self._thumbnails.get(number)
        if thumbnail is None:
            thumbnail = self._thumbnails[number] = thumbnail_of(self._read(number))
            if len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return thumbnail
