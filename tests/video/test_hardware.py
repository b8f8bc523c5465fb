"""Decoding and encoding on a graphics card: what is asked of it, and that software takes over where it fails.

The card is played by the software decoder, with its pictures rearranged as NVDEC gives them.
"""

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from stbn_cli.errors import OptionError
from stbn_cli.video import decoding, encoders, hardware, writer
from stbn_cli.video.encoders import HARDWARE_ENCODERS, EncodeOptions, plan_encoder, software_options
from stbn_cli.video.frames import ColorSpec, VideoMetadata, Warnings
from stbn_cli.video.hardware import HardwareError, open_on_device
from stbn_cli.video.pixels import describe_format
from stbn_cli.video.probe import open_container
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import create_video
from tests.conftest import planes_of

DEVICE_FORMATS = {8: "nv12", 10: "p010le", 12: "p016le"}


def on_device(picture: av.VideoFrame) -> av.VideoFrame:
    """A 4:2:0 picture as NVDEC hands it out: chroma interleaved, values in the upper bits of 16."""
    depth = describe_format(picture.format.name).depth
    luma, *chroma = planes_of(picture)
    mixed = np.stack(chroma, axis=2).reshape(len(chroma[0]), -1)
    frame = av.VideoFrame(picture.width, picture.height, DEVICE_FORMATS[depth])
    for plane, values in zip(frame.planes, (luma, mixed), strict=True):
        item = np.dtype(values.dtype)
        rows = np.frombuffer(plane, item).reshape(-1, plane.line_size // item.itemsize)
        rows[: len(values), : values.shape[1]] = values << (0 if depth == 8 else 16 - depth)
    frame.pts, frame.time_base = picture.pts, picture.time_base
    if hasattr(picture, "duration"):
        frame.duration = picture.duration
    frame.colorspace, frame.color_range = picture.colorspace, picture.color_range
    return frame


@pytest.fixture
def play_card(monkeypatch) -> Callable[[Callable], list[str]]:
    """play_card(change): pictures of a card are change(index, picture of the software); returns what was opened."""
    opened: list[str] = []

    def play(change: Callable) -> list[str]:
        decode = decoding.Decoder._decode

        def fake_open(path, index):
            opened.append(path.name)
            container = open_container(path)
            container.streams[index].codec_context.options = {"card": "1"}
            return container

        def fake_decode(self, container, stream):
            pictures = decode(self, container, stream)
            if "card" not in stream.codec_context.options:
                yield from pictures
                return
            for index, picture in enumerate(pictures):
                yield change(index, picture)

        monkeypatch.setattr(decoding, "open_on_device", fake_open)
        monkeypatch.setattr(decoding.Decoder, "_decode", fake_decode)
        return opened

    return play


def frames_of(path, **options):
    with open_video(path, **options) as clip:
        return list(clip), list(clip.warnings), clip.metadata


def assert_same_frames(found, wanted):
    assert [(f.pts, f.time_base, f.duration) for f in found] == [
        (w.pts, w.time_base, w.duration) for w in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_whatever_this_machine_has_the_frames_are_those_of_the_software(make_clip):
    path = make_clip()
    wanted, _, metadata = frames_of(path)
    for name in ("auto", "cuda"):
        found, notes, described = frames_of(path, hardware=name)
        assert_same_frames(found, wanted)
        assert described == metadata
        assert len(notes) <= 1


def test_other_hardware_is_refused(make_clip):
    with pytest.raises(OptionError, match="auto, cuda"):
        open_video(make_clip(), hardware="abacus")


def test_no_device_is_one_warning(make_clip, monkeypatch):
    def refuse(path, index):
        raise HardwareError("no card is there")

    path = make_clip()
    monkeypatch.setattr(decoding, "open_on_device", refuse)
    with open_video(path, hardware="cuda") as clip:
        assert_same_frames(list(clip), frames_of(path)[0])
        list(clip)
        assert len(clip.warnings) == 1
    assert "no card is there" in clip.warnings[0]
    assert "in software:" in clip.warnings[0]


def test_a_device_that_is_not_there_is_a_hardware_error(make_clip, monkeypatch):
    monkeypatch.setattr(hardware, "FIRST_SAFE_PYAV", 0)  # no stream is decoded here
    monkeypatch.setattr(hardware, "DEVICE", "quantum")
    with pytest.raises(HardwareError, match="no quantum"):
        open_on_device(make_clip(), 0)
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["quantum"])
    with pytest.raises(HardwareError, match=r"\w"):
        open_on_device(make_clip(), 0)


def test_a_pyav_that_would_crash_is_not_asked(make_clip, monkeypatch):
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(HardwareError, match=r"16\.1\.0"):
        open_on_device(make_clip(), 0)


@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize("depth", [8, 10, 12])
def test_a_cards_pictures_hold_the_same_values(make_clip, play_card, depth, color_range):
    name = "yuv420p" if depth == 8 else f"yuv420p{depth}le"
    path = make_clip(encoder="ffv1", pix_fmt=name, width=33, height=23, frames=3, color_range=color_range)
    wanted, _, metadata = frames_of(path)
    opened = play_card(lambda index, picture: on_device(picture))
    found, notes, described = frames_of(path, hardware="cuda")
    assert_same_frames(found, wanted)
    assert (described.pixel_format, described) == (name, metadata)
    assert (opened, notes) == ([path.name], [])


@pytest.mark.parametrize("failing", [0, 3])
def test_software_goes_on_where_a_card_gives_up(make_clip, play_card, failing):
    path = make_clip()
    play_card(lambda index, picture: picture if index < failing else None)
    for span in ({}, {"start": 0.08, "end": 0.28}):
        wanted = frames_of(path, **span)[0]
        found, notes, _ = frames_of(path, hardware="cuda", **span)
        assert_same_frames(found, wanted)
        assert len(notes) == 1
        assert "in software" in notes[0]


def test_damage_is_left_to_software(make_clip, play_card):
    path = make_clip()
    play_card(
        lambda index, picture: picture if index < 2 else SimpleNamespace(is_corrupt=True, pts=picture.pts)
    )
    found, notes, _ = frames_of(path, hardware="cuda")
    assert_same_frames(found, frames_of(path)[0])
    assert "damaged" in notes[0]


def test_the_warning_says_since_when(make_clip, play_card):
    play_card(lambda index, picture: picture if index < 3 else None)
    # The third picture was waiting for the time of the fourth.
    assert "from frame 2 on" in frames_of(make_clip(), hardware="cuda")[1][0]


def test_a_card_that_gives_other_planes_is_not_used(make_clip, play_card):
    path = make_clip()
    wanted = frames_of(path)[0]
    play_card(lambda index, picture: picture.reformat(format="yuv444p"))
    found, notes, _ = frames_of(path, hardware="cuda")
    assert_same_frames(found, wanted)
    assert "yuv444p" in notes[0]


def test_a_card_that_gives_fewer_bits_is_not_used(make_clip, play_card):
    path = make_clip(pix_fmt="yuv420p10le")
    wanted = frames_of(path)[0]
    play_card(lambda index, picture: picture.reformat(format="nv12"))
    assert_same_frames(frames_of(path, hardware="cuda")[0], wanted)


def metadata_of(pixel_format: str, width: int = 64, height: int = 48) -> VideoMetadata:
    return VideoMetadata(
        width, height, pixel_format, 8, ColorSpec("bt709", False), None, Fraction(25), Fraction(1, 25), None
    )


def plan_for(options: EncodeOptions, source: VideoMetadata | None = None, notes: Warnings | None = None):
    return plan_encoder(source or metadata_of("yuv420p"), "matroska", options, notes or Warnings())


@pytest.fixture
def nvenc():
    if not all(encoders.has_encoder(name) for name in HARDWARE_ENCODERS):
        pytest.skip("this FFmpeg build has no NVENC")


@pytest.mark.usefixtures("nvenc")
@pytest.mark.parametrize("codec", HARDWARE_ENCODERS)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"crf": 20}, {"rc": "vbr", "cq": "20", "preset": "p4"}),
        ({"crf": 0}, {"rc": "vbr", "cq": "1"}),
        ({"preset": "ultrafast"}, {"preset": "p1"}),
        ({"preset": "veryslow"}, {"preset": "p7"}),
        ({"preset": "p6"}, {"preset": "p6"}),
        ({"lossless": True}, {"tune": "lossless"}),
    ],
    ids=str,
)
def test_options_of_nvenc(codec, options, wanted):
    plan = plan_for(EncodeOptions(codec=codec, **options))
    assert plan.encoder == codec
    assert plan.family == HARDWARE_ENCODERS[codec]
    assert plan.options | wanted == plan.options
    assert plan.options["bf"] == "0"  # see `_nvenc_options`
    assert ("cq" in plan.options) != ("lossless" in options)


