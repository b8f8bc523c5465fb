"""What files say beside their pictures, and what stbn cannot read yet: all of it is named."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import pytest

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
    assert outcome.code == 0 and "a 360-degree mark, a stereo 3D mark" in outcome.err
    denoise(clip, "--strict", to="strict.mp4").refused(2, "--strict", "360-degree")


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


@pytest.mark.parametrize("name", ["x.dng", "X.DNG", "frame_%04d.dng", "*.dng", ""])
def test_dng_gets_one_sentence_in_every_spelling(tmp_path: Path, denoise, name: str) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for file in ("x.dng", "X.DNG", "frame_0001.dng"):
        (folder / file).write_bytes(b"II*\0")
    denoise(folder / name).refused(3, "DNG", "does not read yet")


def test_animated_webp_gets_a_true_sentence(tmp_path: Path, denoise) -> None:
    picture = tmp_path / "moving.webp"
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + bytes(6)
    picture.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    denoise(picture).refused(3, "animated WebP")
