"""What passes between reading, denoising and writing, and the bases of readers and writers. Knows no PyAV or torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import numpy as np

from stbn_cli.video.color import PixelLayout

if TYPE_CHECKING:
    from stbn_cli.raw.pattern import BayerFormat

# FFmpeg's (and ITU-T H.273's) number for "not tagged" in matrix, primaries and transfer.
UNSPECIFIED = 2
# Which of a picture's two fields is first in time.
FieldOrder: TypeAlias = Literal["top", "bottom"]
# FFmpeg's AVColorRange numbers.
RANGE_UNSPECIFIED, RANGE_LIMITED, RANGE_FULL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class ColorSpec:
    """How code values become RGB, and the tags exactly as the source carries them.

    `matrix` and `full_range` are what the conversion uses; the `*_tag` fields are what the file says
    (H.273 numbers), so that an untagged source stays untagged in the output. `assumed` names what had to be
    guessed ("matrix", "range"), by the rule in `pixels.resolve_color`.
    """

    matrix: str  # "bt601", "bt709", "bt2020", "fcc", "smpte240m" or "rgb"
    full_range: bool
    matrix_tag: int = UNSPECIFIED
    range_tag: int = RANGE_UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    chroma_location: int | None = None  # PyAV 16-19 does not expose it; None = unknown
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VideoMetadata:
    """What is known of a video before its frames are read.

    Sizes are pixels of the picture as decoded: rotation is not applied, pixels may be non-square. Of raw pictures, size
    and depth are the mosaic's.
    """

    width: int
    height: int
    pixel_format: str  # FFmpeg's name, such as "yuv420p10le"
    bit_depth: int  # bits per component, 8..16
    color: ColorSpec
    frame_count: int | None  # an estimate for progress displays; the file may hold more or fewer
    average_rate: Fraction | None  # frames per second; never used to compute times of frames that have one
    time_base: Fraction  # seconds per tick of `Frame.pts`
    duration_seconds: float | None
    sample_aspect_ratio: Fraction | None = None  # width : height of one pixel; None = not stated
    rotation: int = 0  # degrees counter-clockwise that a player turns the picture
    display_matrix: tuple[int, ...] | None = None  # the 9 integers of FFmpeg's display matrix
    has_alpha: bool = False
    field_order: FieldOrder | None = None  # None = progressive
    stereo_mode: str | None = None  # how two views lie in a picture, see `stereo`; None = one view
    by_fields: bool = False  # to be denoised as two fields; a choice (see `fields`), not a mark of the file
    codec: str | None = None  # canonical name, such as "h264"; None for image sequences
    container: str | None = None  # FFmpeg's demuxer name; of raw pictures, `raw.reader.KINDS`
    losses: tuple[str, ...] = ()  # sentences on what no output can keep of it
    bayer: "BayerFormat | None" = None  # of raw pictures; None = ordinary ones

    @property
    def interlaced(self) -> bool:
        """Whether the file marks its pictures as two fields."""
        return self.field_order is not None


@dataclass(frozen=True, slots=True)
class Damage:
    """What a file's damage cost, in frames."""

    missing: int = 0  # not decodable: the output lacks them, and the others keep their times
    concealed: int = 0  # decoded in part; the decoder made up the rest


@dataclass(slots=True)
class Frame:
    """One picture with its time.

    rgb: (H, W, 3) float32, nominal [0, 1], not clipped: colours outside RGB's gamut survive a round trip. Of raw
    pictures, (ceil(H / 2), ceil(W / 2), 4): the planes of `raw.bayer`.
    pts: presentation time in ticks of `time_base` seconds; strictly increasing over a video.
    duration: in the same ticks, or None where the source does not say.
    """

    rgb: np.ndarray
    pts: int
    time_base: Fraction
    duration: int | None = None


@dataclass(frozen=True, slots=True)
class StreamSource:
    """Where the writer finds the streams, chapters and metadata that are copied beside the video.

    start, end: half-open range in seconds of the source's own clock; None = unbounded.
    shift: seconds subtracted from every time in the output. origin: the beginning of the video on the same clock.
    """

    path: Path
    video_index: int
    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)
    origin: Fraction = Fraction(0)


@dataclass(slots=True)
class Warnings:
    """A list of sentences without repetitions; some of them say what of the source the output will lack."""

    messages: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)  # those among the messages

    def add(self, message: str) -> None:
        """Append `message` unless it is already there (a reader may be iterated more than once)."""
        if message not in self.messages:
            self.messages.append(message)

    def lose(self, message: str) -> None:
        """As `add`, for a loss: an error with --strict (see `losses`)."""
        self.add(message)
        if message not in self.losses:
            self.losses.append(message)


class FrameReader(ABC):
    """A source of frames: a video file or a folder of images. Each iteration starts again at the first.

    A context manager; what readers share is here.
    """

    metadata: VideoMetadata
    stream_source: StreamSource | None = None  # what is copied beside the pictures
    image_names: tuple[str, ...] | None = None  # of a sequence, in order, for an output folder to repeat
    from_pipe = False  # read once, from standard input

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name  # for sentences
        self._notes = Warnings()

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user; more may come while frames are read."""
        return self._notes.messages

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what is held between iterations: nothing, where files are opened anew for each."""
        return


class FrameWriter(ABC):
    """A sink of frames, and a context manager: nothing has the final name before `finish()` has verified it.

    layout, color: of the planes that are written.
    """

    layout: PixelLayout
    color: ColorSpec

    def __init__(self, notes: Warnings | None = None) -> None:
        """notes: what is known to get lost."""
        self._notes = Warnings() if notes is None else notes
        self._finished = False

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user: what the output cannot keep of the source."""
        return self._notes.messages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._discard()

    def write(self, frame: Frame) -> None:
        """Encode one frame. frame.rgb: (H, W, 3) float32 of the source's size; pts must increase.

        Raises OutputError when the encoder or the disk refuses it, BrokenPipeError when nobody reads a pipe any more.
        """
        self.write_planes(self.to_planes(frame.rgb), frame)

    def finish(self) -> None:
        """Write what is left, verify it, and give it its name. Raises OutputError; may be called again."""
        if not self._finished:
            self._complete()
            self._finished = True

    @abstractmethod
    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        """The code values that are encoded for a picture (H, W, 3), in planes of `layout`."""

    @abstractmethod
    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        """Encode one frame from its code values and the times of `frame`; raises as `write` does."""

    @abstractmethod
    def _complete(self) -> None:
        """The work of `finish`."""

    @abstractmethod
    def _discard(self) -> None:
        """Close and remove what was written, whatever state it is in."""
