"""`stbn denoise` on small clips with a tiny random model: files, JSON, dry runs, interruption."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import save_tiny_model
from tests.cli.signals import signalled


def only_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_default_output_lies_beside_the_input(stbn, make_clip, tiny_model_path, content) -> None:
    clip = make_clip(name="my.clip.mp4", audio="aac")
    result = stbn("denoise", clip, "--model", tiny_model_path)
    output = clip.with_name("my.clip.denoised.mp4")
    assert result.code == 0, result.err
    assert only_files(clip.parent) == {clip.name, output.name}
    assert content(output).times == content(clip).times
    assert [stream.kind for stream in content(output).streams] == ["video", "audio"]
    assert result.out == ""
    last = result.err.splitlines()[-1]
    assert str(output) in last and "8 frames" in last and "fps" in last
    assert "noise level" in last and "measured" in last


def test_json_is_one_document_on_stdout(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    output = clip.with_name("out.mkv")
    arguments = ("-m", tiny_model_path, "--sigma", "25", "--no-scene-cuts", "--json", "-q")
    result = stbn("denoise", clip, "-o", output, *arguments)
    assert result.code == 0, result.err
    assert result.err == ""
    document = json.loads(result.out)
    assert document["input"] == str(clip) and document["output"] == str(output)
    assert document["frames"] == 8
    assert document["fps"] > 0 and document["seconds"] > 0
    assert document["model"] == "tiny" and document["model_file"] == str(tiny_model_path)
    assert document["device"] and document["precision"] in ("fp32", "fp16", "bf16")
    assert document["scenes"] == [
        {
            "first_frame": 0,
            "level": 25.0,
            "estimated": False,
            "learned": False,
        }
    ]
    assert document["plan"]["frame"] == "32x24"
    assert document["warnings"] == []


def test_dry_run_prints_the_plan_and_writes_nothing(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    arguments = ("denoise", clip, "--model", tiny_model_path, "--dry-run", "--tile", "64", "--chunk", "3")
    table = stbn(*arguments)
    assert table.code == 0, table.err
    assert re.search(r"^model +tiny \(for white noise\)", table.out, re.MULTILINE)
    assert "libx264 in matroska" in table.out and "config file" in table.out
    assert table.out.splitlines()[-1].startswith("Ready to run.")
    document = json.loads(stbn(*arguments, "--json").out)
    assert document["plan"]["chunk"] == 3 and document["plan"]["tile"] == 64
    assert document["sigma"] == "auto"
    grain = stbn(*arguments, "--grain-table", clip.with_name("grain.tbl"))
    assert re.search(r"^film grain +measured, and written to .*grain.tbl$", grain.out, re.MULTILINE)
    assert only_files(clip.parent) == {clip.name}


def test_what_the_output_cannot_hold_is_told_before_the_work(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(audio="aac")
    output = clip.with_suffix(".webm")
    plan = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, "--dry-run")
    assert plan.code == 0 and "aac" in plan.err.lower(), plan.err
    result = stbn("denoise", clip, "-o", output, "-m", tiny_model_path)
    assert result.code == 0 and result.err.lower().count("aac") == 1, result.err
    assert result.err.lower().index("aac") < result.err.index("Denoising")


def test_options_reach_the_encoder_and_the_range(stbn, make_clip, tiny_model_path, content) -> None:
    clip = make_clip(frames=10)
    output = clip.with_name("part.mkv")
    arguments = ("--start", "0.08", "--end", "0:00.28", "--codec", "ffv1", "--pix-fmt", "yuv444p", "-s", "20")
    result = stbn("denoise", clip, "-o", output, "-m", tiny_model_path, *arguments)
    assert result.code == 0, result.err
    found = content(output)
    assert len(found.times) == 5 and found.times[0] == 0
    assert found.codec == "ffv1" and found.pix_fmt == "yuv444p"


def test_images_to_images(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip(frames=3)
    frames = clip.parent / "frames"
    frames.mkdir()
    first = stbn("denoise", clip, "-o", f"{frames}/%03d.png", "-m", tiny_model_path, "-s", "10")
    assert first.code == 0, first.err
    second = stbn("denoise", frames, "-m", tiny_model_path, "-s", "10", "--fps", "24")
    assert second.code == 0, second.err
    assert only_files(clip.parent / "frames.denoised") == only_files(frames)


def test_sigma_outside_the_models_range_warns(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    result = stbn("denoise", clip, "-m", tiny_model_path, "--sigma", "80", "-q", "--json")
    assert result.code == 0
    assert "Warning: The noise level 80 lies outside 5 to 55" in result.err
    assert len(json.loads(result.out)["warnings"]) == 1


def test_estimated_noise_beyond_the_models_range_warns(stbn, make_clip, tmp_path) -> None:
    calm = save_tiny_model(tmp_path / "calm.safetensors", sigma_range=(0.5, 1.0))
    # Random pixels are strong noise, and every frame of them looks like a new scene.
    result = stbn("denoise", make_clip(width=64, height=48), "-m", calm, "-q", "--no-scene-cuts")
    assert result.code == 0
    assert "in 1 scene. The model" in result.err


def test_quiet_says_nothing_and_verbose_says_more(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    quiet = stbn("denoise", clip, "-m", tiny_model_path, "-s", "20", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    verbose = stbn("denoise", clip, "-m", tiny_model_path, "-s", "20", "-v", "--overwrite")
    assert verbose.code == 0
    assert "plan.chunk:" in verbose.err and "From frame 0: noise level 20" in verbose.err


def test_existing_output_is_kept_unless_overwrite(stbn, make_clip, tiny_model_path) -> None:
    clip = make_clip()
    output = clip.with_name("out.mkv")
    output.write_bytes(b"precious")
    refused = stbn("denoise", clip, "-o", output, "-m", tiny_model_path)
    assert refused.code == 6 and "--overwrite" in refused.err
    assert output.read_bytes() == b"precious"
    assert stbn("denoise", clip, "-o", output, "-m", tiny_model_path, "-s", "9", "--overwrite").code == 0
    assert output.read_bytes() != b"precious"


def test_ctrl_c_leaves_nothing_of_the_output(stbn, make_clip, tiny_model_path, monkeypatch) -> None:
    from stbn_cli.cli.progress import FrameProgress

    def interrupt(self: FrameProgress, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrameProgress, "__call__", interrupt)
    clip = make_clip()
    result = stbn("denoise", clip, "-m", tiny_model_path, "--sigma", "20")
    assert result.code == 130
    assert f"nothing was written to {clip.with_name('clip.denoised.mkv')}" in result.err
    assert only_files(clip.parent) == {clip.name}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_sigint_to_the_process(make_clip, tiny_model_path) -> None:
    clip = make_clip()
    arguments = (
        "denoise",
        clip,
        "-m",
        tiny_model_path,
        "--sigma",
        "20",
        "--chunk",
        "4",
        "--no-keep-progress",
    )
    done = signalled(signal.SIGINT, "stbn_cli.cli.progress:FrameProgress.__call__", 3, *arguments)
    assert done.returncode == 130
    assert "nothing was written" in done.stderr and "Traceback" not in done.stderr
    assert only_files(clip.parent) == {clip.name}


def test_flow_network_that_the_model_lacks(stbn, make_clip, tiny_model_path) -> None:
    result = stbn("denoise", make_clip(), "-m", tiny_model_path, "--flow", "pwc")
    assert result.code == 2 and "--flow dis" in result.err


def test_the_light_flow_network_works_with_every_model(stbn, make_clip, tiny_model_path) -> None:
    result = stbn("denoise", make_clip(frames=3), "-m", tiny_model_path, "--flow", "light", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["flow"] == "light"


def test_raw_model_is_refused(stbn, make_clip, tmp_path) -> None:
    from dataclasses import replace

    from tests.networks import TINY

    config = replace(TINY, head="plain", image_channels=4, noise_level=False)
    raw = save_tiny_model(tmp_path / "raw.safetensors", config)
    result = stbn("denoise", make_clip(), "-m", raw)
    assert result.code == 4 and "raw pictures" in result.err
