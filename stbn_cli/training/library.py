"""Clean footage for training, decoded once into memory as uint8 RGB.

Read with OpenCV, so that a training machine needs no PyAV. Knows nothing of noise, motion or crops.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from stbn_cli.errors import InputError

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".y4m"})
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, slots=True)
class Library:
    """Clips `(T, H, W, 3)` and still photographs `(H, W, 3)`, uint8 RGB, with the names they came from."""

    clips: list[np.ndarray] = field(default_factory=list)
    clip_names: list[str] = field(default_factory=list)
    stills: list[np.ndarray] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Number of frames in all clips together."""
        return sum(len(clip) for clip in self.clips)


def load_library(
    clip_folders: Sequence[Path],
    still_folders: Sequence[Path] = (),
    *,
    leave_out: Iterable[str] = (),
    only: Iterable[str] | None = None,
    minimum_frames: int = 2,
    maximum_frames: int | None = None,
) -> Library:
    """Load every video and every folder of frames below `clip_folders`, and every picture in `still_folders`.

    `leave_out` and `only` select clips by name (file or folder name, with or without suffix). Clips shorter than
    `minimum_frames` are left out; longer ones are cut at `maximum_frames`. Raises `InputError` if a folder is missing
    or nothing at all is found.
    """
    library = Library()
    excluded, wanted = set(leave_out), None if only is None else set(only)
    for folder in (*clip_folders, *still_folders):
        if not folder.is_dir():
            raise InputError(f"The training folder {str(folder)!r} does not exist. Check the path.")
    for folder in clip_folders:
        for source in sorted(folder.iterdir(), key=_natural_order):
            names = {source.name, source.stem}
            if names & excluded or (wanted is not None and not names & wanted):
                continue
            clip = _read_clip(source, maximum_frames)
            if clip is not None and len(clip) >= minimum_frames:
                library.clips.append(clip)
                library.clip_names.append(source.name)
    for folder in still_folders:
        for source in sorted(folder.iterdir(), key=_natural_order):
            picture = _read_picture(source) if source.suffix.lower() in PICTURE_SUFFIXES else None
            if picture is not None:
                library.stills.append(picture)
    if not library.clips and not library.stills:
        folders = ", ".join(repr(str(folder)) for folder in (*clip_folders, *still_folders))
        raise InputError(
            f"No clip or picture was found in {folders}. Give folders of videos, frames or photos."
        )
    return library


def load_clip(source: Path, maximum_frames: int | None = None) -> np.ndarray:
    """Frames `(T, H, W, 3)` uint8 RGB of one video file or folder of frames, at most `maximum_frames`.

    Raises `InputError` if there is none.
    """
    clip = _read_clip(source, maximum_frames)
    if clip is None:
        raise InputError(
            f"No frame could be read from {str(source)!r}. Give a video file or a folder of frames."
        )
    return clip


def _natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _read_clip(source: Path, maximum_frames: int | None) -> np.ndarray | None:
    if source.is_dir():
        pictures = sorted(
            (file for file in source.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES), key=_natural_order
        )
        frames = [_read_picture(file) for file in pictures[:maximum_frames]]
        found = [frame for frame in frames if frame is not None]
        return np.stack(found) if found and all(f.shape == found[0].shape for f in found) else None
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _read_video(source, maximum_frames)
    return None


def _read_video(source: Path, maximum_frames: int | None) -> np.ndarray | None:
    capture = cv2.VideoCapture(str(source))
    frames: list[np.ndarray] = []
    try:
        while maximum_frames is None or len(frames) < maximum_frames:
            found, frame = capture.read()
            if not found:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    return np.stack(frames) if frames else None


def _read_picture(source: Path) -> np.ndarray | None:
    picture = cv2.imread(str(source), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
