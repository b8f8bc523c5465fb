"""Clean footage for training, decoded once and kept in memory: uint8 RGB, or packed raw.

Read with OpenCV, so that a training machine needs no PyAV. Knows nothing of noise, motion or crops.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.devices import free_on
from stbn_cli.errors import InputError
from stbn_cli.inference.cuts import CutDetector, scenes_of
from stbn_cli.machine import available_cores
from stbn_cli.raw.clips import RawClip, find_raw_clips, read_planes
from stbn_cli.raw.pattern import BayerFormat
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.video.formats import TRAINING_IMAGE_SUFFIXES, VIDEO_SUFFIXES
from stbn_cli.video.names import natural_key

# Photographs are also kept at half size if that leaves this many pixels a side: sharper, free of JPEG's traces.
SMALLEST_HALF = 300
# Share of a device's free memory that footage may take; the rest belongs to the network's activations.
MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Footage:
    """Clips and photographs with the names that they came from, one entry for each scene of a clip.

    clips: `(T, C, H, W)` each, uint8 RGB or float16 packed raw: four planes, black 0 and white 1. Half the memory of
    float32, and what it rounds away is far below the noise of any sensor.
    stills: `(3, H, W)` uint8 RGB each.
    """

    clips: list[Tensor] = field(default_factory=list)
    clip_names: list[str] = field(default_factory=list)
    stills: list[Tensor] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # names of files that should have been footage

    @property
    def frames(self) -> int:
        """Number of frames in all clips together."""
        return sum(len(clip) for clip in self.clips)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.clips, *self.stills))

    def to(self, device: torch.device | str) -> "Footage":
        """The same footage in the device's memory if it fits there, else as it is (its crops travel then)."""
        device = torch.device(device)
        free = free_on(device)
        if free is None or self.size > MEMORY_SHARE * free:
            return self
        return replace(
            self,
            clips=[clip.to(device) for clip in self.clips],
            stills=[still.to(device) for still in self.stills],
        )


def load_footage(
    clip_folders: Sequence[Path],
    still_folders: Sequence[Path] = (),
    *,
    leave_out: Iterable[str] = (),
    only: Iterable[str] | None = None,
    minimum_frames: int = 2,
    maximum_frames: int | None = None,
    bayer: BayerFormat | None = None,
    clamp: bool = False,
) -> Footage:
    """Load every video and every folder of frames in `clip_folders`, and every picture in `still_folders`.

    A folder that holds pictures itself is one clip. `leave_out` and `only` select clips by name (file or folder name,
    with or without suffix). Clips are split where a new scene begins; pieces shorter than `minimum_frames` are left
    out; clips are read up to `maximum_frames`. With `bayer`, the clips are mosaics as `find_raw_clips` has them, packed
    with or without `clamp`, each one scene.

    What cannot be read is left out and named in `unreadable`. Raises `InputError` if a folder is missing or nothing at
    all is found.
    """
    for folder in (*clip_folders, *still_folders):
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise InputError(f"The training folder {str(folder)!r} {problem}. Check the path.")
    excluded, wanted = set(leave_out), None if only is None else set(only)
    sources = [
        source
        for folder in clip_folders
        for source in _sources_in(folder, bayer is not None)
        if not source.names & excluded and (wanted is None or source.names & wanted)
    ]
    pictures = [
        source
        for folder in still_folders
        for source in sorted(folder.iterdir(), key=natural_key)
        if source.suffix.lower() in TRAINING_IMAGE_SUFFIXES
    ]
    found = {name for source in sources for name in source.names}
    for name in sorted((wanted or set()) - found):
        raise InputError(f"There is no clip called {name!r} in the training folders. Check --hold-out.")
    footage = Footage()
    with ThreadPoolExecutor(min(available_cores(), 16)) as threads:
        if bayer is None:
            clips = threads.map(lambda source: _scenes_of(source.files[0], maximum_frames), sources)
        else:
            read = partial(_planes_of, maximum_frames=maximum_frames, bayer=bayer, clamp=clamp)
            clips = threads.map(lambda source: read(source.files), sources)
        for source, scenes in zip(sources, clips, strict=True):
            if not scenes and (bayer is not None or source.files[0].suffix.lower() in VIDEO_SUFFIXES):
                footage.unreadable.append(source.name)
            for scene in scenes:
                if len(scene) >= minimum_frames:
                    footage.clips.append(scene)
                    footage.clip_names.append(source.name)
        for source, picture in zip(pictures, threads.map(_read_picture, pictures), strict=True):
            if picture is None:
                footage.unreadable.append(source.name)
            else:
                footage.stills.extend(_still_sizes(torch.from_numpy(picture)))
    if not footage.clips and not footage.stills:
        folders = ", ".join(repr(str(folder)) for folder in (*clip_folders, *still_folders))
        raise InputError(
            f"No clip or picture was found in {folders}. Give folders of videos, frames or photos."
        )
    return footage


