"""A comparison as a report page: tables, curves over the frames, and the places where the residual is strongest."""

from dataclasses import dataclass

import cv2
import numpy as np

from stbn_cli.compare.clips import Clips, Pictures
from stbn_cli.compare.comparison import CHANNELS, Comparison
from stbn_cli.compare.layouts import difference
from stbn_cli.compare.residual import COARSE_STD
from stbn_cli.compare.tables import comparison_tables
from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.report.crops import encode_picture, strongest_part
from stbn_cli.report.model import CropSet, Picture, Plot, Report
from stbn_cli.report.plots import line_plot

CROP_SIDE = 256  # pixels
CROP_SETS = 4
# Places are an eighth of the video apart, at least so many frames; where its length is not known, the second number.
SMALLEST_GAP, FALLBACK_GAP = 5, 25
# Long curves are drawn through the means of about so many runs of frames.
LONGEST_CURVE = 2000


@dataclass(frozen=True, slots=True)
class Place:
    """A square of one frame."""

    frame: int
    seconds: float
    left: int  # pixels
    top: int
    strength: float  # mean square of the smoothed residual's luma
    pictures: dict[str, np.ndarray]  # (h, w, 3) float32 RGB by label


class PlaceKeeper:
    """Keeps the squares where the residual, smoothed a little, is strongest, from frames that are far apart.

    Smoothed (Gaussian of std 1.5): white noise is equally strong everywhere, what is left of structure is not.
    """

    def __init__(self, clips: Clips, limit: int | None, gain: float) -> None:
        expected = min((count for count in (clips.expected_frames, limit) if count), default=None)
        self._gap = FALLBACK_GAP if expected is None else max(SMALLEST_GAP, expected // (2 * CROP_SETS))
        self._gain = gain
        self.places: list[Place] = []

    def __call__(self, pictures: Pictures) -> None:
        """Look at one set of frames."""
        a, b = pictures.a.rgb, pictures.b
        strength, window = _strongest_part(a - b)
        near = [place for place in self.places if pictures.number - place.frame < self._gap]
        rivals = near or (self.places if len(self.places) >= CROP_SETS else [])
        weakest = min(rivals, key=lambda place: place.strength, default=None)
        if strength <= (0.0 if weakest is None else weakest.strength):
            return
        if weakest is not None:
            self.places.remove(weakest)
        # Copies: a view would keep the whole frame.
        crops = {"A": a[window].copy(), "B": b[window].copy()}
        crops[f"A - B, times {self._gain:g}"] = difference(crops["A"], crops["B"], self._gain)
        if pictures.reference is not None:
            crops["reference"] = pictures.reference[window].copy()
        seconds = float(pictures.a.pts * pictures.a.time_base)
        self.places.append(Place(pictures.number, seconds, window[1].start, window[0].start, strength, crops))


def build_report(found: Comparison, places: list[Place], facts: dict[str, str]) -> Report:
    """The page. `facts`: names and values at its end, such as versions."""
    names = ", ".join(f"{name}: {path}" for name, path in found.names.items())
    size = f"{found.width}x{found.height}, {len(found.frames)} frames"
    return Report(
        title="Comparison of two videos",
        summary=(f"{names[0].upper()}{names[1:]} ({size}).", found.verdict.text, *found.warnings),
        facts=tuple(facts.items()),
        tables=tuple(comparison_tables(found)),
        plots=tuple(_plots(found)),
        crop_sets=tuple(_crop_set(place) for place in places),
    )


def _plots(found: Comparison) -> list[Plot]:
    rows = [frame.to_dict() for frame in found.frames]
    run = -(-len(rows) // LONGEST_CURVE)
    label = "frame" if run == 1 else f"frames / {run} (means of {run})"

    def curve(name: str) -> list[float]:
        values = np.array([row[name] for row in rows])
        parts = np.array_split(values, -(-len(values) // run))
        return [float(part.mean()) for part in parts]

    def plot(title: str, unit: str, series: dict[str, str]) -> Plot:
        return line_plot(title, label, unit, {name: curve(column) for name, column in series.items()})

    against = {"A against B": ""}
    if found.a is not None:
        against = {"A against reference": "_a", "B against reference": "_b"}
    plots = [
        plot("PSNR", "PSNR, dB", {name: f"psnr{end}" for name, end in against.items()}),
        plot("SSIM", "SSIM", {name: f"ssim{end}" for name, end in against.items()}),
    ]
    if found.a is not None:
        series = {name: f"temporal_error{end}" for name, end in against.items()}
        plots.append(plot("Temporal error", "levels of 255", series))
    for name, title in (("std", "Standard deviation of A - B"), ("mean", "Mean of A - B")):
        plots.append(plot(title, "levels of 255", {channel: f"{name}_{channel}" for channel in CHANNELS}))
    return plots


def _crop_set(place: Place) -> CropSet:
    pictures = tuple(Picture(label, encode_picture(crop)) for label, crop in place.pictures.items())
    note = (
        f"Chosen because the residual, smoothed a little, is strongest here: {place.left} pixels from the left, "
        f"{place.top} from the top."
    )
    return CropSet(f"Frame {place.frame}, {place.seconds:.2f} s", pictures, left=0, right=1, note=note)


def _strongest_part(residual: np.ndarray) -> tuple[float, tuple[slice, slice]]:
    """Mean square of the smoothed luma of (H, W, 3) in its strongest square; rows and columns of that."""
    luma = cv2.GaussianBlur(residual @ np.array(LUMA_WEIGHTS, np.float32), (0, 0), COARSE_STD)
    energy = luma * luma
    window = strongest_part(energy, CROP_SIDE)
    return float(energy[window].mean()), window
