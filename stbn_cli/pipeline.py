"""Decode, denoise and encode at the same time. Knows readers, writers and denoisers only by their interface.

One thread decodes into a bounded queue, the caller's thread runs the denoiser, one thread encodes from a
bounded queue. An error in any of them stops the others and is raised, as itself, in the caller.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from stbn_cli.video.fields import rows_by_field, rows_woven
from stbn_cli.video.frames import Damage, Frame, FrameReader, FrameWriter

if TYPE_CHECKING:
    from stbn_cli.chunkstore import ChunkStore
    from stbn_cli.grain.parameters import GrainSegment
    from stbn_cli.inference.resume import StreamState

Item = TypeVar("Item")

COLOURS = 3
# What may wait between two stages: the denoiser takes and gives whole chunks at a time, and while it computes one, the
# next should be decoded and the last be encoded. So many frames in any case; more, up to the longest chunk, while they
# are within the bytes.
QUEUE_FRAMES = 4
LONGEST_QUEUE = 32
QUEUE_BYTES = 256 << 20
# A wait without a limit cannot be interrupted by Ctrl-C on Windows.
WAIT_SECONDS = 0.5


class ResumableDenoiser(Protocol):
    """A denoiser that says between chunks where it stands, and can go on from there."""

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        resume: "StreamState | None" = None,
        on_chunk: "Callable[[StreamState], None] | None" = None,
    ) -> Iterator[np.ndarray]:
        """As `Denoiser.stream`."""
        ...


@dataclass(frozen=True, slots=True)
class UncertaintyWriter:
    """Where the standard deviations go that a denoiser gives behind its values, times `gain`."""

    writer: FrameWriter
    gain: float


class FrameWatch(Protocol):
    """Sees each frame before and after it is denoised, in order; numbers begin with 0.

    What is noisy comes in one thread, and what is denoised in another.
    """

    def noisy(self, number: int, frame: Frame) -> None:
        """Before; the pixels are not its own to keep."""
        ...

    def denoised(self, number: int, rgb: np.ndarray) -> None:
        """After."""
        ...

    def kept(self, number: int, planes: list[np.ndarray]) -> None:
        """After, of a frame that an earlier run has denoised: as it is written."""
        ...


class FrameDenoiser(Protocol):
    """Anything that turns a stream of noisy frames into as many denoised ones."""

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Denoise lazily, in order.

        frames: (H, W, 3) float32 RGB, nominal [0, 1]. Yields arrays of the same shape and dtype, as many as
        it takes; it may look many frames ahead before the first. Runs in the caller's thread.
        """
        ...


@dataclass(frozen=True, slots=True)
class DenoiseSummary:
    """What a run did."""

    frames: int
    seconds: float  # wall clock, decoding to verified output
    warnings: tuple[str, ...] = ()
    grain: "tuple[GrainSegment, ...] | None" = None  # that was removed; None: it was not measured
    damage: Damage = field(default_factory=Damage)  # of the source

    @property
    def frames_per_second(self) -> float:
        """Mean speed; 0 where nothing was measured."""
        return self.frames / self.seconds if self.seconds else 0.0


def denoise_video(
    reader: FrameReader,
    denoiser: FrameDenoiser,
    writer: FrameWriter,
    *,
    spread: UncertaintyWriter | None = None,
    watch: FrameWatch | None = None,
    progress: Callable[[int], None] | None = None,
    verifying: Callable[[], None] = lambda: None,
) -> DenoiseSummary:
    """Denoise every frame of `reader` into `writer` and finish the writer (verify and put in place).

    spread: for a denoiser whose frames have six channels. progress: called in the calling thread with the number of
    frames denoised so far. verifying: called when all frames are encoded, before the output is checked. Raises whatever
    reader, denoiser or writer raise, KeyboardInterrupt included; the threads have ended by then.
    """
    return _run(
        reader,
        lambda frames, encoded: denoiser.stream(frames),
        writer,
        None,
        progress,
        verifying,
        spread,
        watch,
    )


