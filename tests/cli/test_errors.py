"""Bad input: one sentence on stderr, the documented exit code, no traceback, and nothing written."""

import os
from pathlib import Path

import pytest

from stbn_cli.errors import InputError, MemoryExhaustedError


def assert_refused(result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word in errors[0]


def test_missing_input(stbn, tmp_path) -> None:
    assert_refused(stbn("denoise", tmp_path / "no.mp4"), 3, "no.mp4")


def test_empty_input(stbn, tmp_path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert_refused(stbn("denoise", empty), 3, "empty")


def test_text_as_input(stbn, tmp_path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is not a video\n" * 100)
    assert_refused(stbn("denoise", text), 3, "notes.mp4")


def test_folder_without_images(stbn, tmp_path) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    assert_refused(stbn("denoise", folder, "-o", tmp_path / "out.mkv"), 3, "nothing")


@pytest.mark.skipif(os.name == "nt", reason="devices have no paths there")
def test_a_device_as_output(stbn, make_clip) -> None:
    assert_refused(stbn("denoise", make_clip(), "-o", "/dev/null", "--dry-run"), 6, "/dev/null", "-o -")


def test_an_unknown_model_is_told_before_the_noise_is_measured(stbn, make_clip, monkeypatch) -> None:
    monkeypatch.setattr("stbn_cli.analysis.analysis.analyze", None)
    assert_refused(stbn("denoise", make_clip(), "-m", "nope"), 4, "nope")
    assert_refused(stbn("denoise", make_clip(name="b.mkv"), "--device", "foo"), 2, "foo")


def test_audio_only(stbn, tmp_path) -> None:
    import av
    import numpy as np

    path = tmp_path / "sound.mka"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert_refused(stbn("denoise", path), 3, "only sound")


def test_file_cut_short(stbn, make_clip) -> None:
    whole = make_clip(name="whole.mp4", frames=20)
    cut = whole.with_name("cut.mp4")
    cut.write_bytes(whole.read_bytes()[:600])
    assert_refused(stbn("denoise", cut), 3, "cut.mp4")


def test_range_without_frames(stbn, make_clip) -> None:
    assert_refused(stbn("denoise", make_clip(), "--start", "99"), 3, "99")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--sigma", "256"], "--sigma"),
        (["--sigma", "-1"], "--sigma"),
        (["--sigma", "nan"], "--sigma"),
        (["--sigma", "loud"], "--sigma"),
        (["--start", "soon"], "--start"),
        (["--start", "1:75"], "--start"),
        (["--start", "2", "--end", "1"], "end"),
        (["--chunk", "0"], "--chunk"),
        (["--tile", "-5"], "--tile"),
        (["--codec", "mpeg1"], "codec"),
        (["--crf", "99"], "--crf"),
        (["--preset", "warp"], "preset"),
        (["--pix-fmt", "nv99"], "nv99"),
        (["--crf", "20", "--lossless"], "--lossless"),
    ],
)
def test_impossible_options(stbn, make_clip, arguments, word) -> None:
    clip = make_clip()
    assert_refused(stbn("denoise", clip, *arguments), 2, word)
    assert [path.name for path in clip.parent.iterdir()] == [clip.name]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision", "fp8"],
        ["--device", "abacus"],
        ["--device", "cuda:99"],
        ["--flow", "river"],
        ["--tile", "5"],
    ],
)
def test_impossible_engine_options(stbn, make_clip, tiny_model_path, arguments) -> None:
    assert_refused(stbn("denoise", make_clip(), "-m", tiny_model_path, *arguments), 2)


def test_usage_errors_exit_with_2(stbn, make_clip) -> None:
    assert stbn("denoise", make_clip(), "--no-such-option").code == 2
    assert stbn("no-such-command").code == 2
    assert stbn("denoise", make_clip(), "--strength", "3.5").code == 2


def test_output_that_cannot_be(stbn, make_clip, tmp_path) -> None:
    clip = make_clip()
    assert_refused(stbn("denoise", clip, "-o", clip), 6, "input")
    assert_refused(stbn("denoise", clip, "-o", clip, "--overwrite"), 6, "input")
    assert_refused(stbn("denoise", clip, "-o", tmp_path / "no" / "out.mkv"), 6, "does not exist")
    assert_refused(stbn("denoise", clip, "-o", tmp_path / "out.avi"), 2, ".avi")


def test_output_folder_not_writable(stbn, make_clip, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_refused(stbn("denoise", make_clip(), "-o", folder / "out.mkv"), 6, "not writable")


def test_model_that_cannot_be(stbn, make_clip, tmp_path) -> None:
    clip = make_clip()
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(os.urandom(200))
    assert_refused(stbn("denoise", clip, "-m", "no-such-model"), 4, "no-such-model")
    assert_refused(stbn("denoise", clip, "-m", tmp_path / "no.safetensors"), 4, "does not exist")
    assert_refused(stbn("denoise", clip, "-m", tmp_path / "official.pth"), 4, "stbn weights import")
    assert_refused(stbn("denoise", clip, "-m", noise), 4, "damaged")


def test_nothing_is_left_when_the_run_fails(stbn, make_clip, tiny_model_path, monkeypatch) -> None:
    import stbn_cli.jobs.denoise

    clip = make_clip()
    for error, code in (
        (MemoryExhaustedError("Memory ran out."), 5),
        (InputError("Bad."), 3),
        (MemoryError(), 5),
    ):

        def fail(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(stbn_cli.jobs.denoise, "denoise_video_resumably", fail)
        assert_refused(stbn("denoise", clip, "-m", tiny_model_path), code)
        assert [path.name for path in Path(clip.parent).iterdir()] == [clip.name]


def test_unexpected_errors_name_the_way_to_the_traceback(
    stbn, make_clip, tiny_model_path, monkeypatch
) -> None:
    import stbn_cli.jobs.denoise

    def fail(*arguments, **options):
        raise ZeroDivisionError("surprise\nsecond line")

    monkeypatch.setattr(stbn_cli.jobs.denoise, "denoise_video_resumably", fail)
    arguments = ("denoise", make_clip(), "-m", tiny_model_path)
    result = stbn(*arguments)
    assert_refused(result, 1, "ZeroDivisionError: surprise", "STBN_DEBUG=1")
    monkeypatch.setenv("STBN_DEBUG", "1")
    result = stbn(*arguments)
    assert result.code == 1 and "Traceback" in result.err
