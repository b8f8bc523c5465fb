"""The rivals of `stbn bench`: each that can run here removes noise, and keeps frames, order, shape and type."""

import importlib.util
import json
import shutil
import sys
from types import SimpleNamespace

import av.filter
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbn_cli.bench.rivals import libavfilter
from stbn_cli.bench.rivals.libavfilter import Filter, run_filters
from stbn_cli.bench.rivals.method import interpolate
from stbn_cli.bench.rivals.opencv import window_around
from stbn_cli.bench.rivals.planes import PlaneCode
from stbn_cli.bench.rivals.registry import METHODS, RIVALS
from stbn_cli.bench.rivals.rival import Rival
from stbn_cli.errors import StbnError

SIGMA = 30.0
# What each must gain on the moving clip at SIGMA, dB.
GAINS = {
    "nlmeans": 9.0,
    "fftdnoiz": 9.0,
    "atadenoise": 3.0,
    "vaguedenoiser": 8.0,
    "hqdn3d": 4.0,
    "ffmpeg-bm3d": 10.0,
    "opencv": 9.0,
    "bm3d": 11.0,
    "vs-bm3d": 11.0,
    "vs-vbm3d": 11.0,
    "vs-dfttest": 10.0,
}
# The option that removes more noise the larger it is.
STRENGTHS = {
    "nlmeans": "s",
    "fftdnoiz": "sigma",
    "atadenoise": "0a",
    "vaguedenoiser": "threshold",
    "hqdn3d": "luma_spatial",
    "ffmpeg-bm3d": "sigma",
    "opencv": "h",
    "bm3d": "sigma_psd",
    "vs-dfttest": "sigma",
}
PROGRAM = pytest.param("program", marks=pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg"))


def moving_clip(frames: int, height: int, width: int) -> np.ndarray:
    """A textured picture with a square of another texture moving over it, `(T, H, W, 3)` float32 RGB on [0, 1]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 7 + y / 11), np.cos(x / 5 - y / 9), np.sin(x / 13) * np.sin(y / 17)]
    back = 0.5 + 0.35 * np.stack([waves[0], 0.5 * (waves[0] + waves[1]), waves[2]], -1)
    clip = np.repeat(back[None], frames, 0)
    side = height // 4
    square = 0.6 - 0.4 * back[:side, :side, ::-1]
    for t, frame in enumerate(clip):
        frame[t + 2 : t + 2 + side, 2 * t + 3 : 2 * t + 3 + side] = square
    return clip


def add_noise(clean: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    return clean + noise * np.float32(sigma / 255)


def psnr(estimate: np.ndarray, clean: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((estimate.clip(0, 1) - clean) ** 2)))


def usable(name: str) -> Rival:
    """The rival, or the test is skipped where it is not installed."""
    rival = RIVALS[name]
    missing = rival.missing()
    if missing is not None:
        pytest.skip(missing)
    return rival


@pytest.mark.parametrize("name", RIVALS)
def test_noise_goes(name: str) -> None:
    rival = usable(name)
    clean = moving_clip(5, 64, 72)
    noisy = add_noise(clean, SIGMA)
    kept = noisy.copy()
    denoised = rival.denoise(noisy, SIGMA)
    assert denoised.shape == noisy.shape
    assert denoised.dtype == np.float32
    assert psnr(denoised, clean) > psnr(noisy, clean) + GAINS[name]
    assert np.array_equal(noisy, kept)


@pytest.mark.parametrize("name", RIVALS)
def test_frames_stay_in_order(name: str) -> None:
    rival = usable(name)
    levels = np.array([0.1, 0.9, 0.3, 0.7, 0.5, 0.2], np.float32)
    clean = np.broadcast_to(levels[:, None, None, None], (len(levels), 48, 40, 3))
    denoised = rival.denoise(add_noise(clean, 10.0), 10.0)
    assert np.allclose(denoised.mean((1, 2, 3)), levels, atol=0.05)


@pytest.mark.parametrize("name", RIVALS)
def test_one_frame_of_odd_size(name: str) -> None:
    rival = usable(name)
    clean = moving_clip(1, 33, 47)
    noisy = add_noise(clean, SIGMA)
    denoised = rival.denoise(noisy, SIGMA)
    assert denoised.shape == noisy.shape
    if name == "atadenoise":  # averages over frames alone: nothing to gain from one
        assert np.allclose(denoised, noisy, atol=1e-3)
    else:
        assert psnr(denoised, clean) > psnr(noisy, clean) + 3.0


@pytest.mark.parametrize("sigma", [5.0, 75.0])
@pytest.mark.parametrize("name", RIVALS)
def test_levels_beyond_the_tuned_ones(name: str, sigma: float) -> None:
    rival = usable(name)
    clean = moving_clip(3, 40, 48)
    noisy = add_noise(clean, sigma)
    # hqdn3d blurs this picture about as much as weak noise spoils it; real clips it improves.
    gain = -0.5 if name == "hqdn3d" and sigma < 10 else 1.0
    assert psnr(rival.denoise(noisy, sigma), clean) > psnr(noisy, clean) + gain


@pytest.mark.parametrize("name", RIVALS)
def test_what_is_missing_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av.filter, "filters_available", frozenset())
    monkeypatch.setattr(libavfilter, "_program_filters", frozenset)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "vapoursynth", None)
    missing = RIVALS[name].missing()
    if name == "opencv":
        assert missing is None
    else:
        assert missing is not None
        assert "nstall" in missing


def test_a_missing_plugin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vapoursynth", SimpleNamespace(core=SimpleNamespace()))
    assert "pip install vapoursynth-bm3d" in str(RIVALS["vs-bm3d"].missing())


@pytest.mark.parametrize("name", RIVALS)
def test_version_and_settings_are_told(name: str) -> None:
    rival = RIVALS[name]
    assert rival.name == name
    assert json.loads(json.dumps(rival.settings(SIGMA)))
    if rival.missing() is None:
        assert any(character.isdigit() for character in rival.version())


@pytest.mark.parametrize(("name", "option"), STRENGTHS.items())
def test_strength_grows_with_the_noise(name: str, option: str) -> None:
    strengths = [
        RIVALS[name].settings(sigma)[option] for sigma in (2.0, 5.0, 10.0, 17.0, 30.0, 45.0, 50.0, 75.0)
    ]
    assert strengths == sorted(strengths)
    assert strengths[-1] > 5 * strengths[0]


def test_every_level_has_the_same_settings() -> None:
    for method in METHODS.values():
        names = {tuple(settings) for settings in method.tuned.values()}
        assert len(names) == 1
        assert list(method.tuned) == sorted(method.tuned)


def test_interpolation() -> None:
    tuned = {10.0: {"strength": 1.0, "patch": 3}, 20.0: {"strength": 2.0, "patch": 5}}
    assert interpolate(tuned, 10.0) == tuned[10.0]
    assert interpolate(tuned, 20.0) == tuned[20.0]
    assert interpolate(tuned, 14.0) == {"strength": pytest.approx(1.4), "patch": 3}
    assert interpolate(tuned, 16.0) == {"strength": pytest.approx(1.6), "patch": 5}
    assert interpolate(tuned, 1.0) == tuned[10.0]
    assert interpolate(tuned, 99.0) == tuned[20.0]


@given(st.integers(1, 9), st.sampled_from([1, 3, 5, 7]), st.data())
def test_window_of_frames(frames: int, size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, frames - 1))
    window = window_around(index, frames, size)
    assert len(window) == len(set(window)) == min(size, frames - 1 + frames % 2)
    assert window[len(window) // 2] == index
    assert set(window) <= set(range(frames))
    reach = max(abs(other - index) for other in window)
    missed = set(range(frames)) - set(window)
    assert all(abs(other - index) >= reach for other in missed)


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("chroma", [1.0, 0.5])
def test_codes_keep_noise_beyond_black_and_white(depth: int, chroma: float) -> None:
    code = PlaneCode(depth, 4.0, chroma, 50.0)
    noisy = add_noise(np.ones((2, 31, 41, 3), np.float32), 50.0)
    codes = code.encode(noisy)
    assert np.abs(code.decode(codes) - noisy).max() < 4.0 / chroma / (2**depth - 1) + 1e-5
    measured = codes.std(axis=(0, 2, 3)) * 255 / (2**depth - 1)
    assert np.allclose(measured, code.luma_sigma * np.array([1, chroma, chroma]), rtol=0.05)


@pytest.fixture(params=["PyAV", PROGRAM])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Filters run inside PyAV, or by the ffmpeg program."""
    if request.param == "program":
        monkeypatch.setattr(av.filter, "filters_available", frozenset())
    return request.param


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("depth", [8, 12, 16])
def test_filters_see_the_very_codes(depth: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**depth, (4, 3, 33, 47))
    codes = codes.astype(np.uint8 if depth == 8 else np.uint16)
    assert np.array_equal(run_filters(codes, depth, [Filter("hflip", {})]), codes[..., ::-1])


@pytest.mark.usefixtures("runner")
def test_guided_filters_see_the_source_first() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 20)).astype(np.uint8)
    chain = [
        Filter("hflip", {}),
        Filter("vstack", {"inputs": 2}, guided=True),
        Filter("crop", {"w": 20, "h": 16, "x": 0, "y": 0}),
    ]
    assert np.array_equal(run_filters(codes, 8, chain), codes)


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize(
    "bad",
    [Filter("nlmeans", {"s": 1000}), Filter("framestep", {"step": 2}), Filter("crop", {"w": 8, "h": 8})],
)
def test_a_failing_filter_is_told(bad: Filter) -> None:
    codes = np.zeros((4, 3, 16, 16), np.uint8)
    with pytest.raises(StbnError, match=bad.name):
        run_filters(codes, 8, [bad])


@pytest.mark.usefixtures("runner")
def test_a_converted_format_is_refused() -> None:
    codes = np.zeros((1, 3, 16, 16), np.uint16)
    with pytest.raises(StbnError):
        run_filters(codes, 16, [Filter("nlmeans", {"s": 1})])
