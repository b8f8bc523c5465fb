"""Streams beside the picture, through the command: copied, converted, or left out by name; --strict refuses losses."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.stream
import numpy as np
import pytest
from av.container import OutputContainer
from av.packet import Packet

from stbn_cli.cli.app import main
from tests.conftest import read_content, read_streams

ASS_FILE = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.04,0:00:00.10,Default,,0,0,0,,{\\i1}Guten{\\i0} Tag
Dialogue: 0,0:00:00.12,0:00:00.18,Default,,0,0,0,,{\\b1}Und{\\b0} noch einmal
"""


@dataclass(frozen=True)
class Extra:
    """A stream of packets with `data` at 40, 120, ... ms."""

    codec: str
    data: tuple[bytes, ...] = (b"one", b"two")
    tags: dict[str, str] = field(default_factory=dict)
    disposition: int = 0
    rate: int | None = None  # of sound


def with_streams(source: Path, target: Path, *extras: Extra) -> Path:
    """`source` with more streams."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        pairs = {s.index: after.add_stream_from_template(s, opaque=True) for s in before.streams}
        for stream in before.streams:
            pairs[stream.index].metadata.update(stream.metadata)
        made = []
        for extra in extras:
            stream = after.add_mux_stream(extra.codec, rate=extra.rate)
            stream.metadata.update(extra.tags)
            stream.disposition = extra.disposition
            made.append(stream)
        after.start_encoding()
        for stream, extra in zip(made, extras, strict=True):
            for number, data in enumerate(extra.data):
                packet = Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = 40 + 80 * number
                packet.duration = 60
                after.mux(packet)
        for packet in before.demux():
            if packet.size:
                packet.stream = pairs[packet.stream.index]
                after.mux(packet)
    return target


def with_ass(source: Path, target: Path) -> Path:
    """`source` with ASS subtitles in German."""
    script = target.with_suffix(".ass")
    script.write_text(ASS_FILE)
    with av.open(str(source)) as before, av.open(str(script)) as text, av.open(str(target), "w") as after:
        pairs = [
            [(stream, after.add_stream_from_template(stream, opaque=True)) for stream in container.streams]
            for container in (text, before)
        ]
        for stream, made in pairs[1]:
            made.metadata.update(stream.metadata)
        pairs[0][0][1].metadata["language"] = "deu"
        for container, made in zip((text, before), pairs, strict=True):
            for packet in container.demux():
                if packet.size:
                    packet.stream = made[packet.stream.index][1]
                    after.mux(packet)
    return target


def assert_copied(before, after) -> None:
    assert (after.codec, after.language, after.disposition) == (
        before.codec,
        before.language,
        before.disposition,
    )
    assert [data for _, data in after.packets] == [data for _, data in before.packets]
    for (one, _), (other, _) in zip(before.packets, after.packets, strict=True):
        assert abs(one - other) <= Fraction(1, 1000)


def tracks(make_clip, tmp_path, name: str) -> Path:
    """Three tracks of sound with languages, titles and dispositions."""
    plain = [make_clip(name=f"{number}.mkv", audio="aac", seed=number) for number in range(3)]
    target = tmp_path / name
    marks = (
        ("deu", "Deutsch", av.stream.Disposition.default),
        ("eng", "English", 0),
        ("fra", "Kommentar", av.stream.Disposition.comment),
    )
    inputs = [av.open(str(path)) for path in plain]
    with av.open(str(target), "w") as after:
        video = after.add_stream_from_template(inputs[0].streams.video[0], opaque=True)
        sounds = []
        for container, (language, title, disposition) in zip(inputs, marks, strict=True):
            sound = after.add_stream_from_template(container.streams.audio[0], opaque=True)
            sound.metadata.update({"language": language, "title": title})
            sound.disposition = int(disposition)
            sounds.append(sound)
        for number, container in enumerate(inputs):
            for packet in container.demux():
                if packet.size and (number == 0 or packet.stream.type == "audio"):
                    packet.stream = video if packet.stream.type == "video" else sounds[number]
                    after.mux(packet)
    for container in inputs:
        container.close()
    return target


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4", "out.mov"])
@pytest.mark.parametrize("source", ["in.mkv", "in.mp4"])
def test_several_tracks_of_sound(make_clip, tmp_path, denoise, source, target) -> None:
    clip = tracks(make_clip, tmp_path, source)
    outcome = denoise(clip, to=target)
    outcome.done()
    before, after = read_streams(clip), read_streams(outcome.output)
    assert [stream.kind for stream in after] == ["video", "audio", "audio", "audio"]
    for old, new in zip(before[1:], after[1:], strict=True):
        assert [data for _, data in new.packets] == [data for _, data in old.packets]
        assert new.language == old.language or (old.language, new.language) in (
            ("deu", "ger"),
            ("fra", "fre"),
        )
    wanted = av.stream.Disposition.default
    assert after[1].disposition & wanted and not after[2].disposition & wanted


def test_strict_accepts_what_is_all_kept(make_clip, tmp_path, denoise) -> None:
    clip = tracks(make_clip, tmp_path, "in.mkv")
    outcome = denoise(clip, "--strict")
    assert outcome.done()["warnings"] == []
    for old, new in zip(read_streams(clip)[1:], read_streams(outcome.output)[1:], strict=True):
        assert_copied(old, new)


# A display set of PGS: a composition without objects, and the end of it.
PGS_SET = b"\x16\x00\x0b" + bytes((0, 64, 0, 48, 16, 0, 0, 128, 0, 0, 0)) + b"\x80\x00\x00"
BITMAP = Extra("hdmv_pgs_subtitle", (PGS_SET, PGS_SET), {"language": "eng"})
TEXT = Extra("subrip", (b"Guten Tag", b"<i>Und</i>\nnochmals"), {"language": "deu", "title": "Untertitel"})


def subtitled(make_clip, tmp_path, codec: str) -> Path:
    """A clip with picture, sound, and subtitles of a codec."""
    plain = make_clip(name="plain.mkv", audio="aac")
    if codec == "ass":
        return with_ass(plain, tmp_path / "in.mkv")
    return with_streams(plain, tmp_path / "in.mkv", BITMAP if codec == BITMAP.codec else TEXT)


@pytest.mark.parametrize("codec", ["ass", "hdmv_pgs_subtitle", "subrip"])
def test_subtitles_in_matroska(make_clip, tmp_path, denoise, codec) -> None:
    clip = subtitled(make_clip, tmp_path, codec)
    outcome = denoise(clip, "--strict")
    assert outcome.done()["warnings"] == []
    before, after = (
        [stream for stream in read_streams(path) if stream.kind == "subtitle"]
        for path in (clip, outcome.output)
    )
    assert len(before) == 1 and len(before[0].packets) == 2
    assert_copied(before[0], after[0])


@pytest.mark.parametrize("codec", ["ass", "hdmv_pgs_subtitle"])
def test_subtitles_that_mp4_cannot_hold(make_clip, tmp_path, denoise, codec) -> None:
    clip = subtitled(make_clip, tmp_path, codec)
    outcome = denoise(clip, to="out.mp4")
    (warning,) = [text for text in outcome.done()["warnings"] if "left out" in text]
    assert f"(subtitle, {codec})" in warning and ".mkv" in warning
    assert [stream.kind for stream in read_streams(outcome.output)] == ["video", "audio"]
    denoise(clip, "--strict", to="strict.mp4").refused(2, "--strict", codec)


def test_text_changes_its_wrapping(make_clip, tmp_path, denoise) -> None:
    clip = with_streams(make_clip(name="plain.mkv", audio="aac"), tmp_path / "in.mkv", TEXT)
    to_mp4 = denoise(clip, to="out.mp4")
    assert any("Markup" in text for text in to_mp4.done()["warnings"])
    there = read_streams(to_mp4.output)[2]
    assert there.codec == "mov_text" and there.language == "deu"
    texts = [data[2 : 2 + int.from_bytes(data[:2], "big")] for _, data in there.packets]
    assert [text for text in texts if text] == [b"Guten Tag", b"Und\nnochmals"]
    back = denoise(to_mp4.output, "--strict", to="back.mkv")
    back.done()
    assert [data for _, data in read_streams(back.output)[2].packets] == [b"Guten Tag", b"Und\nnochmals"]
    denoise(clip, "--strict", to="strict.mp4").refused(6, "--strict", "Markup")


def test_sound_that_a_transport_stream_cannot_name(make_clip, denoise) -> None:
    """Its muxer takes FLAC, PCM and the like, as data that nobody finds again."""
    clip = make_clip(audio="flac")
    outcome = denoise(clip, to="out.ts")
    assert any("(audio, flac)" in text for text in outcome.done()["warnings"])
    assert [stream.kind for stream in read_streams(outcome.output)] == ["video"]
    denoise(clip, "--strict", to="strict.ts").refused(2, "--strict", "flac")


@pytest.mark.parametrize(
    ("code", "written"),
    [
        *[("deu", "ger"), ("ger", "ger"), ("fra", "fra"), ("fre", "fra"), ("ces", "ces"), ("cze", "ces")],
        *[("nld", "dut"), ("dut", "dut"), ("eng", "eng"), ("zho", "chi"), ("slk", "slk"), ("rum", "ron")],
    ],
)
def test_languages_in_quicktime(make_clip, tmp_path, denoise, code, written) -> None:
    """Its table has one of the two codes that some languages have."""
    clip = with_streams(
        make_clip(name="plain.mkv"), tmp_path / "in.mkv", Extra("subrip", tags={"language": code})
    )
    outcome = denoise(clip, to="out.mov")
    assert not any("language" in text for text in outcome.done()["warnings"])
    assert read_streams(outcome.output)[1].language == written


def test_data_in_a_transport_stream(make_clip, tmp_path, denoise) -> None:
    data = Extra("klv", (b"\x06\x0e\x2b\x34" + bytes(20), b"\x06\x0e\x2b\x34" + bytes(28)))
    clip = with_streams(make_clip(name="plain.mp4", audio="aac"), tmp_path / "in.ts", data)
    outcome = denoise(clip, to="out.ts")
    outcome.done()
    old = next(stream for stream in read_streams(clip) if stream.kind == "data")
    new = next(stream for stream in read_streams(outcome.output) if stream.kind == "data")
    assert [packet for _, packet in new.packets] == [packet for _, packet in old.packets]
    denoise(clip, "--strict", to="strict.mkv").refused(2, "--strict", "data")


@pytest.mark.parametrize("target", ["out.ts", "frames/", "out.y4m"])
def test_what_has_no_chapters_or_tags_says_so(make_clip, denoise, target) -> None:
    clip = make_clip(chapters=((0, 120, "one"), (120, 320, "two")), tags={"title": "Film"})
    outcome = denoise(clip, to=target)
    assert any("2 chapters and tags (title)" in text for text in outcome.done()["warnings"])
    denoise(clip, "--strict", to=f"strict-{target}").refused(2, "--strict", "2 chapters")


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4", "out.mov"])
def test_chapters_and_tags(make_clip, denoise, target) -> None:
    clip = make_clip(
        chapters=((0, 120, "one"), (120, 320, "zwei: ü")), tags={"title": "Film", "artist": "Wir"}
    )
    outcome = denoise(clip, to=target)
    outcome.done()
    before, after = read_content(clip), read_content(outcome.output)
    assert [name for *_, name in after.chapters] == [name for *_, name in before.chapters]
    assert {"title": "Film", "artist": "Wir"}.items() <= after.tags.items()


def test_an_attachment(make_clip, tmp_path, denoise) -> None:
    plain, clip = make_clip(name="plain.mkv"), tmp_path / "in.mkv"
    with av.open(str(plain)) as before, av.open(str(clip), "w") as after:
        video = after.add_stream_from_template(before.streams.video[0], opaque=True)
        after.add_attachment("font.ttf", "font/ttf", b"not really a font")
        for packet in before.demux():
            if packet.size:
                packet.stream = video
                after.mux(packet)
    outcome = denoise(clip, "--strict")
    outcome.done()
    with av.open(str(outcome.output)) as container:
        attachment = next(stream for stream in container.streams if stream.type == "attachment")
        assert (attachment.name, attachment.data) == ("font.ttf", b"not really a font")
    denoise(clip, "--strict", to="out.mp4").refused(2, "--strict", "attachment")


def with_sound(source: Path, target: Path, codec: str, rate: int) -> Path:
    """`source` with sound of a codec."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        video = after.add_stream_from_template(before.streams.video[0], opaque=True)
        sound = after.add_stream(codec, rate=rate)
        assert isinstance(sound, av.AudioStream)
        sound.codec_context.layout, sound.codec_context.bit_rate = "mono", 64_000
        for packet in before.demux(before.streams.video[0]):
            if packet.size:
                packet.stream = video
                after.mux(packet)
        generator = np.random.default_rng(0)
        size = sound.codec_context.frame_size or 1024
        for number in range(4):
            values = generator.uniform(-0.5, 0.5, (1, size)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(values, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, number * size, Fraction(1, rate)
            for resampled in av.AudioResampler(sound.codec_context.format, "mono", rate).resample(frame):
                after.mux(sound.encode(resampled))
        after.mux(sound.encode(None))
    return target


def decoded(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return b"".join(frame.to_ndarray().tobytes() for frame in container.decode(audio=0))


@pytest.mark.parametrize(
    ("codec", "source"),
    [
        *[
            ("pcm_mulaw", "in.avi"),
            ("pcm_alaw", "in.mov"),
            ("adpcm_ima_wav", "in.avi"),
            ("adpcm_ms", "in.avi"),
        ],
        *[("wmav1", "in.asf"), ("wmav2", "in.wmv"), ("g722", "in.avi")],
    ],
)
def test_sound_that_matroska_knows_by_its_number(make_clip, tmp_path, denoise, codec, source) -> None:
    rate = 16_000 if codec == "g722" else 22_050
    clip = with_sound(
        make_clip(name="plain.mkv", encoder="mpeg4", options={}), tmp_path / source, codec, rate
    )
    outcome = denoise(clip, "--strict")
    assert outcome.done()["warnings"] == []
    (before,), (after,) = (
        [stream for stream in read_streams(path) if stream.kind == "audio"] for path in (clip, outcome.output)
    )
    assert after.codec == before.codec
    assert [data for _, data in after.packets] == [data for _, data in before.packets]
    with av.open(str(clip)) as one, av.open(str(outcome.output)) as other:
        assert one.streams.audio[0].rate == other.streams.audio[0].rate == rate
    assert decoded(outcome.output) == decoded(clip)


@pytest.mark.parametrize(
    ("codec", "source", "output"),
    [
        ("nellymoser", "in.flv", "in.denoised.mov"),  # no name and no number in Matroska
        ("pcm_mulaw", "in.avi", "in.denoised.mkv"),
        ("pcm_alaw", "in.mp4", "in.denoised.mkv"),  # a MOV by the name of .mp4, which has no a-law
    ],
)
def test_the_default_output_holds_the_sound(make_clip, tmp_path, model, codec, source, output) -> None:
    settings = {} if source == "in.flv" else {"encoder": "mpeg4", "options": {}}
    plain = make_clip(name="plain.mkv", **settings)
    written = tmp_path / (source if not source.endswith("mp4") else "in.mov")
    with_sound(plain, written, codec, 22_050).rename(tmp_path / source)
    assert main(["denoise", str(tmp_path / source), "-m", str(model), "-s", "20", "--strict"]) == 0
    assert "audio" in [stream.kind for stream in read_streams(tmp_path / output)]


@pytest.mark.skipif(
    not hasattr(OutputContainer, "add_mux_stream"), reason="PyAV 16 writes no stream without encoder"
)
def test_broadcast_sound_stays_in_a_transport_stream(make_clip, tmp_path, model) -> None:
    """SMPTE 302M has no other place; half of the sound elsewhere is less than all of it."""
    pcm = b"\0\x64\0\0" + bytes(100)  # 20 samples of two channels, 16 bits
    plain = make_clip(name="plain.ts", audio="mp2")
    clip = with_streams(plain, tmp_path / "in.m2ts", Extra("s302m", (pcm, pcm), rate=48_000))
    assert main(["denoise", str(clip), "-m", str(model), "-s", "20"]) == 0
    found = read_streams(tmp_path / "in.denoised.ts")
    assert [stream.codec for stream in found if stream.kind == "audio"] == ["mp2", "s302m"]


def test_video_that_matroska_knows_by_four_letters(make_clip, tmp_path, denoise) -> None:
    clips = [make_clip(name=f"{codec}.avi", encoder=codec, options={}) for codec in ("mpeg4", "wmv2")]
    clip = tmp_path / "two.avi"
    with av.open(str(clip), "w") as after, av.open(str(clips[0])) as one, av.open(str(clips[1])) as other:
        pairs = [(c, after.add_stream_from_template(c.streams.video[0], opaque=True)) for c in (one, other)]
        for container, copy in pairs:
            for packet in container.demux():
                if packet.size:
                    packet.stream = copy
                    after.mux(packet)
    outcome = denoise(clip, "--strict")
    outcome.done()
    assert_copied(read_streams(clip)[1], read_streams(outcome.output)[1])


def with_undescribed_data(source: Path, target: Path) -> Path:
    """`source`, a MOV, with a track of data that only its maker understands, as phones write them."""
    text = Extra("mov_text", (b"\0\3one", b"\0\3two"))
    data = with_streams(source, target, text).read_bytes()
    kinds, count = re.subn(rb"(stsd.{12})(text|tx3g)", rb"\1mebx", data, flags=re.DOTALL)
    assert count == 1
    kinds = re.sub(rb"mhlr(text|sbtl)", b"mhlrmeta", kinds)
    target.write_bytes(kinds)
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams if stream.type not in ("video", "audio")] == [
            "data"
        ]
    return target


@pytest.mark.parametrize("to", ["out.mov", "out.mp4", "out.mkv"])
def test_data_that_nobody_could_read_is_named(make_clip, tmp_path, denoise, to) -> None:
    clip = with_undescribed_data(make_clip(name="plain.mov", audio="aac"), tmp_path / "in.mov")
    outcome = denoise(clip, to=to)
    (warning,) = outcome.done()["warnings"]
    assert "(data, " in warning and "left out" in warning and "No other output holds it" in warning
    assert [stream.kind for stream in read_streams(outcome.output)] == ["video", "audio"]
    denoise(clip, "--strict", to=f"strict_{to}").refused(2, "--strict", "data")


def test_bare_bytes_in_a_transport_stream(make_clip, tmp_path, denoise) -> None:
    """Data that MP4 describes would be without a name there; what has none already stays as it is."""
    clip = with_undescribed_data(make_clip(name="plain.mov", audio="aac"), tmp_path / "in.mov")
    outcome = denoise(clip, to="out.ts")
    assert any("(data, " in warning and "MPEG-TS" in warning for warning in outcome.done()["warnings"])
    assert [stream.kind for stream in read_streams(outcome.output)] == ["video", "audio"]
    source = tmp_path / "private.ts"
    with av.open(str(clip)) as before, av.open(str(source), "w") as after:
        pairs = {s.index: after.add_stream_from_template(s, opaque=True) for s in before.streams}
        for packet in before.demux():
            if packet.size:
                packet.stream = pairs[packet.stream.index]
                after.mux(packet)
    outcome = denoise(source, "--strict", to="again.ts")
    outcome.done()
    before, after = (read_streams(path)[2] for path in (source, outcome.output))
    assert (after.kind, [data for _, data in after.packets]) == ("data", [data for _, data in before.packets])


def test_a_hint_names_a_container_that_holds_the_stream(make_clip, tmp_path, denoise) -> None:
    clip = with_sound(make_clip(name="plain.mkv"), tmp_path / "in.flv", "nellymoser", 22_050)
    (warning,) = denoise(clip).done()["warnings"]
    assert "(audio, nellymoser)" in warning and "A .mov output keeps it." in warning
    denoise(clip, "--strict", to="out.mov").done()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_index_in_front_stays_there(make_clip, tmp_path, denoise, is_first, suffix) -> None:
    clip = tmp_path / f"in{suffix}"
    with (
        av.open(str(make_clip(name="plain.mp4"))) as before,
        av.open(str(clip), "w", container_options={"movflags": "faststart"} if is_first else {}) as after,
    ):
        after.metadata["own"] = "kept"
        copy = after.add_stream_from_template(before.streams.video[0], opaque=True)
        for packet in before.demux():
            if packet.size:
                packet.stream = copy
                after.mux(packet)
    outcome = denoise(clip, "--strict", to=f"out{suffix}")
    outcome.done()
    data = outcome.output.read_bytes()
    assert (data.index(b"moov") < data.index(b"mdat")) == is_first


def with_cover(source: Path, target: Path, codec: str) -> Path:
    """`source` with a cover picture in front of its other streams."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        video = after.add_stream_from_template(before.streams.video[0], opaque=True)
        cover = after.add_stream(codec)
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p" if codec == "mjpeg" else "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value  # type: ignore[assignment]
        targets = [video, after.add_stream_from_template(before.streams.audio[0], opaque=True)]
        picture = av.VideoFrame(16, 16, cover.pix_fmt)
        picture.pts = 0
        after.mux(cover.encode(picture))
        for packet in before.demux():
            if packet.size:
                packet.stream = targets[packet.stream.index]
                after.mux(packet)
    return target


@pytest.mark.parametrize("codec", ["mjpeg", "png"])
def test_a_cover_is_an_attachment_in_matroska(make_clip, tmp_path, denoise, codec) -> None:
    """From MP4 into Matroska, from there into Matroska, and back."""
    clip = with_cover(make_clip(name="plain.mp4", audio="aac"), tmp_path / "in.mp4", codec)
    (cover,) = [stream for stream in read_streams(clip) if stream.codec == codec]
    for to in ("first.mkv", "second.mkv", "back.mp4"):
        outcome = denoise(clip, "--strict", to=to)
        assert outcome.done()["warnings"] == []
        clip = outcome.output
        (found,) = [stream for stream in read_streams(clip) if stream.codec == codec]
        assert av.stream.Disposition(found.disposition) & av.stream.Disposition.attached_pic
        assert [data for _, data in found.packets] == [data for _, data in cover.packets]
        with av.open(str(clip)) as container:
            assert [stream.type for stream in container.streams].count("audio") == 1
            tags = {key.lower(): value for key, value in container.streams[-1].metadata.items()}
            if to.endswith(".mkv"):
                assert tags["filename"] == {"mjpeg": "cover.jpg", "png": "cover.png"}[codec]
                assert tags["mimetype"] == {"mjpeg": "image/jpeg", "png": "image/png"}[codec]
