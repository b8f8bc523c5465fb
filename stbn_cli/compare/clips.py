"""The videos to compare, turned upright, opened together and read in step. Knows nothing of what is measured."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from pathlib import Path

import numpy as np

from stbn_cli.errors import InputError
from stbn_cli.raw.files import refuse_raw_pictures
from stbn_cli.raw.pattern import NO_MOSAIC, BayerOptions
from stbn_cli.source import Source, Span
from stbn_cli.video.adapted_reader import AdaptedReader
from stbn_cli.video.formats import FALLBACK_RATE
from stbn_cli.video.frames import Frame, FrameReader, VideoMetadata, Warnings
from stbn_cli.video.images import is_image_source

NAMES = ("A", "B", "the reference")


@dataclass(frozen=True, slots=True)
class Clips:
    """Videos of one size. Frames are upright: turned as a player would turn them."""

    a: FrameReader
    b: FrameReader
    reference: FrameReader | None = None

    @property
    def metadata(self) -> VideoMetadata:
        """That of A."""
        return self.a.metadata

    @property
    def readers(self) -> dict[str, FrameReader]:
        """By the name that messages use."""
        found = zip(NAMES, (self.a, self.b, self.reference), strict=True)
        return {name: reader for name, reader in found if reader is not None}

    @property
    def expected_frames(self) -> int | None:
        """How many frames all have, as far as the files say; None if one does not say."""
        counts = [reader.metadata.frame_count for reader in self.readers.values()]
        return min((value for value in counts if value), default=None) if all(counts) else None


@dataclass(frozen=True, slots=True)
class Pictures:
    """One frame of every video, `(H, W, 3)` float32 RGB each, nominal [0, 1], may exceed it."""

    number: int  # from 0
    a: Frame  # its times are those of the comparison
    b: np.ndarray
    reference: np.ndarray | None


def open_clips(
    a: str | Path,
    b: str | Path,
    reference: str | Path | None,
    span: Span,
) -> Clips:
    """Open two or three videos or image sequences that show the same.

    span: the part of each that is meant. Where it gives no rate, image sequences have that of the first video among
    them, so that a range means the same frames.

    Raises InputError for what cannot be read and for different picture sizes, and OptionError for an impossible range.
    """
    paths = [Path(a), Path(b), *([] if reference is None else [Path(reference)])]
    for path in paths:
        refuse_raw_pictures(path)
    # Mosaics are compared as the grey pictures that they are as well.
    span = replace(span, bayer=BayerOptions(NO_MOSAIC))
    opened: dict[int, FrameReader] = {}
    for index in sorted(range(len(paths)), key=lambda index: is_image_source(paths[index])):
        opened[index] = _upright(Source(paths[index], span).open())
        span = replace(span, rate=span.rate or opened[index].metadata.average_rate)
    clips = Clips(*(opened[index] for index in range(len(paths))))
    first = clips.a.metadata
    for name, reader in clips.readers.items():
        other = reader.metadata
        if (other.width, other.height) != (first.width, first.height):
            raise InputError(
                f"A ({clips.a.path}) is {first.width}x{first.height} but {name} ({reader.path}) is "
                f"{other.width}x{other.height}. Scale one of them to the size of the other first; only pictures of "
                "one size can be compared."
            )
    return clips


def read_in_step(clips: Clips, limit: int | None, notes: Warnings) -> Iterator[Pictures]:
    """Frames that all videos have, at most `limit`.

    What ends early, and frames whose times differ by more than half a frame of A, are reported in `notes`, complete
    when the iteration ends; times of image sequences are made up and not compared. Raises InputError for a file that
    turns out to be damaged.
    """
    readers = clips.readers
    frames = {name: iter(reader) for name, reader in readers.items()}
    clocks = {
        name: _TimeCheck(name, clips.metadata.average_rate or FALLBACK_RATE)
        for name in list(readers)[1:]
        if not clips.a.image_names and not readers[name].image_names
    }
    for number in count() if limit is None else range(limit):
        found = {name: next(iterator, None) for name, iterator in frames.items()}
        ended = [name for name, frame in found.items() if frame is None]
        if ended:
            if len(ended) < len(found):
                names = " and ".join(ended)
                notes.add(
                    f"The numbers of frames differ: {names} ended after {number}, and only those were compared. If one "
                    "is a part of another, cut that one first."
                )
            break
        a, b, reference = (found.get(name) for name in NAMES)
        assert a is not None and b is not None
        for name, clock in clocks.items():
            other = found[name]
            assert other is not None
            clock.compare(number, a, other)
        yield Pictures(number, a, b.rgb, None if reference is None else reference.rgb)
    for clock in clocks.values():
        if sentence := clock.sentence():
            notes.add(sentence)
    for reader in readers.values():
        for sentence in reader.warnings:
            notes.add(sentence)


class _TimeCheck:
    """Compares the times of a video's frames with those of A."""

    def __init__(self, name: str, rate: Fraction) -> None:
        self._name = name
        self._allowed = 1 / rate / 2
        self._first: tuple[int, Fraction] | None = None  # frame, seconds later than A's
        self._shift: Fraction | None = None
        self._constant = True

    def compare(self, number: int, a: Frame, other: Frame) -> None:
        """Take the times of one frame."""
        later = other.pts * other.time_base - a.pts * a.time_base
        if self._shift is None:
            self._shift = later
        if abs(later - self._shift) > self._allowed:
            self._constant = False
        if self._first is None and abs(later) > self._allowed:
            self._first = number, later

    def sentence(self) -> str | None:
        """The warning for the user; None if the times agree."""
        if self._first is None:
            return None
        number, later = self._first
        apart = f"{abs(float(later)):.3g} s {'later' if later > 0 else 'earlier'} than those of A"
        if self._constant:
            return f"All frames of {self._name} come {apart}; they were compared one by one nevertheless."
        return (
            f"From frame {number} on, times of {self._name} differ from those of A by more than half a frame; "
            "if frames were left out or repeated, frames of different moments were compared."
        )


def _upright(reader: FrameReader) -> FrameReader:
    """The reader, or one that applies the quarter turns that its metadata asks a player for."""
    metadata = reader.metadata
    turns = _quarter_turns(metadata)
    if not turns:
        return reader
    swapped = turns % 2
    aspect = metadata.sample_aspect_ratio
    shown = replace(
        metadata,
        width=metadata.height if swapped else metadata.width,
        height=metadata.width if swapped else metadata.height,
        sample_aspect_ratio=1 / aspect if aspect and swapped else aspect,
        rotation=0,
        display_matrix=None,
    )
    return AdaptedReader(reader, shown, reader.stream_source, turns)


def _quarter_turns(metadata: VideoMetadata) -> int:
    """Counter-clockwise; 0 where a player would also mirror the picture or turn it by another angle."""
    if metadata.display_matrix is None or metadata.rotation % 90:
        return 0
    a, b, _, c, d = metadata.display_matrix[:5]
    return 0 if a * d - b * c < 0 else metadata.rotation // 90 % 4
