"""Sequences are found wherever an unpacked archive may have put them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from stbn_cli.bench.clips import bundled_clip, find_clips, load_clean
from stbn_cli.bench.datasets import DATASETS, find_sequences
from stbn_cli.errors import InputError


def put_frame(folder: Path, value: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "00000.png"), np.full((24, 32, 3), value, np.uint8))


def test_published_sizes() -> None:
    assert {name: len(dataset.sequences) for name, dataset in DATASETS.items()} == {"set8": 8, "davis": 30}


@pytest.mark.parametrize("root", ["", "Set8", "archive/test/Set8"])
def test_folders_are_found_at_any_depth(tmp_path: Path, root: str) -> None:
    for name in DATASETS["set8"].sequences:
        put_frame(tmp_path / root / name)
    clips, missing = find_sequences(DATASETS["set8"], tmp_path)
    assert tuple(clip.name for clip in clips) == DATASETS["set8"].sequences
    assert not missing


def test_missing_sequences_are_named(tmp_path: Path) -> None:
    put_frame(tmp_path / "Park-Joy")
    (tmp_path / "rafting.mkv").touch()
    clips, missing = find_sequences(DATASETS["set8"], tmp_path)
    assert [clip.name for clip in clips] == ["park_joy", "rafting"]
    assert len(missing) == 6 and "tractor" in missing


def test_set8_is_known_by_the_names_in_use(tmp_path: Path) -> None:
    for name in ("touchdown_pass", "tractor_540p", "0_hypersmooth", "sunflower_old", "sunflower", "snow"):
        put_frame(tmp_path / name)
    clips, missing = find_sequences(DATASETS["set8"], tmp_path)
    assert {clip.name: clip.path.name for clip in clips} == {
        "tractor": "tractor_540p",
        "touchdown": "touchdown_pass",
        "sunflower": "sunflower",
        "hypersmooth": "0_hypersmooth",
    }
    assert "snowboard" in missing


def test_davis_takes_480p_pictures_and_no_masks(tmp_path: Path) -> None:
    for kind in ("Annotations/480p", "JPEGImages/Full-Resolution", "JPEGImages/480p"):
        put_frame(tmp_path / "DAVIS" / kind / "golf")
    clips, _ = find_sequences(DATASETS["davis"], tmp_path)
    assert [clip.path for clip in clips] == [tmp_path / "DAVIS" / "JPEGImages" / "480p" / "golf"]


@pytest.mark.parametrize("folder", [None, "nowhere", "."])
def test_where_to_get_the_data_is_said(tmp_path: Path, folder: str | None) -> None:
    with pytest.raises(InputError, match="https://"):
        find_sequences(DATASETS["set8"], None if folder is None else tmp_path / folder)


def test_clips_of_a_folder_have_unique_names(tmp_path: Path) -> None:
    put_frame(tmp_path / "one" / "street")
    put_frame(tmp_path / "two" / "street")
    (tmp_path / "two" / "notes.txt").touch()
    clips = find_clips([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "street"])
    assert [clip.name for clip in clips] == ["street", "street-2", "street-3"]


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither images nor clips"):
        find_clips([tmp_path])


def test_the_bundled_clip_is_there() -> None:
    clean = load_clean(bundled_clip(), 85)
    assert clean.shape == (24, 3, 208, 320)
    assert np.array_equal(np.rint(clean.numpy() * 255), (clean * 255).numpy())
