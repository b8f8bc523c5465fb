"""`stbn analyze`, and what `stbn denoise` makes of it."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.isp import Grain
from stbn_cli.synthesis.sensor import SensorNoise
from tests.cli.conftest import save_tiny_model


def write_clip(path: Path, noise: SensorNoise | Grain, frames: int = 6) -> Path:
    """A smooth picture that drifts, with noise, lossless RGB."""
    coarse = torch.rand((1, 3, 6, 8), generator=torch.Generator().manual_seed(5)) * 0.6 + 0.2
    picture = torch.nn.functional.interpolate(coarse, (96, 160), mode="bicubic")[0].clamp(0.0, 1.0)
    clean = torch.stack([picture[..., t : t + 128] for t in range(frames)])
    noisy = noise.add_to(clean, torch.Generator().manual_seed(0)).clamp(0.0, 1.0)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "bgr0"
        for frame in (noisy * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def white_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clips") / "white.mkv", SensorNoise(NoiseLevelFunction.white(12 / 255))
    )


@pytest.fixture(scope="module")
def grainy_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clips") / "grain.mkv", Grain(NoiseLevelFunction.white(20 / 255), 0.9)
    )


def test_the_table_and_the_verdict(stbn, white_clip: Path) -> None:
    done = stbn("analyze", white_clip)
    assert done.code == 0
    assert "kind of noise" in done.out and "white" in done.out
    assert "independent from pixel to pixel" in done.out


def test_json_and_the_plot_hold_everything(stbn, grainy_clip: Path, tmp_path: Path) -> None:
    done = stbn("analyze", grainy_clip, "--json", "--plot", tmp_path / "noise.svg")
    found = json.loads(done.out)
    # What the drawing says stands in its comments. A single run has no course over time.
    words = re.findall("<!-- (.*?) -->", (tmp_path / "noise.svg").read_text(encoding="utf-8"))
    shared = found["runs"][0]["correlation"]
    assert f"brightness, neighbours share {shared['luma']:.2f}" in words
    assert f"colour, neighbours share {shared['chroma']:.2f}" in words
    assert {"red", "green", "blue", "all of the noise", "high frequencies alone"} <= set(words)
    assert "Noise over time" not in words
    assert found["runs"][0]["autocorrelation_of_colour"][0] == 1.0
    assert found["kind"] == "camera" and found["faint"] is False
    assert found["level"] == pytest.approx(20, rel=0.25)
    assert found["runs"][0]["correlation"]["luma"] > 0.4
    assert found["runs"][0]["autocorrelation"][0] == 1.0
    assert set(found["runs"][0]["level_function"]) == {"red", "green", "blue"}
    assert found["bars"] == {"top": 0, "bottom": 0, "left": 0, "right": 0}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_a_file_of_its_kind(stbn, white_clip: Path, tmp_path: Path, suffix: str) -> None:
    plot = tmp_path / f"noise{suffix}"
    assert stbn("analyze", white_clip, "--plot", plot).code == 0
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert plot.read_bytes().startswith(begins)
    again = stbn("analyze", white_clip, "--plot", plot)
    assert again.code == 6 and "--overwrite" in again.err
    assert [path.name for path in tmp_path.iterdir()] == [plot.name]


def test_what_cannot_be_analysed_is_refused(stbn, white_clip: Path, tmp_path: Path) -> None:
    assert stbn("analyze", tmp_path / "missing.mp4").code == 3
    assert stbn("analyze", "-").code == 2
    assert stbn("analyze", white_clip, "--plot", tmp_path / "noise.txt").code == 2
    (tmp_path / "text.mp4").write_text("no video")
    assert stbn("analyze", tmp_path / "text.mp4").code == 3


@pytest.fixture
def models_of_two_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of tiny models: one for white noise, one for a camera's."""
    from stbn_cli.checkpoints import registry, store

    known = {}
    for kind in ("white", "camera"):
        file = save_tiny_model(tmp_path / "models" / f"{kind}.safetensors", name=kind, noise_kind=kind)
        known[kind] = registry.CheckpointSpec(
            name=kind,
            file=file.name,
            description="for tests",
            licence="CC0-1.0",
            sigma_range=(5.0, 55.0),
            sha256=store.sha256_of(file),
            size=file.stat().st_size,
            noise=(kind,),
            bundled=True,
            default_on=("cpu", "cuda", "mps", "xpu"),
        )
    for module in (registry, store):
        monkeypatch.setattr(module, "load_registry", lambda: known)
    monkeypatch.setattr(store, "bundled_folder", lambda: tmp_path / "models")


@pytest.mark.usefixtures("models_of_two_kinds")
def test_denoise_takes_the_model_for_the_noise(
    stbn, white_clip: Path, grainy_clip: Path, tmp_path: Path
) -> None:
    for clip, kind in ((white_clip, "white"), (grainy_clip, "camera")):
        done = stbn("denoise", clip, "-o", tmp_path / f"{kind}.mkv", "--json")
        assert done.code == 0
        assert json.loads(done.out)["noise_model"] == kind
        assert f"using the model for {kind} noise" in done.err
        assert f"model {Path(json.loads(done.out)['model_file']).stem} on" in done.err
    chosen = stbn("denoise", grainy_clip, "-o", tmp_path / "chosen.mkv", "--noise-model", "white", "--json")
    assert json.loads(chosen.out)["noise_model"] == "white" and "using the" not in chosen.err
    missing = stbn("denoise", grainy_clip, "-o", tmp_path / "none.mkv", "--noise-model", "compressed")
    assert missing.code == 4 and "compressed" in missing.err


