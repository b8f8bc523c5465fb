"""The bar: identity denoiser and lossless settings -> in equals out, frame for frame and pts for pts."""

from fractions import Fraction

import numpy as np
import pytest

from stbn_cli.pipeline import denoise_video
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video

H264_LOSSLESS = EncodeOptions(codec="h264", preset="ultrafast", lossless=True)
HEVC_LOSSLESS = EncodeOptions(codec="hevc", preset="ultrafast", lossless=True)
LOSSLESS = EncodeOptions(lossless=True)
B_FRAMES = {"qp": "0", "preset": "veryfast", "bf": "3", "b-adapt": "0"}


class LookAhead:
    """An identity denoiser that sees `frames` frames ahead before it answers."""

    def __init__(self, frames: int = 0) -> None:
        self.frames = frames

    def stream(self, frames):
        held = []
        for frame in frames:
            held.append(frame)
            if len(held) > self.frames:
                yield held.pop(0)
        yield from held


def round_trip(source, output, options, denoiser=None, **range_options):
    with (
        open_video(source, **range_options) as reader,
        create_video(output, reader, options, overwrite=False) as writer,
    ):
        return denoise_video(reader, denoiser or LookAhead(), writer)


def assert_same_pictures(before, after):
    assert after.times == before.times
    assert after.pix_fmt == before.pix_fmt
    assert len(after.planes) == len(before.planes)
    for index, (one, other) in enumerate(zip(after.planes, before.planes, strict=True)):
        for plane, (values, wanted) in enumerate(zip(one, other, strict=True)):
            np.testing.assert_array_equal(values, wanted, err_msg=f"frame {index} plane {plane}")


