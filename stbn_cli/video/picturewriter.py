"""What the writers of videos and of y4m share: from RGB to the code values of their plan, and whole files or none."""

from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np

from stbn_cli.video.color import PixelLayout
from stbn_cli.video.encoders import EncodeOptions, EncoderPlan
from stbn_cli.video.frames import ColorSpec, Frame, VideoMetadata, Warnings
from stbn_cli.video.pixels import describe_format, rgb_to_code_values


class PictureWriter:
    """The base of a `FrameWriter` that encodes by a plan; it knows nothing of containers."""

    def __init__(self, metadata: VideoMetadata, turns: int) -> None:
        """turns: quarter turns, counter-clockwise, of every picture."""
        self._metadata = metadata
        self._turns = turns
        self._notes = Warnings()
        self._finished = False

    def _follow(self, plan: EncoderPlan, options: EncodeOptions) -> None:
        """Convert for `plan` from now on."""
        self._plan = plan
        self._dither = options.dither and self.layout.depth < self._metadata.bit_depth

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user: what the output cannot keep of the source."""
        return self._notes.messages

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._discard()

    @property
    def layout(self) -> PixelLayout:
        """Of the planes that it writes."""
        return describe_format(self._plan.pix_fmt)

    @property
    def color(self) -> ColorSpec:
        """Of what it writes."""
        return self._plan.color

    def write(self, frame: Frame) -> None:
        """Encode one frame. frame.rgb: (H, W, 3) float32 of the source's size; pts must increase.

        Raises OutputError when the encoder or the disk refuses it, BrokenPipeError when nobody reads a pipe any more.
        """
        self.write_planes(self.to_planes(frame.rgb), frame)

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
        """The code values that are encoded for a picture (H, W, 3), in planes of `layout`."""
        turned = np.rot90(rgb, self._turns)
        by_fields = self._metadata.by_fields and not self._turns  # a turned picture has no fields in its rows
        return rgb_to_code_values(turned, self.layout, self.color, dither=self._dither, by_fields=by_fields)

    @property
    def _aspect(self) -> Fraction | None:
        """Width : height of a pixel of the output."""
        aspect = self._metadata.sample_aspect_ratio
        return 1 / aspect if aspect and self._turns % 2 else aspect

    @property
    def _size(self) -> tuple[int, int]:
        """(width, height) of the output."""
        width, height = self._metadata.width, self._metadata.height
        return (height, width) if self._turns % 2 else (width, height)

    def write_planes(self, planes: list[np.ndarray], frame: Frame) -> None:
        """Encode one frame from its code values and the times of `frame`; raises as `write` does."""
        raise NotImplementedError

    def _discard(self) -> None:
        """Close and remove what was written."""
        raise NotImplementedError
