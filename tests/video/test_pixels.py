"""PyAV frames <-> RGB: no format is reordered, no tag is guessed where it is there."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stbn_cli.errors import InputError
from stbn_cli.video.color import planes_to_rgb
from stbn_cli.video.frames import Frame
from stbn_cli.video.pixels import describe_format, frame_to_rgb, resolve_color, rgb_to_frame, to_fraction

PLANAR = ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv410p", "yuv440p", "yuv420p10le", "yuv422p10le"]
DEEP = [
    "yuv444p12le",
    "yuv444p16le",
    "yuv420p10be",
    "p010le",
    "p012le",
    "p016le",
    "p210le",
    "p410le",
    "y210le",
]
PACKED = ["nv12", "nv21", "nv16", "nv24", "yuyv422", "uyvy422", "y210le", "xv30le", "xv36le"]
RGB = ["rgb24", "bgr24", "rgba", "bgra", "argb", "bgr0", "0rgb", "gbrp", "gbrap"]
DEEP_RGB = ["rgb48le", "rgb48be", "bgr48le", "rgba64le", "gbrp10le", "gbrp12le", "gbrp16le", "x2rgb10le"]
GRAY = ["gray", "gray10le", "gray16le", "gray16be", "ya8"]
WRITABLE = [*PLANAR, *DEEP, *PACKED, *RGB, *DEEP_RGB, *GRAY]


def color_of(pixel_format: str, color_range: int):
    matrix = 0 if describe_format(pixel_format).family == "rgb" else 2
    return resolve_color(
        pixel_format, 24, 18, matrix=matrix, color_range=color_range, primaries=2, transfer=2
    )


@pytest.mark.parametrize("color_range", [0, 1, 2], ids=["untagged", "limited", "full"])
@pytest.mark.parametrize("pixel_format", WRITABLE)
def test_every_format_holds_its_code_values(pixel_format, color_range):
    layout = describe_format(pixel_format)
    color = color_of(pixel_format, color_range)
    generator = np.random.default_rng(1)
    shapes = [layout.plane_shape(index, 18, 24) for index in range(layout.planes)]
    planes = [generator.integers(0, 2**layout.depth, shape).astype(layout.dtype) for shape in shapes]
    rgb = planes_to_rgb(planes, layout, color.matrix, color.full_range)
    picture = rgb_to_frame(Frame(rgb, 3, Fraction(1, 25)), pixel_format, color)
    assert picture.format.name == pixel_format
    assert picture.pts == 3
    np.testing.assert_allclose(frame_to_rgb(picture, color), rgb, atol=1e-6)


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24", "rgba", "bgra", "gbrp"])
def test_channels_are_in_their_places(pixel_format):
    values = np.random.default_rng(2).integers(0, 256, (18, 24, 3)).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(values, format="rgb24").reformat(format=pixel_format)
    rgb = frame_to_rgb(picture, color_of(pixel_format, 0))
    np.testing.assert_allclose(rgb * 255, values, atol=1e-3)


def test_row_padding_is_not_read():
    picture = av.VideoFrame(5, 3, "gray")
    assert picture.planes[0].line_size > 5
    memory = np.frombuffer(picture.planes[0], np.uint8).reshape(3, -1)
    memory[:] = 255
    memory[:, :5] = 16
    assert frame_to_rgb(picture, color_of("gray", 1)).max() == 0


@pytest.mark.parametrize(
    ("pixel_format", "size", "tags", "matrix", "full", "assumed"),
    [
        ("yuv420p", (640, 480), (2, 0), "bt601", False, ("matrix", "range")),
        ("yuv420p", (1280, 544), (2, 0), "bt709", False, ("matrix", "range")),
        ("yuv420p", (960, 720), (2, 0), "bt709", False, ("matrix", "range")),
        ("yuv420p", (640, 480), (1, 1), "bt709", False, ()),
        ("yuv420p", (1920, 1080), (6, 2), "bt601", True, ()),
        ("yuv420p10le", (3840, 2160), (9, 1), "bt2020", False, ()),
        ("yuvj420p", (640, 480), (5, 2), "bt601", True, ()),
        ("yuvj420p", (640, 480), (5, 0), "bt601", True, ()),
        ("gbrp", (640, 480), (0, 0), "rgb", True, ("range",)),
        ("yuv444p", (640, 480), (3, 1), "bt601", False, ("matrix",)),
    ],
)
def test_color_rule(pixel_format, size, tags, matrix, full, assumed):
    color = resolve_color(pixel_format, *size, matrix=tags[0], color_range=tags[1], primaries=2, transfer=2)
    assert (color.matrix, color.full_range, color.assumed) == (matrix, full, assumed)
    assert color.matrix_tag == tags[0]


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_matrices_that_are_not_plain_are_refused(matrix):
    with pytest.raises(InputError, match="matrix"):
        resolve_color("yuv420p", 64, 64, matrix=matrix, color_range=1, primaries=2, transfer=2)


@pytest.mark.parametrize("pixel_format", ["bayer_rggb8", "gbrpf32le", "xyz12le", "nonsense"])
def test_formats_that_are_not_integer_rgb_yuv_or_gray_are_refused(pixel_format):
    with pytest.raises(InputError):
        describe_format(pixel_format)


def test_unset_rationals_of_any_pyav_are_none():
    class Unset:
        numerator, denominator = 0, 1

        def __bool__(self):
            return False

    assert to_fraction(None) is None
    assert to_fraction(Unset()) is None
    assert to_fraction(Fraction(1, 25)) == Fraction(1, 25)