def test_a_model_for_several_kinds_is_conditioned_on_the_kind_found(
    stbn, grainy_clip: Path, tmp_path: Path
) -> None:
    def denoised(name: str, *options: str) -> tuple[str, np.ndarray]:
        out = tmp_path / f"{name}.mkv"
        done = stbn("denoise", grainy_clip, "-o", out, "-m", "real", "--json", *options)
        assert done.code == 0
        return json.loads(done.out)["noise_model"], pictures(out)

    found, named, coded = (
        denoised("a"),
        denoised("b", "--noise-model", "camera"),
        denoised("c", "--noise-model", "compressed"),
    )
    assert [kind for kind, _ in (found, named, coded)] == ["camera", "camera", "compressed"]
    assert (found[1] == named[1]).all() and (found[1] != coded[1]).any()


def test_contradictions_are_refused(stbn, white_clip: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    assert stbn("denoise", white_clip, "--noise-model", "pink").code == 2
    both = stbn("denoise", white_clip, "--noise-model", "camera", "-m", tiny_model_path)
    assert both.code == 2 and "one kind of noise" in both.err
    assert stbn("denoise", white_clip, "-m", tiny_model_path, "--uncertainty", tmp_path / "u.mp4").code == 2
    assert stbn("denoise", white_clip, "-m", tiny_model_path, "--keep-grain", "101").code == 2


def pictures(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


LUMA = np.array((0.299, 0.587, 0.114))


def test_shares_of_luma_chroma_and_grain(
    stbn, white_clip: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    def denoised(name: str, *options: str) -> np.ndarray:
        out = tmp_path / f"{name}.mkv"
        assert stbn("denoise", white_clip, "-o", out, "-m", tiny_model_path, "-s", "12", *options).code == 0
        return pictures(out)

    noisy, whole = pictures(white_clip), denoised("whole")
    removed = (noisy - whole) @ LUMA
    colour = denoised("colour", "--luma", "0")
    assert np.abs((noisy - colour) @ LUMA).max() <= 1.0 < np.abs(removed).max()
    assert (colour != noisy).any()
    grey = denoised("grey", "--chroma", "0")
    kept = noisy - grey
    assert np.abs(kept - kept.mean(axis=-1, keepdims=True)).max() <= 1.0
    grain = denoised("grain", "--keep-grain", "40")
    assert np.abs((grain - whole) @ LUMA - 0.4 * removed).max() <= 1.5
    assert np.array_equal(denoised("grain2", "--luma", "0.6"), grain)


def test_the_uncertainty_video(stbn, white_clip: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    out, spread = tmp_path / "out.mkv", tmp_path / "spread.mkv"
    arguments = ("denoise", white_clip, "-m", tiny_model_path, "-s", "12", "--lossless")
    assert stbn(*arguments, "-o", out, "--uncertainty", spread).code == 0
    assert stbn(*arguments, "-o", tmp_path / "plain.mkv").code == 0
    assert np.array_equal(pictures(out), pictures(tmp_path / "plain.mkv"))
    with av.open(spread) as container:
        frames = list(container.decode(video=0))
    with av.open(out) as container:
        assert [frame.time for frame in frames] == [frame.time for frame in container.decode(video=0)]
    assert frames[0].format.name == "gbrp16le"
    deviations = np.stack([frame.to_ndarray(format="gbrp16le") for frame in frames]) / 65535 / 8 * 255
    # Never above the noise, which the noisy value alone would leave.
    assert deviations.min() > 0.0 and deviations.max() < 12.2
    again = stbn(*arguments, "-o", tmp_path / "again.mkv", "--uncertainty", spread)
    assert again.code == 6 and not (tmp_path / "again.mkv").exists()


def test_film_grain(stbn, tiny_model_path: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", SensorNoise(NoiseLevelFunction.white(5 / 255)))
    out, table = tmp_path / "out.mkv", tmp_path / "out.tbl"
    arguments = ("denoise", clip, "-m", tiny_model_path, "-s", "5")
    grained = ("--codec", "av1", "--preset", "superfast", "--film-grain")
    done = stbn(*arguments, "-o", out, *grained, "--grain-table", table, "--json")
    assert done.code == 0
    said = json.loads(done.out)["film_grain"]
    assert said["in_stream"] and said["table"] == str(table)
    assert said["segments"][0]["start"] == 0 and said["segments"][0]["luma"] > 0.35
    assert table.read_text().startswith("filmgrn1\nE 0 ")
    # The table alone goes with any codec, and replaces nothing.
    again = stbn(*arguments, "-o", tmp_path / "h264.mkv", "--grain-table", table)
    assert again.code == 6 and "out.tbl exists already" in again.err
    other = tmp_path / "other.tbl"
    assert stbn(*arguments, "-o", tmp_path / "h264.mkv", "--grain-table", other).code == 0
    assert other.read_text().startswith("filmgrn1\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "out.mkv", "--codec", "h264", "--film-grain"), "Film grain is part of AV1"),
        (("-o", "images/", "--film-grain"), "images cannot hold it"),
        (("-o", "out.mkv", "--codec", "av1", "--film-grain", "--keep-grain", "20"), "Give one of them"),
        (("-o", "out.mkv", "--codec", "av1", "--film-grain", "--lossless"), "Give one of them"),
        (("-o", "out.mkv", "--grain-table", "out.mkv"), "another file of this run"),
    ],
)
def test_where_film_grain_makes_no_sense(
    stbn,
    white_clip: Path,
    tiny_model_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = stbn("denoise", white_clip, "-m", tiny_model_path, *options)
    assert done.code == 2 and words in done.err
    assert not any(tmp_path.glob("out*")) and not (tmp_path / "images").exists()
