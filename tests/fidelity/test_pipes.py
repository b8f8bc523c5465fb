"""y4m through pipes and files: every value, the header, and pipes that end too early. No network but in two tests."""

import array
import io
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from stbn_cli.api import denoise_file, finetune, load_denoiser
from stbn_cli.cli.app import main
from stbn_cli.errors import InputError, OptionError
from stbn_cli.pipeline import denoise_video
from stbn_cli.video import output, y4m_reader, y4m_writer
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import create_video
from stbn_cli.video.y4m_reader import PipeReader
from tests.cli.conftest import save_tiny_model
from tests.conftest import PATIENCE, ClipSpec, planes_of, random_planes

FORMATS = (
    *("gray", "gray10le", "gray12le", "gray16le", "yuv411p"),
    *(
        f"yuv{name}p{depth}"
        for name in ("420", "422", "444")
        for depth in ("", "9le", "10le", "12le", "14le", "16le")
    ),
)
TAGS = {"gray": b"Cmono ", "yuv420p": b"C420jpeg ", "yuv422p12le": b"C422p12 ", "yuv444p16le": b"C444p16 "}


class Same:
    """A denoiser that changes nothing."""

    def stream(self, frames):
        yield from frames


class Pipe(io.BytesIO):
    """Bytes that cannot be sought in, like a pipe's."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError("a pipe has no positions")

    def close(self):
        """What was written is looked at afterwards."""


@pytest.fixture
def feed(monkeypatch):
    """feed(data) makes it standard input."""

    def make(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(data)))

    return make


@pytest.fixture
def drain(monkeypatch):
    """The pipe that is standard output."""
    sink = Pipe()
    monkeypatch.setattr(y4m_writer, "standard_output", lambda: sink)
    monkeypatch.setattr(output, "is_terminal", lambda stream: False)
    return sink


def y4m(spec: ClipSpec, extra: bytes = b"") -> bytes:
    """The clip of `spec`, written byte by byte from the format's description."""
    chroma = {"gray": "mono"}.get(spec.pix_fmt)
    if chroma is None:
        chroma = spec.pix_fmt.replace("le", "").replace("yuv", "").replace("gray", "mono")
        kind, _, depth = chroma.partition("p")
        chroma = kind + (f"p{depth}" if depth else "")
        chroma = "420jpeg" if chroma == "420" else chroma
    rate = spec.rate
    header = f"YUV4MPEG2 W{spec.width} H{spec.height} F{rate.numerator}:{rate.denominator} Ip A4:3 C{chroma}"
    data = header.encode() + extra + b"\n"
    for index in range(spec.frames):
        data += b"FRAME\n" + b"".join(plane.tobytes() for plane in random_planes(spec, index))
    return data


def run(source, target, **options):
    overwrite = options.pop("overwrite", False)
    with (
        open_video(source, **options) as reader,
        create_video(target, reader, EncodeOptions(), overwrite=overwrite) as writer,
    ):
        return denoise_video(reader, Same(), writer)


def decoded(data: bytes):
    with av.open(io.BytesIO(data), format="yuv4mpegpipe") as container:
        return list(container.decode(video=0))


def body(data: bytes) -> bytes:
    return data.partition(b"\n")[2]


def same(first: bytes, second: bytes) -> bool:
    """Equality that a failing assertion does not print at length."""
    return first == second


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_every_value_comes_through_both_pipes(pix_fmt, feed, drain) -> None:
    # Odd sizes: half blocks of chroma at the edges.
    spec = ClipSpec(width=33, height=23, frames=3, pix_fmt=pix_fmt, rate=Fraction(30000, 1001))
    data = y4m(spec)
    feed(data)
    summary = run("-", "-")
    written = drain.getvalue()
    header = written.partition(b"\n")[0] + b" "
    assert same(body(written), body(data))
    assert b" W33 H23 F30000:1001 Ip A4:3 " in header and TAGS.get(pix_fmt, b"C") in header
    assert summary.frames == 3 and summary.warnings == ()


@pytest.mark.parametrize(
    ("chroma", "location"), [("420mpeg2", 1), ("420jpeg", 2), ("420paldv", 3), ("422", None)]
)
def test_the_place_of_chroma_and_the_range_are_kept(chroma, location, feed, drain) -> None:
    pix_fmt = f"yuv{chroma[:3]}p"
    data = y4m(ClipSpec(frames=2, pix_fmt=pix_fmt), b" XCOLORRANGE=FULL")
    data = data.replace(b"C420jpeg", b"C" + chroma.encode())
    feed(data)
    with open_video("-") as reader:
        assert reader.metadata.color.chroma_location == location
        assert reader.metadata.color.full_range
        assert reader.metadata.color.matrix == "bt601"  # small and untagged
    feed(data)
    run("-", "-")
    header = drain.getvalue().partition(b"\n")[0]
    assert b" C" + chroma.encode() in header and b"XCOLORRANGE=FULL" in header


