"""A short video that shows before and after at once, with the times of the source."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from stbn_cli.compare.layouts import Layout
from stbn_cli.preview.location import LocatedMoment
from stbn_cli.preview.moment import Shot
from stbn_cli.preview.picture import label
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.frames import Frame, FrameReader, VideoMetadata
from stbn_cli.video.writer import create_video

# Smaller frames have no room for the words.
LABELLED_HEIGHT, LABELLED_WIDTH = 64, 160


class _Joined(FrameReader):
    """What a writer asks of its reader, for frames that are put together here. There is no sound."""

    def __init__(self, path: Path, metadata: VideoMetadata) -> None:
        super().__init__(path)
        self.metadata = metadata

    def __iter__(self) -> Iterator[Frame]:
        return iter(())


class ClipWriter:
    """Writes shots as a video: before and after side by side, or each half of one picture. A context manager.

    Upright as a player shows them. The first shot is at 0; the others keep their distance from it. Encoded as
    `create_video` does by itself; raises what that raises.
    """

    def __init__(self, found: LocatedMoment, output: str | Path, *, split: bool, overwrite: bool) -> None:
        metadata = found.metadata
        self._split = split
        self._turns = metadata.rotation // 90 % 4
        self._start: int | None = None  # pts of the first shot
        width, height, aspect = metadata.width, metadata.height, metadata.sample_aspect_ratio
        if self._turns % 2:
            width, height, aspect = height, width, 1 / aspect if aspect else None
        joined = replace(
            metadata,
            width=width if split else 2 * width,
            height=height,
            sample_aspect_ratio=aspect,
            rotation=0,
            display_matrix=None,
        )
        reader = _Joined(Path(found.source.path), joined)
        self._writer = create_video(output, reader, EncodeOptions(drop_alpha=True), overwrite=overwrite)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def add(self, shot: Shot) -> None:
        """The next shot."""
        before = shot.before
        self._start = before.pts if self._start is None else self._start
        picture = join(
            np.rot90(before.rgb, self._turns), np.rot90(shot.after, self._turns), split=self._split
        )
        self._writer.write(Frame(picture, before.pts - self._start, before.time_base, before.duration))

    def finish(self) -> None:
        """Check the video and put it in place."""
        self._writer.finish()


def join(before: np.ndarray, after: np.ndarray, *, split: bool) -> np.ndarray:
    """Two frames (H, W, 3) float32 as one: (H, 2 W, 3), or for `split` the left of one and the right of the other."""
    height, width = before.shape[:2]
    picture = Layout("split" if split else "side").compose(before, after)
    middle = picture.shape[1] // 2
    if height >= LABELLED_HEIGHT and width >= LABELLED_WIDTH:
        label(picture, "before", 4, height - 4)
        label(picture, "after", middle + 4, height - 4)
    return picture
