"""CRVD, the data set of noisy raw video (Yue et al., CVPR 2020): which files are which clip. Reads none of them.

As it ships, indoor scenes lie in `indoor_raw_noisy/sceneN/ISO1600/frameK_noisyJ.tiff`: seven frames, each under ten
draws of the noise. Their clean frames lie in `indoor_raw_gt`. Outdoor scenes have none and lie in
`outdoor_raw_noisy/sceneN/iso1600/frameK.tiff`. Scenes may lie one folder deeper, such as in
`indoor_raw_noisy/indoor_raw_noisy_sceneN/sceneN`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stbn_cli.raw.pattern import BayerFormat

CRVD_FORMAT = BayerFormat("GBRG", 240.0, 4095.0)
CRVD_TEST_SCENES = (7, 8, 9, 10, 11)
CRVD_FRAMES = 7  # of an indoor scene

_NOISY = re.compile(r"frame(\d+)_noisy(\d+)\.tiff?", re.IGNORECASE)
_TRUTH = re.compile(r"frame(\d+)_clean_and_slightly_denoised\.tiff?", re.IGNORECASE)
_OUTDOOR = re.compile(r"frame(\d+)\.tiff?", re.IGNORECASE)
_SCENE = re.compile(r"scene(\d+)", re.IGNORECASE)
_ISO = re.compile(r"iso(\d+)", re.IGNORECASE)
_NOISY_FOLDER, _TRUTH_FOLDER = "indoor_raw_noisy", "indoor_raw_gt"


@dataclass(frozen=True, slots=True)
class CrvdClip:
    """One scene at one ISO under one draw of the noise; `frames` by number, in the order of time."""

    scene: int | None  # None: the folders do not say
    iso: int | None
    draw: int | None  # None outdoors, where there is only one
    frames: dict[int, Path]

    @property
    def name(self) -> str:
        """Such as scene7-iso1600-noisy0, or outdoor-scene1-iso1600."""
        return "-".join((*self._place, *(() if self.draw is None else (f"noisy{self.draw}",))))

    @property
    def names(self) -> frozenset[str]:
        """What it is selected by: its name, its scene, its scene at its ISO."""
        place = self._place
        return frozenset({self.name, *("-".join(place[:end]) for end in range(1, len(place) + 1))})

    @property
    def _place(self) -> tuple[str, ...]:
        folder = next(iter(self.frames.values())).parent
        if self.scene is None or self.iso is None:
            return (folder.name,)
        outdoor = ("outdoor",) if self.draw is None else ()
        return (*outdoor, f"scene{self.scene}", f"iso{self.iso}")


def find_crvd_clips(folder: Path) -> list[CrvdClip]:
    """The noisy clips in and below `folder`, indoor ones first; none if it holds nothing of CRVD.

    Each scene, ISO and draw once, also where the data set was unpacked twice.
    """
    found: dict[tuple, CrvdClip] = {}
    for place, names in _folders(folder):
        scene, iso = _scene_and_iso(place)
        draws: dict[int | None, dict[int, Path]] = {}
        for name in names:
            if match := _NOISY.fullmatch(name):
                draws.setdefault(int(match[2]), {})[int(match[1])] = place / name
        if not draws and scene is not None and iso is not None:
            frames = {int(match[1]): place / name for name in names if (match := _OUTDOOR.fullmatch(name))}
            draws = {None: frames} if frames else {}
        for draw, frames in draws.items():
            key = (draw is None, scene, iso, draw, place if scene is None or iso is None else None)
            found.setdefault(key, CrvdClip(scene, iso, draw, dict(sorted(frames.items()))))
    return sorted(found.values(), key=_order)


def find_crvd_truth(folder: Path) -> dict[tuple[int, int], dict[int, Path]]:
    """Clean, slightly denoised frames by number, by scene and ISO: below `folder`, or beside it if it is a noisy part.

    The protocol measures against these.
    """
    found: dict[tuple[int, int], dict[int, Path]] = {}
    for start in (folder, *_beside(folder)):
        for place, names in _folders(start):
            scene, iso = _scene_and_iso(place)
            frames = {int(match[1]): place / name for name in names if (match := _TRUTH.fullmatch(name))}
            if scene is not None and iso is not None and frames:
                found.setdefault((scene, iso), dict(sorted(frames.items())))
    return found


def _order(clip: CrvdClip) -> tuple:
    known = tuple(-1 if number is None else number for number in (clip.scene, clip.iso, clip.draw))
    return clip.draw is None, *known, next(iter(clip.frames.values()))


def _folders(start: Path) -> Iterator[tuple[Path, list[str]]]:
    """`start` and every folder below it with the names of its files, in order; without hidden ones."""
    # Resolved, so that a folder named "." is known by its parents.
    for root, folders, files in os.walk(start.resolve()):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield Path(root), sorted(name for name in files if not name.startswith("."))


def _scene_and_iso(folder: Path) -> tuple[int | None, int | None]:
    """From the last two parts of a path, as in scene7/ISO1600."""
    scene, iso = _SCENE.fullmatch(folder.parent.name), _ISO.fullmatch(folder.name)
    return (int(scene[1]), int(iso[1])) if scene and iso else (None, None)


def _beside(folder: Path) -> list[Path]:
    """Where the clean frames of a part of the noisy ones lie."""
    parts = [folder.resolve(), *folder.resolve().parents]
    noisy = [part for part in parts if part.name.lower().startswith(_NOISY_FOLDER)]
    if not noisy:
        return []
    # Of nested folders indoor_raw_noisy the outermost counts.
    home = noisy[-1].parent
    return sorted(child for child in home.iterdir() if child.name.lower().startswith(_TRUTH_FOLDER))
