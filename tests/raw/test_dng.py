"""DNG round trips: every number and every tag, seen by readers that are not ours; and what is refused."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile

from stbn_cli.errors import InputError
from stbn_cli.raw.bayer import unpack
from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.video.reader import open_video
from tests.raw.dngs import (
    BYTE,
    CFA,
    DEFLATE,
    JPEG,
    LINEAR_RAW,
    LONG,
    LOSSY,
    RATIONAL,
    SHORT,
    SRATIONAL,
    DngSpec,
    codes_of,
    write_dng,
)

ODD_AREA = (50829, LONG, 4, (1, 3, 46, 62), True)
TABLE = np.minimum(np.arange(4096) ** 2 // 250, 65535)
# Where the mosaic's bytes are.
PLACES = {273, 279, 324, 325}
DIGEST = 51111

SPECS = {
    "16 bits": DngSpec(),
    "8 bits": DngSpec(bits=8, dtype="uint8"),
    "10 bits, odd sides": DngSpec(bits=10, size=(47, 61)),
    "12 bits": DngSpec(bits=12, rows=20),
    "14 bits, big-endian": DngSpec(bits=14, big_endian=True),
    "big-endian": DngSpec(big_endian=True),
    "lossless JPEG": DngSpec(bits=12, compression=JPEG),
    "lossless JPEG, odd sides": DngSpec(bits=14, compression=JPEG, size=(47, 61)),
    "lossless JPEG, 16 bits": DngSpec(compression=JPEG),
    "lossless JPEG in tiles": DngSpec(bits=12, compression=JPEG, tile=(32, 32)),
    "lossless JPEG of two components": DngSpec(bits=14, compression=JPEG, components=2),
    "lossless JPEG of two components in tiles": DngSpec(
        bits=12, compression=JPEG, components=2, tile=(32, 32), size=(50, 70)
    ),
    "lossless JPEG of four components": DngSpec(bits=12, compression=JPEG, components=4),
    "tiles": DngSpec(tile=(32, 48), size=(50, 70)),
    "SubIFD": DngSpec(preview=True),
    "SubIFD, lossless JPEG, big-endian": DngSpec(preview=True, compression=JPEG, bits=14, big_endian=True),
    "Deflate": DngSpec(compression=DEFLATE, rows=16),
    "Deflate, differences": DngSpec(compression=DEFLATE, predictor=2, tile=(16, 32)),
    "active area": DngSpec(pattern="GRBG", tags=(ODD_AREA,)),
    "GBRG": DngSpec(pattern="GBRG"),
    "BGGR": DngSpec(pattern="BGGR"),
    "black of each place": DngSpec(
        bits=12,
        tags=(
            (50713, SHORT, 2, (2, 2), True),
            (50714, RATIONAL, 4, (511, 2, 512, 2, 1027, 4, 518, 2), True),
            (50717, LONG, 1, 3900, True),
        ),
    ),
    "black of each column and row": DngSpec(
        bits=12,
        tags=(
            (50714, SHORT, 1, 64, True),
            (50715, SRATIONAL, 64, tuple(number for x in range(64) for number in (x - 30, 3)), True),
            (50716, SRATIONAL, 48, tuple(number for y in range(48) for number in (y - 11, 7)), True),
        ),
    ),
    "linearization table": DngSpec(bits=12, tags=((50712, SHORT, 4096, tuple(TABLE.tolist()), True),)),
}
# What LibRaw does not decode.
UNREAD = {name for name, spec in SPECS.items() if spec.compression == DEFLATE}


def tags_of(path: Path) -> list[dict]:
    """All tags of all pictures of a file but the places of the mosaic's bytes."""
    with tifffile.TiffFile(path) as file:
        pages = [page for first in file.pages for page in (first, *(first.pages or ()))]
        return [
            {
                tag.code: (int(tag.dtype), tag.count, tag.value)
                for tag in page.tags
                if tag.code not in PLACES or page.photometric != CFA
            }
            for page in pages
        ]


