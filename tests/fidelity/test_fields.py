"""Interlaced video: denoised field by field, and still interlaced afterwards."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.filter import Graph

from stbn_cli.api import denoise_file, load_denoiser
from stbn_cli.errors import OptionError
from stbn_cli.pipeline import denoise_video
from stbn_cli.preview.moment import preview_frames
from stbn_cli.source import Source, Span
from stbn_cli.video.fields import rows_by_field, rows_woven
from stbn_cli.video.pixels import field_order
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.conftest import fill_picture, planes_of, read_content

FIELD_FLAGS = {
    "libx264": {"qp": "0", "preset": "ultrafast", "flags": "+ildct+ilme"},
    "prores_ks": {"flags": "+ildct"},
    "mpeg2video": {"flags": "+ildct+ilme", "q": "2"},
}


def marking(width: int, height: int, pix_fmt: str, order: str, base: Fraction) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=pix_fmt, time_base=base)
    mark, sink = graph.add("setfield", order), graph.add("buffersink")
    source.link_to(mark)
    mark.link_to(sink)
    graph.configure()
    return graph


def interlaced_clip(
    path: Path,
    encoder: str = "libx264",
    pix_fmt: str = "yuv420p",
    order: str = "tff",
    size: tuple[int, int] = (64, 64),
    frames: int = 5,
    paint=None,
) -> Path:
    """paint(index, planes): changes the random planes of a frame."""
    width, height = size
    graph = marking(width, height, pix_fmt, order, Fraction(1, 25))
    generator = np.random.default_rng(7)
    with av.open(str(path), "w", container_options={"strict": "-1"}) as output:
        stream = output.add_stream(encoder, rate=25, options=FIELD_FLAGS.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.field_order = {"tff": 2, "bff": 3}[order]
        for index in range(frames):
            picture = av.VideoFrame(width, height, pix_fmt)
            top = 2 ** picture.format.components[0].bits
            planes = planes_of(picture)
            planes = [generator.integers(0, top, plane.shape).astype(plane.dtype) for plane in planes]
            if paint is not None:
                paint(index, planes)
            fill_picture(picture, planes)
            picture.pts, picture.time_base = index, Fraction(1, 25)
            graph.push(picture)
            output.mux(stream.encode(graph.pull()))
        output.mux(stream.encode(None))
    return path


def order_of(path: Path) -> set[str]:
    """The marks of all pictures: "tff", "bff" or "progressive"."""
    found = set()
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            # A filter that passes pictures of one kind alone.
            for name, kind in (("tff", "TOPFIRST"), ("bff", "BOTTOMFIRST"), ("progressive", "PROGRESSIVE")):
                graph = Graph()
                source = graph.add_buffer(
                    width=picture.width,
                    height=picture.height,
                    format=picture.format,
                    time_base=Fraction(1, 25),
                )
                pick, sink = graph.add("select", f"eq(interlace_type\\,{kind})"), graph.add("buffersink")
                source.link_to(pick)
                pick.link_to(sink)
                graph.configure()
                graph.push(picture)
                try:
                    graph.pull()
                except av.error.BlockingIOError:
                    continue
                found.add(name)
    return found


class Seen:
    """Gives frames back as they are and remembers them."""

    def __init__(self):
        self.frames = []

    def stream(self, frames):
        for frame in frames:
            self.frames.append(frame)
            yield frame


def passed_through(source: Path, output: Path, options: EncodeOptions, field: str = "auto"):
    seen = Seen()
    with open_video(source, field=field) as reader, create_video(output, reader, options) as writer:
        summary = denoise_video(reader, seen, writer)
    return seen.frames, summary.warnings


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(
    ("source", "encoder", "pix_fmt", "target"),
    [
        ("in.mp4", "libx264", "yuv420p", "out.mp4"),
        ("in.mp4", "libx264", "yuv420p10le", "out.mov"),
        ("in.mkv", "libx264", "yuv422p", "out.mkv"),
        ("in.mkv", "ffv1", "yuv420p", "out.mkv"),
        ("in.mkv", "ffv1", "yuv444p12le", "out.mkv"),
        ("in.ts", "libx264", "yuv420p", "out.ts"),
        ("in.ts", "mpeg2video", "yuv420p", "out.mkv"),
        ("in.y4m", "wrapped_avframe", "yuv420p", "out.y4m"),
        ("in.y4m", "wrapped_avframe", "yuv422p", "out.mkv"),
    ],
)
def test_fields_and_values_are_kept(tmp_path, source, encoder, pix_fmt, target, order) -> None:
    clip = interlaced_clip(tmp_path / source, encoder, pix_fmt, order)
    options = EncodeOptions(
        lossless=target != "out.y4m", codec="h264" if target[-3:] in ("mp4", "mov", ".ts") else None
    )
    _, warnings = passed_through(clip, tmp_path / target, options)
    assert warnings == ()
    assert order_of(tmp_path / target) == {order}
    np.testing.assert_equal(read_content(tmp_path / target).planes, read_content(clip).planes)


def test_prores_keeps_the_fields(tmp_path) -> None:
    clip = interlaced_clip(tmp_path / "in.mov", "prores_ks", "yuv422p10le", "bff")
    _, warnings = passed_through(clip, tmp_path / "out.mov", EncodeOptions())
    assert (warnings, order_of(tmp_path / "out.mov")) == ((), {"bff"})


def test_the_denoiser_sees_one_field_over_the_other(tmp_path) -> None:
    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1")
    whole, _ = passed_through(clip, tmp_path / "a.mkv", EncodeOptions(), field="off")
    parted, _ = passed_through(clip, tmp_path / "b.mkv", EncodeOptions(), field="on")
    luma = np.float32([0.299, 0.587, 0.114])
    for one, other in zip(whole, parted, strict=True):
        # Of 4:2:0 colours, only the luma is independent of the rows around.
        np.testing.assert_allclose(other[:32] @ luma, one[0::2] @ luma, atol=1e-5)
        np.testing.assert_allclose(other[32:] @ luma, one[1::2] @ luma, atol=1e-5)
    assert order_of(tmp_path / "a.mkv") == order_of(tmp_path / "b.mkv") == {"tff"}


def test_colours_of_one_field_do_not_bleed_into_the_other(tmp_path) -> None:
    def paint(index, planes):
        for plane, upper, lower in zip(planes, (81, 90, 240), (145, 54, 34), strict=True):
            plane[0::2], plane[1::2] = upper, lower  # red over green

    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1", paint=paint)
    with open_video(clip) as reader:
        rgb = next(iter(reader)).rgb
    assert np.ptp(rgb[0::2], axis=(0, 1)).max() < 1e-5
    assert np.ptp(rgb[1::2], axis=(0, 1)).max() < 1e-5
    assert rgb[0, 0, 0] > 0.9 and rgb[1, 0, 1] > 0.9
    with open_video(clip, field="off") as reader:
        mixed = next(iter(reader)).rgb
    assert np.ptp(mixed[0::2], axis=(0, 1)).max() > 0.1


@pytest.mark.parametrize("height", [2, 4, 5, 32])
def test_weaving_undoes_parting(height) -> None:
    picture = np.random.default_rng(0).random((height, 3, 2))
    np.testing.assert_equal(rows_woven(rows_by_field(picture)), picture)


def test_codecs_without_fields_say_so(tmp_path, denoise) -> None:
    clip = interlaced_clip(tmp_path / "in.mp4")
    outcome = denoise(clip, "--codec", "hevc", to="out.mkv")
    assert outcome.done()["by_fields"]
    assert "progressive" in outcome.err
    assert order_of(outcome.output) == {"progressive"}
    denoise(clip, "--codec", "hevc", "--strict", to="other.mkv").refused(2, "--strict", "progressive")


def test_the_command_parts_and_weaves(tmp_path, denoise) -> None:
    clip = interlaced_clip(tmp_path / "in.mp4")
    outcome = denoise(clip, "--strict")
    assert outcome.done()["by_fields"] and order_of(outcome.output) == {"tff"}
    assert not denoise(clip, "--field", "off", to="off.mkv").done()["by_fields"]
    denoise(clip, "--field", "both", to="no.mkv").refused(2, "--field", "auto, on, off")


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_the_bitstream_itself_says_which_field_is_first(tmp_path, denoise, order) -> None:
    """Without the container, whose mark may say otherwise."""
    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1", order=order)
    outcome = denoise(clip, "--codec", "h264")
    assert outcome.code == 0, outcome.err
    bare = tmp_path / "bare.h264"
    with av.open(str(outcome.output)) as source:
        stream = source.streams.video[0]
        form = BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [packet for sent in source.demux(stream) if sent.size for packet in form.filter(sent)]
    bare.write_bytes(b"".join(bytes(packet) for packet in packets))
    assert order_of(bare) == {order}
    assert display_orders(bare.read_bytes()) == {order}


def display_orders(stream: bytes) -> set[str]:
    """What the timing messages of bare H.264 (pic_struct) ask of a display; decoders go by the fields' own counts."""
    found = set()
    for unit in stream.split(b"\0\0\1")[1:]:
        if (
            unit[0] & 31 == 6 and unit[1] == 1
        ):  # additional information, of a picture's timing, without a bit rate
            found.add({3: "tff", 4: "bff"}[unit[3] >> 4])
    return found


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(("codec", "to"), [("ffv1", "out.mkv"), ("prores", "out.mov"), ("ffv1", "deep.mkv")])
def test_pictures_say_it_without_their_container(tmp_path, denoise, order, codec, to) -> None:
    pix_fmt = "yuv422p10le" if codec == "prores" or to == "deep.mkv" else "yuv420p"
    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1", pix_fmt, order=order)
    outcome = denoise(clip, "--codec", codec, to=to)
    outcome.done()
    with av.open(str(outcome.output)) as source:
        stream = source.streams.video[0]
        known = stream.codec_context
        decoder = av.CodecContext.create(known.name, "r")  # knows nothing of the container's mark
        decoder.extradata, decoder.width, decoder.height = known.extradata, known.width, known.height
        if codec == "prores":
            decoder.codec_tag = known.codec_tag
        pictures = [
            picture for packet in source.demux(stream) if packet.size for picture in decoder.decode(packet)
        ]
    assert pictures and {field_order(picture) for picture in pictures} == {
        {"tff": "top", "bff": "bottom"}[order]
    }


