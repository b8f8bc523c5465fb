"""Files that claim too much are refused from what their headers say, before memory is taken, and none is executed."""

import json
import pickle
import resource
import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from stbn_cli.checkpoints import load_checkpoint
from stbn_cli.checkpoints.serial import MAX_TENSOR_BYTES, MAX_TENSORS, read_tensors, write_tensors
from stbn_cli.cli.app import main
from stbn_cli.errors import CheckpointError, InputError, OptionError
from stbn_cli.video.limits import MAX_PIXELS, image_size
from stbn_cli.video.reader import open_video
from tests.cli.conftest import save_tiny_model
from tests.fidelity.damaged_clips import flat_clip, png_claiming, y4m_claiming

# What opening may add to the process: a picture of the sizes below would add a hundred times that.
LITTLE = 200 << 20  # bytes


@pytest.fixture
def little_memory():
    """No room for anything large: an allocation beyond what is already taken fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + LITTLE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")


@needs_proc
@pytest.mark.parametrize("side", [9_000, 100_000, 2**31 - 1])
@pytest.mark.parametrize(
    ("name", "make"), [("a.png", png_claiming), ("a.mp4", png_claiming), ("a.y4m", y4m_claiming)]
)
def test_giant_headers_take_no_memory(tmp_path, little_memory, name, make, side) -> None:
    path = tmp_path / name
    path.write_bytes(make(side, side))
    with pytest.raises(InputError, match=r"limit of|--max-pixels|cannot be read"):
        open_video(path)


@needs_proc
def test_giant_headers_of_matroska(tmp_path, little_memory) -> None:
    """Both sizes of a track (PixelWidth B0, PixelHeight BA: two bytes each) are set to 65535."""
    path = flat_clip(tmp_path / "a.mkv", 300, 301)
    data = path.read_bytes()
    for element, size in ((b"\xb0\x82", 300), (b"\xba\x82", 301)):
        old = element + size.to_bytes(2, "big")
        assert data.count(old) == 1
        data = data.replace(old, element + b"\xff\xff")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"65535x65535, more than the limit|--max-pixels"):
        open_video(path)


def test_the_limit_is_an_option(tmp_path, capsys) -> None:
    clip = flat_clip(tmp_path / "a.mkv", 64, 48)
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    command = ["denoise", str(clip), "-o", str(tmp_path / "out.mkv"), "-m", str(model), "-s", "20"]
    assert main([*command, "--max-pixels", str(64 * 48 - 1)]) == 3
    assert "3071 pixels (--max-pixels)" in capsys.readouterr().err
    assert main([*command, "--max-pixels", str(64 * 48)]) == 0
    assert main([*command, "--max-pixels", "0"]) == 2
    for other in (["analyze", str(clip)], ["finetune", str(clip), "-m", str(model)]):
        assert main([*other, "--max-pixels", str(64 * 48 - 1)]) == 3
        assert "3071 pixels (--max-pixels)" in capsys.readouterr().err
    with pytest.raises(OptionError, match="allows no picture"):
        open_video(clip, max_pixels=0)
    assert MAX_PIXELS >= 7680 * 4320


def test_a_later_image_is_checked_too(tmp_path) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((24, 32, 3), np.uint8))
    (tmp_path / "2.png").write_bytes(png_claiming(60_000, 60_000))
    with open_video(tmp_path) as reader:
        frames = iter(reader)
        assert [next(frames).pts, next(frames).pts] == [0, 1]
        with pytest.raises(InputError, match=r"2\.png says that its pictures are 60000x60000"):
            next(frames)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("shape", [(24, 32, 3), (7, 301), (260, 1, 3)])
def test_sizes_are_read_from_headers(suffix, shape) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = cv2.imencode(suffix, image)[1]
    assert image_size(data.data) == (shape[1], shape[0])
    # Cut anywhere, a size is the true one or none.
    for length in range(0, len(data), 7):
        assert image_size(data[:length].data) in ((shape[1], shape[0]), None)


@needs_proc
@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT"])
def test_a_chunk_that_claims_more_than_the_file_takes_no_memory(tmp_path, little_memory, chunk) -> None:
    whole = cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    at = whole.index(chunk) - 4
    for length in (2**31 - 1, 2**32 - 1, len(whole)):
        (tmp_path / "0.png").write_bytes(whole[:at] + length.to_bytes(4, "big") + whole[at + 4 :])
        with pytest.raises(InputError, match="empty or damaged"):
            open_video(tmp_path)
    (tmp_path / "0.png").write_bytes(whole)
    assert len(list(open_video(tmp_path))) == 1


def test_sizes_of_big_endian_and_large_tiff() -> None:
    entry = struct.pack(">HHIHH", 256, 3, 1, 700, 0) + struct.pack(">HHII", 257, 4, 1, 80_000)
    assert image_size(memoryview(b"MM\0*" + struct.pack(">IH", 8, 2) + entry)) == (700, 80_000)
    entry = struct.pack("<HHQQ", 256, 16, 1, 1 << 33) + struct.pack("<HHQQ", 257, 4, 1, 5)
    assert image_size(memoryview(b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2) + entry)) == (1 << 33, 5)
    assert image_size(memoryview(b"II*\0" + struct.pack("<I", 2**32 - 1))) is None


@needs_proc
def test_pictures_that_become_larger_take_no_memory(make_clip, tmp_path) -> None:
    """Behind frames of 32 x 24 comes one of 1280 x 960, beyond a limit between the two: it is lost, not decoded."""
    small, large = make_clip(name="a.ts"), flat_h264(tmp_path / "b.ts", 1280, 960)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(joined, max_pixels=100_000) as reader:
        frames = list(reader)
        assert len(frames) == 8 and frames[0].rgb.shape == (24, 32, 3)
        assert reader.damage.missing >= 1
    with open_video(joined) as reader, pytest.raises(InputError, match="changes from 32x24 to 1280x960"):
        list(reader)


def flat_h264(path: Path, width: int, height: int) -> Path:
    """One gray frame."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8))))
        output.mux(stream.encode(None))
    return path


