"""What the statistics of a residual mean, in words, by documented thresholds."""

from dataclasses import dataclass
from typing import Literal

from stbn_cli.compare.residual import ResidualSummary

# How the thresholds were found: four frames each of six real clips (320p to 540p), with white noise of standard
# deviation 0, 5, 10, 25 and 50 clipped to 8 bits, and four of the clips with noise 8 and 20 behind H.264 at CRF 10 and
# 20: 46 videos A. B by (cases; ranges of the residuals that are not too weak to judge):
#
#                              detail correlation   edge ratio     no structure   possible   structure
#   taking off just the noise   -0.03 .. 0.13       0.99 .. 1.79        36            4          0
#   stbn-xs                     -0.07 .. 0.07       0.10 .. 1.00        45            1          0
#   stbn-xs, half the strength  -0.12 .. 0.05       0.42 .. 1.09        46            0          0
#   stbn-xs, sigma doubled      -0.07 .. 0.16       0.77 .. 15          11            8          5
#   Gaussian of std 0.6          0.36 .. 0.87       0.95 .. 110          0            0         46
#   Gaussian of std 1            0.34 .. 0.84       1.07 .. 68           0            0         46
#   Gaussian of std 2            0.34 .. 0.81       1.23 .. 33           0            0         46
#   median of 3x3                0.31 .. 0.60       1.07 .. 62           0            0         46
#   non-local means, h = sigma  -0.55 .. 0.58       0.13 .. 1.5          1           24         21
#   the same, h = 1.5 sigma     -0.47 .. 0.68       0.09 .. 2.1          0            6         40
#   bilateral, 3 sigma          -0.07 .. 0.48       0.48 .. 1.1         22            6         18
#   mean of 3 frames, moving    -0.03 .. 0.58       1.27 .. 50           1            5         40
#
# "No structure" counts residuals that were too weak to judge, too. The four "possible" of the bare noise are those
# behind H.264 at CRF 20 with noise 8: there the noise itself is stronger at edges. Afterwards, on six other clips with
# noise 8, 30 and a camera's (variance 1.5 x + 9 at level x): bare noise and stbn-xs at full and half strength 54 times
# "no structure" of 54; Gaussians of std 0.7 and 1.5, a 5x5 median, non-local means with h = 1.5 sigma and the mean of 3
# frames 85 times "structure" and 5 times "possible" of 90.
DETAIL_THRESHOLD = 0.2
EDGE_THRESHOLD = 2.0
# Possible, not certain: noise behind a codec is stronger at edges and coarser than white noise, too.
EDGE_SUSPICION = 1.3
COARSE_SUSPICION = 0.12  # positive correlation of neighbouring pixels
# More was removed than there was noise: `level` above this factor times sigma plus this offset. The estimate errs
# by at most 2.7 % (noise/estimate.py).
EXCESS_FACTOR, EXCESS_OFFSET = 1.1, 1.0
# A residual weaker than this (standard deviation, 0-255 scale) or than this part of A's noise says nothing: it is
# mostly rounding and clipping.
SMALLEST_LEVEL, SMALLEST_PART = 1.0, 0.05
# Mean of a channel that counts as a shift of colour: this many levels, or this part of the residual's strength. That of
# stbn-xs was at most 0.44 levels. Noise clipped at black or white shifts the mean of A by up to CLIPPED_PART of its
# strength (6.4 levels at noise 50).
SHIFT_LEVELS, SHIFT_PART, CLIPPED_PART = 0.5, 0.05, 0.15
# B counts as the noisier of the two beyond this factor and offset (0-255 scale).
NOISIER_FACTOR, NOISIER_OFFSET = 1.1, 1.0

Kind = Literal["identical", "nothing_removed", "noisier", "no_structure", "possible_structure", "structure"]


@dataclass(frozen=True, slots=True)
class ComparisonVerdict:
    """The judgement: its kind, whether colours moved, and sentences for people."""

    kind: Kind
    colours_moved: bool
    text: str


