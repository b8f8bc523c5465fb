"""Names of files: whatever a file system holds works, links are not followed, unfinished files are private."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.files import partial_path, put_in_place, whole_file
from stbn_cli.pipeline import denoise_video
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.output import check_output
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import create_video
from tests.cli.conftest import save_tiny_model
from tests.conftest import PATIENCE, ClipSpec, write_clip

POSIX = pytest.mark.skipif(os.name != "posix", reason="names and permissions of POSIX systems")
NAMES = [
    "with space.mkv",
    "new\nline.mkv",
    "-dash.mkv",
    "ünï¢ødé 🎞.mkv",
    "e\u0301 decomposed.mkv",
    "bad\udcff\udcfe.mkv",
    "concat:a|b.mkv",
    "http:x.mkv",
    "50%d [1]*?.mkv",
    "'quoted\" $HOME `ls`.mkv",
    "." + 200 * "x" + ".mkv",
]


class Same:
    """A denoiser that changes nothing."""

    def stream(self, frames):
        yield from frames


def run(source, target, *, overwrite=False, during=None):
    with (
        open_video(source) as reader,
        create_video(target, reader, EncodeOptions(), overwrite=overwrite) as writer,
    ):
        if during is not None:
            during()
        return denoise_video(reader, Same(), writer)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", ClipSpec(frames=2, audio="aac"))


@POSIX
@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("folder", ["", "in: %d*/"], ids=["here", "below"])
def test_any_name_is_a_name(name, folder, clip, tmp_path, monkeypatch, content) -> None:
    monkeypatch.chdir(tmp_path)
    if folder:
        os.mkdir(folder)
    try:
        Path(folder + name).write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    # Relative names: absolute ones cannot be taken for a protocol or an option.
    run(folder + name, f"{folder}out {name}")
    assert content(Path(f"{folder}out {name}").absolute()).times == content(clip).times
    assert sorted(os.listdir(folder or ".")) == sorted([name, f"out {name}"])


@POSIX
def test_the_command_line_takes_any_name(clip, tmp_path) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    names = [b"-x.mkv", b"a\nb.mkv", b"bad\xff.mkv", b"[a].mkv"]
    folder = os.fsencode(tmp_path / "clips")
    os.mkdir(folder)
    try:
        for name in names:
            Path(os.fsdecode(os.path.join(folder, name))).write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    options = ["-m", str(model), "-s", "10", "--strength", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "stbn_cli", "denoise", *options, "--", *names],
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    outputs = {os.fsencode(part["output"]) for part in json.loads(done.stdout)["results"]}
    assert outputs == {name.replace(b".mkv", b".denoised.mkv") for name in names}
    assert set(os.listdir(folder)) == outputs | set(names)


def test_a_link_is_replaced_and_never_its_target(clip, tmp_path) -> None:
    precious, link = tmp_path / "precious.mkv", tmp_path / "out.mkv"
    precious.write_bytes(b"precious")
    link.symlink_to(precious)
    with pytest.raises(OutputError, match="exists already"):
        check_output(clip, link, False)
    run(clip, link, overwrite=True)
    assert not link.is_symlink() and link.stat().st_size > 1000
    assert precious.read_bytes() == b"precious"


def test_a_link_to_nowhere_is_not_replaced_unasked(clip, tmp_path) -> None:
    link = tmp_path / "out.mkv"
    link.symlink_to(tmp_path / "nowhere.mkv")
    with pytest.raises(OutputError, match="exists already"):
        run(clip, link)
    run(clip, link, overwrite=True)
    assert not link.is_symlink() and not (tmp_path / "nowhere.mkv").exists()


def test_the_input_is_not_replaced_through_a_link(clip, tmp_path) -> None:
    source, link = tmp_path / "in.mkv", tmp_path / "link.mkv"
    source.write_bytes(clip.read_bytes())
    link.symlink_to(source)
    for first, second in ((source, link), (link, source)):
        with pytest.raises(OutputError, match="the input itself"):
            run(first, second, overwrite=True)
    assert source.read_bytes() == clip.read_bytes()


@POSIX
@pytest.mark.parametrize("suffix", [".mkv", ".y4m"])
def test_an_unfinished_video_is_private(suffix, clip, tmp_path) -> None:
    target = tmp_path / f"out{suffix}"
    partial = partial_path(target)
    trap = tmp_path / "trap"
    trap.write_bytes(b"precious")
    partial.symlink_to(trap)  # as somebody else could leave it in a shared folder
    modes = []
    before = os.umask(0o027)
    try:
        run(clip, target, during=lambda: modes.append(partial.lstat().st_mode))
    finally:
        os.umask(before)
    assert [(stat.S_ISREG(mode), stat.S_IMODE(mode)) for mode in modes] == [(True, 0o600)]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert trap.read_bytes() == b"precious"


@POSIX
def test_unfinished_images_are_private(clip, tmp_path) -> None:
    target = tmp_path / "frames"
    modes = []
    before = os.umask(0o022)
    try:
        run(
            clip,
            f"{target}/",
            during=lambda: modes.extend(path.stat().st_mode for path in tmp_path.glob(".frames.*")),
        )
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o700]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert {stat.S_IMODE(image.stat().st_mode) for image in target.iterdir()} == {0o644}


@POSIX
def test_other_files_get_the_usual_permissions_too(tmp_path) -> None:
    before = os.umask(0o007)
    try:
        with whole_file(tmp_path / "table.csv") as partial:
            partial.write_text("a,b")
            assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o660


def test_a_failed_rename_leaves_the_old_file(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    partial = tmp_path / "partial"
    partial.write_bytes(b"new")
    with pytest.raises(OSError):
        put_in_place(partial, tmp_path / "folder")
    assert partial.read_bytes() == b"new" and (tmp_path / "folder").is_dir()


def test_long_names_are_shortened_in_hiding_and_else_refused(clip, tmp_path, content) -> None:
    longest = tmp_path / ("ü" * 125 + ".mkv")  # 254 bytes
    assert len(os.fsencode(partial_path(longest).name)) <= 255
    run(clip, longest)
    assert content(longest).times == content(clip).times
    with pytest.raises(OptionError, match="too long"):
        check_output(clip, tmp_path / ("ü" * 127 + ".mkv"), False)
