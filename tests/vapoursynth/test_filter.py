"""The filter in the real VapourSynth: formats, colours, properties, scenes, errors, vspipe.

Most tests have a stand-in for the network, so that they run where torch does not.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

vs = pytest.importorskip(
    "vapoursynth", reason="VapourSynth is not installed (pip install vapoursynth; Python 3.12 or newer)"
)

from stbn_cli import vapoursynth as stbn  # noqa: E402

core = vs.core
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
WIDTH, HEIGHT, LENGTH = 96, 64, 24
FORMATS = (
    *("RGB24", "RGB30", "RGB48", "RGBH", "RGBS", "GRAY8", "GRAY12", "GRAY16", "GRAYH", "GRAYS"),
    *("YUV410P8", "YUV411P8", "YUV420P8", "YUV420P10", "YUV420P16", "YUV422P10", "YUV440P8", "YUV444P8"),
    *("YUV444P12", "YUV444P16", "YUV420PH", "YUV420PS", "YUV444PH", "YUV444PS"),
)


class Plain:
    """Gives frames back, multiplied by `factor`; knows where its runs begin."""

    chunk = 4
    opening = 5

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.openings: list[float] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.first: list[np.ndarray] = []

    def noise(self, opening: Sequence[np.ndarray]) -> float:
        self.openings.append(float(opening[0].mean()))
        self.first.append(opening[0])
        return 0.0

    def run(self, frames: Iterator[np.ndarray], noise: float, skip: int) -> Generator[np.ndarray, None, None]:
        for number, frame in enumerate(frames):
            self.shapes.add(frame.shape)
            if number >= skip:
                yield np.float32(self.factor) * frame


def clip_of(name: str, *, smooth: bool = True, length: int = LENGTH, **props: int):
    """A clip of the format: smooth colours with noise, or any code values; each frame is another."""
    form = core.get_video_format(getattr(vs, name))
    blank = core.std.BlankClip(format=form.id, width=WIDTH, height=HEIGHT, length=length)

    def fill(n, f):
        result, random = f.copy(), np.random.default_rng(n)
        for plane in range(form.num_planes):
            values = np.asarray(result[plane])
            rows, columns = np.indices(values.shape) / np.array(values.shape)[:, None, None]
            picture = 0.3 + 0.3 * rows + 0.1 * np.sin(3 * columns + plane)
            if not smooth:
                picture = random.random(values.shape)
            picture += 0.01 * random.standard_normal(values.shape)
            if form.sample_type == vs.INTEGER:
                values[:] = np.clip(picture, 0, 1) * (2**form.bits_per_sample - 1)
            else:
                values[:] = picture - (0.5 if form.color_family == vs.YUV and plane else 0.0)
        return result

    clip = blank.std.ModifyFrame(blank, fill)
    return clip.std.SetFrameProps(**props) if props else clip


def filtered(clip, denoiser=None, *, scene_cuts: bool = False, cache_bytes: int = 2**24):
    planes = stbn._Planes.of(clip)
    return stbn._filtered(planes, denoiser or Plain(), scene_cuts=scene_cuts, cache_bytes=cache_bytes)


def planes_of(clip, number: int) -> list[np.ndarray]:
    with clip.get_frame(number) as frame:
        return [np.array(frame[plane], np.float64) for plane in range(frame.format.num_planes)]


def largest(clip) -> float:
    """The largest value that a plane of the format spans."""
    return 2.0**clip.format.bits_per_sample - 1 if clip.format.sample_type == vs.INTEGER else 1.0


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_as_it_was(name: str) -> None:
    clip = clip_of(name, _Matrix=1, _Transfer=1, _Primaries=1, _DurationNum=1, _DurationDen=25)
    result = filtered(clip)
    assert (result.format.id, result.width, result.height) == (clip.format.id, WIDTH, HEIGHT)
    assert (result.num_frames, result.fps) == (LENGTH, clip.fps)
    for number in (5, LENGTH - 1, 0, 6):
        before, after = planes_of(clip, number), planes_of(result, number)
        assert dict(clip.get_frame(number).props) == dict(result.get_frame(number).props)
        # Without subsampling nothing is lost; with it, what chroma's noise has between its pixels.
        subsampled = clip.format.subsampling_w or clip.format.subsampling_h
        for plane, (old, new) in enumerate(zip(before, after, strict=True)):
            limit = 0.03 if plane and subsampled else 2e-7
            assert np.abs(old - new).max() <= limit * largest(clip)


@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [0, 1])
@pytest.mark.parametrize("name", ["YUV444P8", "YUV444P10"])
def test_matrix_and_range_go_back_as_they_came(name: str, full: int, matrix: int) -> None:
    clip = clip_of(name, smooth=False, _Matrix=matrix, _Range=full)
    np.testing.assert_array_equal(planes_of(filtered(clip), 3), planes_of(clip, 3))


@pytest.mark.parametrize(
    ("props", "weights"),
    [({}, (1.0, 1.402)), ({"_Matrix": 1}, (1.0, 1.5748)), ({"_Matrix": 9}, (1.0, 1.4746))],
)
def test_the_network_sees_rgb_by_the_clips_matrix(
    props: dict[str, int], weights: tuple[float, float]
) -> None:
    # An unmarked clip of this size is BT.601, in limited range.
    blank = core.std.BlankClip(
        format=vs.YUV444P8, width=WIDTH, height=HEIGHT, length=2, color=[100, 128, 150]
    )
    blank = blank.std.RemoveFrameProps(["_Matrix", "_Range"])
    denoiser = Plain()
    filtered(blank.std.SetFrameProps(**props) if props else blank, denoiser).get_frame(0)
    luma, chroma = (100 - 16) / 219, (150 - 128) / 224
    red = weights[0] * luma + weights[1] * chroma
    assert denoiser.first[0][0, 0, 0] == pytest.approx(red, abs=1e-4)


def test_unmarked_high_definition_is_bt709() -> None:
    blank = core.std.BlankClip(format=vs.YUV420P8, width=1280, height=64, length=1, color=[100, 128, 150])
    denoiser = Plain()
    filtered(blank.std.RemoveFrameProps(["_Matrix", "_Range"]), denoiser).get_frame(0)
    assert denoiser.first[0][0, 0, 0] == pytest.approx(84 / 219 + 1.5748 * 22 / 224, abs=1e-4)


@pytest.mark.parametrize("location", [0, 1, 2])
def test_chroma_stays_where_it_is(location: int) -> None:
    clip = clip_of("YUV420PS", _Matrix=1, _ChromaLocation=location)
    ramp = np.tile(np.linspace(-0.3, 0.3, WIDTH // 2), (HEIGHT // 2, 1))

    def fill(n, f):
        result = f.copy()
        np.asarray(result[1])[:] = ramp
        return result

    after = planes_of(filtered(clip.std.ModifyFrame(clip, fill)), 2)[1]
    np.testing.assert_allclose(after[4:-4, 4:-4], ramp[4:-4, 4:-4], atol=1e-4)


def test_grey_is_denoised_as_three_equal_channels() -> None:
    denoiser = Plain(0.5)
    clip = clip_of("GRAYS")
    np.testing.assert_allclose(
        planes_of(filtered(clip, denoiser), 7), 0.5 * np.array(planes_of(clip, 7)), atol=1e-6
    )
    assert denoiser.shapes == {(HEIGHT, WIDTH, 3)}


@pytest.mark.parametrize(("name", "shift"), [("_SceneChangePrev", 0), ("_SceneChangeNext", -1)])
def test_scenes_begin_where_the_clip_says(name: str, shift: int) -> None:
    clip = clip_of("RGBS")
    marked = clip.std.FrameEval(lambda n: clip.std.SetFrameProps(**{name: int(n in (9 + shift, 17 + shift))}))
    denoiser = Plain()
    result = filtered(marked, denoiser, scene_cuts=True)
    for number in (20, 3, 10):
        np.testing.assert_array_equal(planes_of(result, number), planes_of(clip, number))
    means = [float(np.mean(planes_of(clip, first))) for first in (17, 0, 9)]
    assert denoiser.openings == pytest.approx(means, abs=1e-6)


def test_cuts_are_found_in_unmarked_clips() -> None:
    denoiser = Plain()
    clip = clip_of("RGBS", length=11) + clip_of("RGBS").std.Turn180()
    filtered(clip, denoiser, scene_cuts=True).get_frame(14)
    assert denoiser.openings == pytest.approx([float(np.mean(planes_of(clip, 11)))], abs=1e-6)


@pytest.mark.parametrize("threads", [1, 4])
def test_frames_may_be_asked_for_at_once_in_any_order(threads: int) -> None:
    before, core.num_threads = core.num_threads, threads
    try:
        clip = clip_of("YUV444P8", _Matrix=1)
        twice = filtered(filtered(clip, cache_bytes=0), cache_bytes=0)
        order = np.random.default_rng(0).permutation(LENGTH)
        waiting = [(int(n), twice.get_frame_async(int(n))) for n in order]
        for number, future in waiting:
            with future.result(timeout=300) as frame:
                found = [np.array(frame[plane]) for plane in range(3)]
            np.testing.assert_array_equal(found, planes_of(clip, number))
    finally:
        core.num_threads = before


def refused(clip, **arguments) -> str:
    with pytest.raises(vs.Error) as caught:
        stbn.denoise(clip, **arguments)
    sentence = str(caught.value)
    assert sentence.startswith("stbn: ") and "\n" not in sentence
    return sentence


def test_what_cannot_be_denoised_is_refused_in_a_sentence() -> None:
    clip = clip_of("RGBS")
    assert "expected a video clip" in refused("clip.mkv")
    assert "varies" in refused(core.std.Splice([clip, clip_of("RGB24")], mismatch=True))
    assert "varies" in refused(core.std.Splice([clip, clip.std.Crop(left=2)], mismatch=True))
    assert "interlaced" in refused(clip.std.SetFieldBased(2))
    assert "more than 16 bits" in refused(core.std.BlankClip(format=vs.GRAY32, length=1))
    assert "cannot be converted to RGB" in refused(clip_of("YUV444P8", _Matrix=0))
    assert "cache_mib" in refused(clip, cache_mib=-1)


def test_what_fails_later_is_an_error_of_the_frame() -> None:
    from stbn_cli.errors import InputError

    class Broken(Plain):
        def noise(self, opening: Sequence[np.ndarray]) -> float:
            raise InputError("There is nothing to see.")

    with pytest.raises(vs.Error, match=r"stbn: There is nothing to see\."):
        filtered(clip_of("RGBS"), Broken()).get_frame(0)


def test_values_that_are_not_finite_are_refused() -> None:
    def spoil(n, f):
        result = f.copy()
        np.asarray(result[1])[3, 4] = np.nan if n == 9 else 0.5
        return result

    clip = clip_of("RGBS")
    with pytest.raises(vs.Error, match="Frame 9 holds values that are not finite"):
        filtered(clip.std.ModifyFrame(clip, spoil)).get_frame(3)


@pytest.mark.parametrize("name", ["RGBS", "YUV420P8"])
def test_a_clip_that_turns_interlaced_is_refused_there(name: str) -> None:
    # A height that core.resize refuses for interlaced 4:2:0.
    clip = clip_of(name, _Matrix=1, length=60).std.CropAbs(WIDTH, HEIGHT - 2)
    mixed = clip[:50] + clip[50:].std.SetFieldBased(2)
    result = filtered(mixed)
    np.testing.assert_allclose(planes_of(result, 3)[0], planes_of(clip, 3)[0], atol=1e-6)
    with pytest.raises(vs.Error, match=r"stbn: the clip is marked as interlaced; .*SetFieldBased"):
        result.get_frame(52)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import vapoursynth as vs
import stbn_cli.vapoursynth as stbn
from tests.vapoursynth.test_filter import clip_of, filtered
filtered(clip_of("YUV420P8", _Matrix=1)).set_output()
"""


