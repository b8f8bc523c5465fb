"""What kind of noise a clip has, and what that means, in words."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.analysis.picture import Filled
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.measurement import (
    FAINT,
    LEAST_SEEN_CODED,
    SceneMeasurement,
    neighbours_share,
    typical,
)

# Noise that varies by more than this factor over brightness and channels is that of a sensor.
UNEVEN = 1.25
# So much of the picture repeats in moving footage only where a coder skipped it.
SKIPPED = 0.03
# A grid this strong is a coder's.
GRID = 1.06
# A coder takes the noise of flat places and leaves much of it elsewhere: aligned frames then differ as if luma's noise
# were independent, and colour's not, but by more than UNEVEN_RATIO times what high frequencies show in flat places.
# Measured: 1.8 to 4.3 behind H.264 at 0.6 bits a pixel, up to 1.6 where nothing but 4:2:0 shared the noise. Colour's
# correlation there: 0.43 to 0.65, by how its samples were interpolated.
EVEN_LUMA, EVEN_CHROMA, UNEVEN_RATIO = 0.15, 0.35, 1.7
# Noise that a frame shares with the next by more than this part is copied.
HELD = 0.4
# With so much of the picture skipped, there are few new frames to learn from.
MOST_SKIPPED = 0.5
# A picture of more than 8 bits that fills no more of the range was never stretched: 10 bits that were stored as 16
# fill 1.6 %.
TINY_RANGE = 0.02


USED: dict[NoiseKind, str] = {
    "white": "`stbn denoise` uses the model for white noise. `stbn finetune` can learn such noise.",
    "sensor": "`stbn denoise` uses the sensor model, which is given the noise of every pixel. `stbn finetune` can "
    "learn such noise.",
    "camera": "`stbn denoise` uses the model for camera noise. `stbn finetune` learns such noise from frame to frame, "
    "or finds that several passes are better.",
    "compressed": "`stbn denoise` uses the model for compressed noise. `stbn finetune` learns nothing from it, but may "
    "find that several passes are better.",
}
INDEPENDENT: dict[NoiseKind, str] = {
    "white": "The noise is independent from pixel to pixel and about equally strong everywhere.",
    "sensor": "The noise is independent from pixel to pixel and depends on brightness or colour, as a "
    "sensor's does.",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict goes by: the noise of each run, and traces of a coder."""

    runs: tuple[SceneMeasurement, ...]
    skipped: float
    grid: float
    temporal_correlation: float
    filled: Filled
    lossy: bool = False  # the file is coded with so few bits that a coder's traces are to be expected
    deep: bool = False  # it has more than 8 bits a value


@dataclass(frozen=True, slots=True)
class NoiseVerdict:
    """The kind of noise, and sentences on it."""

    kind: NoiseKind
    faint: bool  # hardly any noise, or none that could be measured
    shared: bool  # by neighbouring pixels, so that a blind spot sees it
    sentences: tuple[str, ...]
    hint: str | None  # what to do about the clip first


def holds_noise(temporal_correlation: float, skipped: float) -> bool:
    """Whether so much of the noise stays from frame to frame that frames tell nothing of it."""
    return temporal_correlation > HELD or skipped > MOST_SKIPPED


def judge(evidence: Evidence) -> NoiseVerdict:
    """The kind of noise that most of the clip has. The one rule that every command goes by."""
    kind, faint, shared, *sentences = _judged(evidence)
    return NoiseVerdict(
        kind, faint, shared, tuple(sentences), _hint(evidence.filled) if evidence.deep else None
    )


def _judged(evidence: Evidence) -> tuple[NoiseKind, bool, bool, *tuple[str, ...]]:
    level = typical(evidence.runs).level
    if not any(run.found for run in evidence.runs):
        return (
            "white",
            True,
            False,
            "The noise cannot be measured: the picture is empty, clipped or too small.",
        )
    if level < FAINT:
        return (
            "white",
            True,
            False,
            "This video has hardly any noise. Denoising would change little; `stbn denoise` leaves it nearly as it is.",
        )
    if neighbours_share(evidence.runs):
        traces = evidence.skipped > SKIPPED or evidence.grid > GRID or evidence.temporal_correlation > HELD
        traces = traces or 2 * sum(map(_lost_in_flat_places, evidence.runs)) > len(evidence.runs)
        if traces or evidence.lossy:
            text = "The noise is spread over neighbouring pixels, and compression has changed it."
            return "compressed", False, True, text, USED["compressed"]
        text = "The noise is spread over neighbouring pixels, as in most video and processed photographs."
        return "camera", False, True, text, USED["camera"]
    kind = _independent_kind(evidence)
    text = INDEPENDENT[kind]
    if not any(run.correlation.reliable for run in evidence.runs):
        text = (
            "There are too few different frames to tell noise from picture, so the noise is taken to be independent "
            "from pixel to pixel."
        )
    return kind, False, False, text, USED[kind]


def _lost_in_flat_places(run: SceneMeasurement) -> bool:
    found = run.correlation
    if not found.reliable or found.level < LEAST_SEEN_CODED:
        return False
    even = found.luma < EVEN_LUMA and found.chroma > EVEN_CHROMA
    return even and found.level > UNEVEN_RATIO * run.independent.level


def _independent_kind(evidence: Evidence) -> NoiseKind:
    spreads = []
    for run in evidence.runs:
        noise = run.independent
        sigmas = np.sqrt(noise.model.variances_at(np.linspace(*noise.brightness, 9)))
        spreads.append(sigmas.max() / max(float(sigmas.min()), 1e-6))
    return "sensor" if float(np.median(spreads)) > UNEVEN else "white"


def _hint(filled: Filled) -> str | None:
    """What to say of a picture that fills next to nothing of the range that it is stored in."""
    if not 0.0 < filled.share <= TINY_RANGE:
        return None
    # Room for the noise of what is darkest and brightest.
    low, high = max(filled.low - 0.1 * filled.share, 0.0), min(filled.high + 0.1 * filled.share, 1.0)
    ends = (("min", low), ("max", high))
    bounds = ":".join(f"{channel}i{end}={value:.6f}" for end, value in ends for channel in "rgb")
    return (
        f"The picture uses only {100 * filled.share:.2g} % of the range of values, and noise this small is hardly "
        f"denoised. Stretch the picture first, for example with ffmpeg -vf colorlevels={bounds}"
    )