def denoise_video_resumably(
    reader: FrameReader,
    denoiser: ResumableDenoiser,
    writer: FrameWriter,
    store: "ChunkStore",
    *,
    watch: FrameWatch | None = None,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    verifying: Callable[[], None] = lambda: None,
) -> DenoiseSummary:
    """As `denoise_video`, keeping finished chunks in `store`, and going on where the store ends.

    stop: asked after each chunk that was computed; KeyboardInterrupt is raised once that chunk is kept.
    """

    def stream(
        frames: Iterator[np.ndarray], encoded: "_Channel[Frame | StreamState]"
    ) -> Iterator[np.ndarray]:
        def on_chunk(state: "StreamState") -> None:
            encoded.put(state, 0)
            if stop():
                encoded.wait_until_done()
                raise KeyboardInterrupt

        return denoiser.stream(frames, resume=store.state, on_chunk=on_chunk)

    try:
        return _run(reader, stream, writer, store, progress, verifying, watch=watch)
    finally:
        store.close()


def _run(
    reader: FrameReader,
    stream: "_Stream",
    writer: FrameWriter,
    store: "ChunkStore | None",
    progress: Callable[[int], None] | None,
    verifying: Callable[[], None],
    spread: UncertaintyWriter | None = None,
    watch: FrameWatch | None = None,
) -> DenoiseSummary:
    begin = time.perf_counter()
    decoded: _Channel[Frame] = _Channel()
    encoded: _Channel[Frame | StreamState] = _Channel()
    threads = [
        threading.Thread(
            target=_decode, args=(reader, decoded, encoded, watch), name="stbn-decode", daemon=True
        ),
        threading.Thread(
            target=_encode, args=(writer, store, encoded, watch), name="stbn-encode", daemon=True
        ),
    ]
    spreads: _Channel[Frame | StreamState] = _Channel()
    if spread is not None:
        threads.append(
            threading.Thread(
                target=_encode, args=(spread.writer, None, spreads), name="stbn-spread", daemon=True
            )
        )
    for thread in threads:
        thread.start()
    try:
        stored = store.frames if store is not None else 0
        split = _splitter(spread, spreads)
        by_fields = reader.metadata.by_fields
        count = _denoise(decoded, stream, encoded, stored, progress, split, by_fields=by_fields)
        encoded.finish()
        spreads.finish()
        for thread in threads:
            while thread.is_alive():
                thread.join(WAIT_SECONDS)
    except BaseException as error:
        decoded.stop(error)
        encoded.stop(error)
        spreads.stop(error)
        reader.close()  # a pipe that stands still
        _join_all(threads)
        raise
    encoded.raise_error()
    spreads.raise_error()
    verifying()
    writer.finish()
    notes = [*reader.warnings, *writer.warnings]
    if spread is not None:
        spread.writer.finish()
    return DenoiseSummary(count, time.perf_counter() - begin, tuple(dict.fromkeys(notes)))


def _denoise(
    decoded: "_Channel[Frame]",
    stream: "_Stream",
    encoded: "_Channel[Frame | StreamState]",
    stored: int,
    progress: Callable[[int], None] | None,
    split: "Callable[[np.ndarray, Frame], np.ndarray]",
    *,
    by_fields: bool,
) -> int:
    """The number of frames, with the `stored` ones."""
    # Times of frames inside the denoiser; as long as the denoiser looks ahead, and no longer.
    waiting: deque[tuple[Frame, tuple[int, ...]]] = deque()
    count = 0

    def noisy() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in decoded:
            encoded.raise_error()
            rgb = frame.rgb
            # Only the times wait: the pixels belong to the denoiser now.
            timed = Frame(_NO_PIXELS, frame.pts, frame.time_base, frame.duration)
            del frame
            if count < stored:
                encoded.put(timed, 0)
                count += 1
                if progress is not None:
                    progress(count)
            else:
                waiting.append((timed, rgb.shape))
            yield rows_by_field(rgb) if by_fields else rgb

    for denoised in stream(noisy(), encoded):
        rgb = rows_woven(denoised) if by_fields else denoised
        if not waiting:
            raise RuntimeError("the denoiser returned more frames than it was given")
        frame, shape = waiting.popleft()
        rgb = split(rgb, frame)
        if rgb.shape != shape:
            raise RuntimeError(f"the denoiser returned a frame of shape {rgb.shape} instead of {shape}")
        frame.rgb = rgb
        encoded.put(frame, rgb.nbytes)
        count += 1
        if progress is not None:
            progress(count)
    if waiting or next(iter(decoded), None) is not None:
        raise RuntimeError("the denoiser returned fewer frames than it was given")
    return count