@pytest.mark.usefixtures("nvenc")
@pytest.mark.parametrize("codec", HARDWARE_ENCODERS)
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"preset": "slow", "crf": 51}], ids=str)
def test_the_encoder_knows_the_options(codec, options):
    """Wrong options are found before the missing card is, by errors of their own."""
    plan = plan_for(EncodeOptions(codec=codec, **options))
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 256, 256, plan.pix_fmt
    context.time_base, context.options = Fraction(1, 25), plan.options
    try:
        context.open()
    except (ValueError, OverflowError, av.error.OptionNotFoundError) as error:
        pytest.fail(str(error))
    except av.error.FFmpegError:
        pass  # there is no card


@pytest.mark.usefixtures("nvenc")
@pytest.mark.parametrize(
    ("pixel_format", "size", "asked", "chosen", "lossy"),
    [
        ("yuv420p", (64, 48), None, "yuv420p", False),
        ("yuvj420p", (64, 48), None, "yuv420p", False),
        ("yuv420p10le", (64, 48), None, "p010le", False),
        ("yuv422p", (64, 48), None, "yuv444p", False),
        ("rgb24", (64, 48), None, "yuv444p", True),
        ("yuv420p12le", (64, 48), None, "p010le", True),
        ("yuv420p", (63, 48), None, "yuv444p", True),
        ("yuv420p", (64, 48), "yuv420p10le", "p010le", False),
        ("yuv420p", (64, 48), "nv12", "nv12", False),
    ],
)
def test_pixel_formats_of_nvenc(pixel_format, size, asked, chosen, lossy):
    notes = Warnings()
    source = metadata_of(pixel_format, *size)
    plan = plan_for(EncodeOptions(codec="hevc_nvenc", pix_fmt=asked), source, notes)
    assert plan.pix_fmt == chosen
    assert bool(notes.messages) == lossy


