"""Clean clips to measure on: where they are, and their frames. Knows nothing of noise or methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stbn_cli.errors import InputError
from stbn_cli.raw.crvd import find_crvd_clips
from stbn_cli.raw.files import refuse_raw_pictures
from stbn_cli.source import Source
from stbn_cli.video.formats import VIDEO_SUFFIXES
from stbn_cli.video.frames import FrameReader
from stbn_cli.video.images import ImageReader, is_image_source
from stbn_cli.video.names import natural_key

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Clip:
    """A clean clip by name; its frames are read when they are needed."""

    name: str
    path: Path  # whatever `open_video` reads


def bundled_clip() -> Clip:
    """The small clip that comes with stbn: 24 frames of 320x208."""
    installed = _PACKAGE / "demo.mp4"
    path = installed if installed.exists() else _PACKAGE.parents[1] / "docs" / "demo" / "clean.mp4"
    return Clip("demo", path)


def find_clips(paths: Sequence[Path]) -> list[Clip]:
    """The clips that the user names: videos, folders or patterns of images, or folders of such clips.

    Names are made unique. Raises `InputError` for a path that holds none.
    """
    found = [clip for path in paths for clip in _clips_of(path)]
    names: dict[str, int] = {}
    unique = []
    for clip in found:
        names[clip.name] = names.get(clip.name, 0) + 1
        repeated = names[clip.name] > 1
        unique.append(Clip(f"{clip.name}-{names[clip.name]}", clip.path) if repeated else clip)
    return unique


def is_clip(path: Path) -> bool:
    """Whether `path` is one clip: a video by its suffix, or images."""
    return (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES) or is_image_source(path)


def _clips_of(path: Path) -> list[Clip]:
    if not path.is_dir() or is_image_source(path):
        return [Clip(path.stem if path.is_file() else path.resolve().name, path)]
    children = sorted(path.iterdir(), key=natural_key)
    clips = [
        Clip(child.stem if child.is_file() else child.name, child) for child in children if is_clip(child)
    ]
    if not clips:
        refuse_raw_pictures(path)
        if find_crvd_clips(path):
            raise InputError(
                f"{path} is of CRVD, which has its noise already. Measure on it by stbn bench crvd --data {path}"
            )
        raise InputError(
            f"{path} holds neither images nor clips. Name a video, or a folder of frames or clips."
        )
    return clips


def load_clean(clip: Clip, maximum_frames: int) -> Tensor:
    """The first frames `(T, 3, H, W)` float32 on [0, 1], as many as there are up to `maximum_frames`.

    Rounded to whole numbers of 255 (8-bit clips) or 65535, as PNG files of the frames would hold them: the published
    protocol reads those. Raises `InputError` where nothing can be read.
    """
    with _open(clip.path) as reader:
        maximum = 255.0 if reader.metadata.bit_depth == 8 else 65535.0
        frames = [np.rint(np.clip(frame.rgb, 0.0, 1.0) * maximum) for frame in islice(reader, maximum_frames)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().div(maximum)


def _open(path: Path) -> FrameReader:
    refuse_raw_pictures(path)
    if is_image_source(path):
        return ImageReader(path)
    return Source(path).open()
