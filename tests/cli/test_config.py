"""stbn.toml: what is read, what goes first, and what is refused; tiers of quality; the last name as output."""

import json
from pathlib import Path

import pytest

from stbn_cli.cli import completion
from stbn_cli.cli.batch import Naming, plan_batch
from stbn_cli.cli.config import find_config
from stbn_cli.errors import OptionError
from tests.cli.test_errors import assert_refused

FILE = """
[denoise]
sigma = 20
crf = 14
strength = 0.5
dither = false
overwrite = true

[preview]
crf = 20

[presets.archive]
codec = "ffv1"
keep-grain = 10
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a config file; the user's config folder is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("stbn.toml").write_text(FILE)
    return tmp_path


def plan(stbn, clip: Path, model: Path, *arguments: str) -> dict:
    result = stbn("denoise", clip, "-m", model, "--dry-run", "--json", "-q", *arguments)
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_what_is_typed_goes_first_then_the_preset_then_the_table(
    stbn, folder, make_clip, tiny_model_path
) -> None:
    clip = make_clip()
    table = plan(stbn, clip, tiny_model_path)
    assert (table["sigma"], table["strength"], table["keep_grain"]) == (20, 0.5, 0)
    assert table["encoding"]["options"]["crf"] == "14" and table["config"] == "stbn.toml"
    preset = plan(stbn, clip, tiny_model_path, "--use-preset", "archive", "--strength", "0.75")
    assert (preset["sigma"], preset["strength"], preset["keep_grain"]) == (20, 0.75, 0.1)
    assert preset["encoding"]["encoder"] == "ffv1"  # and the table's crf, which ffv1 does not have, is gone
    shown = stbn("denoise", clip, "-m", tiny_model_path, "--dry-run")
    assert "config file" in shown.out and "stbn.toml" in shown.out


def test_preview_takes_what_it_shares(stbn, folder, make_clip, tiny_model_path) -> None:
    clip = make_clip(width=64, height=48)
    result = stbn("preview", clip, "-m", tiny_model_path, "--json", "-q")
    assert result.code == 0, result.err
    full = json.loads(result.out)["full_run"]
    assert (full["sigma"], full["strength"], full["encoding"]["options"]["crf"]) == (20, 0.5, "20")
    # [denoise] overwrite is not for the preview's own picture.
    assert stbn("preview", clip, "-m", tiny_model_path, "-q").code == 6


def test_places_of_the_file(stbn, folder, make_clip, tiny_model_path) -> None:
    assert find_config(None) == Path("stbn.toml")
    users = folder / "home" / "stbn" / "stbn.toml"
    users.parent.mkdir(parents=True)
    Path("stbn.toml").rename(users)
    assert find_config(None) == users
    assert completion.complete_presets() == ["archive"]
    other = folder / "other.toml"
    other.write_text("[denoise]\nsigma = 33\n")
    found = plan(stbn, make_clip(), tiny_model_path, "--config", "other.toml")
    assert found["sigma"] == 33 and found["config"] == "other.toml"
    users.unlink()
    assert find_config(None) is None and completion.complete_presets() == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[denoise", "cannot be read"),
        ("crf = 3", "'crf' at its top"),
        ("[compare]\ncrf = 3", "'compare' at its top"),
        ("[denoise]\ncrff = 3", "no option 'crff'"),
        ("[denoise]\noutput = 'x.mkv'", "no option 'output'"),
        ("[presets.a]\nnothing = 3", "[presets.a]"),
        ("[denoise]\ndither = 3", "true or false"),
        ("[denoise]\ncrf = true", "a number or a text"),
        ("[denoise]\ncrf = [1, 2]", "a number or a text"),
        ("[denoise]\nsigma = 'loud'", "--sigma"),
        ("[denoise]\nquality = 'superb'", "quality"),
    ],
)
def test_mistakes_are_named(stbn, folder, make_clip, text, word) -> None:
    Path("stbn.toml").write_text(text)
    assert_refused(stbn("denoise", make_clip()), 2, word)


def test_missing_files_and_presets_are_named(stbn, folder, make_clip) -> None:
    clip = make_clip()
    assert_refused(stbn("denoise", clip, "--config", "none.toml"), 2, "none.toml")
    assert_refused(stbn("denoise", clip, "--use-preset", "web"), 2, "'web'", "archive")
    Path("stbn.toml").unlink()
    assert_refused(stbn("denoise", clip, "--use-preset", "web"), 2, "stbn.toml")


def test_quality_decides_what_is_left_open(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(width=64, height=48)
    open_ones = (
        "denoise",
        clip,
        "-s",
        "9",
        "--noise-model",
        "camera",
        "--device",
        "cpu",
        "--dry-run",
        "--json",
    )
    found = {}
    for quality in ("fast", "balanced", "best"):
        document = json.loads(stbn(*open_ones, "--quality", quality).out)
        assert document["quality"] == quality
        found[quality] = (document["model"], document["passes"], document["precision"])
    assert [model for model, *_ in found.values()] == ["real-fast", "real", "real"]
    assert [passes for _, passes, _ in found.values()] == [1, 1, 4] and found["best"][2] == "fp32"
    single = stbn(*open_ones, "--quality", "best", "--passes", "1", "--precision", "bf16")
    assert json.loads(single.out)["passes"] == 1
    assert_refused(stbn(*open_ones, "--passes", "3"), 2, "1, 2 or 4")
    compressed = (
        "denoise",
        clip,
        "-s",
        "9",
        "--noise-model",
        "compressed",
        "--dry-run",
        "--json",
        "--quality",
        "fast",
    )
    assert json.loads(stbn(*compressed).out)["model"] == "real-fast"
    mine = ("-m", str(tiny_model_path), "--precision", "bf16", "--chunk-overlap", "4", "-s", "9")
    document = plan(stbn, clip, tiny_model_path, *mine, "--quality", "best")
    assert (document["model"], document["precision"]) == ("tiny", "bf16")
    assert document["plan"]["chunk_overlap"] == 4 and document["passes"] == 1
    several = stbn("denoise", clip, "-m", tiny_model_path, "-s", "9", "--passes", "4", "--dry-run")
    assert several.code == 0 and "takes one pass" in several.err


def test_the_last_name_is_the_output_if_it_is_new(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()

    def pairs(*names: str, **naming: str) -> list[tuple[str, str]]:
        return [(item.source, item.output) for item in plan_batch(names, Naming(**naming), (".mp4",)).items]

    assert pairs("a.mp4", "new.mkv") == [("a.mp4", "new.mkv")]
    assert pairs("a.mp4", "frames/") == [("a.mp4", "frames/")]
    assert pairs("a.mp4", "f_%03d.png") == [("a.mp4", "f_%03d.png")]
    assert [source for source, _ in pairs("a.mp4", "b.mp4")] == ["a.mp4", "b.mp4"]
    assert len(pairs("a.mp4", "new.mkv", folder="out")) == 2  # it has been said where to write
    with pytest.raises(OptionError, match=r"new.mkv does not exist.*--output-dir"):
        pairs("a.mp4", "b.mp4", "new.mkv")


def test_overwriting_the_second_of_two_names_has_to_be_said(stbn, make_clip, tiny_model_path) -> None:
    first, second = make_clip(name="a.mkv"), make_clip(name="b.mkv")
    before = second.read_bytes()
    assert_refused(stbn("denoise", first, second, "--overwrite"), 2, "--output-dir", f"-o {second}")
    assert second.read_bytes() == before


def test_urls_have_a_sentence_of_their_own(stbn) -> None:
    for command in ("denoise", "analyze", "preview"):
        assert_refused(stbn(command, "https://example.org/a.mp4"), 3, "is a URL")


def test_completion_offers_values() -> None:
    assert "stbn-xs" in [name for name, _ in completion.complete_models()]
    assert "h264_nvenc" in completion.complete_codecs() and "medium" in completion.complete_speeds()
    assert completion.complete_kinds()[:2] == ["auto", "white"]
