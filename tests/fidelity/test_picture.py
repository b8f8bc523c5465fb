"""Pictures: what comes out where nothing is denoised is what went in, whatever the format."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.errors import OptionError
from stbn_cli.pipeline import denoise_video
from stbn_cli.video.color import PixelLayout, planes_to_rgb, rgb_to_planes
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.conftest import ClipSpec, fill_picture, planes_of, write_clip

FORMATS = (
    *("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
    *("yuv420p12le", "yuv422p12le", "yuv444p12le", "gray", "gray10le", "gray12le", "gray16le"),
    *("gbrp10le", "gbrp12le", "gbrp16le"),
)
MATRICES = {"bt709": 1, "bt601": 6, "bt2020": 9, "untagged": 2}
TRANSFERS = {"bt709": 1, "pq": 16, "hlg": 18}


class Identity:
    """Frames as they came."""

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield from frames


def passed_through(source: Path, output: Path, options: EncodeOptions) -> tuple[str, ...]:
    """The warnings of a run that denoises nothing."""
    with open_video(source) as reader, create_video(output, reader, options) as writer:
        return denoise_video(reader, Identity(), writer).warnings


def pictures(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def assert_same(source: Path, output: Path) -> None:
    """Values, times, format, range and matrix of every frame."""
    before, after = pictures(source), pictures(output)
    assert len(after) == len(before)
    for one, other in zip(before, after, strict=True):
        assert other.format.name == one.format.name and other.time == one.time
        assert (other.colorspace, other.color_range) == (one.colorspace, one.color_range)
        assert all(np.array_equal(*pair) for pair in zip(planes_of(one), planes_of(other), strict=True))


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("color_range", [1, 2], ids=["limited", "full"])
def test_every_value_is_kept(make_clip: Callable[..., Path], pix_fmt: str, color_range: int) -> None:
    clip = make_clip(encoder="ffv1", pix_fmt=pix_fmt, color_range=color_range, matrix=1, width=35, height=27)
    output = clip.with_name("out.mkv")
    assert passed_through(clip, output, EncodeOptions(lossless=True)) == ()
    assert_same(clip, output)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("matrix", ["bt709", "bt2020"])
def test_hdr_is_not_taken_for_sdr(make_clip: Callable[..., Path], matrix: str, transfer: str) -> None:
    clip = make_clip(
        encoder="ffv1",
        pix_fmt="yuv420p10le",
        matrix=MATRICES[matrix],
        primaries=MATRICES[matrix],
        transfer=TRANSFERS[transfer],
        color_range=1,
    )
    for name, options in (("a.mkv", EncodeOptions(lossless=True)), ("b.mp4", EncodeOptions(codec="hevc"))):
        output = clip.with_name(name)
        passed_through(clip, output, options)
        with av.open(str(output)) as container:
            context = container.streams.video[0].codec_context
            found = context.colorspace, context.color_primaries, context.color_trc
            assert found == (MATRICES[matrix], MATRICES[matrix], TRANSFERS[transfer])
            assert context.pix_fmt == "yuv420p10le"
    assert_same(clip, clip.with_name("a.mkv"))


@settings(max_examples=25)
@given(
    pix_fmt=st.sampled_from(FORMATS),
    color_range=st.sampled_from([0, 1, 2]),
    matrix=st.sampled_from(sorted(MATRICES)),
    rate=st.sampled_from(
        [Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(12), Fraction(24000, 1001)]
    ),
    size=st.tuples(st.integers(8, 70), st.integers(8, 50)),
    frames=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_any_combination_is_kept(
    pix_fmt: str,
    color_range: int,
    matrix: str,
    rate: Fraction,
    size: tuple[int, int],
    frames: int,
    seed: int,
) -> None:
    rgb = not pix_fmt.startswith(("yuv", "gray"))
    width, height = size
    with TemporaryDirectory() as folder:
        spec = ClipSpec(
            name="in.mkv",
            width=width,
            height=height,
            frames=frames,
            pix_fmt=pix_fmt,
            encoder="ffv1",
            rate=rate,
            time_base=1 / rate if rate.denominator == 1 else Fraction(1, 1000),
            matrix=0 if rgb else MATRICES[matrix],
            color_range=2 if rgb else color_range,
            seed=seed,
        )
        clip = write_clip(Path(folder) / spec.name, spec)
        output = Path(folder) / "out.mkv"
        passed_through(clip, output, EncodeOptions(lossless=True))
        assert_same(clip, output)


# Dithering


def ramp(width: int = 512, height: int = 64) -> np.ndarray:
    """Five code values of 8 bits across the whole width: what shows bands."""
    across = np.linspace(100, 105, width, dtype=np.float32) / 255
    return np.repeat(np.repeat(across[None, :, None], height, 0), 3, 2)


def test_dithering_keeps_the_mean_of_slow_ramps() -> None:
    rgb, layout = ramp(), PixelLayout("rgb", 8)
    plain = planes_to_rgb(rgb_to_planes(rgb, layout, "rgb", True), layout, "rgb", True)
    dithered = planes_to_rgb(rgb_to_planes(rgb, layout, "rgb", True, dither=True), layout, "rgb", True)

    def error_of_means(picture: np.ndarray) -> float:
        blocks = (picture - rgb)[..., 0].reshape(8, 8, 64, 8).mean(axis=(1, 3))
        return float(np.abs(blocks).max() * 255)

    assert error_of_means(dithered) < 0.05 < 0.4 < error_of_means(plain)
    assert np.abs(dithered - rgb).max() * 255 <= 1.0


@pytest.mark.parametrize("family", ["yuv", "gray", "rgb"])
def test_dithering_leaves_code_values_alone(family) -> None:
    layout = PixelLayout(family, 8)
    generator = np.random.default_rng(0)
    planes = [generator.integers(16, 235, (40, 48)).astype(np.uint8) for _ in range(layout.planes)]
    rgb = planes_to_rgb(planes, layout, "bt709", False)
    again = rgb_to_planes(rgb, layout, "bt709", False, dither=True)
    assert all(np.array_equal(*pair) for pair in zip(planes, again, strict=True))


@pytest.fixture
def slow_ramp(tmp_path: Path) -> Path:
    """10 bits, a quarter of an 8-bit code value between neighbouring steps."""
    path = tmp_path / "ramp.mkv"
    luma = np.repeat(np.linspace(400, 420, 256).round()[None], 64, 0).astype(np.uint16)
    chroma = np.full((32, 128), 512, np.uint16)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 64, "yuv420p10le"
        for index in range(2):
            picture = av.VideoFrame(256, 64, "yuv420p10le")
            fill_picture(picture, [luma, chroma, chroma])
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def test_only_a_smaller_depth_is_dithered(slow_ramp: Path) -> None:
    def luma(name: str, **options) -> np.ndarray:
        output = slow_ramp.with_name(name)
        passed_through(slow_ramp, output, EncodeOptions(lossless=True, **options))
        return planes_of(pictures(output)[0])[0]

    source = planes_of(pictures(slow_ramp)[0])[0]
    assert np.array_equal(luma("same.mkv"), source)
    plain = luma("plain.mkv", pix_fmt="yuv420p", dither=False)
    dithered = luma("dithered.mkv", pix_fmt="yuv420p")
    exact = source / 4
    # Without, whole columns of a step are off to one side; with it, areas keep their mean.
    assert len(np.unique(plain[:, 10:30])) <= 2 and (plain == plain[:1]).all()
    assert (dithered != dithered[:1]).any()

    def area_error(picture: np.ndarray) -> float:
        return float(np.abs((picture - exact).reshape(8, 8, 32, 8).mean(axis=(1, 3))).max())

    assert area_error(dithered) < 0.1 < area_error(plain)


# Transparency


@pytest.mark.parametrize("pix_fmt", ["yuva420p", "yuva444p10le", "bgra", "gbrap10le"])
def test_transparency_is_refused_before_the_work_or_dropped_on_request(
    make_clip: Callable[..., Path], pix_fmt: str
) -> None:
    clip = (
        make_clip(encoder="ffv1", pix_fmt=pix_fmt, frames=2)
        if pix_fmt != "bgra"
        else bgra_clip(make_clip, 128)
    )
    output = clip.with_name("out.mkv")
    with pytest.raises(OptionError, match="--drop-alpha"):
        passed_through(clip, output, EncodeOptions())
    assert [child.name for child in clip.parent.iterdir()] == [clip.name]
    warnings = passed_through(clip, output, EncodeOptions(drop_alpha=True))
    assert any("alpha" in sentence for sentence in warnings) and len(pictures(output)) == 2


def bgra_clip(make_clip: Callable[..., Path], alpha: int) -> Path:
    path = make_clip(frames=1).with_name("bgra.mkv")
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 8, "bgra"
        for index in range(2):
            values = np.full((8, 16, 4), 90 + index, np.uint8)
            values[..., 3] = alpha
            picture = av.VideoFrame.from_ndarray(values, format="bgra")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    path.with_name("clip.mkv").unlink()
    return path


def test_opaque_pictures_are_no_loss(make_clip: Callable[..., Path]) -> None:
    clip = bgra_clip(make_clip, 255)
    warnings = passed_through(clip, clip.with_name("out.mkv"), EncodeOptions(lossless=True))
    assert not any("alpha" in sentence for sentence in warnings)
    with av.open(str(clip.with_name("out.mkv"))) as container:
        values = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert (values == 90).all()
