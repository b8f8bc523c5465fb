"""What kind of noise a clip has, and what that means, in words."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.noise.correlation import NoiseCorrelation
from stbn_cli.noise.levelfunction import NoiseEstimate
from stbn_cli.synthesis.kinds import NoiseKind

BYTE = 255.0
# Less noise than this (0-255 scale) is not worth a model for it: the white-noise model leaves such clips as they are.
FAINT = 1.0
# Noise that varies by more than this factor over brightness and channels is that of a sensor.
UNEVEN = 1.25
# So much of the picture repeats in moving footage only where a coder skipped it.
SKIPPED = 0.03
# A grid this strong is a coder's.
GRID = 1.06
# High frequencies hold less than this part of the noise's standard deviation where a coder took them.
MISSING_DETAIL = 0.62
# Noise that a frame shares with the next by more than this part is copied.
HELD = 0.4


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict goes by: noise and its correlation of each run, and traces of a coder."""

    runs: tuple[tuple[NoiseEstimate, NoiseCorrelation], ...]
    skipped: float
    grid: float
    held: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of noise, and sentences on it."""

    kind: NoiseKind
    faint: bool  # hardly any noise
    sentences: tuple[str, ...]


def judge(evidence: Evidence) -> Verdict:
    """The kind of noise that most of the clip has."""
    levels = [max(noise.level, found.sigma if found.reliable else 0.0) for noise, found in evidence.runs]
    level = BYTE * float(np.median(levels))
    known = [found for _, found in evidence.runs if found.reliable]
    if level < FAINT:
        return Verdict(
            "white",
            True,
            (
                f"There is hardly any noise ({level:.1f} on the 0-255 scale): denoising would change little, and "
                "`stbn denoise` will leave the clip nearly as it is.",
            ),
        )
    if not known:
        kind = _independent_kind(evidence)
        return Verdict(
            kind,
            False,
            (
                "Frames do not tell picture and noise apart (too few, or all alike), so the noise is taken to be "
                "independent from pixel to pixel.",
                _told(kind),
            ),
        )
    luma = float(np.median([found.luma for found in known]))
    chroma = float(np.median([found.chroma for found in known]))
    white = sum(found.is_white for found in known) * 2 > len(known)
    detail = [
        noise.level / found.sigma for noise, found in evidence.runs if found.reliable and found.sigma > 0
    ]
    missing = float(np.median(detail)) < MISSING_DETAIL
    coded = evidence.skipped > SKIPPED or evidence.grid > GRID or missing or evidence.held > HELD
    if white:
        kind: NoiseKind = _independent_kind(evidence)
        first = (
            f"The noise is independent from pixel to pixel (correlation of neighbours {luma:.2f} in brightness, "
            f"{chroma:.2f} in colour): a blind spot of one pixel sees none of it, and `stbn finetune` can learn from it."
        )
    else:
        kind = "compressed" if coded else "camera"
        where = (
            "brightness and colour"
            if abs(luma) > 0.1 and abs(chroma) > 0.1
            else "colour"
            if abs(luma) <= 0.1
            else "brightness"
        )
        first = (
            f"Neighbouring pixels share their noise (correlation {luma:.2f} in brightness, {chroma:.2f} in colour; "
            f"{where} is not white): a blind spot of one pixel would see it, and `stbn finetune` cannot learn from it."
        )
    return Verdict(kind, False, (first, _told(kind)))


def _independent_kind(evidence: Evidence) -> NoiseKind:
    spreads = []
    for noise, _ in evidence.runs:
        low, high = noise.brightness
        inside = np.linspace(low, high, 9)
        rows = [
            np.interp(inside, np.linspace(0, 1, len(row)), row) if len(row) > 1 else np.full(9, row[0])
            for row in noise.model.variances
        ]
        values = np.sqrt(np.concatenate(rows))
        spreads.append(values.max() / max(values.min(), 1e-6))
    return "sensor" if float(np.median(spreads)) > UNEVEN else "white"


def _told(kind: NoiseKind) -> str:
    return {
        "white": "It is about equally strong everywhere: `stbn denoise` takes the model for white noise.",
        "sensor": "It depends on brightness or colour, as a sensor's does: `stbn denoise` takes the model that is told "
        "the noise of every pixel.",
        "camera": "That is what demosaicing, sharpening, scaling, 4:2:0 sampling or film leave: `stbn denoise` takes the "
        "model for a camera's noise.",
        "compressed": "Traces of a coder lie in it: `stbn denoise` takes the model for compressed noise.",
    }[kind]
