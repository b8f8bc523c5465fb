"""Files whose containers state little or wrong: ranges, rates, hidden frames, counts, the shape of pixels."""

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from stbn_cli.video.color import PixelLayout
from stbn_cli.video.frames import ColorSpec
from stbn_cli.video.pixels import MATRIX_NAMES, join_planes
from stbn_cli.video.probe import NO_TIMESTAMPS, frame_rate
from stbn_cli.video.reader import count_frames, open_video
from stbn_cli.video.sidedata import side_data
from stbn_cli.video.verify import Expected, verify_video
from tests.conftest import read_content, read_streams
from tests.fidelity.test_time import copied, raw

FRAMES, GROUP = 40, 16
H264 = {"qp": "0", "preset": "ultrafast", "g": str(GROUP), "bf": "2", "b-adapt": "0"}
OPEN_H264 = {**H264, "preset": "veryfast", "x264-params": f"open-gop=1:scenecut=0:keyint={GROUP}"}
HEVC = {"preset": "ultrafast", "x265-params": f"keyint={GROUP}:open-gop=1:bframes=2:log-level=none"}
MPEG = {"g": str(GROUP), "bf": "2", "b": "4000000"}

# Name, encoder, its options, sound: containers without an index, bare streams, and AVI without presentation times.
SOURCES = [
    ("in.ts", "libx264", H264, "mp2"),
    ("open.ts", "libx264", OPEN_H264, "aac"),
    ("hevc.ts", "libx265", HEVC, None),
    ("in.m2ts", "libx264", H264, "mp2"),
    ("in.mpg", "mpeg2video", MPEG, "mp2"),
    ("in.vob", "mpeg2video", MPEG, "mp2"),
    ("in.h264", "libx264", H264, None),
    ("in.hevc", "libx265", HEVC, None),
    ("in.m2v", "mpeg2video", MPEG, None),
    ("asp.avi", "mpeg4", MPEG, "pcm_s16le"),
    ("h264.avi", "libx264", H264, "pcm_s16le"),
    ("in.mkv", "libx264", OPEN_H264, "pcm_s16le"),
    ("in.mp4", "libx264", OPEN_H264, "aac"),
]


def pictures(path: Path, **span) -> tuple[list[Fraction], list[np.ndarray]]:
    """Times from the first on, and values."""
    with open_video(path, **span) as reader:
        frames = list(reader)
    base = reader.metadata.time_base
    return [(frame.pts - frames[0].pts) * base for frame in frames], [frame.rgb for frame in frames]


@pytest.fixture
def source(make_clip, request):
    name, encoder, options, sound = request.param
    fields = {"encoder": encoder, "options": options, "audio": sound, "frames": FRAMES}
    return make_clip(name=name, width=64, height=48, **fields)


every_source = pytest.mark.parametrize("source", SOURCES, indirect=True, ids=[name for name, *_ in SOURCES])


@every_source
def test_a_range_gives_all_its_frames_and_no_other(source) -> None:
    """Wherever it begins: before, at, and behind a key frame, near the beginning and the end."""
    times, values = pictures(source)
    assert len(times) == FRAMES
    for begin, end in ((1, 5), (10, 20), (GROUP, 30), (GROUP + 1, FRAMES), (FRAMES - 2, FRAMES), (0, 7)):
        # Between frames, so that the container's rounding does not matter.
        span = {"start": max(0, begin / 25 - 0.02), "end": None if end == FRAMES else end / 25 - 0.02}
        found, frames = pictures(source, **span)
        assert len(found) == end - begin, span
        wanted = [time - times[begin] for time in times[begin:end]]
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= Fraction(1, 500)
        assert all(np.array_equal(a, b) for a, b in zip(frames, values[begin:end], strict=True)), span
        with open_video(source, **span) as reader:
            assert count_frames(reader).frames == end - begin


@pytest.mark.parametrize(
    "source", [s for s in SOURCES if s[3]], indirect=True, ids=[s[0] for s in SOURCES if s[3]]
)
def test_a_range_gives_all_its_sound(source, denoise) -> None:
    with open_video(source, start=0.5, end=1.0) as reader:
        begin, end = reader.stream_source.start, reader.stream_source.end
    wanted = []
    with av.open(str(source)) as container:
        for packet in container.demux(container.streams.audio[0]):
            if packet.size and begin <= packet.dts * packet.time_base < end:
                wanted.append(raw(bytes(packet)))
    outcome = denoise(source, "--start", "0.5", "--end", "1")
    outcome.done()
    sound = next(stream for stream in read_streams(outcome.output) if stream.kind == "audio")
    assert [raw(data) for _, data in sound.packets] == wanted and wanted


