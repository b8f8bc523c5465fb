"""A reader whose frames or metadata are replaced."""

from collections.abc import Iterator

import numpy as np

from stbn_cli.video.frames import Frame, FrameReader, StreamSource, VideoMetadata


class AdaptedReader(FrameReader):
    """A reader whose frames or metadata are replaced; see `FrameReader`.

    `turns`: quarter turns counter-clockwise of every frame. What `metadata` and `stream_source` say is the caller's.
    """

    def __init__(
        self, reader: FrameReader, metadata: VideoMetadata, stream_source: StreamSource | None, turns: int = 0
    ) -> None:
        super().__init__(reader.path)
        self.name, self.from_pipe = reader.name, reader.from_pipe
        self.metadata = metadata
        self.stream_source = stream_source
        self.image_names = reader.image_names
        self._reader = reader
        self._turns = turns

    @property
    def warnings(self) -> list[str]:
        """Those of the reader itself."""
        return self._reader.warnings

    def close(self) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._reader:
            frame.rgb = np.ascontiguousarray(np.rot90(frame.rgb, self._turns))
            yield frame


def without_streams(reader: FrameReader) -> AdaptedReader:
    """The reader's picture alone, without sound, subtitles and whatever else its file holds."""
    return AdaptedReader(reader, reader.metadata, None)