def test_y4m_files_keep_values_and_header_too(tmp_path, content) -> None:
    data = y4m(ClipSpec(frames=4, pix_fmt="yuv422p10le", rate=Fraction(24)))
    source, target = tmp_path / "in.y4m", tmp_path / "out.y4m"
    source.write_bytes(data)
    assert run(source, target).warnings == ()
    assert same(body(target.read_bytes()), body(data))
    assert content(target).times == [Fraction(index, 24) for index in range(4)]
    assert content(target).aspect == Fraction(4, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"in.y4m", "out.y4m"}


def test_a_pipe_into_a_file_and_a_file_into_a_pipe(make_clip, tmp_path, feed, drain, content) -> None:
    clip = make_clip(frames=5, audio="aac", matrix=1, color_range=1)
    summary = run(clip, "-")
    pictures = decoded(drain.getvalue())
    for found, expected in zip(pictures, content(clip).planes, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(planes_of(found), expected, strict=True))
    assert b"C420mpeg2" in drain.getvalue()  # H.264 means left where it says nothing
    warned = " ".join(summary.warnings)
    assert "audio" in warned and "bt709" in warned and "bt601" in warned
    feed(drain.getvalue())
    target = tmp_path / "back.mkv"
    with (
        open_video("-") as reader,
        create_video(target, reader, EncodeOptions(lossless=True)) as writer,
    ):
        denoise_video(reader, Same(), writer)
    assert content(target).times == content(clip).times
    for found, expected in zip(content(target).planes, content(clip).planes, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("tag", [b" It ", b" Ib "])
def test_interlacing_goes_through(feed, drain, tag) -> None:
    noisy = y4m(ClipSpec(frames=2)).replace(b" Ip ", tag, 1)
    feed(noisy)
    assert run("-", "-").warnings == ()
    assert tag in drain.getvalue().partition(b"\n")[0]
    assert drain.getvalue().partition(b"\n")[2] == noisy.partition(b"\n")[2]


def test_frames_with_fields_of_their_own_are_whole(feed, drain, tmp_path) -> None:
    mixed = y4m(ClipSpec(frames=3)).replace(b"FRAME\n", b"FRAME Ippp\n")
    feed(mixed)
    assert run("-", "-").warnings == ()
    (tmp_path / "in.y4m").write_bytes(mixed)
    assert run(tmp_path / "in.y4m", tmp_path / "out.mkv").warnings == ()
    (tmp_path / "torn.y4m").write_bytes(mixed[:-10])
    (warned,) = run(tmp_path / "torn.y4m", tmp_path / "whole.mkv").warnings
    assert "middle of a frame" in warned


def test_uneven_times_are_told(make_clip, drain) -> None:
    even = make_clip(name="even.mkv", frames=4)
    uneven = make_clip(name="uneven.mkv", ticks=(0, 40, 200, 240), frames=4, time_base=Fraction(1, 1000))
    assert not any("evenly" in note for note in run(even, "-").warnings)
    assert any("not evenly spaced" in note for note in run(uneven, "-").warnings)


def test_a_range_of_a_pipe(feed, drain) -> None:
    spec = ClipSpec(frames=6, rate=Fraction(10))
    data = y4m(spec)
    feed(data)
    assert run("-", "-", start=0.2, end=0.4).frames == 2
    size = len(body(data)) // 6
    assert same(body(drain.getvalue()), body(data)[2 * size : 4 * size])
    feed(data)
    with pytest.raises(InputError, match="between 7 s"):
        open_video("-", start=7)


@pytest.mark.parametrize("cut", [1, 100, 1150])
def test_a_torn_pipe_is_told_and_the_rest_used(cut, feed, drain) -> None:
    data = y4m(ClipSpec(frames=4))
    feed(data[:-cut])
    summary = run("-", "-")
    assert summary.frames == 3
    assert any("truncated" in note for note in summary.warnings)
    assert same(body(drain.getvalue()), body(data)[: len(body(data)) * 3 // 4])


def test_a_torn_y4m_file_is_told(tmp_path) -> None:
    source = tmp_path / "in.y4m"
    source.write_bytes(y4m(ClipSpec(frames=4))[:-5])
    summary = run(source, tmp_path / "out.mkv")
    assert summary.frames == 3 and any("truncated" in note for note in summary.warnings)


def test_damage_within_a_pipe_keeps_what_came_before(feed, drain) -> None:
    data = y4m(ClipSpec(frames=4))
    place = data.rindex(b"FRAME\n")
    feed(data[:place] + b"noise\n" + data[place + 6 :])
    summary = run("-", "-")
    assert summary.frames == 3 and any("damaged" in note for note in summary.warnings)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "Nothing came"), (b"\x89PNG" * 300, "not y4m"), (b"YUV4MPEG2 W32 H24", "not y4m")],
)
def test_what_is_no_y4m_is_refused(data, says, feed) -> None:
    feed(data)
    with pytest.raises(InputError, match=says):
        open_video("-")