@pytest.mark.parametrize("color_range", [0, 1, 2], ids=["untagged", "limited", "full"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le", "gray"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_h264(make_clip, content, tmp_path, pix_fmt, color_range, suffix):
    source = make_clip(name=f"in{suffix}", pix_fmt=pix_fmt, color_range=color_range, frames=4)
    summary = round_trip(source, tmp_path / f"out{suffix}", H264_LOSSLESS)
    before, after = content(source), content(tmp_path / f"out{suffix}")
    assert_same_pictures(before, after)
    assert after.color == before.color
    assert summary.frames == 4
    assert summary.warnings == ()


@pytest.mark.parametrize("size", [(31, 23), (33, 24), (32, 21)], ids=str)
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv411p", "yuv444p", "yuv420p12le", "gbrp10le", "gbrp16le", "gray16le"]
)
def test_ffv1_at_odd_sizes(make_clip, content, tmp_path, pix_fmt, size):
    source = make_clip(encoder="ffv1", pix_fmt=pix_fmt, width=size[0], height=size[1], frames=3)
    round_trip(source, tmp_path / "out.mkv", LOSSLESS)
    before, after = content(source), content(tmp_path / "out.mkv")
    assert_same_pictures(before, after)
    assert after.codec == "ffv1"


@pytest.mark.parametrize(
    ("pix_fmt", "tags"),
    [
        ("yuv420p", {"matrix": 1, "color_range": 1, "primaries": 1, "transfer": 1}),
        ("yuv420p", {"matrix": 6, "color_range": 2, "primaries": 6, "transfer": 6}),
        ("yuv420p10le", {"matrix": 9, "color_range": 1, "primaries": 9, "transfer": 16}),
        ("yuv444p", {"matrix": 4, "color_range": 1}),
        ("yuv420p", {"matrix": 7, "color_range": 1, "primaries": 7, "transfer": 7}),
    ],
)
@pytest.mark.parametrize("options", [H264_LOSSLESS, HEVC_LOSSLESS, LOSSLESS], ids=["h264", "hevc", "ffv1"])
def test_colour_tags_and_values(make_clip, content, tmp_path, pix_fmt, tags, options):
    source = make_clip(pix_fmt=pix_fmt, width=64, height=48, frames=3, **tags)
    round_trip(source, tmp_path / "out.mkv", options)
    before, after = content(source), content(tmp_path / "out.mkv")
    np.testing.assert_equal(after.planes, before.planes)
    assert after.color == before.color
    assert after.color[0] == tags["matrix"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_variable_frame_rate_with_b_frames_and_a_late_start(make_clip, content, tmp_path, suffix):
    ticks = (700, 740, 741, 900, 903, 1400, 1440, 1480, 1520, 2600)
    source = make_clip(name=f"in{suffix}", ticks=ticks, time_base=Fraction(1, 1000), options=B_FRAMES)
    round_trip(
        source, tmp_path / f"out{suffix}", EncodeOptions(codec="h264", preset="veryfast", lossless=True)
    )
    before, after = content(source), content(tmp_path / f"out{suffix}")
    assert after.times == [Fraction(tick, 1000) for tick in ticks]
    assert_same_pictures(before, after)
    assert after.time_base == before.time_base


@pytest.mark.parametrize(
    "base", [Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 12800), Fraction(1, 600)]
)
def test_the_source_time_base_is_kept_in_mp4(make_clip, content, tmp_path, base):
    source = make_clip(name="in.mp4", rate=Fraction(30000, 1001), time_base=base, options=B_FRAMES)
    round_trip(source, tmp_path / "out.mp4", H264_LOSSLESS)
    before, after = content(source), content(tmp_path / "out.mp4")
    assert_same_pictures(before, after)
    assert after.time_base == before.time_base


def test_times_that_matroska_cannot_hold_are_off_by_half_a_tick_at_most(make_clip, content, tmp_path):
    source = make_clip(name="in.mp4", rate=Fraction(30000, 1001), time_base=Fraction(1, 90000))
    round_trip(source, tmp_path / "out.mkv", LOSSLESS)
    pairs = zip(content(source).times, content(tmp_path / "out.mkv").times, strict=True)
    assert all(abs(before - after) <= Fraction(1, 2000) for before, after in pairs)


@pytest.mark.parametrize("rotation", [90, -90, 180])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_and_pixel_aspect(make_clip, content, tmp_path, suffix, rotation):
    source = make_clip(name=f"in{suffix}", rotation=rotation, aspect=Fraction(4, 3), frames=3)
    round_trip(source, tmp_path / f"out{suffix}", H264_LOSSLESS)
    before, after = content(source), content(tmp_path / f"out{suffix}")
    assert_same_pictures(before, after)
    assert after.rotation % 360 == before.rotation % 360 == rotation % 360
    assert after.aspect == before.aspect == Fraction(4, 3)


def test_rotation_is_applied_to_the_pixels_where_the_container_cannot_hold_it(make_clip, content, tmp_path):
    source = make_clip(name="in.mp4", pix_fmt="yuv444p", rotation=90, aspect=Fraction(4, 3), frames=2)
    round_trip(source, tmp_path / "out.ts", H264_LOSSLESS)
    before, after = content(source), content(tmp_path / "out.ts")
    assert (after.width, after.height, after.rotation) == (before.height, before.width, 0)
    assert after.aspect == Fraction(3, 4)
    # 90 degrees counter-clockwise: what a player shows of the source.
    np.testing.assert_array_equal(after.planes[0][0], np.rot90(before.planes[0][0]))


def test_what_the_output_cannot_keep_is_said(make_clip, tmp_path):
    source = make_clip(aspect=Fraction(4, 3), frames=2)
    summary = round_trip(
        source, tmp_path / "out.mkv", LOSSLESS
    )  # FFV1 in Matroska: PyAV cannot set the aspect
    assert any("pixel aspect" in sentence for sentence in summary.warnings)


@pytest.mark.parametrize("ahead", [1, 7, 100])
def test_a_denoiser_may_look_ahead(make_clip, content, tmp_path, ahead):
    source = make_clip(frames=16, options=B_FRAMES)
    summary = round_trip(source, tmp_path / "out.mkv", LOSSLESS, LookAhead(ahead))
    assert summary.frames == 16
    assert_same_pictures(content(source), content(tmp_path / "out.mkv"))


@pytest.mark.parametrize(
    ("codec", "suffix"), [("hevc", ".mp4"), ("vp9", ".webm"), ("av1", ".mkv"), ("av1", ".mp4")]
)
def test_other_lossless_codecs(make_clip, content, tmp_path, codec, suffix):
    source = make_clip(name="in.mp4", width=64, height=64, frames=4)
    preset = None if codec == "vp9" else "ultrafast"
    output = tmp_path / f"out{suffix}"
    round_trip(source, output, EncodeOptions(codec=codec, lossless=True, preset=preset))
    before, after = content(source), content(output)
    assert_same_pictures(before, after)
    assert after.codec == codec


def test_real_clip(bikes_clip, content, tmp_path):
    round_trip(bikes_clip, tmp_path / "out.mp4", H264_LOSSLESS, LookAhead(7), end=0.5)
    before, after = content(bikes_clip), content(tmp_path / "out.mp4")
    count = len(after.times)
    assert count == len([time for time in before.times if time - before.times[0] < Fraction(1, 2)])
    assert after.times == [time - before.times[0] for time in before.times[:count]]
    np.testing.assert_equal(after.planes, before.planes[:count])
