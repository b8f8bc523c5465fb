"""CRVD is known by its names, wherever in it a folder points, and grouped into clips in the order of time."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from stbn_cli.raw.crvd import find_crvd_clips, find_crvd_truth
from tests.raw.crvd import write_crvd


@pytest.mark.parametrize("nested", [False, True])
def test_clips_are_scenes_isos_and_draws(tmp_path: Path, nested: bool) -> None:
    isos = (1600, 25600)
    root = write_crvd(
        tmp_path, scenes=(7, 10), isos=isos, frames=11, draws=2, outdoor=(1,), nested=nested, size=(4, 4)
    )
    clips = find_crvd_clips(root)
    expected = [(scene, iso, draw) for scene in (7, 10) for iso in isos for draw in (0, 1)]
    assert [(c.scene, c.iso, c.draw) for c in clips] == expected + [(1, iso, None) for iso in isos]
    for clip in clips:
        assert list(clip.frames) == list(range(11) if clip.draw is None else range(1, 12)), "10 after 9"
        ending = "" if clip.draw is None else f"_noisy{clip.draw}"
        assert [path.name for path in clip.frames.values()] == [f"frame{n}{ending}.tiff" for n in clip.frames]
    truth = find_crvd_truth(root)
    assert sorted(truth) == [(scene, iso) for scene in (7, 10) for iso in isos]
    assert all("slightly" in path.name for path in truth[7, 1600].values())


@pytest.mark.parametrize("nested", [False, True])
def test_parts_are_known_too_and_find_their_truth(tmp_path: Path, nested: bool, monkeypatch) -> None:
    root = write_crvd(tmp_path, scenes=(7,), outdoor=(2,), nested=nested, size=(4, 4))
    (leaf,) = (root / "indoor_raw_noisy").rglob("ISO1600")
    for part in (root.parent, root, root / "indoor_raw_noisy", leaf.parent, leaf):
        assert find_crvd_clips(part)[0].name == "scene7-iso1600-noisy0"
        assert list(find_crvd_truth(part)) == [(7, 1600)]
    monkeypatch.chdir(leaf)
    assert find_crvd_clips(Path("."))[0].name == "scene7-iso1600-noisy0"
    (outdoor,) = (root / "outdoor_raw_noisy").rglob("iso1600")
    assert [clip.name for clip in find_crvd_clips(outdoor)] == ["outdoor-scene2-iso1600"]


def test_draws_are_told_apart_without_the_folders(tmp_path: Path) -> None:
    root = write_crvd(tmp_path, draws=2, size=(4, 4))
    shutil.copytree(root / "indoor_raw_noisy/scene7/ISO1600", tmp_path / "copy")
    assert [(c.name, len(c.frames)) for c in find_crvd_clips(tmp_path / "copy")] == [
        ("copy-noisy0", 3),
        ("copy-noisy1", 3),
    ]


def test_copies_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    root = write_crvd(tmp_path, size=(4, 4))
    shutil.copytree(root, tmp_path / "again")
    shutil.copytree(root, tmp_path / "__MACOSX")
    for file in list(root.rglob("*.tiff")):
        shutil.copy(file, file.with_name(f"._{file.name}"))
    assert [(c.name, len(c.frames)) for c in find_crvd_clips(tmp_path)] == [("scene7-iso1600-noisy0", 3)]


def test_other_folders_are_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "scene1").mkdir()
    for name in ("frame1.tiff", "frame_noisy.tiff", "notes.txt"):
        np.zeros(1).tofile(tmp_path / "scene1" / name)
    assert not find_crvd_clips(tmp_path)
    assert not find_crvd_truth(tmp_path)