def _splitter(
    spread: UncertaintyWriter | None, spreads: "_Channel[Frame | StreamState]"
) -> "Callable[[np.ndarray, Frame], np.ndarray]":
    """What takes the standard deviations off a frame, and hands them on."""

    def split(values: np.ndarray, timed: Frame) -> np.ndarray:
        if spread is None:
            return values
        shown = values[..., COLOURS:] * np.float32(spread.gain)
        spreads.put(Frame(shown, timed.pts, timed.time_base, timed.duration), shown.nbytes)
        return np.ascontiguousarray(values[..., :COLOURS])

    return split


def _join_all(threads: list[threading.Thread]) -> None:
    """Wait for threads asked to stop, also through more Ctrl-C: they use files that are closed next."""
    for thread in threads:
        while thread.is_alive():
            with contextlib.suppress(KeyboardInterrupt):
                thread.join(WAIT_SECONDS)


_NO_PIXELS = np.empty((0, 0, 3), np.float32)


def _decode(
    reader: FrameReader,
    decoded: "_Channel[Frame]",
    encoded: "_Channel[Frame | StreamState]",
    watch: FrameWatch | None,
) -> None:
    try:
        for number, frame in enumerate(reader):
            if watch is not None:
                watch.noisy(number, frame)
            decoded.put(frame, frame.rgb.nbytes)
        decoded.finish()
    except BaseException as error:
        # Also wakes a caller that waits for room in the encoder's queue.
        decoded.stop(error)
        encoded.stop(error)


def _encode(
    writer: FrameWriter,
    store: "ChunkStore | None",
    encoded: "_Channel[Frame | StreamState]",
    watch: FrameWatch | None = None,
) -> None:
    """Encodes frames; those without pixels are the store's, in their order."""
    try:
        kept = store.stored() if store is not None else iter(())
        number = 0
        for item in encoded:
            if not isinstance(item, Frame):
                assert store is not None
                store.commit(item)
            elif item.rgb is _NO_PIXELS:
                planes = next(kept)
                if watch is not None:
                    watch.kept(number, planes)
                writer.write_planes(planes, item)
                number += 1
            else:
                if watch is not None:
                    watch.denoised(number, item.rgb)
                if store is None:
                    writer.write(item)
                else:
                    planes = writer.to_planes(item.rgb)
                    store.add(planes)
                    writer.write_planes(planes, item)
                number += 1
            encoded.done()
    except BaseException as error:
        encoded.stop(error)


class _Channel(Generic[Item]):
    """A bounded queue for one producer and one consumer that either side can end, also with an error."""

    def __init__(self) -> None:
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._unfinished = 0
        self._changed = threading.Condition()
        self._finished = False
        self._error: BaseException | None = None

    def put(self, item: Item, size: int) -> None:
        """Wait for room and add `item` of `size` bytes; raises the error with which the channel was stopped."""
        with self._changed:
            while self._is_full() and self._error is None:
                self._changed.wait(WAIT_SECONDS)
            self.raise_error()
            self._items.append((item, size))
            self._bytes += size
            self._unfinished += 1
            self._changed.notify_all()

    def _is_full(self) -> bool:
        count = len(self._items)
        return count >= LONGEST_QUEUE or (count >= QUEUE_FRAMES and self._bytes >= QUEUE_BYTES)

    def __iter__(self) -> Iterator[Item]:
        """Items until `finish()`; raises the error with which the channel was stopped."""
        while True:
            with self._changed:
                while not self._items and not self._finished and self._error is None:
                    self._changed.wait(WAIT_SECONDS)
                self.raise_error()
                if not self._items:
                    return
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
            yield item
            del item

    def done(self) -> None:
        """The consumer has dealt with an item."""
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def wait_until_done(self) -> None:
        """Wait until the consumer has dealt with all items; raises the error with which the channel was stopped."""
        with self._changed:
            while self._unfinished and self._error is None:
                self._changed.wait(WAIT_SECONDS)
            self.raise_error()

    def finish(self) -> None:
        """The producer has nothing more."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self, error: BaseException) -> None:
        """End both sides with `error`; the first one counts. What waits in the queue is dropped."""
        with self._changed:
            self._error = self._error or error
            self._items.clear()
            self._changed.notify_all()

    def raise_error(self) -> None:
        """Raise the error with which the channel was stopped, if it was."""
        if self._error is not None:
            raise self._error


# From the frames, and the queue behind, to the denoised frames.
_Stream = Callable[[Iterator[np.ndarray], _Channel], Iterator[np.ndarray]]
