"""What kind of noise a clip has, and what that means, in words."""

from dataclasses import dataclass

import numpy as np

from stbn_cli.noise.correlation import WHITE_CHROMA, WHITE_LUMA, NoiseCorrelation
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levelfunction import NoiseEstimate

BYTE = 255.0
# Less noise than this (0-255 scale) is not worth a model for it: the white-noise model leaves such clips as they are.
FAINT = 1.0
# The same of noise that neighbours share, where it is least; traces of the picture look like it (in clean clips, 1.6).
FAINT_SHARED = 2.0
# The same where a coder had few bits: it keeps noise here more than there, but at least a quarter of it everywhere.
# Clean clips show up to 2.1 (fifteen of sixteen), strong noise at 2 Mbit/s for 960x540 shows 2.8 and more.
FAINT_CODED = 2.5
MOST_UNEVEN_CODED = 4.0
# Noise that varies by more than this factor over brightness and channels is that of a sensor.
UNEVEN = 1.25
# So much of the picture repeats in moving footage only where a coder skipped it.
SKIPPED = 0.03
# A grid this strong is a coder's.
GRID = 1.06
# What a residual of the picture adds to the correlation of neighbours, times the square of the level (0-255 scale).
PICTURE_SHARE = 4.0
# Noise that a frame shares with the next by more than this part is copied.
HELD = 0.4


TOLD: dict[NoiseKind, str] = {
    "white": "It is about equally strong everywhere: `stbn denoise` takes the model for white noise.",
    "sensor": "It depends on brightness or colour, as a sensor's does: `stbn denoise` takes the model that is told the "
    "noise of every pixel.",
    "camera": "That is what demosaicing, sharpening, scaling, 4:2:0 sampling or film leave: `stbn denoise` takes the "
    "model for noise of that kind.",
    "compressed": "Traces of a coder lie in it: `stbn denoise` takes the model for compressed noise.",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict goes by: noise and its correlation of each run, and traces of a coder."""

    runs: tuple[tuple[NoiseEstimate, NoiseCorrelation], ...]
    skipped: float
    grid: float
    held: float
    lossy: bool = False  # the file is coded with so few bits that a coder's traces are to be expected


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of noise, and sentences on it."""

    kind: NoiseKind
    faint: bool  # hardly any noise
    sentences: tuple[str, ...]


def judge(evidence: Evidence) -> Verdict:
    """The kind of noise that most of the clip has."""
    levels = [max(noise.level, found.level if found.reliable else 0.0) for noise, found in evidence.runs]
    level = BYTE * float(np.median(levels))
    known = [found for _, found in evidence.runs if found.reliable]
    independent = BYTE * float(np.median([noise.level for noise, _ in evidence.runs]))
    shared, least_shared = [found.least for _, found in evidence.runs], FAINT_SHARED
    if evidence.lossy:
        shared = [min(found.sigma, MOST_UNEVEN_CODED * found.least) for _, found in evidence.runs]
        least_shared = FAINT_CODED
    if independent < FAINT and BYTE * float(np.median(shared)) < least_shared:
        text = (
            f"There is hardly any noise ({level:.1f} on the 0-255 scale): denoising would change little, and "
            "`stbn denoise` will leave the clip nearly as it is."
        )
        return Verdict("white", True, (text,))
    if not known:
        kind = _independent_kind(evidence)
        text = (
            "Frames do not tell picture and noise apart (too few, or all alike), so the noise is taken to be "
            "independent from pixel to pixel."
        )
        return Verdict(kind, False, (text, TOLD[kind]))
    luma = float(np.median([found.luma for found in known]))
    chroma = float(np.median([found.chroma for found in known]))
    # In weak noise what is left of the picture counts more.
    limit = WHITE_LUMA + PICTURE_SHARE / level**2
    measured = f"correlation {luma:.2f} in brightness, {chroma:.2f} in colour"
    if abs(luma) <= limit and abs(chroma) <= WHITE_CHROMA:
        kind = _independent_kind(evidence)
        text = (
            f"The noise is independent from pixel to pixel ({measured}): a blind spot of one pixel sees none of it, "
            "and `stbn finetune` can learn it."
        )
        return Verdict(kind, False, (text, TOLD[kind]))
    traces = evidence.skipped > SKIPPED or evidence.grid > GRID or evidence.held > HELD
    kind = "compressed" if traces or evidence.lossy else "camera"
    text = (
        f"Neighbouring pixels share their noise ({measured}): a blind spot of one pixel would see it, and "
        "`stbn finetune` cannot learn from it."
    )
    return Verdict(kind, False, (text, TOLD[kind]))


def _independent_kind(evidence: Evidence) -> NoiseKind:
    spreads = []
    for noise, _ in evidence.runs:
        sigmas = np.sqrt(noise.model.variances_at(np.linspace(*noise.brightness, 9)))
        spreads.append(sigmas.max() / max(float(sigmas.min()), 1e-6))
    return "sensor" if float(np.median(spreads)) > UNEVEN else "white"
