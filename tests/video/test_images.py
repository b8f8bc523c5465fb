"""Image sequences in and out."""

import cv2
import numpy as np
import pytest

from stbn_cli.errors import InputError, OptionError, OutputError
from stbn_cli.pipeline import denoise_video
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, check_output, create_video


class Identity:
    def stream(self, frames):
        yield from frames


def round_trip(source, output, options=None, overwrite=False, **range_options):
    with (
        open_video(source, **range_options) as reader,
        create_video(output, reader, options or EncodeOptions(), overwrite=overwrite) as writer,
    ):
        return denoise_video(reader, Identity(), writer)


@pytest.fixture
def make_images(tmp_path):
    def make(suffix=".png", dtype=np.uint8, count=4, gray=False, name="shot{}", size=(9, 13)):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        generator = np.random.default_rng(3)
        images = []
        for index in range(count):
            shape = size if gray else (*size, 3)
            image = generator.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
            assert cv2.imwrite(str(folder / (name.format(index + 1) + suffix)), image)
            images.append(image)
        return folder, images

    return make


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif"])
def test_images_in_are_images_out(make_images, tmp_path, suffix, dtype, gray):
    folder, images = make_images(suffix, dtype, gray=gray)
    summary = round_trip(folder, f"{tmp_path}/out/")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"shot{index}{suffix}" for index in (1, 2, 3, 4)]
    for index, image in enumerate(images):
        found = read(tmp_path / "out" / f"shot{index + 1}{suffix}")
        assert found.dtype == image.dtype
        np.testing.assert_array_equal(found, image)
    assert summary.frames == 4
    assert summary.warnings == ()


def test_numbers_are_sorted_as_numbers(make_images):
    folder, images = make_images(count=11)  # shot1 ... shot11: alphabetical order would put 10 after 1
    with open_video(folder) as reader:
        frames = list(reader)
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_allclose(frame.rgb[..., ::-1] * 255, image, atol=1e-3)
    assert [frame.pts for frame in frames] == list(range(11))


@pytest.mark.parametrize("pattern", ["shot%d.png", "shot*.png", "shot?.png", "shot%01d.png"])
def test_patterns(make_images, pattern):
    folder, images = make_images()
    (folder / "other.png").write_bytes((folder / "shot1.png").read_bytes())
    with open_video(folder / pattern) as reader:
        assert reader.metadata.frame_count == len(images)
        assert reader.metadata.average_rate == 25


def test_rate_and_range(make_images):
    folder, _ = make_images(count=10)
    with open_video(folder, rate=10, start=0.25, end=0.6) as reader:
        assert reader.image_names == ("shot4.png", "shot5.png", "shot6.png")
        assert reader.metadata.duration_seconds == pytest.approx(0.3)
        assert [frame.pts * frame.time_base for frame in reader] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
def test_images_to_lossless_video_and_back(make_images, tmp_path, dtype):
    folder, images = make_images(dtype=dtype)
    round_trip(folder, tmp_path / "v.mkv", EncodeOptions(lossless=True))
    round_trip(tmp_path / "v.mkv", tmp_path / "back" / "%03d.png") if (
        tmp_path / "back"
    ).mkdir() is None else None
    for index, image in enumerate(images):
        np.testing.assert_array_equal(read(tmp_path / "back" / f"{index + 1:03d}.png"), image)


def test_ten_bit_video_becomes_sixteen_bit_images(make_clip, tmp_path):
    source = make_clip(pix_fmt="yuv420p10le", frames=2)
    round_trip(source, f"{tmp_path}/out/")
    assert read(tmp_path / "out" / "frame_000001.png").dtype == np.uint16
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_jpeg_in_and_out(make_images, tmp_path):
    folder, _ = make_images(".jpg", size=(32, 32))
    round_trip(folder, f"{tmp_path}/out/")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"shot{i}.jpg" for i in (1, 2, 3, 4)]


def test_alpha_is_refused_or_dropped_with_a_warning(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.full((4, 4, 4), 200, np.uint8))
    with pytest.raises(OptionError, match="--drop-alpha"):
        round_trip(folder, f"{tmp_path}/out/")
    assert not (tmp_path / "out").exists()
    summary = round_trip(folder, f"{tmp_path}/out/", EncodeOptions(drop_alpha=True))
    assert any("alpha" in sentence for sentence in summary.warnings)
    assert read(tmp_path / "out" / "1.png").shape == (4, 4, 3)


def test_one_image(make_images, tmp_path):
    folder, images = make_images(count=1)
    round_trip(folder / "shot1.png", tmp_path / "clean.png")
    np.testing.assert_array_equal(read(tmp_path / "clean.png"), images[0])


def test_one_image_cannot_hold_many_frames(make_images, tmp_path):
    folder, _ = make_images()
    with open_video(folder) as reader, pytest.raises(OptionError):
        create_video(tmp_path / "clean.png", reader, EncodeOptions())


def test_images_of_other_sizes_are_refused(make_images):
    folder, _ = make_images()
    cv2.imwrite(str(folder / "shot5.png"), np.zeros((5, 5, 3), np.uint8))
    with open_video(folder) as reader, pytest.raises(InputError, match="one size"):
        list(reader)


@pytest.mark.parametrize("data", [b"", b"no image at all"])
def test_a_damaged_image_is_named(make_images, data):
    folder, _ = make_images()
    (folder / "shot1.png").write_bytes(data)
    with pytest.raises(InputError, match="shot1"):
        open_video(folder)


def test_an_output_folder_with_content_needs_overwrite_and_keeps_other_files(make_images, tmp_path):
    folder, images = make_images()
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("keep me")
    (output / "shot2.png").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        check_output(folder, output, overwrite=False)
    round_trip(folder, output, overwrite=True)
    assert (output / "notes.txt").read_text() == "keep me"
    np.testing.assert_array_equal(read(output / "shot2.png"), images[1])
    assert len(list(output.iterdir())) == 5


def test_the_input_folder_is_never_the_output(make_images):
    folder, _ = make_images()
    for source in (folder, folder / "shot%d.png", folder / "shot1.png"):
        with pytest.raises(OutputError, match="input itself"):
            check_output(source, folder, overwrite=True)