# Models.


def rewritten(path: Path, change) -> Path:
    """A model file with a changed header: change(header as a dictionary)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    target = path.with_name("changed.safetensors")
    target.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused(model, length) -> None:
    data = model.read_bytes()
    model.write_bytes(length.to_bytes(8, "little") + data[8:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(model)


@needs_proc
@pytest.mark.parametrize("shape", [[2**40], [2**62, 2**62], [-1], [0]])
def test_tensor_sizes_must_agree_with_the_file(model, little_memory, shape) -> None:
    def enlarge(header):
        first = sorted(name for name in header if name != "__metadata__")[0]
        header[first]["shape"] = shape

    with pytest.raises(CheckpointError):
        load_checkpoint(rewritten(model, enlarge))


@needs_proc
def test_a_file_beyond_any_model_is_refused_unread(model, tmp_path) -> None:
    """Sparse: its one tensor agrees with the file's size, and is never given memory."""
    size = MAX_TENSOR_BYTES + 8
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "giant.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    with pytest.raises(CheckpointError, match="more than any model"):
        read_tensors(path)


def test_too_many_tensors_are_refused(tmp_path) -> None:
    path = tmp_path / "many.safetensors"
    write_tensors(path, {str(index): torch.zeros(1) for index in range(MAX_TENSORS + 1)}, {})
    with pytest.raises(CheckpointError, match="more than any model"):
        read_tensors(path)


@pytest.mark.parametrize(
    "config",
    [
        "[" * 100_000,
        "{}" * 9,
        json.dumps([1]),
        json.dumps({"blocks": 10**9}),
        json.dumps({"channels": "8"}),
        json.dumps({"expansion_groups": 0}),
        json.dumps({"tail": 1}),
        "1" * 5000,
        " " * (5 << 20) + "{}",
    ],
)
@pytest.mark.parametrize("part", ["config", "info"])
def test_absurd_headers_are_refused(model, config, part) -> None:
    def change(header):
        header["__metadata__"][part] = config

    with pytest.raises(CheckpointError, match="cannot be understood"):
        load_checkpoint(rewritten(model, change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(model, value) -> None:
    header, tensors = read_tensors(model)
    next(iter(tensors.values())).view(-1)[0] = value
    write_tensors(model, tensors, header)
    with pytest.raises(CheckpointError, match="not finite numbers"):
        load_checkpoint(model)


class Malicious:
    """A pickle that would make a file on loading."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_malicious_pickle_does_nothing(tmp_path, capsys, form) -> None:
    proof, path = tmp_path / "executed", tmp_path / "bad.pth"
    content = {"state_dict": Malicious(proof)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert main(["weights", "import", str(path), "-o", str(tmp_path / "out.safetensors")]) == 4
    assert main(["denoise", str(flat_clip(tmp_path / "a.mkv", 32, 24)), "-m", str(path)]) == 4
    named = path.rename(tmp_path / "bad.safetensors")
    assert main(["denoise", str(tmp_path / "a.mkv"), "-m", str(named)]) == 4
    assert not proof.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mkv", "bad.safetensors"]
    pickle.loads(pickle.dumps(Malicious(proof)))  # it would have worked
    assert proof.exists()