def judge(
    residual: ResidualSummary,
    sigma_a: float,
    sigma_b: float,
    *,
    reliable: bool,
    names: tuple[str, str] = ("A", "B"),
) -> ComparisonVerdict:
    """What was taken from A to make B. `sigma_a`, `sigma_b`: noise levels, on the 0-255 scale.

    `reliable`: whether that of A is the same at all brightness levels and in all frames. `names`: of A and B, for the
    sentences.
    """
    a, b = names
    if not residual.largest:
        return ComparisonVerdict("identical", False, f"{a} and {b} are identical.")
    kind, text = _kind(residual, sigma_a, sigma_b, reliable, names)
    shift = max(residual.mean, key=abs)
    moved = abs(shift) > max(SHIFT_LEVELS, SHIFT_PART * residual.level)
    if moved:
        text += " " + _shift_sentence(residual, names)
    return ComparisonVerdict(kind, moved, text)


def _kind(
    residual: ResidualSummary, sigma_a: float, sigma_b: float, reliable: bool, names: tuple[str, str]
) -> tuple[Kind, str]:
    """`sigma_a`, `sigma_b`: on the 0-255 scale."""
    a, b = names
    if residual.level < max(SMALLEST_LEVEL, SMALLEST_PART * sigma_a):
        return (
            "nothing_removed",
            f"Almost nothing was removed: the residual is {residual.level:.2g} strong.",
        )
    if sigma_b > NOISIER_FACTOR * sigma_a + NOISIER_OFFSET:
        return (
            "noisier",
            f"{b} is noisier than {a} (noise level {sigma_b:.3g} against {sigma_a:.3g}), so structure "
            "cannot be judged. Name the noisy video first, the denoised one second.",
        )
    certain, possible = _certain_signs(residual), _possible_signs(residual)
    # Where brightness or frames disagree about the noise, there is no one level to compare with.
    too_strong = reliable and residual.level > EXCESS_FACTOR * sigma_a + EXCESS_OFFSET
    excess = (
        [f"more was removed ({residual.level:.3g}) than there was noise ({sigma_a:.3g})"]
        if too_strong
        else []
    )
    # More was removed than there was noise, and what was removed is not like noise.
    if certain or (excess and possible):
        return "structure", f"Structure is being removed: {_listed(certain + possible + excess)}."
    if possible or excess:
        return (
            "possible_structure",
            f"Structure may be removed: {_listed(possible + excess)}. Noise that a camera or codec has made coarse or "
            "uneven can look the same.",
        )
    return (
        "no_structure",
        "No sign that structure is removed: the residual does not follow the picture's detail, is no stronger at edges "
        "than in flat areas, and no coarser or stronger than the noise.",
    )


def _certain_signs(residual: ResidualSummary) -> list[str]:
    signs = []
    if (correlation := residual.detail_correlation) is not None and correlation >= DETAIL_THRESHOLD:
        signs.append(f"the residual follows the detail at edges (correlation {correlation:.2f})")
    if (ratio := residual.edge_ratio) is not None and ratio >= EDGE_THRESHOLD:
        signs.append(f"the residual's variance at edges is {ratio:.2g} times that in flat areas")
    return signs


def _possible_signs(residual: ResidualSummary) -> list[str]:
    signs = []
    if (correlation := residual.detail_correlation) is not None and correlation <= -DETAIL_THRESHOLD:
        signs.append(
            f"edges gained contrast, or flat areas lost more of theirs (correlation {correlation:.2f})"
        )
    if (ratio := residual.edge_ratio) is not None and EDGE_SUSPICION <= ratio < EDGE_THRESHOLD:
        signs.append(f"the residual's variance at edges is {ratio:.2g} times that in flat areas")
    if (coarse := residual.whiteness.coarsest) is not None and coarse >= COARSE_SUSPICION:
        signs.append(f"neighbouring pixels of the residual are alike (correlation {coarse:.2f})")
    return signs


def _listed(signs: list[str]) -> str:
    return signs[0] if len(signs) == 1 else f"{', '.join(signs[:-1])}, and {signs[-1]}"


def _shift_sentence(residual: ResidualSummary, names: tuple[str, str]) -> str:
    a, b = names
    # The residual is A - B: what B has more is negative.
    red, green, blue = (f"{-value:+.2g}" for value in residual.mean)
    text = f"Colours moved from {a} to {b} by {red} (red), {green} (green), {blue} (blue) levels of 255 on average."
    if residual.level >= SMALLEST_LEVEL and max(map(abs, residual.mean)) <= CLIPPED_PART * residual.level:
        text += " Noise clipped at black or white can do that by itself."
    return text
