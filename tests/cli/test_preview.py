"""`stbn preview` on small clips with a tiny random model: pictures, videos, predictions, refusals."""

import base64
import json
import re
import sys
import webbrowser
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from stbn_cli.preview.picture import SHEET_WIDTH


def only_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read_picture(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def test_a_picture_and_a_prediction_by_default(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(name="my.clip.mp4", audio="aac", width=64, height=48)
    result = stbn("preview", clip, "--model", tiny_model_path)
    assert result.code == 0, result.err
    picture = clip.with_name("my.clip.preview.png")
    assert only_files(clip.parent) == {clip.name, picture.name}
    assert read_picture(picture).shape[1] == SHEET_WIDTH
    assert result.out == ""
    assert f"{picture}: the frame at 0:00:00.160, noise level" in result.err
    assert re.search(r"Full run: about 8 frames in [\d:]+ \(", result.err) and "MB (.mp4)" in result.err
    assert "Estimated from " in result.err
    assert len(result.err.splitlines()) <= 6


def test_the_picture_shows_the_frame(stbn, tmp_path, tiny_model_path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    result = stbn("preview", folder, "--at", "0.04", "-m", tiny_model_path, "-s", "9", "-q")
    assert (result.code, result.out, result.err) == (0, "", "")
    sheet = read_picture(tmp_path / "frames.preview.png")
    # 15 times as large, which half a sheet and 720 rows have room for; marks and words cover a little of it.
    shown = cv2.resize(frames[1], None, fx=15, fy=15, interpolation=cv2.INTER_NEAREST)
    assert cv2.matchTemplate(sheet, shown, cv2.TM_SQDIFF_NORMED).min() < 0.05
    other = cv2.resize(frames[2], None, fx=15, fy=15, interpolation=cv2.INTER_NEAREST)
    assert cv2.matchTemplate(sheet, other, cv2.TM_SQDIFF_NORMED).min() > 0.2


def test_json_is_one_document_on_stdout(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(name="clip.mp4", frames=10, audio="aac")
    output = clip.with_name("look.jpg")
    arguments = ("--at", "0.2", "-s", "20", "--no-scene-cuts", "--chunk", "4", "--crf", "30", "--json", "-q")
    result = stbn("preview", clip, "-o", output, "-m", tiny_model_path, *arguments)
    assert result.code == 0, result.err
    assert result.err == "" and output.exists()
    document = json.loads(result.out)
    assert document["preview"] == str(output)
    assert document["begin"] == 0.2 and document["frames_shown"] == 1
    assert document["levels"] == [20.0] and document["as_the_full_run"]
    forecast = document["forecast"]
    assert forecast["frames"] == 10 and forecast["measured_frames"] == 8
    assert forecast["seconds"] > 0 and forecast["memory_mib"] >= 0 and forecast["output_bytes"] > 0
    full = document["full_run"]
    assert full["output"] == str(clip.with_name("clip.denoised.mp4"))
    assert full["encoding"]["options"]["crf"] == "30" and full["plan"]["chunk"] == 4


def test_the_predicted_size_is_that_of_the_full_run(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(name="clip.mp4", frames=12, audio="aac", width=64, height=64)
    options = ("-m", tiny_model_path, "-s", "20", "--no-scene-cuts")
    document = json.loads(stbn("preview", clip, *options, "--json").out)
    assert stbn("denoise", clip, *options).code == 0
    true = clip.with_name("clip.denoised.mp4").stat().st_size
    assert document["forecast"]["output_bytes"] == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize(("split", "width"), [((), 128), (("--split",), 64)])
def test_a_video_has_the_sources_times(stbn, make_clip, tiny_model_path, content, split, width) -> None:
    ticks = (0, 30, 60, 200, 210, 300, 340, 400)
    clip = make_clip(ticks=ticks, time_base=Fraction(1, 1000), width=64, height=48, audio="aac")
    output = clip.with_name("look.mkv")
    arguments = ("--at", "0.2", "--duration", "0.3", *split, "-m", tiny_model_path, "-s", "20")
    result = stbn("preview", clip, "-o", output, *arguments)
    assert result.code == 0, result.err
    found = content(output)
    assert found.times == [Fraction(tick - 30, 1000) for tick in (30, 60, 200, 210, 300, 340)]
    assert (found.width, found.height) == (width, 48)
    assert [stream.kind for stream in found.streams] == ["video"]
    assert "6 frames from 0:00:00.030" in result.err
    left = slice(0, width // 2 - (2 if split else 0))  # a line of two pixels in the middle
    first = found.planes[0][0][:, left].astype(float)
    assert np.abs(first - content(clip).planes[1][0][:, left]).mean() < 8  # h264, but not lossless
    assert only_files(clip.parent) == {clip.name, output.name}


def test_rotated_video_is_shown_upright(stbn, make_clip, tiny_model_path, content) -> None:
    clip = make_clip(name="clip.mp4", width=64, height=32, rotation=90)
    output = clip.with_name("look.mp4")
    result = stbn("preview", clip, "-o", output, "-m", tiny_model_path, "-s", "20", "--duration", "0.1")
    assert result.code == 0, result.err
    found = content(output)
    assert (found.width, found.height, found.rotation) == (64, 64, 0)


def test_images(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(frames=5)
    folder = clip.parent / "frames"
    folder.mkdir()
    assert stbn("denoise", clip, "-o", f"{folder}/%03d.png", "-m", tiny_model_path, "-s", "9").code == 0
    for source in (folder, f"{folder}/%03d.png"):
        result = stbn(
            "preview", source, "--fps", "10", "--at", "0.4", "-m", tiny_model_path, "-s", "9", "--overwrite"
        )
        assert result.code == 0, result.err
        assert "the frame at 0:00:00.400" in result.err and "about 5 frames" in result.err
        assert "MB (images)" in result.err
    assert only_files(clip.parent) == {clip.name, "frames", "frames.preview.png"}
    result = stbn("preview", folder / "001.png", "-m", tiny_model_path, "-s", "9", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["forecast"]["frames"] == 1
    assert (folder / "001.preview.png").exists()


def test_a_codec_that_the_sources_container_cannot_hold(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(name="clip.mp4")
    result = stbn("preview", clip, "-m", tiny_model_path, "-s", "9", "--codec", "ffv1", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["full_run"]["output"].endswith("clip.denoised.mkv")


def page_of(path: Path) -> tuple[str, list[list[np.ndarray]]]:
    """The text of a page, and its pictures by moment."""
    text = path.read_text(encoding="utf-8")
    moments = []
    for section in text.split('<section id="picture-')[1:]:
        found = re.findall(r'src="data:image/webp;base64,([^"]+)"', section)
        files = [np.frombuffer(base64.b64decode(data), np.uint8) for data in found]
        moments.append([cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files])
    return text, moments


def test_a_page_shows_several_moments_and_opens(stbn, tmp_path, tiny_model_path, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    folder = tmp_path / "my frames"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    page = tmp_path / "my frames.preview.html"
    result = stbn(
        "preview", folder, "--open", "-m", tiny_model_path, "-s", "9", "--no-scene-cuts", "--chunk", "2"
    )
    assert result.code == 0, result.err
    assert opened == [page.as_uri()]
    assert "3 moments from 0:00:00.040" in result.err and "No browser" not in result.err
    text, moments = page_of(page)
    assert "<h1>my frames, before and after</h1>" in text and "Full run: about 6 frames" in text
    # In the middle of each third, as they are; after is another picture.
    for (before, after), index in zip(moments, (1, 3, 5), strict=True):
        assert np.array_equal(before, frames[index]) and not np.array_equal(after, before)
    again = stbn("preview", folder, "--open", "-m", tiny_model_path, "-s", "9")
    assert again.code == 6 and "--overwrite" in again.err and len(opened) == 1


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these always have a screen")
def test_without_a_screen_the_page_is_named(stbn, make_clip, tiny_model_path, monkeypatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("opened a browser"))
    clip = make_clip(name="clip.mp4", width=32, height=64)
    page = clip.with_name("look.html")
    arguments = ("-o", page, "--at", "0.2,0.1", "-m", tiny_model_path, "-s", "20", "--json")
    result = stbn("preview", clip, "--open", *arguments)
    assert result.code == 0 and json.loads(result.out)["frames_shown"] == 2
    assert f"No browser can be started here. Open {page} in one." in result.err
    _, moments = page_of(page)
    assert [picture.shape for pair in moments for picture in pair] == [(64, 32, 3)] * 4


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--at", "0.1,0.2"], 2, "only a page shows several moments"),
        (["--open", "--at", "0.1,soon"], 2, "--at soon"),
        (["-o", "{folder}/look.html", "--at", "0.1,10"], 2, "ends at 0.320 s"),
        (["--open", "--split"], 2, "--split is for videos"),
        (["-o", "{folder}/none/look.html"], 6, "does not exist"),
        (["--at", "0:10"], 2, "ends at 0.320 s"),
        (["--at", "soon"], 2, "--at soon"),
        (["--duration", "3"], 2, "--duration is for videos"),
        (["--split"], 2, "--split is for videos"),
        (["-o", "{folder}/x.mkv", "--duration", "0"], 2, "--duration 0"),
        (["-o", "{folder}/images/"], 2, "one file"),
        (["-o", "{folder}/x.avi"], 2, ".avi"),
        (["-o", "{folder}/clip.mkv", "--overwrite"], 6, "the input itself"),
        (["-o", "{folder}/none/x.png"], 6, "does not exist"),
        (["-o", "{folder}/old.png"], 6, "--overwrite"),
        (["--codec", "mpeg1"], 2, "codec"),
        (["--sigma", "300"], 2, "--sigma"),
    ],
)
def test_refusals_write_nothing(stbn, make_clip, tiny_model_path, arguments, code, word) -> None:
    clip = make_clip()
    clip.with_name("old.png").write_bytes(b"precious")
    filled = [argument.format(folder=clip.parent) for argument in arguments]
    result = stbn("preview", clip, "-m", tiny_model_path, *filled)
    assert result.code == code, result.err
    assert word in result.err and "Traceback" not in result.err
    assert only_files(clip.parent) == {clip.name, "old.png"}
    assert clip.with_name("old.png").read_bytes() == b"precious"


def test_missing_input(stbn, tmp_path) -> None:
    result = stbn("preview", tmp_path / "no.mp4")
    assert result.code == 3 and "no.mp4" in result.err


@pytest.mark.parametrize("output", ["look.png", "look.mkv"])
def test_ctrl_c_leaves_nothing(stbn, make_clip, tiny_model_path, monkeypatch, output) -> None:
    from stbn_cli.cli.progress import FrameProgress

    def interrupt(self: FrameProgress, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrameProgress, "__call__", interrupt)
    clip = make_clip()
    result = stbn("preview", clip, "-o", clip.with_name(output), "-m", tiny_model_path, "-s", "9")
    assert result.code == 130 and "Nothing was written" in result.err
    assert only_files(clip.parent) == {clip.name}


def test_the_source_stays_as_it_is(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    before = clip.read_bytes()
    assert stbn("preview", clip, "-m", tiny_model_path, "-s", "9", "-v").code == 0
    assert clip.read_bytes() == before


def test_help_and_startup(stbn) -> None:
    text = stbn("preview", "--help").out
    for word in (
        "--at",
        "--duration",
        "--split",
        "--strength",
        "--crf",
        "<stem>.preview.png",
    ):
        assert word in text