def test_a_range_through_the_command(make_clip, denoise) -> None:
    clip = make_clip(name="in.ts", frames=FRAMES, options=H264, audio="mp2")
    outcome = denoise(clip, "--start", "0.4", "--end", "1.2", "--strict")
    assert outcome.done()["frames"] == 20
    assert len(read_content(outcome.output).times) == 20


def test_bare_streams_have_the_rate_of_their_codec(make_clip, denoise) -> None:
    """Their demuxer would say 25."""
    clip = make_clip(name="in.h264", rate=Fraction(30000, 1001), frames=12)
    outcome = denoise(clip, to="out.mp4")
    assert outcome.done()["frames"] == 12
    found = read_content(outcome.output).times
    assert all(
        abs(time - index * Fraction(1001, 30000)) < Fraction(1, 10000) for index, time in enumerate(found)
    )


def stated(average, guessed, base, *, clock=90000, name="mpegts", flags=0):
    """What `frame_rate` makes of a stream that states these rates."""
    container = SimpleNamespace(format=SimpleNamespace(name=name, flags=flags))
    stream = SimpleNamespace(
        average_rate=average, guessed_rate=guessed, base_rate=base, time_base=Fraction(1, clock)
    )
    return frame_rate(container, stream)


def test_one_rate_from_three() -> None:
    rate = Fraction
    assert stated(rate(60000), rate(25), rate(25), name="dv") == 25
    assert stated(rate(50), rate(25), rate(25), name="gxf") == 25
    assert stated(rate(25), rate(30), rate(60), name="h264", flags=NO_TIMESTAMPS) == 30
    assert stated(rate(25), rate(25), rate(50)) == 25
    assert stated(rate(2987, 100), rate(30), rate(30)) == rate(2987, 100)  # a telephone's uneven times
    assert stated(rate(1, 10), rate(1, 10), rate(1000), clock=1000, name="matroska,webm") == rate(1, 10)
    assert stated(rate(1000), rate(1000), rate(1000), clock=1000, name="matroska,webm") is None
    assert stated(None, None, rate(24)) == 24
    assert stated(None, None, rate(90000)) is None and stated(None, None, None) is None