@pytest.mark.usefixtures("nvenc")
@pytest.mark.parametrize(
    "options", [{"preset": "7"}, {"pix_fmt": "gbrp"}, {"crf": 52}, {"crf": 20, "lossless": True}], ids=str
)
def test_options_that_nvenc_lacks_are_refused(options):
    with pytest.raises(OptionError):
        plan_for(EncodeOptions(codec="h264_nvenc", **options))


def test_presets_of_nvenc_are_not_those_of_software():
    with pytest.raises(OptionError, match="p4"):
        plan_for(EncodeOptions(codec="h264", preset="p4"))


def test_software_options_are_software():
    options = EncodeOptions(codec="HEVC_NVENC", preset="p7", pix_fmt="p010le", crf=20)
    assert software_options(options) == EncodeOptions("hevc", 20, "veryslow", "yuv420p10le")
    assert software_options(EncodeOptions("h264_nvenc", preset="fast")) == EncodeOptions(
        "h264", preset="fast"
    )
    assert software_options(EncodeOptions("av1")) == EncodeOptions("av1")


def test_a_build_without_nvenc_writes_in_software(monkeypatch):
    known = encoders.has_encoder
    monkeypatch.setattr(encoders, "has_encoder", lambda name: "nvenc" not in name and known(name))
    notes = Warnings()
    plan = plan_for(EncodeOptions(codec="h264_nvenc", preset="p1"), notes=notes)
    assert (plan.encoder, plan.options["preset"]) == ("libx264", "ultrafast")
    assert "h264_nvenc" in notes.messages[0]


