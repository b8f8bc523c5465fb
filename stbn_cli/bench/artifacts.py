"""What is kept of the frames while they pass: crops for the report, and frames as PNG files."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from stbn_cli.errors import OutputError
from stbn_cli.report.crops import encode_picture, strongest_part
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.images import write_picture

CROP_SIDE = 256  # pixels
# A crop is 50 to 200 kB of page, one for each method: noise does not compress.
MOST_CROP_SETS = 12
CLEAN = "clean"


@dataclass(slots=True)
class CropKeeper:
    """Encoded crops of the middle frame at its most detailed place, for the first clips."""

    sets: dict[tuple[str, float], dict[str, bytes]] = field(
        default_factory=dict
    )  # by clip and sigma, by method
    frame: dict[str, int] = field(default_factory=dict)  # by clip
    _place: dict[str, tuple[slice, slice]] = field(default_factory=dict)
    _clean: dict[str, bytes] = field(default_factory=dict)

    def clip_begins(self, clip: str, clean: Tensor) -> None:
        """Choose the place."""
        self.frame[clip] = len(clean) // 2
        picture = _picture(clean[self.frame[clip]])
        self._place[clip] = detailed_place(picture)
        self._clean[clip] = encode_picture(picture[self._place[clip]])

    def frames_ready(self, clip: str, sigma: float, method: str, frames: Tensor) -> None:
        """Keep the crop of one method."""
        key = (clip, sigma)
        if key not in self.sets:
            if len(self.sets) >= MOST_CROP_SETS:
                return
            self.sets[key] = {CLEAN: self._clean[clip]}
        picture = _picture(frames[self.frame[clip]])
        self.sets[key][method] = encode_picture(picture[self._place[clip]])


def detailed_place(picture: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the crop of a picture `(H, W, 3)` with the strongest gradients on average."""
    grey = picture.mean(axis=2)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return strongest_part(strength, CROP_SIDE)


def save_frames(folder: Path, clip: str, sigma: float, method: str, frames: Tensor) -> None:
    """8-bit PNG files `folder/clip/sigma<level>/<method>/00000.png`. Raises `OutputError`."""
    target = folder / clip / f"sigma{sigma:g}" / method
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {target} cannot be made ({error.strerror}). Name another folder."
        ) from error
    for index, frame in enumerate(frames):
        pixels = np.rint(_picture(frame) * BYTE_SCALE).astype(np.uint8)
        write_picture(target / f"{index:05d}.png", pixels)


def _picture(frame: Tensor) -> np.ndarray:
    """`(3, H, W)` to `(H, W, 3)` float32, clipped to [0, 1]."""
    return np.ascontiguousarray(frame.clamp(0.0, 1.0).permute(1, 2, 0).numpy())
