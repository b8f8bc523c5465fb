"""What the writers of videos and of y4m share: from RGB to the code values of their plan, and whole files or none."""

from fractions import Fraction

import numpy as np

from stbn_cli.video.encoders import EncodeOptions, EncoderPlan
from stbn_cli.video.frames import FrameWriter, VideoMetadata
from stbn_cli.video.pixels import describe_format, rgb_to_code_values


class PictureWriter(FrameWriter):
    """The base of a `FrameWriter` that encodes by a plan; it knows nothing of containers."""

    def __init__(self, metadata: VideoMetadata, turns: int) -> None:
        """turns: quarter turns, counter-clockwise, of every picture."""
        super().__init__()
        self._metadata = metadata
        self._turns = turns

    def _follow(self, plan: EncoderPlan, options: EncodeOptions) -> None:
        """Convert for `plan` from now on."""
        self._plan = plan
        self.layout, self.color = describe_format(plan.pix_fmt), plan.color
        self._dither = options.dither and self.layout.depth < self._metadata.bit_depth

    def to_planes(self, rgb: np.ndarray) -> list[np.ndarray]:
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
