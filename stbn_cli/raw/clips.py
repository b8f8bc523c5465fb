"""Folders of mosaics as clips of packed planes: CRVD as it ships, DNG, and 16-bit TIFF or PNG mosaics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stbn_cli.errors import InputError
from stbn_cli.raw.bayer import pack
from stbn_cli.raw.crvd import find_crvd_clips
from stbn_cli.raw.pattern import BayerFormat, BayerOptions
from stbn_cli.raw.reader import RawReader
from stbn_cli.video.formats import RAW_SUFFIXES
from stbn_cli.video.names import natural_key

MOSAIC_SUFFIXES = (".tif", ".tiff", ".png")


@dataclass(frozen=True, slots=True)
class RawClip:
    """The files of a clip in the order of time. `names`: what it is selected by, its own name among them."""

    name: str
    names: frozenset[str]
    files: tuple[Path, ...]


def find_raw_clips(folder: Path) -> list[RawClip]:
    """The clips of CRVD in and below `folder`; else the folder itself if it holds mosaics, else its folders that do."""
    if found := find_crvd_clips(folder):
        return [RawClip(clip.name, clip.names, tuple(clip.frames.values())) for clip in found]
    if files := _mosaics(folder):
        return [_clip(folder, files)]
    children = sorted((child for child in folder.iterdir() if child.is_dir()), key=natural_key)
    return [_clip(child, files) for child in children if (files := _mosaics(child))]


def read_planes(files: Sequence[Path], bayer: BayerFormat, *, clamp: bool) -> np.ndarray | None:
    """Planes `(T, 4, h, w)` float32 as `pack` makes them; None if a file is no mosaic, or of another size.

    `bayer` is for pictures alone: each DNG says itself how it is to be read.
    """
    if files and _is_dng(files[0]):
        return _read_dng(files, clamp)
    packed = []
    for file in files:
        mosaic = read_mosaic(file)
        if mosaic is None or min(mosaic.shape) < 2:
            return None
        packed.append(pack(mosaic, bayer, clamp=clamp))
        if packed[-1].shape != packed[0].shape:
            return None
    return np.stack(packed) if packed else None


def read_mosaic(file: Path) -> np.ndarray | None:
    """A picture with one channel `(H, W)` in its own depth; None for anything else."""
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    return picture if picture is not None and picture.ndim == 2 else None


def _read_dng(files: Sequence[Path], clamp: bool) -> np.ndarray | None:
    try:
        frames = [frame.rgb for frame in RawReader(files[0].parent, files, BayerOptions())]
    except InputError:
        return None
    planes = np.ascontiguousarray(np.moveaxis(np.stack(frames), -1, 1))
    return np.maximum(planes, 0.0, out=planes) if clamp else planes


def _is_dng(file: Path) -> bool:
    return file.suffix.lower() in RAW_SUFFIXES


def _clip(folder: Path, files: tuple[Path, ...]) -> RawClip:
    name = folder.resolve().name
    return RawClip(name, frozenset({name}), files)


def _mosaics(folder: Path) -> tuple[Path, ...]:
    """The DNG files of a folder, else its pictures: those beside DNG are renderings of them."""
    files = [file for file in sorted(folder.iterdir(), key=natural_key) if not file.name.startswith(".")]
    raw = tuple(file for file in files if _is_dng(file))
    return raw or tuple(file for file in files if file.suffix.lower() in MOSAIC_SUFFIXES)