def test_unmarked_video_can_be_parted(make_clip, denoise) -> None:
    source = make_clip(frames=3)
    assert not denoise(source).done()["by_fields"]
    outcome = denoise(source, "--field", "on", to="on.mkv")
    assert outcome.done()["by_fields"] and order_of(outcome.output) == {"progressive"}


def test_rows_that_are_not_two_fields(tmp_path, denoise) -> None:
    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1", size=(48, 30))  # 15 rows of chroma
    outcome = denoise(clip)
    assert not outcome.done()["by_fields"] and "Deinterlace" in outcome.err
    denoise(clip, "--field", "on", to="on.mkv").refused(2, "30 rows")
    with pytest.raises(OptionError, match="Unknown --field"):
        open_video(clip, field="yes")


def test_images_can_be_parted(tmp_path, denoise, make_clip) -> None:
    source = make_clip(frames=2)
    denoise(source, to="frames/").done()
    folder = tmp_path / "results" / "frames"
    assert denoise(folder, "--field", "on", to="again/").done()["by_fields"]


@pytest.mark.parametrize("field", ["auto", "off"])
def test_a_preview_is_the_full_run(tmp_path, model, field) -> None:
    def paint(index, planes):
        for plane in planes:
            plane[:] = 112 + plane % 32  # what the model makes of it stays among the code values

    clip = interlaced_clip(tmp_path / "in.mkv", "ffv1", "yuv444p", size=(64, 48), frames=7, paint=paint)
    denoiser = load_denoiser(model, sigma=30, precision="fp32", device="cpu")
    denoise_file(
        clip, tmp_path / "out.mkv", denoiser, encode=EncodeOptions(lossless=True), span=Span(field=field)
    )
    with open_video(tmp_path / "out.mkv", field="off") as reader:
        wanted = list(reader)[3].rgb
    (shot,) = preview_frames(Source(clip, Span(field=field)), denoiser, at=0.12)
    np.testing.assert_allclose(shot.after, wanted, atol=2 / 255)
