"""Film grain: what is measured, what a decoder draws from it, and what a table and a stream say."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stbn_cli.errors import OptionError
from stbn_cli.grain.drawing import draw_luma, used
from stbn_cli.grain.fitting import fit
from stbn_cli.grain.meter import GrainMeter
from stbn_cli.grain.parameters import NEIGHBOURS, FilmGrain, GrainSegment, table_text
from stbn_cli.grain.statistics import gather
from stbn_cli.jobs.denoise import write_denoised
from stbn_cli.source import Source
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.encoders import EncodeOptions, find_encoder
from stbn_cli.video.frames import ColorSpec, Frame

SIZE = 256, 192
TONES = (60.0, 110.0, 160.0, 200.0)
NO_GRAIN = {"export_side_data": "film_grain"}

needs_av1 = pytest.mark.skipif(find_encoder("av1") is None, reason="this FFmpeg build writes no AV1")


def flat() -> np.ndarray:
    """Luma (H, W) in vertical stripes of TONES, 0-255 scale."""
    width, height = SIZE
    return np.repeat(np.array(TONES, np.float32), width // len(TONES))[None].repeat(height, 0)


def grain(kind: str, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Of unit standard deviation."""
    noise = generator.normal(size=shape).astype(np.float32)
    return 3.0 * cv2.blur(noise, (3, 3)) if kind == "blurred" else noise


def strength(luma: np.ndarray) -> np.ndarray:
    return 3.0 + luma / 50.0


def noisy_frames(kind: str, count: int, share: float = 0.0) -> Iterator[list[np.ndarray]]:
    """Y', Cb, Cr at 4:2:0 with grain; share: of luma's in Cb's."""
    generator, luma = np.random.default_rng(0), flat()
    half = luma.shape[0] // 2, luma.shape[1] // 2
    for _ in range(count):
        own = grain(kind, generator, luma.shape)
        small = own.reshape(half[0], 2, half[1], 2).mean(axis=(1, 3))
        chroma = [128.0 + 2.0 * grain(kind, generator, half) for _ in range(2)]
        yield [luma + strength(luma) * own, chroma[0] + 2.0 * share * small, chroma[1]]


def correlations(values: np.ndarray) -> np.ndarray:
    """With neighbours 1 to 3 pixels to the right and below, of (T, H, W)."""
    values = values - values.mean()
    across = [np.mean(values[..., :-lag] * values[..., lag:]) for lag in (1, 2, 3)]
    down = [np.mean(values[:, :-lag] * values[:, lag:]) for lag in (1, 2, 3)]
    return np.array(across + down) / np.mean(np.square(values))


