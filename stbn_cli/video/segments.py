"""Planes of code values kept on disk, without loss: a file for a run of frames, FFV1 in Matroska with checksums."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.codec import Codec
from av.error import FFmpegError
from av.video.stream import VideoStream

from stbn_cli.errors import OutputError
from stbn_cli.files import put_in_place
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.pixels import join_planes, planar_format, split_planes
from stbn_cli.video.probe import error_reason

# Bytes that FFV1 takes for one of raw denoised pictures, about: what is announced, not what is relied on.
USUAL_RATIO = 0.5


class SegmentWriter:
    """Writes planes of one layout and size to `path`; nothing is safe there before `finish()`.

    Raises OutputError where the disk refuses it.
    """

    def __init__(self, path: Path, layout: PixelLayout) -> None:
        self.path, self._layout = path, layout
        self._stored = _stored_layout(layout)
        self._partial = path.with_name(f"{path.name}.part")
        try:
            self._output = av.open(str(self._partial), "w", format="matroska")
        except (FFmpegError, OSError) as error:
            raise _cannot_keep(path, error) from error
        self._stream: VideoStream | None = None
        self._count = 0

    def add(self, planes: list[np.ndarray]) -> None:
        """Append a frame's planes."""
        if self._stored != self._layout:
            planes = [np.vstack(planes)]
        picture = join_planes(planes, self._stored)
        picture.pts = self._count
        self._count += 1
        if self._stream is None:
            stream = self._output.add_stream("ffv1", rate=1, options={"level": "3", "slicecrc": "1"})
            assert isinstance(stream, VideoStream)
            stream.width, stream.height = picture.width, picture.height
            stream.pix_fmt = planar_format(self._stored)
            stream.thread_type = "SLICE"  # type: ignore[assignment]
            self._stream = stream
        self._mux(picture)

    def finish(self) -> None:
        """Flush to the disk and give the file its name."""
        self._mux(None)
        try:
            self._output.close()
            put_in_place(self._partial, self.path, durable=True)
        except (FFmpegError, OSError) as error:
            raise _cannot_keep(self.path, error) from error

    def discard(self) -> None:
        """Close and remove what was written."""
        with contextlib.suppress(FFmpegError, OSError):  # it is removed anyway
            self._output.close()
        self._partial.unlink(missing_ok=True)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._stream is not None
        try:
            self._output.mux(self._stream.encode(picture))
        except (FFmpegError, OSError) as error:
            raise _cannot_keep(self.path, error) from error


def read_segment(path: Path, layout: PixelLayout) -> Iterator[list[np.ndarray]]:
    """The planes of a segment, frame by frame. Raises OutputError for a damaged one."""
    stored = _stored_layout(layout)
    try:
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                if picture.is_corrupt:
                    raise OutputError(_damaged(path))
                planes = split_planes(picture, stored)
                yield planes if stored == layout else np.split(planes[0], layout.planes)
    except (FFmpegError, OSError) as error:
        raise OutputError(f"{_damaged(path)} ({error_reason(error)})") from error


def _stored_layout(layout: PixelLayout) -> PixelLayout:
    """What FFV1 takes: the layout itself, or a gray one with its planes one below the other."""
    formats = {each.name for each in Codec("ffv1", "w").video_formats or []}
    return layout if planar_format(layout) in formats else PixelLayout("gray", layout.depth)


def _damaged(path: Path) -> str:
    return f"What was kept of the interrupted run is damaged ({path.name}). Start again with --restart."


def _cannot_keep(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"The progress cannot be kept in {path.parent}: {error_reason(error)}. Free some space, or give "
        "--no-keep-progress."
    )