def mosaic_of(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        pages = [page for first in file.pages for page in (first, *(first.pages or ()))]
        return next(page for page in pages if page.photometric == CFA).asarray()


def libraw_of(path: Path) -> tuple[np.ndarray, bytes]:
    with rawpy.imread(str(path)) as raw:
        return raw.raw_image.copy(), raw.raw_colors.tobytes()


@pytest.mark.parametrize("name", SPECS)
def test_nothing_changes_where_nothing_is_denoised(tmp_path: Path, passed, name: str) -> None:
    source, output = tmp_path / "in" / "A_001.DNG", tmp_path / "out"
    source.parent.mkdir()
    codes = write_dng(source, SPECS[name])
    passed(source.parent, output)
    written = output / "A_001.DNG"
    assert [file.name for file in output.iterdir()] == ["A_001.DNG"]
    assert np.array_equal(mosaic_of(written), codes)
    assert str(tags_of(written)) == str(tags_of(source))
    if name not in UNREAD:
        ours, source_is = libraw_of(written), libraw_of(source)
        assert np.array_equal(ours[0], source_is[0]) and ours[1] == source_is[1]


def test_sizes_change_and_tags_do_not(tmp_path: Path, passed) -> None:
    """Compressed, smoother pictures are smaller and noisier ones larger; the sum over the mosaic is void."""
    for name in ("lossless JPEG in tiles", "SubIFD, lossless JPEG, big-endian", "Deflate"):
        spec = SPECS[name]
        source = tmp_path / "in.dng"
        flat = np.full(spec.size, 100, np.uint16)
        for codes, shift in ((flat, 0.01), (codes_of(spec), 1.0)):
            write_dng(source, spec, codes)
            passed(source, tmp_path / f"{name}.dng", shift=shift)
            written = tmp_path / f"{name}.dng"
            white = (1 << spec.bits) - 1
            expected = np.minimum(np.rint(codes + shift * white), white)
            assert np.abs(mosaic_of(written) - expected).max() <= 1
            ours, theirs = tags_of(written), tags_of(source)
            assert ours[0].pop(DIGEST)[2] == bytes(16)
            assert theirs[0].pop(DIGEST) and str(ours) == str(theirs)
            written.unlink()


def test_levels_and_pattern_are_those_of_the_active_area(tmp_path: Path) -> None:
    area = (50829, LONG, 4, (1, 3, 46, 62), True)
    levels = ((50713, SHORT, 2, (2, 2), True), (50714, SHORT, 4, (10, 20, 30, 40), True))
    source = tmp_path / "in.dng"
    codes = write_dng(source, DngSpec(pattern="GRBG", tags=(area, *levels)))
    with open_video(source) as reader:
        (frame,) = reader
        metadata = reader.metadata
    assert (metadata.width, metadata.height, metadata.bit_depth) == (59, 45, 16)
    assert metadata.bayer is not None and metadata.bayer.pattern == "GRBG" and metadata.bayer.white == 65535
    assert metadata.bayer.blacks == (10, 20, 30, 40) and frame.rgb.shape == (23, 30, 4)
    # Red is the second of the first row of the active area, which is pixel (1, 4) of the picture.
    assert frame.rgb[0, 0, 0] == pytest.approx((int(codes[1, 4]) - 20) / (65535 - 20), abs=1e-6)
    with rawpy.imread(str(source)) as raw:
        assert (
            raw.color_desc[raw.raw_colors[1 + 2, 4 + 2]] == ord("R") == raw.color_desc[raw.raw_colors[3, 4]]
        )


def test_pixels_around_the_active_area_stay(tmp_path: Path, passed) -> None:
    source, output = tmp_path / "in.dng", tmp_path / "out.dng"
    codes = write_dng(source, SPECS["active area"], np.full((48, 64), 1000, np.uint16))
    passed(source, output, shift=-1.0)
    expected = codes.copy()
    expected[1:46, 3:62] = 0
    assert np.array_equal(mosaic_of(output), expected)


def test_black_levels_of_rows_and_columns_are_taken_off(tmp_path: Path) -> None:
    source = tmp_path / "in.dng"
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    black = 64 + (x - 30) / 3 + (y - 11) / 7
    write_dng(source, SPECS["black of each column and row"], np.rint(black).astype(np.uint16))
    with open_video(source) as reader:
        (frame,) = reader
    assert np.abs(frame.rgb).max() < 0.6 / 4000


def test_a_table_is_applied_and_inverted_to_the_nearest(tmp_path: Path, passed) -> None:
    source, output = tmp_path / "in.dng", tmp_path / "out.dng"
    codes = write_dng(source, SPECS["linearization table"])
    passed(source, output, shift=0.02)
    with open_video(source) as reader, open_video(output) as after:
        (before,), (frame,) = reader, after
        white = reader.metadata.bayer.white
    assert before.rgb[0, 0, 0] == pytest.approx(TABLE[codes[0, 0]] / white)
    wanted = np.clip(before.rgb + 0.02, 0, TABLE.max() / white)
    assert np.abs(frame.rgb - wanted).max() * white <= np.diff(TABLE).max() / 2 + 1


def test_headroom_and_what_is_below_black_are_kept(tmp_path: Path, passed) -> None:
    levels = ((50714, SHORT, 1, 500, True), (50717, SHORT, 1, 3000, True))
    source, output = tmp_path / "in.dng", tmp_path / "out.dng"
    codes = write_dng(source, DngSpec(bits=12, tags=levels))
    with open_video(source) as reader:
        (frame,) = reader
    assert frame.rgb.min() < -0.1 and frame.rgb.max() > 1.2
    passed(source, output)
    assert np.array_equal(mosaic_of(output), codes)


def test_a_sequence_has_the_rate_and_iso_of_its_tags_and_options_go_first(tmp_path: Path) -> None:
    for number in range(3):
        write_dng(
            tmp_path / f"clip_{number:04d}.dng", DngSpec(seed=number, tags=((34855, SHORT, 1, 800, True),))
        )
    with open_video(tmp_path, start=1 / 24, bayer=BayerOptions("BGGR", 12.0, 4000.0)) as reader:
        bayer = reader.metadata.bayer
        assert bayer is not None and (bayer.pattern, bayer.black, bayer.white) == ("BGGR", 12, 4000)
        assert reader.image_names == ("clip_0001.dng", "clip_0002.dng") and reader.iso == 800
        assert float(reader.metadata.average_rate) == pytest.approx(24000 / 1001)
        first, _ = reader
    with open_video(tmp_path / "clip_0001.dng") as reader:
        (own,) = reader
    mosaic = unpack(np.moveaxis(first.rgb, -1, 0), bayer, (48, 64))
    plain = unpack(np.moveaxis(own.rgb, -1, 0), reader.metadata.bayer, (48, 64))
    assert np.allclose(mosaic, plain, atol=0.02)


REFUSED: dict[str, tuple[DngSpec, str]] = {
    "lossy": (DngSpec(), "lossy JPEG"),
    "rows in another order": (DngSpec(tags=((50975, SHORT, 1, 2, True),)), "order"),
    "X-Trans": (
        DngSpec(
            tags=((33421, SHORT, 2, (6, 6), True), (33422, BYTE, 36, bytes([1] * 36), True)),
            without=(33421, 33422),
        ),
        "X-Trans",
    ),
    "three greens": (DngSpec(pattern="GGRG"), "2x2 Bayer"),
    "linear": (DngSpec(photometric=LINEAR_RAW), "linear DNG"),
    "floating point": (DngSpec(dtype="float32", bits=32), "floating point"),
    "levels": (DngSpec(tags=((50714, SHORT, 1, 70, True), (50717, SHORT, 1, 60, True))), "--black"),
    "area": (DngSpec(tags=((50829, LONG, 4, (0, 0, 99, 99), True),)), "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_gets_one_sentence(tmp_path: Path, denoise: Callable, name: str) -> None:
    spec, words = REFUSED[name]
    source = tmp_path / "clip" / "a.dng"
    source.parent.mkdir()
    write_dng(source, spec, np.zeros((48, 64, 3), np.uint16) if name == "linear" else None)
    if name == "lossy":
        data = bytearray(source.read_bytes())
        with tifffile.TiffFile(source) as file:
            place = file.pages[0].tags[259].valueoffset
        data[place : place + 2] = LOSSY.to_bytes(2, "little")
        source.write_bytes(data)
    denoise(source.parent, to="out/").refused(3, words)


def test_damaged_files_get_one_sentence(tmp_path: Path, denoise: Callable) -> None:
    source = tmp_path / "a.dng"
    for spec in (SPECS["lossless JPEG in tiles"], SPECS["12 bits"]):
        write_dng(source, spec)
        whole = source.read_bytes()
        generator = np.random.default_rng(0)
        for length in (0, 3, 8, 100, len(whole) // 2, len(whole) - 40):
            source.write_bytes(whole[:length])
            with pytest.raises(InputError, match="damaged"):
                list(open_video(source))
        for _ in range(60):
            broken = bytearray(whole)
            for place in generator.integers(0, 700, 4):
                broken[place] = generator.integers(0, 256)
            source.write_bytes(broken)
            try:
                list(open_video(source, max_pixels=100_000))
            except InputError as error:
                assert str(source) in str(error)
    source.write_bytes(b"")
    denoise(source, to="out.dng").refused(3, "damaged")


def test_damage_takes_neither_forever_nor_all_memory(tmp_path: Path) -> None:
    source = tmp_path / "a.dng"
    write_dng(source, SPECS["12 bits"])
    with tifffile.TiffFile(source) as file:
        start, tags = file.pages[0].offset, len(file.pages[0].tags)
    data = bytearray(source.read_bytes())
    struct.pack_into("<I", data, start + 2 + 12 * tags, start)  # the next picture is this one
    source.write_bytes(data)
    assert len(list(open_video(source))) == 1
    write_dng(source, SPECS["lossless JPEG"])
    data = bytearray(source.read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc3") + 5, 65535, 65535)
    source.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        list(open_video(source))
    with pytest.raises(InputError, match="limit"):
        open_video(source, max_pixels=1000)


@pytest.mark.parametrize("package", ["tifffile", "imagecodecs", "rawpy"])
def test_missing_packages_are_named(tmp_path: Path, passed, monkeypatch, package: str) -> None:
    source = tmp_path / "a.dng"
    write_dng(source, SPECS["lossless JPEG"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}.*pip install 'stbn-cli\[raw\]'"):
        passed(source, tmp_path / "out.mp4")


def test_dng_of_several_kinds_are_no_clip(tmp_path: Path, denoise: Callable) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    write_dng(clip / "a.dng", DngSpec())
    write_dng(clip / "b.dng", DngSpec(size=(48, 62)))
    with open_video(clip) as reader, pytest.raises(InputError, match="one camera"):
        list(reader)
    (clip / "b.png").write_bytes(b"x")
    for name in (clip, clip / "*", f"{clip}/"):
        denoise(name, to="out/").refused(3, "DNG and other pictures")
