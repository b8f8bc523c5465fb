"""What files say beside their pictures, and what stbn cannot read yet: all of it is named."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.cli.app import main
from stbn_cli.errors import InputError

ATOMS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def with_boxes(path: Path, extra: bytes) -> Path:
    """An MP4 file with its index behind its pictures, with boxes added to the video's sample entry."""
    data, at, starts = bytearray(path.read_bytes()), 0, []
    for kind in ATOMS:
        while data[at + 4 : at + 8] != kind:
            at += struct.unpack(">I", data[at : at + 4])[0]
        starts.append(at)
        end = at + struct.unpack(">I", data[at : at + 4])[0]
        at += 16 if kind == b"stsd" else 8
    data[end:end] = extra
    for start in starts:
        data[start : start + 4] = struct.pack(
            ">I", struct.unpack(">I", data[start : start + 4])[0] + len(extra)
        )
    path.write_bytes(data)
    return path


def test_360_degree_and_stereo_marks_are_named(make_clip: Callable[..., Path], denoise) -> None:
    projection = box(b"proj", box(b"prhd", bytes(16)) + box(b"equi", bytes(20)))
    sphere = box(b"sv3d", box(b"svhd", bytes(4) + b"made\0") + projection)
    stereo = box(b"st3d", bytes(4) + b"\x01")
    clip = with_boxes(make_clip(name="sphere.mp4", frames=3), stereo + sphere)
    outcome = denoise(clip, to="out.mp4")
    assert outcome.code == 0 and "a 360-degree mark" in outcome.err
    assert "stereo 3D mark (top_bottom)" in outcome.err and "An .mkv output keeps it." in outcome.err
    denoise(clip, "--strict", to="strict.mp4").refused(2, "--strict", "360-degree", "stereo 3D")
    denoise(clip, "--strict", to="strict/").refused(2, "--strict", "360-degree", "stereo 3D")
    denoise(clip, "--strict", to="strict.mkv").refused(2, "--strict", "360-degree")


def stereo_modes(path: Path) -> str | None:
    with av.open(str(path)) as container:
        return container.streams.video[0].metadata.get("stereo_mode")


def test_the_stereo_mark_is_kept_in_matroska(make_clip: Callable[..., Path], denoise) -> None:
    """From MP4's box, and from Matroska's own mark; WebM has marks for some ways only."""
    clip = with_boxes(make_clip(name="views.mp4", frames=3), box(b"st3d", bytes(4) + b"\x02"))
    first = denoise(clip, "--strict", to="first.mkv")
    assert first.done()["warnings"] == [] and stereo_modes(first.output) == "left_right"
    again = denoise(first.output, "--strict", to="again.mkv")
    assert again.done()["warnings"] == [] and stereo_modes(again.output) == "left_right"
    denoise(again.output, "--strict", to="back.mp4").refused(2, "stereo 3D mark (left_right)")
    rows = make_clip(name="plain.mkv", frames=3)
    marked = rows.with_name("rows.mkv")
    with av.open(str(rows)) as before, av.open(str(marked), "w") as after:
        copy = after.add_stream_from_template(before.streams.video[0], opaque=True)
        copy.metadata["stereo_mode"] = "row_interleaved_lr"
        for packet in before.demux():
            if packet.size:
                packet.stream = copy
                after.mux(packet)
    assert stereo_modes(denoise(marked, "--strict", to="rows.mkv").output) == "row_interleaved_lr"
    denoise(marked, "--strict", to="rows.webm").refused(2, "stereo 3D mark (row_interleaved_lr)")


def with_alpha_layer(path: Path, codec: str, alpha: int) -> Path:
    """VP8 or VP9 with a second layer of one value."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options={"auto-alt-ref": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for index in range(3):
            picture = av.VideoFrame(32, 32, "yuva420p")
            for number, plane in enumerate(picture.planes):
                plane.update(bytes([alpha if number == 3 else 128]) * plane.buffer_size)
            picture.pts = index
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_second_layer_counts_where_it_is_transparent(tmp_path: Path, denoise, codec: str) -> None:
    clip = with_alpha_layer(tmp_path / "half.webm", codec, 100)
    denoise(clip, to="out.webm").refused(2, "alpha", "--drop-alpha")
    dropped = denoise(clip, "--drop-alpha", to="colours.webm")
    assert dropped.code == 0 and "alpha" in dropped.err
    denoise(clip, "--drop-alpha", "--strict", to="strict.webm").refused(2, "--strict", "alpha")
    opaque = denoise(with_alpha_layer(tmp_path / "opaque.webm", codec, 255), "--strict", to="opaque.webm")
    assert opaque.done()["warnings"] == []
    for outcome in (dropped, opaque):
        with av.open(str(outcome.output)) as container:
            assert "alpha_mode" not in {key.lower() for key in container.streams.video[0].metadata}


def test_an_alpha_layer_of_vp9_is_refused_or_dropped(tmp_path: Path, denoise) -> None:
    clip = tmp_path / "alpha.webm"
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.metadata["alpha_mode"] = "1"
        for index in range(3):
            picture = av.VideoFrame(32, 32, "yuv420p")
            picture.pts = index
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    denoise(clip).refused(2, "alpha", "--drop-alpha")
    outcome = denoise(clip, "--drop-alpha", to="colours.mkv")
    assert outcome.code == 0 and "alpha" in outcome.err
    with av.open(str(outcome.output)) as container:
        assert "alpha_mode" not in {key.lower() for key in container.streams.video[0].metadata}


@pytest.mark.parametrize(
    "name", ["x.dng", "X.DNG", "frame_%04d.dng", "*.dng", "*.[dD][nN][gG]", "frame_*", "*", ""]
)
def test_dng_gets_one_sentence_in_every_spelling(tmp_path: Path, denoise, name: str) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for file in ("x.dng", "X.DNG", "frame_0001.dng"):
        (folder / file).write_bytes(b"II*\0")
    denoise(folder / name).refused(3, "DNG", "damaged")
    with pytest.raises(InputError, match="DNG"):  # the paths of a benchmark
        for clip in find_clips([folder / name]):
            load_clean(clip, 1)


def test_videos_among_dng_are_denoised(tmp_path: Path, make_clip: Callable[..., Path], model: Path) -> None:
    clip = make_clip(name="a.mkv", frames=2)
    (clip.parent / "b.dng").write_bytes(b"II*\0")
    to = tmp_path / "results"
    assert main(["denoise", str(clip.parent), "-m", str(model), "-s", "20", "--output-dir", str(to)]) == 0
    assert [file.name for file in to.iterdir()] == ["a.denoised.mkv"]


def test_animated_webp_gets_a_true_sentence(tmp_path: Path, denoise) -> None:
    picture = tmp_path / "moving.webp"
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + bytes(6)
    picture.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    denoise(picture).refused(3, "animated WebP")
