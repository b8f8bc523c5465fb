"""Footage is read in order, by name, split at cuts, and packed as the camera has it."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.errors import InputError
from stbn_cli.raw.crvd import CRVD_FORMAT
from stbn_cli.training.footage import check_apart, load_clip, load_footage
from tests.raw.crvd import write_crvd
from tests.raw.dngs import DngSpec, write_dng
from tests.training.pictures import photograph


def write_frames(folder: Path, frames) -> None:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"f{index}.png"), frame)


def test_frames_are_read_in_natural_order_and_selected_by_name(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    for index in (1, 2, 10):
        cv2.imwrite(str(tmp_path / "walk" / f"f{index}.png"), np.full((9, 9, 3), index, np.uint8))
    assert load_clip(tmp_path / "walk")[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert load_footage([tmp_path], maximum_frames=2).frames == 2
    assert load_footage([tmp_path / "walk"]).clip_names == ["walk"]
    with pytest.raises(InputError, match="No clip or picture"):
        load_footage([tmp_path], leave_out=["walk"])
    with pytest.raises(InputError, match="does not exist"):
        load_footage([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="No frame could be read"):
        load_clip(tmp_path / "walk" / "f1.txt")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "good", [np.full((9, 9, 3), 5, np.uint8)] * 2)
    (tmp_path / "bad.mp4").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("not footage")
    assert load_footage([tmp_path]).unreadable == ["bad.mp4"]
    with pytest.raises(InputError, match="is not a folder"):
        load_footage([tmp_path / "notes.txt"])


def test_clips_are_split_where_a_scene_ends(tmp_path: Path) -> None:
    scenes = [photograph(120, 160, seed).permute(1, 2, 0).numpy() for seed in (1, 2)]
    write_frames(tmp_path / "clip", [scenes[0]] * 5 + [scenes[1]] * 4)
    footage = load_footage([tmp_path])
    assert [len(clip) for clip in footage.clips] == [5, 4]
    assert footage.clip_names == ["clip", "clip"]
    assert footage.clips[0].shape == (5, 3, 120, 160) and footage.clips[0].dtype == torch.uint8


def test_large_photographs_are_kept_at_two_sizes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.full((640, 700, 3), 99, np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.full((64, 70, 3), 99, np.uint8))
    sizes = [tuple(still.shape[1:]) for still in load_footage([], [tmp_path]).stills]
    assert sizes == [(640, 700), (320, 350), (64, 70)]


def test_mosaics_become_four_planes_on_zero_to_one(tmp_path: Path) -> None:
    cell = np.array([[140, 4095], [1203, 2167]], np.uint16)  # G B / R G
    mosaic = np.tile(cell, (8, 10))
    write_frames(tmp_path / "scene", [mosaic, mosaic])
    for clamp, green in ((True, 0.0), (False, -100 / 3855)):
        footage = load_footage([tmp_path], bayer=CRVD_FORMAT, clamp=clamp)
        assert footage.clips[0].shape == (2, 4, 8, 10)
        expected = torch.tensor([963 / 3855, 1927 / 3855, green, 1.0])
        torch.testing.assert_close(footage.clips[0][1, :, 3, 3].float(), expected, rtol=1e-3, atol=1e-6)


def test_crvd_is_read_one_clip_for_each_draw(tmp_path: Path) -> None:
    root = write_crvd(tmp_path, scenes=(7, 8), isos=(1600,), frames=3, draws=2, outdoor=(1,))
    for folder in (root, root / "indoor_raw_noisy", root / "indoor_raw_noisy" / "scene7" / "ISO1600"):
        footage = load_footage([folder], bayer=CRVD_FORMAT)
        assert {"scene7-iso1600-noisy0", "scene7-iso1600-noisy1"} <= set(footage.clip_names)
    footage = load_footage([root], bayer=CRVD_FORMAT, leave_out=["scene8"])
    assert footage.clip_names == ["scene7-iso1600-noisy0", "scene7-iso1600-noisy1", "outdoor-scene1-iso1600"]
    assert [len(clip) for clip in footage.clips] == [3, 3, 3]
    held = load_footage([root], bayer=CRVD_FORMAT, only=["scene8"])
    assert held.clip_names == ["scene8-iso1600-noisy0", "scene8-iso1600-noisy1"]
    check_apart([root], ["scene8"], [root / "indoor_raw_noisy" / "scene8"], raw=True)
    with pytest.raises(InputError, match="scene7-iso1600-noisy0"):
        check_apart([root], ["scene8"], [root / "indoor_raw_noisy" / "scene7"], raw=True)


def test_dng_is_read_as_its_tags_say(tmp_path: Path) -> None:
    levels = ((50714, 3, 1, 64, True), (50717, 3, 1, 1023, True))
    for name, pattern in (("one", "GBRG"), ("two", "RGGB")):
        (tmp_path / name).mkdir()
        spec = DngSpec(pattern=pattern, size=(16, 24), bits=10, tags=levels)
        for index in range(2):
            codes = np.full(spec.size, 500, np.uint16)
            row, column = divmod(pattern.index("R"), 2)
            codes[row::2, column::2] = 32 if index else 1023
            write_dng(tmp_path / name / f"{index}.dng", spec, codes)
        (tmp_path / name / "0.png").touch()  # a rendering
    for clamp, dark in ((True, 0.0), (False, -32 / 959)):
        footage = load_footage([tmp_path], bayer=CRVD_FORMAT, clamp=clamp)
        assert footage.clip_names == ["one", "two"]
        for clip in footage.clips:
            assert clip.shape == (2, 4, 8, 12)
            for frame, red in zip(clip.float(), (1.0, dark), strict=True):
                expected = torch.tensor([red, 436 / 959, 436 / 959, 436 / 959]).view(4, 1, 1).expand(4, 8, 12)
                torch.testing.assert_close(frame, expected, rtol=1e-3, atol=1e-4)
    write_dng(tmp_path / "two" / "2.dng", DngSpec(size=(18, 24)))
    damaged = tmp_path / "one" / "0.dng"
    damaged.write_bytes(damaged.read_bytes()[:300])
    (tmp_path / "three").mkdir()
    shutil.copy(tmp_path / "one" / "1.dng", tmp_path / "three")
    footage = load_footage([tmp_path], bayer=CRVD_FORMAT, minimum_frames=1)
    assert footage.unreadable == ["one", "two"] and footage.clip_names == ["three"]
