"""Sound, subtitles, chapters, attachments and metadata beside the denoised video."""

from fractions import Fraction

import av
import av.stream
import numpy as np
import pytest

from stbn_cli.pipeline import denoise_video
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video

H264_LOSSLESS = EncodeOptions(codec="h264", preset="ultrafast", lossless=True)
CHAPTERS = ((0, 120, "one"), (120, 400, "two"))


class Identity:
    def stream(self, frames):
        yield from frames


def round_trip(source, output, options=H264_LOSSLESS, **range_options):
    with (
        open_video(source, **range_options) as reader,
        create_video(output, reader, options, overwrite=False) as writer,
    ):
        return denoise_video(reader, Identity(), writer)


def assert_copied(after, before):
    """Packets equal to the byte and, to the container's tick, in time."""
    assert (after.kind, after.codec, after.language) == (before.kind, before.codec, before.language)
    assert [data for _, data in after.packets] == [data for _, data in before.packets]
    for (time, _), (wanted, _) in zip(after.packets, before.packets, strict=True):
        assert abs(time - wanted) <= Fraction(1, 1000)


@pytest.mark.parametrize("audio", ["aac", "flac"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_is_copied_byte_for_byte(make_clip, content, tmp_path, suffix, audio):
    source = make_clip(name=f"in{suffix}", audio=audio, frames=10)
    summary = round_trip(source, tmp_path / f"out{suffix}")
    before, after = content(source), content(tmp_path / f"out{suffix}")
    assert [stream.kind for stream in after.streams] == ["video", "audio"]
    assert_copied(after.streams[1], before.streams[1])
    assert after.times == before.times
    assert [stream.disposition for stream in after.streams] == [s.disposition for s in before.streams]
    assert summary.warnings == ()


def test_sound_that_starts_before_the_video_does_not_move_it(make_clip, content, tmp_path):
    # AAC in MP4 begins with a packet before time 0; Matroska's muxer would by default move everything.
    source = make_clip(name="in.mp4", audio="aac")
    before = content(source)
    assert before.streams[1].packets[0][0] < 0
    round_trip(source, tmp_path / "out.mkv")
    after = content(tmp_path / "out.mkv")
    assert after.times == before.times
    assert_copied(after.streams[1], before.streams[1])


def test_a_transport_stream_keeps_sound_and_picture_together(make_clip, content, tmp_path):
    source = make_clip(name="in.mp4", audio="aac", options={"qp": "0", "preset": "veryfast", "bf": "2"})
    round_trip(source, tmp_path / "out.ts")
    before, after = content(source), content(tmp_path / "out.ts")
    lag = before.times[0] - before.streams[1].packets[0][0]
    assert abs(after.times[0] - after.streams[1].packets[0][0] - lag) < Fraction(1, 1000)
    assert len(after.streams[1].packets) == len(before.streams[1].packets)


def test_everything_in_matroska(make_clip, content, tmp_path):
    tags = {"title": "Räder", "comment": "x", "camera": "k"}
    source = make_clip(frames=10, audio="flac", subtitles=True, chapters=CHAPTERS, tags=tags)
    round_trip(source, tmp_path / "out.mkv")
    before, after = content(source), content(tmp_path / "out.mkv")
    assert [stream.kind for stream in after.streams] == ["video", "audio", "subtitle"]
    for index in (1, 2):
        assert_copied(after.streams[index], before.streams[index])
    assert after.streams[2].packets == [(Fraction(40, 1000), b"Guten Tag")]
    assert after.chapters == before.chapters
    assert len(after.chapters) == 2
    assert tags.items() <= after.tags.items()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_chapters_and_own_tags_in_mp4(make_clip, content, tmp_path, suffix):
    source = make_clip(frames=10, audio="aac", chapters=CHAPTERS, tags={"title": "t", "camera": "k"})
    round_trip(source, tmp_path / f"out{suffix}")
    before, after = content(source), content(tmp_path / f"out{suffix}")
    assert after.chapters == before.chapters
    assert {"title": "t", "camera": "k"}.items() <= after.tags.items()
    again = tmp_path / f"again{suffix}"
    summary = round_trip(tmp_path / f"out{suffix}", again)
    kinds = [stream.kind for stream in content(again).streams]
    assert kinds == [stream.kind for stream in after.streams]  # the chapter track is not doubled
    assert content(again).chapters == before.chapters
    assert summary.warnings == ()


def test_language_survives_mov(make_clip, content, tmp_path):
    source = make_clip(audio="aac")  # tagged "deu", which MOV can only write as "ger"
    round_trip(source, tmp_path / "out.mov")
    assert content(tmp_path / "out.mov").streams[1].language in ("ger", "deu")


def test_a_stream_the_container_cannot_hold_is_named(make_clip, content, tmp_path):
    source = make_clip(audio="aac", subtitles=True)
    summary = round_trip(source, tmp_path / "out.ts")
    assert [stream.kind for stream in content(tmp_path / "out.ts").streams] == ["video", "audio"]
    assert any("subtitle" in sentence for sentence in summary.warnings)


def test_attachments_and_covers_are_copied(make_clip, content, tmp_path):
    plain = make_clip(name="plain.mkv", audio="flac")
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as before, av.open(str(source), "w") as after:
        targets = {
            stream.index: after.add_stream_from_template(stream, opaque=True) for stream in before.streams
        }
        after.add_attachment("font.ttf", "font/ttf", b"not really a font")
        for packet in before.demux():
            if packet.size:
                packet.stream = targets[packet.stream.index]
                after.mux(packet)
    round_trip(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        attachment = next(stream for stream in container.streams if stream.type == "attachment")
        assert (attachment.name, attachment.data) == ("font.ttf", b"not really a font")


@pytest.mark.parametrize("start", [None, 0.12])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_cover_picture_is_copied(make_clip, content, tmp_path, suffix, start):
    plain, source = make_clip(name="plain.mp4", audio="aac"), tmp_path / "in.mp4"
    with av.open(str(plain)) as before, av.open(str(source), "w") as after:
        targets = {
            stream.index: after.add_stream_from_template(stream, opaque=True) for stream in before.streams
        }
        cover = after.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        picture = av.VideoFrame(16, 16, "yuvj420p")
        picture.pts = 0
        after.mux(cover.encode(picture))
        for packet in before.demux():
            if packet.size:
                packet.stream = targets[packet.stream.index]
                after.mux(packet)
    summary = round_trip(source, tmp_path / f"out{suffix}", start=start)
    if suffix == ".mov":
        assert any("mjpeg" in sentence for sentence in summary.warnings)
        return
    data = next(s.packets[0][1] for s in content(source).streams if s.codec == "mjpeg")
    found = [s for s in content(tmp_path / f"out{suffix}").streams if s.codec == "mjpeg"]
    assert [stream.packets[0][1] for stream in found] == [data]


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_a_time_code_is_kept(make_clip, tmp_path, suffix):
    source = make_clip(name="in.mov", tags={"timecode": "01:00:00:00"})
    summary = round_trip(source, tmp_path / f"out{suffix}")
    assert summary.warnings == ()
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
        kinds = [stream.type for stream in container.streams]
    assert tags["timecode"] == "01:00:00:00"
    assert kinds == ["video"] if suffix == ".mkv" else ["video", "data"]


@pytest.mark.parametrize("start", [None, 0.2, 0.25])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_range_cuts_and_shifts_everything(make_clip, content, tmp_path, suffix, start):
    source = make_clip(
        name=f"in{suffix}",
        frames=25,
        audio="aac",
        chapters=((0, 300, "one"), (300, 1000, "two")),
        options={"qp": "0", "preset": "veryfast", "bf": "2", "g": "8"},
    )
    output = tmp_path / f"out{suffix}"
    round_trip(source, output, start=start, end=0.6)
    before, after = content(source), content(output)
    first = {None: 0, 0.2: 5, 0.25: 7}[start]
    assert after.times == [Fraction(index, 25) for index in range(15 - first)]
    np.testing.assert_equal(after.planes, before.planes[first:15])
    shift = before.times[first]
    wanted = [
        (time - shift, data) for time, data in before.streams[1].packets if shift <= time < Fraction(6, 10)
    ]
    found = after.streams[1].packets
    assert [data for _, data in found] == [data for _, data in wanted]
    assert all(abs(one[0] - other[0]) <= Fraction(1, 500) for one, other in zip(found, wanted, strict=True))
    assert [title for _, _, title in after.chapters] == ["one", "two"]
    assert after.chapters[1][0] == before.chapters[1][0] - shift


def test_a_subtitle_on_screen_at_the_start_stays(make_clip, content, tmp_path):
    source = make_clip(frames=25, subtitles=True)  # shown from 0.04 s to 0.16 s
    round_trip(source, tmp_path / "out.mkv", start=0.08)
    assert content(tmp_path / "out.mkv").streams[1].packets == [(Fraction(0), b"Guten Tag")]


def test_more_video_streams_are_copied(make_clip, content, tmp_path):
    one, two = make_clip(name="one.mkv"), make_clip(name="two.mkv", seed=5)
    source = tmp_path / "in.mkv"
    with av.open(str(one)) as a, av.open(str(two)) as b, av.open(str(source), "w") as output:
        pairs = [(c, output.add_stream_from_template(c.streams[0], opaque=True)) for c in (a, b)]
        for container, target in pairs:
            for packet in container.demux():
                if packet.size:
                    packet.stream = target
                    output.mux(packet)
    summary = round_trip(source, tmp_path / "out.mkv")
    before, after = content(source), content(tmp_path / "out.mkv")
    assert_copied(after.streams[1], before.streams[1])
    assert any("2 video streams" in sentence for sentence in summary.warnings)
