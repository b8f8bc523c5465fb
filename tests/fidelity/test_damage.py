"""Damaged, odd and impossible files: an exit code, a sentence, and either a true result or nothing at all."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from stbn_cli.api import denoise_file
from stbn_cli.cli.app import main
from stbn_cli.errors import InputError, OutputError
from stbn_cli.pipeline import denoise_video
from stbn_cli.source import Span
from stbn_cli.video.formats import MUXERS
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.conftest import read_content, read_streams
from tests.fidelity.damaged_clips import corrupt, corrupt_transport, cut, flat_clip


class Identity:
    """Gives frames back as they are; calls `after(count)` behind each."""

    def __init__(self, after=lambda count: None):
        self._after = after

    def stream(self, frames):
        for count, frame in enumerate(frames):
            self._after(count)
            yield frame


def copy_video(source: Path, output: Path, denoiser=None) -> None:
    with open_video(source) as reader, create_video(output, reader, EncodeOptions(lossless=True)) as writer:
        denoise_video(reader, denoiser or Identity(), writer)


# Truncated files.


def test_mp4_without_its_index_is_refused(make_clip, denoise) -> None:
    denoise(cut(make_clip(name="whole.mp4", frames=12), 0.5)).refused(3, "cut.mp4", "damaged or truncated")


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_cut_file_gives_its_first_frames(make_clip, denoise, suffix) -> None:
    whole = make_clip(name=f"whole{suffix}", width=64, height=48, frames=12)
    result = denoise(cut(whole, 0.6))
    summary, times = result.done(), read_content(whole).times
    found = read_content(result.output).times
    assert 3 <= summary["frames"] < 12
    assert len(found) == summary["frames"]
    # MPEG-TS may lose the first frames' clock, never the distance between frames.
    assert [time - found[0] for time in found] == pytest.approx(
        [t - times[0] for t in times[: len(found)]], abs=2e-3
    )


def test_a_cut_fragmented_mp4_gives_its_first_frames(make_clip, tmp_path, denoise) -> None:
    import av

    whole, path = (
        make_clip(frames=12, width=64, height=48, options={"qp": "0", "preset": "ultrafast", "g": "3"}),
        tmp_path / "f.mp4",
    )
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", container_options={"movflags": "frag_keyframe+empty_moov"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    result = denoise(cut(path, 0.6))
    assert 3 <= result.done()["frames"] < 12
    assert read_content(result.output).times == read_content(whole).times[: result.summary["frames"]]


# Damage in the middle.


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_frames_behind_a_corrupt_packet_keep_their_times(make_clip, denoise, suffix) -> None:
    options = {"qp": "0", "preset": "ultrafast", "g": "1"}  # each frame stands for itself
    whole = make_clip(name=f"whole{suffix}", frames=10, options=options, audio="aac")
    result = denoise(corrupt(whole, 3, 6))
    summary = result.done()
    wanted, found = read_content(whole), read_content(result.output)
    lost = summary["damage"]["missing_frames"] + summary["damage"]["concealed_frames"]
    assert lost == 2
    assert summary["frames"] == 10 - summary["damage"]["missing_frames"]
    assert set(found.times) <= set(wanted.times)
    assert found.times[-1] == wanted.times[-1]
    sounds = [[data for _, data in s.packets] for s in read_streams(whole) if s.kind == "audio"]
    assert [
        [data for _, data in s.packets] for s in read_streams(result.output) if s.kind == "audio"
    ] == sounds
    if summary["damage"]["missing_frames"]:
        assert "missing" in result.err
        assert any("keep their times" in sentence for sentence in summary["warnings"])


def test_a_corrupt_ffv1_packet_costs_its_frame_alone(make_clip, tmp_path) -> None:
    whole = make_clip(encoder="ffv1", frames=8, options={"g": "1"})
    broken, out = corrupt(whole, 4), tmp_path / "out.mkv"
    copy_video(broken, out)
    wanted, found = read_content(whole), read_content(out)
    assert set(found.times) <= set(wanted.times) and found.times[-1] == wanted.times[-1]
    for time, planes in zip(found.times, found.planes, strict=True):
        number = wanted.times.index(time)
        if number != 4:
            assert all(np.array_equal(a, b) for a, b in zip(planes, wanted.planes[number], strict=True))


def test_damage_near_the_end_costs_no_frame_behind_it(make_clip, tmp_path) -> None:
    """Decoders with threads hold the last pictures when the file ends: those behind the damaged one are not lost."""
    options = {"qp": "0", "preset": "ultrafast", "g": "1"}
    whole = make_clip(frames=12, options=options)
    for number in (8, 9, 10):
        with open_video(corrupt(whole, number)) as reader:
            times = [frame.pts for frame in reader]
        assert set(range(0, 480, 40)) - set(times) <= {40 * number}
        assert reader.damage.missing == 12 - len(times)


def test_a_corrupt_cell_of_a_transport_stream(make_clip, denoise) -> None:
    options = {"qp": "0", "preset": "ultrafast", "g": "1"}
    whole = make_clip(name="whole.ts", frames=10, options=options)
    result = denoise(corrupt_transport(whole, 4))
    assert 8 <= result.done()["frames"] <= 10
    span = read_content(whole).times
    found = read_content(result.output).times
    assert found[-1] - found[0] == pytest.approx(float(span[-1] - span[0]), abs=2e-3)


def test_one_wrong_time_does_not_move_the_others(make_clip, tmp_path) -> None:
    """A jump far ahead and back is one damaged time stamp, not a video that continues there."""
    import av

    whole, path = (
        make_clip(frames=8, options={"qp": "0", "preset": "ultrafast", "g": "1"}),
        tmp_path / "jump.mkv",
    )
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux() if packet.size):
            packet.pts = 9000 if index == 3 else packet.pts
            packet.stream = stream
            output.mux(packet)
    with open_video(path) as reader:
        assert [frame.pts for frame in reader] == [0, 40, 80, 120, 160, 200, 240, 280]
        assert any("behind the next" in sentence for sentence in reader.warnings)


def test_a_size_that_changes_is_refused_with_the_way_out(make_clip, tmp_path, denoise) -> None:
    small, large = make_clip(name="a.ts"), make_clip(name="b.ts", width=64, height=48)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    denoise(joined).refused(3, "32x24", "64x48", "--start")


# Odd sizes.


@pytest.mark.parametrize(
    ("width", "height", "frames"), [(32, 24, 1), (2, 2, 3), (1, 1, 2), (64, 1, 2), (2, 48, 2)]
)
def test_small_videos_are_denoised(tmp_path, denoise, width, height, frames) -> None:
    result = denoise(flat_clip(tmp_path / "small.mkv", width, height, frames))
    assert result.done()["frames"] == frames
    found = read_content(result.output)
    assert (found.width, found.height, len(found.times)) == (width, height, frames)


def test_an_8k_frame_passes(tmp_path) -> None:
    source, out = flat_clip(tmp_path / "8k.mkv", 7680, 4320), tmp_path / "out.mkv"
    copy_video(source, out)
    found = read_content(out)
    assert (found.width, found.height) == (7680, 4320)
    assert all((plane == 90).all() for plane in found.planes[0])


# What is no video.


@pytest.mark.parametrize(
    "suffix", sorted({*MUXERS, ".avi", ".y4m", ".png", ".jpg", ".tif", ".h264", ".mxf", ".gif"})
)
def test_garbage_of_every_suffix_is_refused(tmp_path, denoise, suffix) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(np.random.default_rng(7).bytes(5000))
    denoise(path).refused(3, path.name)


@pytest.mark.parametrize("suffix", [".mkv", ".png", ""])
def test_an_empty_file_is_refused(tmp_path, denoise, suffix) -> None:
    path = tmp_path / f"empty{suffix}"
    path.touch()
    denoise(path).refused(3, "empty")


def test_matroska_called_mp4_is_read_as_what_it_is(make_clip, denoise) -> None:
    clip = make_clip(frames=3)
    assert denoise(clip.rename(clip.with_name("named.mp4"))).done()["frames"] == 3


def test_png_called_mp4_is_one_frame(tmp_path, denoise) -> None:
    path = tmp_path / "named.mp4"
    path.write_bytes(cv2.imencode(".png", np.full((24, 32, 3), 99, np.uint8))[1].tobytes())
    assert denoise(path).done()["frames"] == 1


def test_a_text_is_refused(tmp_path, denoise) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("words and words\n" * 80)
    denoise(path).refused(3, "notes.mp4")


def test_a_folder_without_images_is_refused(tmp_path, denoise) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    denoise(folder).refused(3, "neither images nor videos")


@pytest.mark.parametrize("name", ["pipe.mkv", "pipe.png"])
def test_a_fifo_is_refused_without_waiting(tmp_path, denoise, name) -> None:
    os.mkfifo(tmp_path / name)
    denoise(tmp_path / name).refused(3, name, "pipe" if name.endswith("mkv") else "not an ordinary file")


def test_a_fifo_among_images_is_refused_without_waiting(tmp_path, denoise) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "1.png")
    denoise(folder).refused(3, "1.png")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(denoise, device) -> None:
    if not Path(device).exists():
        pytest.skip("this system has no such device")
    denoise(Path(device)).refused(3, device, "Give -")


def test_a_dangling_link_says_where_it_leads(tmp_path, denoise) -> None:
    link = tmp_path / "link.mkv"
    link.symlink_to(tmp_path / "gone.mkv")
    denoise(link).refused(3, "gone.mkv", "does not exist")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_refused(make_clip, tmp_path, denoise) -> None:
    clip = make_clip()
    clip.chmod(0)
    denoise(clip).refused(3, "permission denied")
    folder = tmp_path / "folder"
    folder.mkdir(mode=0)
    denoise(folder).refused(3, "permission denied")
    folder.chmod(0o700)


def test_a_name_that_is_too_long_is_refused(tmp_path, denoise) -> None:
    denoise(tmp_path / f"{'a' * 300}.mkv").refused(3, "too long")


def test_a_damaged_image_in_a_folder_is_named(tmp_path, denoise) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))[1].tobytes()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(data if index != 1 else data[:40])
    denoise(folder, to="out").refused(3, "1.png", "damaged")


# Nowhere to write.


@contextmanager
def little_space():
    """Files end at 4 KiB for this process, as on a full disk (with another of its errors).

    Only around the call: the tests' own report may go to a file, which would end as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("to", ["out.mkv", "out.mp4", "out.ts", "out"])
