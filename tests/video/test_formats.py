"""Suffixes and the order of names mean the same to every command."""

import pytest

from stbn_cli.bench.clips import find_clips
from stbn_cli.cli.batch import Naming, plan_batch
from stbn_cli.training.footage import load_footage
from stbn_cli.video.formats import WRITABLE_SUFFIXES
from stbn_cli.video.names import natural_key


@pytest.mark.parametrize("suffix", [".m2ts", ".flv"])
def test_a_video_is_one_to_denoise_bench_and_train(suffix, make_clip) -> None:
    clip = make_clip(name=f"clip{suffix}", frames=3)
    assert [item.source for item in plan_batch([str(clip.parent)], Naming(), WRITABLE_SUFFIXES).items] == [
        str(clip)
    ]
    assert [found.path for found in find_clips([clip.parent])] == [clip]
    assert load_footage([clip.parent], minimum_frames=1).unreadable == []


def test_names_are_ordered_by_their_numbers() -> None:
    ordered = ["1", "01", "2.png", "10", "a", "a2", "a²", "a10²3", "b/a1", "²"]
    assert sorted(sorted(ordered), key=natural_key) == [
        "01",
        "1",
        "2.png",
        "10",
        "a",
        "a2",
        "a10²3",
        "a²",
        "²",
        "b/a1",
    ]
