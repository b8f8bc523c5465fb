"""Clips with scene cuts, and the tiny model of the command-line tests."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.cli.conftest import save_tiny_model
from tests.cli.conftest import stbn as stbn
from tests.conftest import planes_of

HEIGHT, WIDTH = 48, 64
SCENES = (20, 25, 9, 18, 30)  # frames of each


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.safetensors")


def scene(seed: int, count: int, level: float) -> list[np.ndarray]:
    """A moving texture with noise, (H, W, 3) uint8; the third frame is shown twice."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((HEIGHT // 8 + 1, WIDTH // 8 + 8, 3)) * 200 + 20
    texture = np.kron(coarse, np.ones((8, 8, 1)))
    frames = []
    for index in range(count):
        picture = texture[:HEIGHT, index : index + WIDTH]
        noisy = picture + generator.normal(0, level, picture.shape)
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    if count > 3:
        frames[3] = frames[2]
    return frames


def write_scenes(
    path: Path, scenes: tuple[int, ...] = SCENES, *, encoder: str = "ffv1", fade: int = 0
) -> Path:
    """A clip of scenes, the first of which is faded in for `fade` frames."""
    options = {"libx264": {"g": "12", "bf": "3", "qp": "0"}, "mpeg2video": {"g": "12", "bf": "2"}}.get(
        encoder, {}
    )
    frames = [frame for number, count in enumerate(scenes) for frame in scene(number, count, 8 + 4 * number)]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        for index, frame in enumerate(frames):
            shown = (frame * min((index + 1) / (fade + 1), 1.0)).astype(np.uint8)
            picture = av.VideoFrame.from_ndarray(shown, "rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def frames_of(path: Path) -> list[list[np.ndarray]]:
    with av.open(str(path)) as container:
        return [planes_of(picture) for picture in container.decode(video=0)]


def same_frames(first: Path, second: Path) -> bool:
    pairs = zip(frames_of(first), frames_of(second), strict=True)
    return all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.fixture
def make_scenes(tmp_path: Path) -> Callable[..., Path]:
    """make_scenes(name, **options of `write_scenes`) -> path of a new clip in the test's folder."""

    def make(name: str = "long.mkv", **options) -> Path:
        return write_scenes(tmp_path / name, **options)

    return make
