"""What 4:2:0 sampling and H.264 make of frames: coded and decoded again, in memory, by libx264."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.color import PixelLayout, planes_to_rgb, rgb_to_planes
from stbn_cli.video.pixels import join_planes, split_planes

LAYOUT = PixelLayout("yuv", 8, 2, 2)
MATRIX = "bt601"
RATE = 25
SMALLEST_CRF, LARGEST_CRF = 21.0, 36.0
# So much noise (0-255 scale) raises the smallest CRF by one: who codes strong noise finely needs 20 Mbit/s for 960x540.
SIGMA_PER_CRF = 5.0
HIGHEST_RAISE = 6.0
PRESETS = ("ultrafast", "veryfast", "medium", "medium")


@dataclass(frozen=True, slots=True)
class H264:
    """Settings of libx264: constant quality, or, where `bitrate` (bits per second at 25 fps) is given, that.

    `hevc`: the same of libx265.
    """

    crf: float = 28.0
    preset: str = "medium"
    bitrate: int | None = None
    hevc: bool = False

    def code(self, frames: Tensor) -> tuple[Tensor, int]:
        """`frames (T, 3, H, W)`, nominal [0, 1], after coding and decoding, and the bytes it took.

        Height and width must be even.
        """
        encoder = av.CodecContext.create("libx265" if self.hevc else "libx264", "w")
        self._set_up(encoder, frames)
        decoder = av.CodecContext.create("hevc" if self.hevc else "h264", "r")
        decoder.thread_count = 1
        pictures, size = [], 0
        packets = []
        for picture in _pictures(frames):
            packets += encoder.encode(picture)
        for packet in [*packets, None]:
            size += 0 if packet is None else packet.size
            pictures += decoder.decode(packet)
        pictures.sort(key=lambda picture: picture.pts)
        assert len(pictures) == len(frames)
        return _frames([split_planes(picture, LAYOUT) for picture in pictures]), size

    def write(self, frames: Tensor, path: Path) -> None:
        """The same as a file, in the container that the suffix of `path` names."""
        with av.open(path, "w") as container:
            stream = container.add_stream("libx265" if self.hevc else "libx264", rate=RATE)
            self._set_up(stream.codec_context, frames)
            for picture in _pictures(frames):
                container.mux(stream.encode(picture))

    def _set_up(self, encoder: Any, frames: Tensor) -> None:
        options = {"preset": self.preset, "threads": "1"}
        if self.hevc:
            # x265's cutree writes beyond its buffers in narrow pictures (see `video.encoders`).
            options["x265-params"] = "log-level=none:pools=none:frame-threads=1:no-wpp=1:no-cutree=1"
        if self.bitrate is None:
            options["crf"] = f"{self.crf:g}"
        else:
            encoder.bit_rate = self.bitrate
            # Kept to within a second: the average of a short clip would be far above.
            options |= {"maxrate": str(self.bitrate), "bufsize": str(self.bitrate)}
        encoder.height, encoder.width = frames.shape[-2:]
        encoder.pix_fmt = "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, RATE), Fraction(RATE)
        encoder.options = options


def sampled(frames: Tensor) -> Tensor:
    """`frames (T, 3, H, W)`, nominal [0, 1], after 8-bit 4:2:0 sampling alone."""
    return _frames(_planes(frames))


def draw_coder(random: np.random.Generator, sigma: float) -> H264:
    """Random settings for frames with noise of `sigma` ([0, 1] scale): about 1 to 10 Mbit/s for 960x540 at 25 fps."""
    raised = min(BYTE_SCALE * sigma / SIGMA_PER_CRF, HIGHEST_RAISE)
    crf = float(random.uniform(SMALLEST_CRF + raised, LARGEST_CRF))
    return H264(crf, PRESETS[int(random.integers(len(PRESETS)))])


def _pictures(frames: Tensor) -> Iterator[av.VideoFrame | None]:
    """`frames` with their times, and None, as encoders take them."""
    for index, planes in enumerate(_planes(frames)):
        picture = join_planes(planes, LAYOUT)
        picture.pts, picture.time_base = index, Fraction(1, RATE)
        yield picture
    yield None


def _planes(frames: Tensor) -> list[list[np.ndarray]]:
    pictures = frames.permute(0, 2, 3, 1).contiguous().float().cpu().numpy()
    return [rgb_to_planes(picture, LAYOUT, MATRIX, full_range=False) for picture in pictures]


def _frames(planes: list[list[np.ndarray]]) -> Tensor:
    pictures = [planes_to_rgb(picture, LAYOUT, MATRIX, full_range=False) for picture in planes]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
