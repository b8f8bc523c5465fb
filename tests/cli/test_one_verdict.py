"""Every command says the same of a clip's noise: one kind, one number."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stbn_cli.finetuning.run import FinetuneRun
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.synthesis.isp import Grain
from stbn_cli.synthesis.sensor import SensorNoise, poisson_gaussian
from tests.cli.test_analyze import write_clip
from tests.cli.test_errors import assert_refused

SMALL = ("--batch-size", 1, "--patch-size", 32, "--train-length", 2, "--precision", "fp32", "--steps", 1)
NOISES = {
    "white": (SensorNoise(NoiseLevelFunction.white(12 / 255)), False, False),
    "sensor": (poisson_gaussian(0.02, 0.01), False, False),
    "grain": (Grain(NoiseLevelFunction.white(20 / 255), 0.9), True, False),
    "clean": (SensorNoise(NoiseLevelFunction.white(0.1 / 255)), False, True),
}


@pytest.mark.parametrize("name", list(NOISES))
def test_all_commands_agree(stbn, tiny_model_path: Path, tmp_path: Path, name: str) -> None:
    noise, shared, faint = NOISES[name]
    clip = write_clip(tmp_path / "clip.mkv", noise, frames=10)
    model = ("-m", tiny_model_path)
    analyzed = json.loads(stbn("analyze", clip, "--json").out)
    keys = ("kind", "level", "faint", "shared_by_neighbours", "correlation")
    expected = {key: analyzed[key] for key in keys}
    assert (expected["shared_by_neighbours"], expected["faint"]) == (shared, faint)
    number = f"{expected['level']:.3g}"

    table = stbn("analyze", clip).out
    assert f"{number} on the 0-255 scale" in table

    denoised = stbn("denoise", clip, "-o", tmp_path / "d.mkv", *model, "--json")
    assert denoised.code == 0 and f"noise level {number} (measured)" in denoised.err
    document = json.loads(denoised.out)
    assert document["noise"] == expected
    (scene,) = document["scenes"]
    assert (
        scene["level"] == pytest.approx(expected["level"], rel=0.1, abs=0.1) and "conditioning" not in scene
    )

    previewed = stbn("preview", clip, "-o", tmp_path / "p.png", *model, "--json")
    assert previewed.code == 0 and f"noise level {number} (measured)" in previewed.err
    assert json.loads(previewed.out)["noise"] == expected

    compared = stbn("compare", clip, tmp_path / "d.mkv", "--json", "-q")
    document = json.loads(compared.out)
    assert document["noise"]["a"] == expected
    assert document["noise_level"]["a"]["sigma"] == pytest.approx(expected["level"], abs=1e-3)

    arguments = ("finetune", clip, "-o", tmp_path / "m.safetensors", *model, *SMALL, "--json")
    if faint:
        assert_refused(stbn(*arguments), 3, "hardly any noise", "--sigma")
        return
    finetuned = stbn(*arguments)
    document = json.loads(finetuned.out)
    assert document["noise"] == expected and document["noise_level"] == expected["level"]
    assert (document["outcome"] == "correlated noise") is shared
    assert ("`stbn finetune` can learn such noise" in analyzed["verdict"][1]) is not shared


def test_levels_by_brightness_are_those_of_the_headline(stbn, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", Grain(NoiseLevelFunction.white(20 / 255), 0.9))
    found = json.loads(stbn("analyze", clip, "--json").out)
    (run,) = found["runs"]
    assert run["level"] == pytest.approx(found["level"], abs=1e-3)
    squares = [value**2 for name in run["level_function"].values() for _, value in name]
    assert np.sqrt(np.mean(squares)) == pytest.approx(found["level"], rel=0.1)


@pytest.mark.parametrize("noise", ["grain", "clean"])
def test_what_finetune_will_refuse_is_refused_before_the_work(
    stbn, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", NOISES[noise][0])

    def never(*_: object) -> None:
        raise AssertionError("the run was planned")

    monkeypatch.setattr(FinetuneRun, "_plan", never)
    result = stbn("finetune", clip, "-o", tmp_path / "m.safetensors", "-m", tiny_model_path, "--json")
    if noise == "clean":
        assert_refused(result, 3, "hardly any noise")
        return
    assert result.code == 0 and "spread over neighbouring pixels" in result.err
    assert json.loads(result.out)["steps"] == 0 and "reading" not in result.err


@pytest.mark.parametrize(
    ("depth", "filled", "hinted"), [(16, 0.001, True), (16, 0.5, False), (8, 0.012, False)]
)
def test_a_picture_that_fills_next_to_nothing_gets_a_hint(
    stbn, tiny_model_path: Path, tmp_path: Path, depth: int, filled: float, hinted: bool
) -> None:
    top = 2**depth - 1
    random = np.random.default_rng(0)
    scene = cv2.resize(random.random((6, 6, 3)), (64, 64), interpolation=cv2.INTER_CUBIC)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(3):
        values = (scene + 0.1 * random.standard_normal(scene.shape)).clip(0, 1) * filled * top
        picture = np.rint(values).astype(np.uint16 if depth == 16 else np.uint8)
        assert cv2.imwrite(str(folder / f"{index}.png"), picture)
    hint = "of the range of values"
    assert (hint in stbn("analyze", folder).out) is hinted
    denoised = stbn("denoise", folder, "-o", f"{tmp_path / 'out'}/", "-m", tiny_model_path, "--json", "-q")
    assert denoised.code == 0 and (hint in denoised.err) is hinted
    assert any(hint in text for text in json.loads(denoised.out)["warnings"]) is hinted
    if hinted:
        refused = stbn("finetune", folder, "-o", tmp_path / "m.safetensors", "-m", tiny_model_path)
        assert_refused(refused, 3, "hardly any noise", hint)


def test_a_picture_too_small_to_measure_is_denoised_all_the_same(
    stbn, make_clip, tiny_model_path: Path, tmp_path: Path
) -> None:
    clip = make_clip(width=6, height=6, frames=2, encoder="ffv1", name="c.mkv", pix_fmt="yuv444p")
    found = json.loads(stbn("analyze", clip, "--json").out)
    assert found["faint"] and "cannot be measured" in found["verdict"][0]
    result = stbn("denoise", clip, "-o", tmp_path / "o.mkv", "-m", tiny_model_path)
    assert result.code == 0, result.err
