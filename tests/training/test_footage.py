"""Footage is read in order, by name, split at cuts, and packed as the camera has it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.errors import InputError
from stbn_cli.training.footage import load_clip, load_footage, pack_bayer, pseudo_rgb
from stbn_cli.training.options import BayerFormat
from tests.training.pictures import photograph

BAYER = BayerFormat("GBRG", 240, 4095)


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
    cell = np.array([[240, 4095], [1203, 2167]], np.uint16)  # G B / R G
    mosaic = np.tile(cell, (8, 10))
    write_frames(tmp_path / "scene", [mosaic, mosaic])
    footage = load_footage([tmp_path], bayer=BAYER)
    assert footage.clips[0].shape == (2, 4, 8, 10)
    expected = torch.tensor([0.0, 1.0, 963 / 3855, 1927 / 3855])
    torch.testing.assert_close(footage.clips[0][1, :, 3, 3], expected)
    red, green, blue = pseudo_rgb(footage.clips[0], BAYER)[0, :, 0, 0].tolist()
    assert red == pytest.approx(963 / 3855) and blue == 1.0
    assert green == pytest.approx(1927 / 3855 / 2)
    assert pack_bayer(np.zeros((5, 7)), BAYER).shape == (4, 2, 3)