def check_apart(
    training: Sequence[Path], leave_out: Iterable[str], validation: Sequence[Path], *, raw: bool = False
) -> None:
    """Raise `InputError` if a clip of the `validation` folders is trained on too; folders as in `load_footage`."""
    excluded = set(leave_out)
    sources = (source for folder in training if folder.is_dir() for source in _sources_in(folder, raw))
    trained = {source.files[0].resolve() for source in sources if not source.names & excluded}
    for folder in validation:
        for source in _sources_in(folder, raw) if folder.is_dir() else ():
            if source.files[0].resolve() in trained:
                place = folder / source.name if raw else source.files[0]
                raise InputError(
                    f"{place} is in the training folders too, and validation on it would show nothing. "
                    f"Name other clips by --validation-dir, or add --hold-out {source.name}."
                )


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


def _sources_in(folder: Path, raw: bool) -> list[RawClip]:
    """The clips of a folder: the files of mosaics, or the video or folder of frames as the only file."""
    if raw:
        return find_raw_clips(folder)
    return [RawClip(path.name, frozenset({path.name, path.stem}), (path,)) for path in _clip_sources(folder)]


def _clip_sources(folder: Path) -> list[Path]:
    """Video files and folders of frames in a folder, or the folder itself if it holds frames.

    DAVIS is known by its layout: its frames lie in JPEGImages/480p, or JPEGImages/Full-Resolution.
    """
    for below in ("JPEGImages/480p", "480p", "JPEGImages/Full-Resolution", "Full-Resolution"):
        if (below.startswith("JPEG") or folder.name == "JPEGImages") and (folder / below).is_dir():
            return _clip_sources(folder / below)
    entries = sorted(folder.iterdir(), key=natural_key)
    if any(entry.is_file() and entry.suffix.lower() in TRAINING_IMAGE_SUFFIXES for entry in entries):
        return [folder]
    return entries


def _planes_of(
    files: Sequence[Path], maximum_frames: int | None, bayer: BayerFormat, clamp: bool
) -> list[Tensor]:
    """The packed mosaics `(T, 4, h, w)` as the only scene; none if they cannot be read."""
    planes = read_planes(files[:maximum_frames], bayer, clamp=clamp)
    return [] if planes is None else [torch.from_numpy(planes).half()]


def _scenes_of(source: Path, maximum_frames: int | None) -> list[Tensor]:
    """One clip's scenes, `(T, 3, H, W)` each; none if it cannot be read."""
    clip = _read_clip(source, maximum_frames)
    if clip is None:
        return []
    detector = CutDetector()
    scenes = scenes_of(clip, lambda frame: detector.is_cut(frame.astype(np.float32) / BYTE_SCALE))
    return [torch.from_numpy(np.stack([frame.transpose(2, 0, 1) for frame in scene])) for scene in scenes]


def _read_clip(source: Path, maximum_frames: int | None) -> np.ndarray | None:
    if source.is_dir():
        return _read_pictures(source, maximum_frames)
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return _read_video(source, maximum_frames)
    return None


def _read_pictures(folder: Path, maximum_frames: int | None) -> np.ndarray | None:
    files = sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in TRAINING_IMAGE_SUFFIXES),
        key=natural_key,
    )
    found = [frame for frame in map(_read_frame, files[:maximum_frames]) if frame is not None]
    return np.stack(found) if found and all(f.shape == found[0].shape for f in found) else None


def _read_video(source: Path, maximum_frames: int | None) -> np.ndarray | None:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what cannot be read is reported, once
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


def _read_frame(source: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB."""
    picture = cv2.imread(str(source), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _read_picture(source: Path) -> np.ndarray | None:
    """(3, H, W) uint8 RGB."""
    frame = _read_frame(source)
    return None if frame is None else np.ascontiguousarray(frame.transpose(2, 0, 1))


def _still_sizes(still: Tensor) -> list[Tensor]:
    """The photograph, and its half size if that is still large."""
    if min(still.shape[-2:]) < 2 * SMALLEST_HALF:
        return [still]
    half = F.avg_pool2d(still[None].float(), 2)[0].round().to(torch.uint8)
    return [still, half]
