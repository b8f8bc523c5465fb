"""Raw clips by all their names, Bayer TIFF, renderings, and the options."""

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stbn_cli.cli.batch import Naming, plan_batch
from stbn_cli.errors import InputError, OptionError, OutputError
from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.video.formats import WRITABLE_SUFFIXES
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.raw.dngs import DngSpec, write_dng

GBRG = BayerOptions("GBRG", 240.0, 4095.0)


def coloured_mosaic(size: tuple[int, int] = (96, 128), noise: float = 20.0, seed: int = 0) -> np.ndarray:
    """A GBRG mosaic (H, W) uint16 of a scene with colours, black 240 and white 4095."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0.1, 0.8, (4, 5, 3)) * (0.6, 1.0, 0.5)
    scene = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    colours = np.array([[1, 2], [0, 1]])  # of red, green and blue
    rows, columns = np.indices(size)
    light = np.take_along_axis(scene, colours[rows % 2, columns % 2][..., None], 2)[..., 0]
    return np.rint(np.clip(240 + light * 3855 + generator.normal(0, noise, size), 0, 65535)).astype(np.uint16)


def write_mosaics(folder: Path, count: int = 2, name: str = "frame_%03d.tif") -> list[np.ndarray]:
    folder.mkdir()
    mosaics = [coloured_mosaic(seed=number) for number in range(count)]
    for number, mosaic in enumerate(mosaics):
        cv2.imwrite(str(folder / (name % number)), mosaic)
    return mosaics


def test_every_spelling_names_the_same_files(tmp_path: Path, monkeypatch) -> None:
    clip = tmp_path / "clip.dng"  # as recorders call folders
    clip.mkdir()
    names = ["a_0001.DNG", "a_0002.dng", "a_0010.DNG"]
    for name in names:
        write_dng(clip / name, DngSpec(size=(8, 8)))
    write_dng(clip / ".a_0003.dng", DngSpec(size=(8, 8)))
    (clip / "sound.wav").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for source in ("clip.dng", "clip.dng/", "clip.dng/*.dng", "clip.dng/*.DNG", "clip.dng/a_%04d.dng"):
        with open_video(source) as reader:
            assert list(reader.image_names or ()) == names, source
    for source in ("clip.dng/a_0001.DNG", "clip.dng/a_0001.DNG/", "clip.dng/?_0001.*"):
        with open_video(source) as reader:
            assert reader.image_names == ("a_0001.DNG",), source
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.CR2").write_bytes(b"x")
    for source in ("cards", "cards/a.CR2", "cards/*.cr2", "cards/*.CR2"):
        with pytest.raises(InputError, match="Convert it to DNG"):
            open_video(source)
    for source in ("none.dng", "clip.dng/b_%04d.dng", "nowhere/*.dng", "clip.dng/b*.DNG"):
        with pytest.raises(InputError, match="DNG"):
            open_video(source)


@pytest.mark.parametrize("name", ["frame_%03d.tif", "frame_%03d.TIFF", "f%d.png"])
def test_mosaics_in_pictures_come_back(tmp_path: Path, passed, name: str) -> None:
    mosaics = write_mosaics(tmp_path / "in", name=name)
    passed(tmp_path / "in", tmp_path / "out", GBRG)
    for number, mosaic in enumerate(mosaics):
        written = cv2.imread(str(tmp_path / "out" / (name % number)), cv2.IMREAD_UNCHANGED)
        assert written.dtype == np.uint16 and np.array_equal(written, mosaic)
    one = (tmp_path / "one").with_suffix(Path(name).suffix)
    passed(tmp_path / "in" / (name % 1), one, GBRG)
    assert np.array_equal(cv2.imread(str(one), cv2.IMREAD_UNCHANGED), mosaics[1])


def test_headroom_of_pictures_is_kept(tmp_path: Path, passed) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), np.array([[0, 60000], [100, 240]], np.uint16))
    with open_video(tmp_path / "a.tif", bayer=GBRG) as reader:
        (frame,) = reader
    assert frame.rgb.min() < 0 and frame.rgb.max() > 10
    passed(tmp_path / "a.tif", tmp_path / "b.tif", GBRG, shift=0.1)
    written = cv2.imread(str(tmp_path / "b.tif"), cv2.IMREAD_UNCHANGED)
    assert written.tolist() == [[386, 60386], [486, 626]]  # rounded from 385.5


def test_outputs_are_named_as_images_are(tmp_path: Path, passed) -> None:
    clip = tmp_path / "in"
    clip.mkdir()
    for name in ("b.dng", "A.DNG"):
        write_dng(clip / name, DngSpec(size=(8, 8)))
    (tmp_path / "numbered").mkdir()
    passed(clip, tmp_path / "numbered" / "x_%03d.dng")
    assert sorted(file.name for file in (tmp_path / "numbered").iterdir()) == ["x_001.dng", "x_002.dng"]
    passed(clip, f"{tmp_path}/named/")
    assert sorted(file.name for file in (tmp_path / "named").iterdir()) == ["A.DNG", "b.dng"]
    for output, error in (
        (tmp_path / "one.dng", OptionError),
        (clip, OutputError),
        (tmp_path / "named", OutputError),
    ):
        with pytest.raises(error):
            passed(clip, output)
    items = plan_batch([str(clip / "A.DNG"), str(tmp_path / "new.dng")], Naming(), WRITABLE_SUFFIXES).items
    assert [item.output for item in items] == [str(tmp_path / "new.dng")]
    items = plan_batch([str(clip), str(clip / "A.DNG")], Naming(), WRITABLE_SUFFIXES).items
    assert [item.output for item in items] == [f"{clip}.denoised/", str(clip / "A.denoised.DNG")]


@pytest.mark.parametrize("kind", ["dng", "tif"])
def test_a_video_of_raw_is_a_rendering(tmp_path: Path, passed, kind: str) -> None:
    clip = tmp_path / "in"
    if kind == "dng":
        clip.mkdir()
        for number in range(2):
            mosaic = coloured_mosaic((63, 129), seed=3)
            write_dng(clip / f"{number}.dng", DngSpec("GBRG", (63, 129), 12), np.minimum(mosaic, 4095))
    else:
        write_mosaics(clip)
    summary = passed(clip, tmp_path / "out.mp4", None if kind == "dng" else GBRG)
    shown = [warning for warning in summary.warnings if "--black" not in warning]
    assert len(shown) == 1 and "rendering" in shown[0]
    with av.open(str(tmp_path / "out.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 2 and np.ptp(pictures[0].astype(int).mean((0, 1))) < 120
    assert pictures[0].std() > 8 and pictures[0].mean() > 20
    with open_video(clip, bayer=None if kind == "dng" else GBRG) as reader:
        with pytest.raises(OptionError, match=r"--strict.*rendering"):
            create_video(tmp_path / "strict.mp4", reader, EncodeOptions(strict=True))
        with create_video(f"{tmp_path}/strict/", reader, EncodeOptions(strict=True)):
            pass
    passed(clip, tmp_path / "shown_%d.jpg", None if kind == "dng" else GBRG)
    assert cv2.imread(str(tmp_path / "shown_2.jpg")).shape[2] == 3


def test_an_unnamed_mosaic_is_refused_and_grey_can_be_stated(tmp_path: Path, denoise: Callable) -> None:
    write_mosaics(tmp_path / "in")
    denoise(tmp_path / "in", to="out/").refused(3, "--bayer GBRG --black 240", "--bayer none")
    denoise(tmp_path / "in", "--bayer", "none", to="out/").done()


@pytest.mark.parametrize(
    "options",
    [
        ("--bayer", "XTRANS"),
        ("--bayer", "GBRG", "--black", "1,2"),
        ("--bayer", "GBRG", "--black", "dark"),
        ("--bayer", "GBRG", "--black", "500", "--white", "400"),
        ("--bayer", "GBRG", "--white", "0"),
        ("--black", "240"),
        ("--bayer", "none", "--black", "240"),
        ("--bayer", "GBRG", "--field", "on"),
    ],
)
def test_impossible_options_get_one_sentence(
    tmp_path: Path, denoise: Callable, options: tuple[str, ...]
) -> None:
    write_mosaics(tmp_path / "in", 1)
    denoise(tmp_path / "in", *options, to="out/").refused(2)


def test_bayer_is_for_pictures_of_one_channel(tmp_path: Path, denoise: Callable, make_clip: Callable) -> None:
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((16, 16, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "grey.jpg"), np.zeros((16, 16), np.uint8))
    denoise(tmp_path / "colour.png", "--bayer", "RGGB").refused(3, "one channel")
    denoise(tmp_path / "grey.jpg", "--bayer", "RGGB").refused(3, "JPEG")
    denoise(make_clip(), "--bayer", "RGGB").refused(2, "no picture sequence")
    write_dng(tmp_path / "a.dng", DngSpec(size=(8, 8)))
    denoise(tmp_path / "a.dng", "--bayer", "none", to="b.dng").refused(2, "DNG is a mosaic")
    denoise(tmp_path / "colour.png", to="b.dng").refused(2, "only DNG input")
    with pytest.raises(OptionError, match="only DNG"), open_video(tmp_path / "colour.png") as reader:
        create_video(tmp_path / "b.dng", reader, EncodeOptions())