@pytest.fixture
def no_card(monkeypatch) -> list:
    """Encoders tried alone do not open; returns those tried."""
    tried: list = []

    class Refusing:
        @classmethod
        def create(cls, name, mode):
            tried.append(cls())
            return tried[-1]

        def open(self):
            raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(writer, "VideoCodecContext", Refusing)
    return tried


@pytest.mark.usefixtures("nvenc")
def test_without_a_card_software_writes(make_clip, content, tmp_path, no_card):
    path = make_clip(name="in.mp4", width=64, height=64, frames=4, matrix=1)
    for codec, name in (("h264", "software.mp4"), ("h264_nvenc", "card.mp4")):
        with open_video(path) as clip:
            options = EncodeOptions(codec=codec, preset="ultrafast", lossless=True)
            with create_video(tmp_path / name, clip, options) as output:
                for frame in clip:
                    output.write(frame)
                output.finish()
    found, wanted = content(tmp_path / "card.mp4"), content(tmp_path / "software.mp4")
    assert found.times == wanted.times
    np.testing.assert_equal(found.planes, content(path).planes)
    assert len(output.warnings) == 1
    assert "h264_nvenc" in output.warnings[0]
    assert "libx264" in output.warnings[0]
    (tried,) = no_card  # with the settings of the file
    assert (tried.width, tried.height, tried.pix_fmt, tried.time_base) == (
        64,
        64,
        "yuv420p",
        wanted.time_base,
    )
    assert (tried.colorspace, tried.options["tune"]) == (1, "lossless")


@pytest.mark.usefixtures("nvenc", "no_card")
def test_only_what_the_written_file_lacks_is_told(make_clip, tmp_path):
    with open_video(make_clip(encoder="ffv1", pix_fmt="yuv422p10le")) as clip:
        options = EncodeOptions(codec="h264_nvenc")
        with create_video(tmp_path / "out.mkv", clip, options) as output:
            assert len(output.warnings) == 1  # x264 writes 4:2:2 at 10 bits, the card would not
            assert "cannot be opened" in output.warnings[0]


@pytest.mark.gpu
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_real_card_decodes_to_the_bit(make_clip, pix_fmt):
    encoder = "libx264" if pix_fmt == "yuv420p" else "libx265"
    path = make_clip(name="in.mp4", encoder=encoder, pix_fmt=pix_fmt, width=256, height=192, frames=12)
    found, notes, _ = frames_of(path, hardware="cuda")
    assert_same_frames(found, frames_of(path)[0])
    assert notes == []


@pytest.mark.gpu
@pytest.mark.parametrize("codec", HARDWARE_ENCODERS)
def test_a_real_card_encodes(make_clip, content, tmp_path, codec):
    ticks = (0, 40, 90, 120, 200, 240, 270, 333)
    path = make_clip(width=320, height=256, ticks=ticks, time_base=Fraction(1, 1000))
    with (
        open_video(path) as clip,
        create_video(tmp_path / "out.mkv", clip, EncodeOptions(codec=codec)) as output,
    ):
        for frame in clip:
            output.write(frame)
        output.finish()
    if any("cannot be opened" in sentence for sentence in output.warnings):
        pytest.skip(f"this card has no {codec}")
    assert content(tmp_path / "out.mkv").times == [Fraction(tick, 1000) for tick in ticks]