def test_vspipe_writes_y4m(tmp_path: Path) -> None:
    script, output = tmp_path / "script.vpy", tmp_path / "out.y4m"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "vapoursynth", "config"], env=environment, check=False)
    command = [sys.executable, "-c", "import vapoursynth, sys; sys.exit(vapoursynth.vspipe())"]
    probe = subprocess.run(
        [*command, "--version"], env=environment, capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"vspipe does not run here: {(probe.stdout + probe.stderr).strip()}")
    done = subprocess.run(
        [*command, "-c", "y4m", str(script), str(output)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, _, rest = output.read_bytes().partition(b"\n")
    assert re.match(rb"YUV4MPEG2 C420\w* W96 H64 ", header)
    assert len(rest) == LENGTH * (len("FRAME\n") + WIDTH * HEIGHT * 3 // 2)


def test_arguments_go_before_options_where_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from stbn_cli.jobs.options import DenoiserOptions

    wanted: list[DenoiserOptions] = []

    def load(options: DenoiserOptions, say: object) -> SimpleNamespace:
        wanted.append(options)
        return SimpleNamespace(plan_for=lambda height, width: SimpleNamespace(chunk=4, chunk_overlap=1))

    module = SimpleNamespace(load=load, check_fits=lambda loaded, raw: None)
    monkeypatch.setitem(sys.modules, "stbn_cli.jobs.model", module)
    options = DenoiserOptions(model="stbn-xs", sigma=5.0, quality="fast")
    stbn.denoise(clip_of("RGBS"), options=options)
    stbn.denoise(clip_of("RGBS"), 9, "stbn-s", options=options)
    assert [(o.model, o.sigma, o.quality) for o in wanted] == [
        ("stbn-xs", 5.0, "fast"),
        ("stbn-s", 9, "fast"),
    ]


@needs_torch
def test_the_filter_gives_what_the_denoiser_gives() -> None:
    import stbn_cli

    clip = clip_of("RGBS", length=20)
    result = stbn.denoise(clip, 10, "stbn-xs", device="cpu", precision="fp32")
    frames = np.stack([np.stack(planes_of(clip, n), -1) for n in range(20)]).astype(np.float32)
    expected = stbn_cli.load_denoiser("stbn-xs", sigma=10, device="cpu", precision="fp32")(frames)
    for number in (17, 2):
        np.testing.assert_allclose(np.stack(planes_of(result, number), -1), expected[number], atol=1e-3)


@needs_torch
def test_the_kind_of_noise_is_measured() -> None:
    said: list[str] = []
    stbn.denoise(clip_of("RGBS"), device="cpu", on_message=said.append)
    assert any("using the model for" in message for message in said)


@needs_torch
def test_options_that_cannot_be_used_are_refused_in_a_sentence() -> None:
    from stbn_cli import DenoiserOptions

    clip = clip_of("RGBS")
    assert "no-such-model" in refused(clip, model="no-such-model")
    assert "sigma" in refused(clip, sigma=-1)
    assert "uncertainty" in refused(clip, options=DenoiserOptions(uncertainty=True))
    assert "raw" in refused(clip, model="stbn-raw-xs")
    assert "device" in refused(clip, model="stbn-xs", device="nonsense").lower()