def test_a_header_alone_has_no_frame(feed) -> None:
    feed(y4m(ClipSpec(frames=1))[:-4])
    with pytest.raises(InputError, match="no whole frame"):
        open_video("-")


def test_a_pipe_is_read_once(feed) -> None:
    feed(y4m(ClipSpec(frames=2)))
    with open_video("-") as reader:
        assert len(list(reader)) == 2
        with pytest.raises(InputError, match="only once"):
            iter(reader)


def test_what_needs_the_frames_of_a_pipe_again_is_refused(feed, model: Path, tmp_path: Path) -> None:
    feed(y4m(ClipSpec(frames=2)))
    denoiser = load_denoiser(model, sigma=10, device="cpu")
    with pytest.raises(InputError, match="only once"):
        denoise_file("-", tmp_path / "out.mkv", denoiser, adapt_minutes=0.1)
    with pytest.raises(InputError, match="only once"):
        finetune("-", model=model, sigma=10.0)


def test_terminals_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    monkeypatch.setattr(y4m_reader, "is_terminal", lambda stream: True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe()))
    with pytest.raises(OptionError, match="terminal"):
        open_video("-")
    with pytest.raises(OptionError, match="terminal"):
        output.check_output("clip.mkv", "-", False)


def test_what_pipes_cannot_do_is_refused(make_clip, capsys) -> None:
    clip = str(make_clip())
    for arguments, says in [
        (["-", "--adapt"], "--adapt"),
        ([clip, "-o", "-", "--json"], "--json"),
        ([clip, "-o", "x.y4m", "--crf", "3"], "--crf"),
    ]:
        assert main(["denoise", *arguments]) == 2
        assert says in capsys.readouterr().err


COMMAND = (sys.executable, "-m", "stbn_cli", "denoise")


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[str, ...]:
    model = save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return ("-m", str(model), "-s", "10", "--strength", "0", "--precision", "fp32")


def test_two_real_pipes_in_a_row(quick) -> None:
    data = y4m(ClipSpec(width=48, height=32, frames=5, pix_fmt="yuv420p10le"))
    first = subprocess.Popen([*COMMAND, "-", *quick], stdin=-1, stdout=-1, stderr=-1)
    second = subprocess.Popen([*COMMAND, "-", "-o", "-", *quick], stdin=first.stdout, stdout=-1, stderr=-1)
    assert first.stdin and first.stdout and first.stderr
    first.stdout.close()
    first.stdin.write(data)
    first.stdin.close()
    out, messages = second.communicate(timeout=PATIENCE)
    with first.stderr:
        assert first.wait(PATIENCE) == 0, first.stderr.read()
    assert second.returncode == 0, messages
    # Nothing but the video: what a strength of 0 leaves is the input.
    assert same(body(out), body(data)) and out.startswith(b"YUV4MPEG2 ")


def test_a_reader_that_goes_ends_it_quietly(quick) -> None:
    data = y4m(ClipSpec(width=48, height=32, frames=200))
    process = subprocess.Popen([*COMMAND, "-", "-q", *quick], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, messages = process.communicate(data, timeout=PATIENCE)
    assert process.returncode == 1 and messages == b""


def test_an_empty_pipe_has_its_own_code(quick) -> None:
    done = subprocess.run(
        [*COMMAND, "-", *quick], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 3 and done.stdout == b""
    assert len(done.stderr.splitlines()) == 2 and b"Nothing came" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX systems")
def test_a_pipe_that_stands_still_can_be_left() -> None:
    spec = ClipSpec(frames=2)
    source, sink = os.pipe()
    os.write(sink, y4m(spec))  # and never an end
    with open(source, "rb") as stream, open(sink, "wb"):
        reader = PipeReader(stream)
        frames = iter(reader)
        found = [next(frames), next(frames)]
        waiting = threading.Thread(target=lambda: found.extend(frames))
        waiting.start()
        reader.close()
        waiting.join(PATIENCE)
        assert not waiting.is_alive() and len(found) == 2


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_ctrl_c_ends_the_wait_for_a_pipe(quick) -> None:
    process = subprocess.Popen([*COMMAND, "-", "-o", "-", *quick], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin and process.stdout and process.stderr
    # Wait until it has begun to wait: the time of its start shows nothing of that.
    process.stdin.write(b"YUV4MPEG2 W32 ")
    process.stdin.flush()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and unread(process.stdin):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and out == b"", messages
    assert b"Traceback" not in messages


def unread(stream) -> int:
    """Bytes in a pipe that its other end has not taken yet."""
    import fcntl
    import termios

    size = array.array("i", [0])
    fcntl.ioctl(stream, termios.FIONREAD, size)
    return size[0]
