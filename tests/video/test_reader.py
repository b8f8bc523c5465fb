"""Opening: what is refused, what is said, what is estimated."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from av.packet import Packet

from stbn_cli.errors import InputError, OptionError
from stbn_cli.video.reader import open_video


def test_metadata(make_clip):
    path = make_clip(
        name="in.mp4", frames=10, pix_fmt="yuv420p10le", matrix=9, color_range=1, primaries=9, transfer=16
    )
    with open_video(path) as reader:
        metadata = reader.metadata
    assert (metadata.width, metadata.height) == (32, 24)
    assert (metadata.pixel_format, metadata.bit_depth) == ("yuv420p10le", 10)
    assert metadata.frame_count == 10
    assert metadata.average_rate == 25
    assert metadata.time_base == Fraction(1, 25)
    assert metadata.duration_seconds == pytest.approx(0.4)
    assert metadata.codec == "h264"
    assert metadata.color.matrix == "bt2020"
    assert (metadata.color.primaries, metadata.color.transfer) == (9, 16)
    assert metadata.color.assumed == ()
    assert not metadata.has_alpha


def test_frames_are_float_rgb_in_order_and_may_be_read_twice(make_clip):
    with open_video(make_clip(frames=6)) as reader:
        first = list(reader)
        second = list(reader)
    assert [frame.pts for frame in first] == [0, 40, 80, 120, 160, 200]
    assert all(frame.rgb.shape == (24, 32, 3) and frame.rgb.dtype == np.float32 for frame in first)
    assert all((one.rgb == other.rgb).all() for one, other in zip(first, second, strict=True))


def not_a_video(tmp_path):
    path = tmp_path / "notes.mkv"
    path.write_bytes(b"these are only words " * 200)
    return path


def a_text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("only words\n" * 50)
    return path


def empty(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    return path


def only_sound(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("flac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="stereo")
        frame.rate, frame.pts = 8000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def zero_frames(tmp_path):
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        output.start_encoding()
    return path


def only_garbage(tmp_path):
    path = tmp_path / "garbage.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        output.start_encoding()
        for index in range(4):
            packet = Packet(bytes(40))
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base = Fraction(1, 25)
            output.mux(packet)
    return path


def empty_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda tmp_path: tmp_path / "missing.mp4",
        lambda tmp_path: tmp_path / "missing_%03d.png",
        not_a_video,
        a_text,
        empty,
        only_sound,
        zero_frames,
        only_garbage,
        empty_folder,
    ],
    ids=["missing", "pattern", "not_a_video", "text", "empty", "audio", "zero_frames", "garbage", "folder"],
)
def test_unusable_input_is_one_clear_sentence(tmp_path, make):
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        open_video(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(("start", "end"), [(-1.0, None), (2.0, 1.0), (1.0, 1.0)])
def test_impossible_ranges_are_refused(make_clip, start, end):
    with pytest.raises(OptionError):
        open_video(make_clip(), start=start, end=end)


def test_a_range_behind_the_end_is_refused(make_clip):
    with pytest.raises(InputError, match="no frame between"):
        open_video(make_clip(), start=100.0)


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_truncated_file_gives_what_decodes_and_says_so(make_clip, suffix):
    path = make_clip(name=f"in{suffix}", frames=50, options={"qp": "0", "preset": "ultrafast", "g": "1"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_video(path) as reader:
        count = len(list(reader))
    assert 5 < count < 50
    if suffix == ".mkv":  # a transport stream does not state its length
        assert any("truncated" in sentence for sentence in reader.warnings)


def test_an_mp4_without_its_index_is_refused(make_clip):
    path = make_clip(name="in.mp4", frames=20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged or truncated"):
        open_video(path)


def test_a_damaged_packet_is_skipped_and_counted(tmp_path, make_clip):
    good = make_clip(
        name="good.mkv", encoder="ffv1", frames=6, options={"level": "3", "slicecrc": "1", "g": "1"}
    )
    path = tmp_path / "bad.mkv"
    with av.open(str(good)) as source, av.open(str(path), "w") as output:
        target = output.add_stream_from_template(source.streams[0], opaque=True)
        for index, packet in enumerate(p for p in source.demux() if p.size):
            if index == 3:
                broken = Packet(bytes(30))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                packet = broken
            packet.stream = target
            output.mux(packet)
    with open_video(path) as reader:
        times = [frame.pts for frame in reader]
    assert times == [0, 40, 80, 160, 200]
    assert any("1 damaged frame " in sentence and "missing" in sentence for sentence in reader.warnings)


def test_missing_time_stamps_follow_from_the_rate(tmp_path):
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height = 32, 24
        for index in range(5):
            picture = av.VideoFrame(32, 24, "yuv420p")
            picture.pts = index
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with open_video(path) as reader:
        frames = list(reader)
    steps = {after.pts - before.pts for before, after in itertools.pairwise(frames)}
    assert len(frames) == 5
    assert steps == {round(1 / (reader.metadata.average_rate * reader.metadata.time_base))}


def test_alpha_is_dropped_with_a_warning(make_clip):
    path = make_clip(encoder="ffv1", pix_fmt="yuva420p", frames=2)
    with open_video(path) as reader:
        assert reader.metadata.has_alpha
        assert next(iter(reader)).rgb.shape == (24, 32, 3)
    assert any("alpha" in sentence for sentence in reader.warnings)


def test_rotation_is_reported_not_applied(make_clip):
    with open_video(make_clip(name="in.mp4", rotation=90)) as reader:
        assert reader.metadata.rotation == 90
        assert len(reader.metadata.display_matrix) == 9
        assert next(iter(reader)).rgb.shape == (24, 32, 3)