def test_a_full_disk_leaves_nothing(make_clip, denoise, to) -> None:
    clip = make_clip(width=64, height=48, frames=8)
    before = clip.read_bytes()
    with little_space():
        run = denoise(clip, to=to)
    run.refused(6, to)
    assert clip.read_bytes() == before


@pytest.mark.parametrize("to", ["out.mkv", "out.mp4", "out"])
def test_an_output_folder_that_vanishes(make_clip, tmp_path, to) -> None:
    folder = tmp_path / "vanishing"
    folder.mkdir()

    def remove(count):
        if count == 3:
            folder.rename(tmp_path / "elsewhere")  # in one step: images are written on another thread

    with pytest.raises(OutputError):
        copy_video(make_clip(frames=8), folder / to, Identity(remove))
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_is_no_output(make_clip, tmp_path, capsys) -> None:
    assert main(["denoise", str(make_clip()), "-o", "/dev/full"]) in (2, 6)
    assert Path("/dev/full").is_char_device()


def test_a_read_only_folder_is_refused(make_clip, tmp_path, denoise, monkeypatch) -> None:
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)
    else:
        (tmp_path / "results").mkdir(mode=0o500)
    denoise(make_clip()).refused(6, "not writable")


def test_damage_is_counted_in_the_summary_of_the_interface(make_clip, tmp_path) -> None:
    options = {"qp": "0", "preset": "ultrafast", "g": "1"}
    broken = corrupt(make_clip(frames=8, options=options), 2)
    summary = denoise_file(broken, tmp_path / "out.mkv", Identity())  # type: ignore[arg-type]
    assert summary.damage.missing + summary.damage.concealed == 1
    assert summary.frames == 8 - summary.damage.missing
    with pytest.raises(InputError, match="more than the limit of 100 pixels"):
        denoise_file(broken, tmp_path / "more.mkv", Identity(), span=Span(max_pixels=100))  # type: ignore[arg-type]