def test_dv_has_the_rate_of_its_frames(tmp_path, denoise) -> None:
    clip = tmp_path / "in.dv"
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        sound = output.add_stream("pcm_s16le", rate=48000)
        output.start_encoding()
        for index in range(4):
            flat = np.full((1, 1920 * 2), index, np.int16)
            block = av.AudioFrame.from_ndarray(flat, format="s16", layout="stereo")
            block.rate, block.pts = 48000, 1920 * index
            output.mux(sound.encode(block))
            picture = av.VideoFrame(720, 576, "yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    plan = denoise(clip, "--dry-run").done()
    assert (plan["frames"], plan["frames_exact"], plan["input_fps"]) == (4, True, 25)


def hidden(make_clip, tmp_path, name: str) -> Path:
    """Frames of 0.12 s before time 0, hidden by an edit list, with B-frames and sound."""
    clip = make_clip(name="plain.mkv", frames=20, options=H264, audio="aac")

    def earlier(packet):
        packet.pts -= 120
        packet.dts -= 120

    return copied(clip, tmp_path / name, earlier, avoid_negative_ts="disabled", use_editlist="1")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
def test_frames_that_an_edit_list_hides_are_not_damaged(make_clip, tmp_path, denoise, name) -> None:
    cut = hidden(make_clip, tmp_path, name)
    plan = denoise(cut, "--dry-run").done()
    outcome = denoise(cut, "--strict")
    summary = outcome.done()
    assert summary["damage"]["missing_frames"] == 0 and not any(
        "damaged" in text for text in summary["warnings"]
    )
    assert summary["frames"] == plan["frames"] == len(read_content(cut).times) == 17
    later = denoise(cut, "--start", "0.2", to="later.mkv").done()
    assert (
        later["frames"]
        == denoise(cut, "--start", "0.2", "--dry-run", to="later.out.mkv").done()["frames"]
        == 12
    )


def test_frames_with_exif_data(tmp_path, denoise) -> None:
    """PyAV has no name for some kinds of side data, and would show none of a frame's then."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 1, 1) + bytes(4)
    body = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    clip = tmp_path / "exif.avi"
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuvj420p"
        for index in range(3):
            planes = [np.full(shape, 90 + index, np.uint8) for shape in ((24, 32), (12, 16), (12, 16))]
            picture = join_planes(planes, PixelLayout("yuv", 8, 2, 2)).reformat(format="yuvj420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            for packet in stream.encode(picture):
                data = bytes(packet)
                marked = av.Packet(data[:2] + segment + data[2:])
                marked.pts = marked.dts = index
                marked.time_base, marked.stream, marked.is_keyframe = Fraction(1, 25), stream, True
                output.mux(marked)
    assert denoise(clip).done()["frames"] == 3
    with av.open(str(clip)) as container:
        assert all(name.isupper() for name in side_data(next(container.decode(video=0))))


def test_limited_range_that_goes_without_saying(make_clip, denoise) -> None:
    """The decoder of MPEG-2 reports it, the encoder of H.264 leaves it out."""
    clip = make_clip(name="in.ts", encoder="mpeg2video", options=MPEG)
    outcome = denoise(clip, "--strict", to="out.ts")
    assert outcome.done()["warnings"] == []


def test_lost_tags_are_named(make_clip) -> None:
    clip = make_clip()
    color = ColorSpec("bt2020", True, matrix_tag=9, range_tag=2, primaries=9, transfer=16)
    times = [Fraction(index, 25) for index in range(8)]
    expected = Expected(0, times, ["video"], "matroska", color, Fraction(4, 3), 90, "top")
    (sentence,) = verify_video(clip, expected)
    for words in (
        "bt2020nc",
        "(full)",
        "primaries (bt2020)",
        "smpte2084",
        "4:3",
        "90 degrees",
        "top field first",
    ):
        assert words in sentence
    assert MATRIX_NAMES[9] == "bt2020"


@pytest.mark.parametrize("name", ["in.mkv", "in.mp4"])
def test_a_long_frame_ends_with_the_range(make_clip, denoise, name) -> None:
    clip = make_clip(name=name, ticks=(0, 10_000, 20_000), time_base=Fraction(1, 1000), rate=Fraction(1, 10))
    for end, frames in (("15", 2), ("20.5", 3)):
        outcome = denoise(clip, "--end", end, to=f"{end}.mp4")
        assert outcome.done()["frames"] == frames
        with av.open(str(outcome.output)) as container:
            stream = container.streams.video[0]
            assert abs(stream.duration * stream.time_base - Fraction(end)) <= Fraction(1, 1000)


def test_a_dry_run_counts_what_will_be_written(make_clip, denoise) -> None:
    uneven = (0, 40, 55, 130, 131, 400, 900, 1000)
    clip = make_clip(name="in.mkv", ticks=uneven, time_base=Fraction(1, 1000))
    for options in ((), ("--start", "0.05"), ("--end", "0.5"), ("--start", "0.1", "--end", "0.95")):
        plan = denoise(clip, *options, "--dry-run", to="planned.mkv").done()
        assert plan["frames_exact"]
        assert denoise(clip, *options, "--overwrite").done()["frames"] == plan["frames"]


def test_a_count_that_is_not_sure_says_so(make_clip, monkeypatch, capsys, model) -> None:
    from stbn_cli.cli.app import main
    from stbn_cli.video import reader as reading

    monkeypatch.setattr(reading, "COUNTED_PIXELS", 0)
    for name, encoder, options, line in (
        ("in.mkv", "libx264", H264, "8 frames of"),
        ("in.mpg", "mpeg2video", MPEG, "about 8 frames of"),
    ):
        clip = make_clip(name=name, encoder=encoder, options=options)
        output = str(clip.with_suffix(".out.mkv"))
        assert main(["denoise", str(clip), "-o", output, "-m", str(model), "-s", "9", "--dry-run"]) == 0
        assert any(row.strip().startswith(line) for row in capsys.readouterr().out.splitlines())


def test_a_pixel_aspect_that_changes(make_clip, tmp_path, denoise) -> None:
    parts = [
        make_clip(name=f"{number}.ts", encoder="mpeg2video", options=MPEG, width=64, height=48, aspect=aspect)
        for number, aspect in enumerate((Fraction(1), Fraction(4, 3)))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    outcome = denoise(joined)
    summary = outcome.done()
    (warning,) = [text for text in summary["warnings"] if "pixel aspect" in text]
    assert "from 1:1 to 4:3" in warning and summary["frames"] == 16
    assert read_content(outcome.output).aspect == 1
    denoise(joined, "--strict", to="strict.mkv").refused(2, "--strict", "pixel aspect", "1:1 to 4:3")


def test_warnings_of_a_changing_aspect_come_once(make_clip, tmp_path) -> None:
    parts = [
        make_clip(name=f"{number}.ts", encoder="mpeg2video", options=MPEG, width=64, height=48, aspect=aspect)
        for number, aspect in enumerate((Fraction(1), Fraction(4, 3)))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts * 2))
    with open_video(joined) as reader:
        for _ in range(2):
            list(reader)
        assert sum("pixel aspect" in text for text in reader.warnings) == 1