def measured(kind: str, frames: int = 4) -> FilmGrain:
    clean = [flat(), *(np.full((SIZE[1] // 2, SIZE[0] // 2), 128.0, np.float32) for _ in range(2))]
    statistics = None
    for noisy in noisy_frames(kind, frames):
        found = gather(noisy, clean, (2, 2))
        assert found is not None
        statistics = found if statistics is None else statistics + found
    assert statistics is not None
    fitted = fit(statistics, (2, 2), 8, 1)
    assert fitted is not None
    return fitted.grain


@pytest.mark.parametrize(("kind", "wanted"), [("white", (0, 0, 0)), ("blurred", (2 / 3, 1 / 3, 0))])
def test_templates_are_correlated_as_the_grain_was(kind: str, wanted: tuple[float, ...]) -> None:
    found = measured(kind)
    template = draw_luma(np.array(found.luma_coefficients), found.coefficient_shift, found.grain_shift, 8)
    drawn = correlations(used(template).transpose(2, 0, 1))
    assert drawn == pytest.approx(np.array(wanted * 2), abs=0.06)


def test_strength_follows_brightness() -> None:
    found = measured("white")
    sigma = used(draw_luma(np.zeros(24), 7, found.grain_shift, 8)).std()
    places, values = zip(*found.luma, strict=True)
    drawn = np.interp(TONES, places, values) * sigma / 2**found.scaling_shift
    assert drawn == pytest.approx([float(strength(np.float32(tone))) for tone in TONES], rel=0.06)


def segment(start: Fraction = Fraction(0), end: Fraction = Fraction(1)) -> GrainSegment:
    coefficients = tuple(range(-12, 12))
    return GrainSegment(
        start,
        end,
        FilmGrain(
            ((20, 40), (200, 80)),
            ((0, 30),),
            ((0, 30),),
            10,
            coefficients,
            (*coefficients, 5),
            (*coefficients, 7),
            7,
        ),
    )


def test_the_table_is_as_encoders_read_it() -> None:
    lines = table_text([segment(), segment(Fraction(1), Fraction(4, 3))]).splitlines()
    assert lines[0] == "filmgrn1"
    assert [line.split()[:3] for line in lines if line.startswith("E")] == [
        ["E", "0", "10000000"],
        ["E", "10000000", "13333333"],
    ]
    assert lines[2] == "\tp 3 7 0 10 0 1 128 192 256 128 192 256"
    assert lines[3] == "\tsY 2 20 40 200 80"
    assert [len(line.split()) - 1 for line in lines[6:9]] == [24, 25, 25]


def test_what_the_format_cannot_hold_is_refused() -> None:
    zeros = (0,) * len(NEIGHBOURS)
    for luma, shift in ((((20, 40), (20, 80)), 10), (((20, 300),), 10), (((20, 40),), 12)):
        with pytest.raises(ValueError, match=r"points|shift"):
            FilmGrain(luma, (), (), shift, zeros, (*zeros, 0), (*zeros, 0), 7)


def timed(rgb: np.ndarray, number: int) -> Frame:
    return Frame(rgb, number, Fraction(1, 10), 1)


def test_segments_follow_scenes_and_time() -> None:
    meter = GrainMeter(PixelLayout("yuv", 8, 2, 2), ColorSpec("bt709", False, 1, 1, 1, 1))
    generator, clean = np.random.default_rng(0), np.full((64, 64, 3), 0.5, np.float32)
    for number in range(140):
        level = 0.0 if 20 <= number < 40 else 0.02
        meter.noisy(
            number, timed(clean + level * generator.normal(size=clean.shape).astype(np.float32), number)
        )
        meter.denoised(number, clean)
    found = meter.segments([0, 20, 40])
    spans = [(float(part.start), float(part.end)) for part in found]
    # Nothing was removed from the second scene, and the third is longer than a segment.
    assert spans == [(0.0, 2.0), (4.0, 9.0), (9.0, 14.0)]
    assert len({part.grain.seed for part in found}) == 3
    assert all(part.strengths[0] == pytest.approx(0.02 * 219 * 0.75, rel=0.1) for part in found)


def test_bars_stay_clean() -> None:
    luma = np.full((192, 256), 22.0, np.float32)
    luma[:32] = luma[-32:] = 16.0
    noise = np.random.default_rng(0).normal(size=luma.shape).astype(np.float32) * 3.0
    noise[:32] = noise[-32:] = 0.0
    statistics = gather([luma + noise], [luma], (1, 1))
    assert statistics is not None
    fitted = fit(statistics, (1, 1), 8, 1)
    assert fitted is not None
    places, values = zip(*fitted.grain.luma, strict=True)
    at_bars, beside = np.interp((16, 22), places, values)
    assert at_bars == 0 and beside > 20


class Known:
    """A denoiser that knows the clean frames."""

    def __init__(self, clean: np.ndarray) -> None:
        self._clean = clean

    def stream(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield np.broadcast_to(self._clean, frame.shape).copy()


def write_clip(path: Path, pictures: list[list[np.ndarray]]) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for number, planes in enumerate(pictures):
            frame = av.VideoFrame(*SIZE, "yuv420p")
            frame.colorspace, frame.color_range = 1, 1
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)  # type: ignore[call-overload]
                rows[:, : plane.width] = np.clip(np.rint(values), 0, 255)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def planes(path: Path, *, drawn: bool = True) -> list[np.ndarray]:
    """Luma and chroma (T, H, W) of a decoded clip."""
    with av.open(str(path)) as container:
        if not drawn:
            container.streams.video[0].codec_context.options = NO_GRAIN
        found = []
        for frame in container.decode(video=0):
            found.append(
                [
                    np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].astype(float)
                    for plane in frame.planes
                ]
            )
    return [np.stack(rows) for rows in zip(*found, strict=True)]


def clean_rgb() -> np.ndarray:
    return ((flat() - 16.0) / 219.0)[..., None].repeat(3, -1)


@needs_av1
@pytest.mark.parametrize("kind", ["white", "blurred"])
def test_a_player_draws_what_was_removed(kind: str, tmp_path: Path) -> None:
    noisy, out, table = tmp_path / "noisy.mkv", tmp_path / "out.mkv", tmp_path / "out.tbl"
    write_clip(noisy, list(noisy_frames(kind, 12, share=0.5)))
    options = EncodeOptions("av1", 8, "superfast", film_grain=True)
    with Source(noisy).open() as reader:
        summary = write_denoised(reader, out, Known(clean_rgb()), options, grain_table=table)
    assert summary.grain and table.read_text() == table_text(summary.grain)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    source, plain, grained = planes(noisy), planes(out, drawn=False), planes(out)
    width = SIZE[0] // len(TONES)
    for plane in range(3):
        stripe = width if plane == 0 else width // 2
        for index in range(len(TONES)):
            area = np.s_[:, :, index * stripe + 4 : (index + 1) * stripe - 4]
            removed, drawn = (
                source[plane][area] - plain[plane][area],
                grained[plane][area] - plain[plane][area],
            )
            assert drawn.std() == pytest.approx(removed.std(), rel=0.1)
        removed, drawn = source[plane] - plain[plane], grained[plane] - plain[plane]
        found = [
            np.mean(
                [correlations(part[:, :, i * stripe + 4 : (i + 1) * stripe - 4]) for i in range(4)], axis=0
            )
            for part in (removed, drawn)
        ]
        assert found[1] == pytest.approx(found[0], abs=0.1)


@needs_av1
def test_hardly_any_noise_makes_no_table(tmp_path: Path) -> None:
    clean, out, table = tmp_path / "clean.mkv", tmp_path / "out.mkv", tmp_path / "out.tbl"
    write_clip(clean, [[flat(), *(np.full((SIZE[1] // 2, SIZE[0] // 2), 128.0) for _ in range(2))]] * 3)
    options = EncodeOptions("av1", 8, "superfast", film_grain=True)
    with Source(clean).open() as reader:
        summary = write_denoised(reader, out, Known(clean_rgb()), options, grain_table=table)
    assert summary.grain == () and not table.exists()
    assert any("Hardly any noise" in warning for warning in summary.warnings)
    assert all(np.array_equal(*pair) for pair in zip(planes(out), planes(out, drawn=False), strict=True))


def test_only_av1_holds_film_grain(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.mkv"
    write_clip(noisy, list(noisy_frames("white", 1)))
    for options in (
        EncodeOptions("h264", film_grain=True),
        EncodeOptions(film_grain=True),
        EncodeOptions("av1", lossless=True, film_grain=True),
    ):
        with Source(noisy).open() as reader, pytest.raises(OptionError, match=r"AV1|--film-grain"):
            write_denoised(reader, tmp_path / "out.mkv", Known(clean_rgb()), options)
    assert [path.name for path in tmp_path.iterdir()] == ["noisy.mkv"]
