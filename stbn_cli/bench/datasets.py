"""The data sets of the published numbers: their sequences, and where to find them on this machine."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stbn_cli.bench.clips import Clip, is_clip
from stbn_cli.errors import InputError

# How far below the given folder sequences are looked for: DAVIS/JPEGImages/480p/<sequence>.
DEPTH = 4


@dataclass(frozen=True, slots=True)
class Dataset:
    """A set of named sequences."""

    name: str
    title: str
    sequences: tuple[str, ...]
    where: str  # a sentence on where to get it
    decorated: bool = False  # copies in use have names such as 0_hypersmooth, tractor_540p, touchdown_pass


DATASETS = {
    "set8": Dataset(
        name="set8",
        title="Set8",
        sequences=(
            *("tractor", "touchdown", "park_joy", "sunflower"),
            *("hypersmooth", "motorbike", "rafting", "snowboard"),
        ),
        where="Set8 is linked under 'Testsets' in the README of https://github.com/m-tassano/fastdvdnet: one folder "
        "of 960x540 PNG frames for each sequence.",
        decorated=True,
    ),
    "davis": Dataset(
        name="davis",
        title="DAVIS 2017 test-dev",
        sequences=(
            *("aerobatics", "car-race", "carousel", "cats-car", "chamaleon", "deer", "giant-slalom"),
            *("girl-dog", "golf", "guitar-violin", "gym", "helicopter", "horsejump-stick", "hoverboard"),
            *("lock", "man-bike", "monkeys-trees", "mtb-race", "orchid", "people-sunset", "planes-crossing"),
            *("rollercoaster", "salsa", "seasnake", "skate-jump", "slackline", "subway", "tandem"),
            *("tennis-vest", "tractor"),
        ),
        where="DAVIS is at https://davischallenge.org/davis2017/code.html: 'Test-Dev 2017', images at 480p.",
    ),
}


def find_sequences(dataset: Dataset, folder: Path | None) -> tuple[list[Clip], list[str]]:
    """The sequences of `dataset` below `folder`, in the data set's order, and the names of those that are missing.

    A sequence is a folder of images or a video called like it. Raises `InputError`, with where to get the data, if
    none is there.
    """
    if folder is None:
        raise InputError(
            f"The folder of {dataset.title} is not known: give it by --data DIR, or set STBN_DATA. {dataset.where}"
        )
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {folder}. Give --data the folder of {dataset.title}. {dataset.where}"
        )
    here: dict[str, Path] = {}
    for path in _candidates(folder):
        here.setdefault(_key(path.stem if path.is_file() else path.name), path)
    found = {name: _look_up(here, name, dataset.decorated) for name in dataset.sequences}
    clips = [Clip(name, path) for name, path in found.items() if path]
    missing = [name for name, path in found.items() if path is None]
    if not clips:
        raise InputError(f"{folder} holds no sequence of {dataset.title}. {dataset.where}")
    return clips, missing


def _look_up(here: dict[str, Path], name: str, decorated: bool) -> Path | None:
    """The sequence called `name`; if `decorated`, else the first with a number before or more words after it."""
    if path := here.get(_key(name)):
        return path
    pattern = re.compile(rf"(\d+_)?{re.escape(_key(name))}(_.*)?")
    return next((here[key] for key in sorted(here) if pattern.fullmatch(key)), None) if decorated else None


def _key(name: str) -> str:
    """Names as they are compared: park-joy is park_joy."""
    return name.lower().replace("-", "_")


def _candidates(folder: Path) -> Iterator[Path]:
    """Everything below `folder` that may be a sequence; 480p before other sizes, no segmentation masks."""
    for root, folders, files in os.walk(folder):
        # The DAVIS archive holds masks under the same names, and perhaps the frames at full resolution too.
        folders[:] = sorted(
            (name for name in folders if not name.startswith((".", "Annotations"))), key=_not_480p
        )
        if len(Path(root).relative_to(folder).parts) >= DEPTH:
            folders.clear()
        for name in [*folders, *sorted(files)]:
            path = Path(root) / name
            if is_clip(path):
                yield path


def _not_480p(name: str) -> tuple[bool, str]:
    return name != "480p", name
