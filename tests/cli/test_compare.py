"""`stbn compare` on small clips: what it measures, what it writes, and what it refuses."""

import csv
import json
import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

HEIGHT, WIDTH, FRAMES = 96, 160, 4


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """Moving patches (T, H, W, 3) uint8, far from black and white."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for time in range(FRAMES):
        x = columns + 4 * time
        patches = np.sin(1.7 * (x // 16)) * np.cos(2.3 * (rows // 12))
        picture = 128 + 50 * patches + 15 * np.sin(x / 40)
        frames.append(np.stack([picture, 0.9 * picture, 0.8 * picture + 20], axis=-1))
    return np.rint(frames).astype(np.uint8)


def noisy(frames: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


@pytest.fixture
def video(tmp_path: Path):
    """video(name, frames (T, H, W, 3) uint8) -> a lossless RGB clip."""

    def write(name: str, frames: np.ndarray, rate: int = 25, ticks: list[int] | None = None) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as output:
            stream = output.add_stream("ffv1", rate=rate)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.time_base = "bgr0", Fraction(1, 1000)
            for index, rgb in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="bgr0")
                picture.pts = ticks[index] if ticks else 1000 * index // rate
                picture.time_base = Fraction(1, 1000)
                output.mux(stream.encode(picture))
            output.mux(stream.encode(None))
        return path

    return write


def pixels(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def strict_json(text: str) -> dict:
    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def compared(stbn, *arguments: object) -> dict:
    result = stbn("compare", *arguments, "--json", "--quiet")
    assert result.code == 0, result.err
    return strict_json(result.out)


def test_a_video_and_itself(stbn, make_clip, tmp_path) -> None:
    """Random code values: also colours outside RGB's gamut are equal to themselves."""
    clip = make_clip(frames=3)
    document = compared(stbn, clip, clip, "--reference", clip, "--csv", tmp_path / "frames.csv")
    assert document["frames"] == 3 and document["verdict"]["kind"] == "identical"
    for name in ("a_against_b", "a_against_reference", "b_against_reference"):
        quality = document[name]
        assert (quality["psnr"], quality["lowest_psnr"], quality["equal_frames"]) == (None, None, 3)
        assert quality["ssim"] == pytest.approx(1)
    assert document["a_against_reference"]["temporal_error"] == 0
    assert document["residual"]["whiteness"]["right"] is None
    assert [frame["psnr"] for frame in document["per_frame"]] == [None] * 3
    rows = list(csv.DictReader((tmp_path / "frames.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["psnr"] for row in rows] == ["inf"] * 3
    assert [row["temporal_error_a"] for row in rows] == ["", "0.0", "0.0"]
    table = stbn("compare", clip, clip)
    assert table.code == 0 and "equal" in table.out and "A and B are identical." in table.out


def test_noise_is_measured_and_is_no_structure(stbn, video, clean) -> None:
    a, b = video("noisy.mkv", noisy(clean, 20)), video("clean.mkv", clean)
    document = compared(stbn, a, b, "--reference", b)
    residual, level = document["residual"], document["noise_level"]
    assert list(residual["std"].values()) == pytest.approx([20] * 3, rel=0.02)
    assert list(residual["mean"].values()) == pytest.approx([0] * 3, abs=0.3)
    assert all(abs(value) < 0.02 for value in residual["whiteness"].values())
    assert level["a"]["sigma"] == pytest.approx(20, rel=0.1) and level["b"]["sigma"] < 3
    assert document["verdict"]["kind"] == "no_structure"
    assert document["a_against_reference"]["psnr"] == pytest.approx(20 * np.log10(255 / 20), abs=0.2)
    assert document["a_against_reference"]["psnr"] == document["a_against_b"]["psnr"]
    assert document["b_against_reference"]["psnr"] is None
    # White noise of standard deviation s flickers by sqrt(2) s.
    assert document["a_against_reference"]["temporal_error"] == pytest.approx(20 * np.sqrt(2), rel=0.05)


def test_blur_is_seen_as_loss_of_structure(stbn, video, clean) -> None:
    source = noisy(clean, 10)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in source])
    a, b = video("noisy.mkv", source), video("blurred.mkv", smooth)
    assert compared(stbn, a, b)["verdict"]["kind"] == "structure"
    result = stbn("compare", a, b)
    assert result.out.splitlines()[-1].startswith(
        "Structure is being removed: the residual follows the detail"
    )
    assert compared(stbn, b, a)["verdict"]["kind"] == "noisier"


def test_a_shift_of_colour_is_seen(stbn, video, clean) -> None:
    shifted = clean + np.array([5, 0, 0], np.uint8)
    document = compared(stbn, video("a.mkv", clean), video("b.mkv", shifted))
    assert document["residual"]["mean"] == pytest.approx({"red": -5, "green": 0, "blue": 0}, abs=1e-4)
    assert document["verdict"]["kind"] == "nothing_removed" and document["verdict"]["colours_moved"]
    assert "+5 (red)" in document["verdict"]["text"]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le", "gbrp10le"])
def test_side_by_side_keeps_every_value(stbn, make_clip, content, pix_fmt) -> None:
    options = {"pix_fmt": pix_fmt, "encoder": "ffv1", "frames": 3}
    a, b = make_clip(name="a.mkv", **options), make_clip(name="b.mkv", seed=1, **options)
    output = a.with_name("both.mkv")
    result = stbn("compare", a, b, "-o", output, "--layout", "side", "--codec", "ffv1")
    assert result.code == 0, result.err
    shown, left, right = content(output), content(a), content(b)
    assert shown.times == left.times and shown.pix_fmt == pix_fmt
    for both, first, second in zip(shown.planes, left.planes, right.planes, strict=True):
        for plane, x, y in zip(both, first, second, strict=True):
            np.testing.assert_array_equal(plane, np.concatenate((x, y), axis=1))


def test_split_shows_the_left_of_a_and_the_right_of_b(stbn, make_clip, content) -> None:
    a, b = (
        make_clip(name=f"{seed}.mkv", encoder="ffv1", pix_fmt="yuv420p", seed=seed, frames=2)
        for seed in (1, 2)
    )
    output = a.with_name("split.mkv")
    assert stbn("compare", a, b, "-o", output, "--layout", "split").code == 0
    shown, first, second = content(output).planes[0], content(a).planes[0], content(b).planes[0]
    for plane, x, y, step in zip(shown, first, second, (1, 2, 2), strict=True):
        line = 14 // step
        np.testing.assert_array_equal(plane[:, :line], x[:, :line])
        np.testing.assert_array_equal(plane[:, line + 2 // step :], y[:, line + 2 // step :])
    assert (shown[0][:, 14:16] == 235).all()


def test_the_difference_is_amplified_on_grey(stbn, video, clean) -> None:
    a, b = video("a.mkv", noisy(clean, 30)), video("b.mkv", clean)
    output = a.with_name("difference.mkv")
    assert stbn("compare", a, b, "-o", output, "--layout", "difference", "--gain", "2").code == 0
    expected = np.clip(127.5 + 2.0 * (pixels(a).astype(float) - clean), 0, 255)
    assert np.abs(pixels(output) - expected).max() <= 0.51


def test_sound_is_kept_as_far_as_the_frames_go(stbn, make_clip, content) -> None:
    clip = make_clip(name="a.mp4", audio="aac", frames=30)
    whole, part = clip.with_name("whole.mp4"), clip.with_name("part.mp4")
    assert stbn("compare", clip, clip, "-o", whole).code == 0
    assert stbn("compare", clip, clip, "-o", part, "--frames", "10").code == 0
    sound = content(clip).streams[1].packets
    assert content(whole).streams[1].packets == sound
    kept = content(part).streams[1].packets
    assert kept == sound[: len(kept)]
    assert float(kept[-1][0] or 0) < 0.4 <= float(sound[len(kept)][0] or 0)
    assert len(content(part).times) == 10


def test_a_range_of_the_video_and_its_times(stbn, make_clip, content) -> None:
    clip = make_clip(frames=10, audio="aac")
    output = clip.with_name("part.mkv")
    assert stbn("compare", clip, clip, "-o", output, "--start", "0.08", "--end", "0.28").code == 0
    assert [float(time) for time in content(output).times] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_turned_videos_stand_upright_beside_each_other(stbn, make_clip, content) -> None:
    clip = make_clip(name="phone.mp4", rotation=90, frames=2, pix_fmt="yuv444p")
    output = clip.with_name("both.mp4")
    result = stbn("compare", clip, clip, "-o", output, "--lossless")
    assert result.code == 0, result.err
    shown, source = content(output), content(clip)
    assert (shown.width, shown.height, shown.rotation) == (2 * source.height, source.width, 0)
    turned = np.rot90(source.planes[0][0], source.rotation // 90)
    np.testing.assert_array_equal(shown.planes[0][0], np.concatenate((turned, turned), axis=1))


def test_images_against_a_video(stbn, make_clip) -> None:
    clip = make_clip(frames=12, rate=Fraction(10))
    frames = clip.with_name("frames")
    assert stbn("compare", clip, clip, "-o", f"{frames}/", "--layout", "split").code == 0
    assert len(names(frames)) == 12
    # Images take the video's rate, so that a range means the same frames.
    document = compared(stbn, clip, frames, "--start", "0.5")
    assert document["frames"] == 7 and document["warnings"] == []


def test_the_common_part_is_compared(stbn, make_clip) -> None:
    a, b = make_clip(name="a.mkv", frames=8), make_clip(name="b.mkv", frames=5)
    document = compared(stbn, a, b)
    assert document["frames"] == 5 and len(document["per_frame"]) == 5
    assert any("B ended after 5" in warning for warning in document["warnings"])
    assert "B ended after 5" in stbn("compare", a, b).err
    assert compared(stbn, a, b, "--frames", "3")["warnings"] == []


def test_times_that_differ_are_told(stbn, make_clip) -> None:
    base = Fraction(1, 100)
    ticks = {"a": (0, 4, 8, 12), "late": (5, 9, 13, 17), "uneven": (0, 4, 20, 24)}
    clips = {
        name: make_clip(name=f"{name}.mkv", time_base=base, ticks=values, frames=4)
        for name, values in ticks.items()
    }
    late = compared(stbn, clips["a"], clips["late"])["warnings"]
    assert any("0.05 s later" in warning for warning in late)
    uneven = compared(stbn, clips["a"], clips["uneven"])["warnings"]
    assert any("From frame 2 on" in warning for warning in uneven)
    assert compared(stbn, clips["late"], clips["late"])["warnings"] == []


def test_the_report_shows_curves_and_places(stbn, video, clean, tmp_path) -> None:
    a, b = video("noisy.mkv", noisy(clean, 20)), video("clean & new.mkv", clean)
    page = tmp_path / "page.html"
    result = stbn("compare", a, b, "--reference", b, "--report", page)
    assert result.code == 0, result.err
    text = page.read_text(encoding="utf-8")
    assert "<h1>noisy.mkv against clean &amp; new.mkv</h1>" in text
    for word in (
        "No sign that structure",
        "Temporal error",
        "difference, times 4",
        "reference: clean &amp; new.mkv",
    ):
        assert word in text
    assert text.count("data:image/") >= 4
    assert text.index("data:image/webp") < text.index("<table") < text.index("<svg")
    # The curves of the channels have the channels' colours, and no words call a video A or B.
    curves = text[text.index("Standard deviation of the residual") :]
    assert all(f"stroke: var(--series-{channel})" in curves for channel in ("red", "green", "blue"))
    seen = re.sub("<[^>]*>", " ", text[text.index("<h1") : text.index("<footer")])
    assert not re.search(r"\bB\b|\bA (against|minus|is)\b", seen)


def test_the_report_draws_no_single_dot(stbn, video, clean, tmp_path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    a, b = video("old/clip.mkv", noisy(clean, 20)[:1]), video("new/clip.mkv", clean[:1])
    page = tmp_path / "page.html"
    assert stbn("compare", a, b, "--report", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "<svg" not in text and "<h1>old/clip.mkv against new/clip.mkv</h1>" in text
    assert stbn("compare", a, a, "--report", page, "--overwrite").code == 0
    assert "<h1>clip.mkv (A) against clip.mkv (B)</h1>" in page.read_text(encoding="utf-8")


def test_pictures_too_small_for_ssim(stbn, make_clip) -> None:
    a, b = (make_clip(name=f"{seed}.mkv", width=16, height=8, seed=seed, frames=2) for seed in (1, 2))
    document = compared(stbn, a, b, "-r", a)
    assert document["a_against_b"]["ssim"] is None and document["a_against_b"]["psnr"] > 0


def test_different_sizes_are_refused(stbn, make_clip) -> None:
    a, b = make_clip(name="a.mkv"), make_clip(name="b.mkv", width=48)
    for arguments in ((a, b), (a, a, "-r", b)):
        result = stbn("compare", *arguments)
        assert result.code == 3 and result.out == ""
        assert "32x24" in result.err and "48x24" in result.err and "Scale" in result.err


def test_missing_files_are_refused(stbn, make_clip) -> None:
    clip = make_clip()
    for arguments in (("no.mkv", clip), (clip, "no.mkv"), (clip, clip, "-r", "no.mkv")):
        result = stbn("compare", *arguments)
        assert result.code == 3 and "no.mkv" in result.err and "Traceback" not in result.err


def test_outputs_that_exist_are_kept(stbn, make_clip) -> None:
    clip = make_clip(frames=2)
    for option, name in (("-o", "out.mkv"), ("--csv", "out.csv"), ("--report", "out.html")):
        file = clip.with_name(name)
        file.write_text("precious")
        refused = stbn("compare", clip, clip, option, file)
        assert refused.code == 6 and "--overwrite" in refused.err and refused.out == ""
        assert file.read_text() == "precious"
        assert stbn("compare", clip, clip, option, file, "--overwrite").code == 0
        assert file.read_bytes() != b"precious"
        file.unlink()
    assert names(clip.parent) == {clip.name}


def test_inputs_are_never_replaced(stbn, make_clip) -> None:
    a, b = make_clip(name="a.mkv"), make_clip(name="b.mkv")
    before = a.read_bytes(), b.read_bytes()
    for option in ("-o", "--csv", "--report"):
        for file in (a, b):
            assert stbn("compare", a, b, option, file, "--overwrite").code == 6
    assert (a.read_bytes(), b.read_bytes()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--layout", "side"], 2, "-o"),
        (["--crf", "20"], 2, "-o"),
        (["-o", "x.mkv", "--layout", "above"], 2, "above"),
        (["-o", "x.mkv", "--gain", "0"], 2, "gain"),
        (["-o", "x.mkv", "--gain", "nan"], 2, "gain"),
        (["-o", "x.avi"], 2, ".avi"),
        (["-o", "x.mkv", "--codec", "mpeg1"], 2, "codec"),
        (["-o", "no/x.mkv"], 6, "does not exist"),
        (["--csv", "no/x.csv"], 6, "does not exist"),
        (["--csv", "x", "--report", "x"], 2, "same name"),
        (["--start", "soon"], 2, "--start"),
        (["--start", "99"], 3, "99"),
    ],
)
def test_impossible_options(stbn, make_clip, monkeypatch, arguments, code, word) -> None:
    clip = make_clip()
    monkeypatch.chdir(clip.parent)
    result = stbn("compare", clip, clip, *arguments)
    assert result.code == code and word in result.err and result.out == ""
    assert names(clip.parent) == {clip.name}


def test_ctrl_c_leaves_nothing(stbn, make_clip, monkeypatch) -> None:
    from stbn_cli.cli.progress import FrameProgress

    def interrupt(self: FrameProgress, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrameProgress, "__call__", interrupt)
    clip = make_clip()
    files = [clip.with_name(name) for name in ("o.mkv", "o.csv", "o.html")]
    result = stbn("compare", clip, clip, "-o", files[0], "--csv", files[1], "--report", files[2])
    assert result.code == 130 and result.out == ""
    assert names(clip.parent) == {clip.name}


def test_quiet_and_what_is_told_otherwise(stbn, make_clip) -> None:
    clip = make_clip(frames=2)
    output = clip.with_name("both.mkv")
    assert stbn("compare", clip, clip, "-o", output, "-q").err == ""
    shown = stbn("compare", clip, clip, "-o", output, "--overwrite")
    assert f"{output}: 2 frames" in shown.err
