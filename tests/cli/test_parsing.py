"""What users type: times, noise levels, counts, default names."""

from pathlib import Path

import pytest

from stbn_cli.cli.parsing import default_output, parse_count, parse_sigma, parse_time
from stbn_cli.errors import OptionError

SUFFIXES = (".mp4", ".mkv", ".png")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("75", 75.0),
        ("75.25", 75.25),
        (".5", 0.5),
        ("1:15", 75.0),
        ("1:15.5", 75.5),
        ("0:01:15.5", 75.5),
        ("2:00:00", 7200.0),
        ("90:00", 5400.0),
        (None, None),
    ],
)
def test_time(text, seconds) -> None:
    assert parse_time(text, "--start") == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:2:3:4", "1:60", "1:60:00", "1:", "inf", "nan"])
def test_no_time(text) -> None:
    with pytest.raises(OptionError, match="--start"):
        parse_time(text, "--start")


def test_sigma_is_auto_or_a_number() -> None:
    assert parse_sigma("auto") is None and parse_sigma("AUTO") is None
    assert parse_sigma("0") == 0.0 and parse_sigma("12.5") == 12.5 and parse_sigma("255") == 255.0


def test_count_has_a_minimum() -> None:
    assert parse_count("auto", "--tile", 0) is None
    assert parse_count("0", "--tile", 0) == 0
    for text in ("0", "1.5", "-1", "many"):
        with pytest.raises(OptionError, match="--chunk"):
            parse_count(text, "--chunk", 1)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a/clip.mp4", "a/clip.denoised.mp4"),
        ("clip.v2.MKV", "clip.v2.denoised.MKV"),
        ("old.avi", "old.denoised.mkv"),
        ("noise", "noise.denoised.mkv"),
    ],
)
def test_default_output_of_a_file(source, output) -> None:
    assert default_output(source, SUFFIXES) == str(Path(output))


def test_default_output_of_images_is_a_folder(tmp_path, monkeypatch) -> None:
    assert default_output(str(tmp_path), SUFFIXES) == f"{tmp_path}.denoised/"
    assert default_output(f"{tmp_path}/%03d.png", SUFFIXES) == f"{tmp_path}.denoised/"
    monkeypatch.chdir(tmp_path)
    assert default_output(".", SUFFIXES) == f"{tmp_path}.denoised/"
    assert default_output("*.png", SUFFIXES) == f"{tmp_path}.denoised/"
