"""A comparison as a report page: the places where the residual is strongest, tables, and curves over the frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
from stbn_cli.report.plots import has_curve, line_plot
from stbn_cli.report.svg import CHANNELS as CHANNEL_COLORS

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
    pictures: dict[str, np.ndarray]  # (h, w, 3) float32 RGB by label; those of videos by their letter


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
        crops[f"difference, times {self._gain:g}"] = difference(crops["A"], crops["B"], self._gain)
        if pictures.reference is not None:
            crops["reference"] = pictures.reference[window].copy()
        seconds = float(pictures.a.pts * pictures.a.time_base)
        self.places.append(Place(pictures.number, seconds, window[1].start, window[0].start, strength, crops))


def build_report(found: Comparison, places: list[Place], facts: dict[str, str]) -> Report:
    """The page. `facts`: names and values at its end, such as versions."""
    paths = dict(found.names)
    reference = paths.pop("the reference", None)
    labels = short_names(paths)
    names = labels["A"], labels["B"]
    if reference is not None:
        labels["reference"] = f"reference: {Path(reference).name}"
    warnings = (f"A is {names[0]}, B is {names[1]}.", *found.warnings) if found.warnings else ()
    frames = f"{len(found.frames)} frame{'s' if len(found.frames) > 1 else ''}"
    return Report(
        title=f"{names[0]} against {names[1]}",
        summary=(found.verdict_on(*names).text, *warnings),
        facts=(*found.names.items(), ("size", f"{found.width}x{found.height}, {frames}"), *facts.items()),
        tables=tuple(comparison_tables(found, names)),
        plots=tuple(_plots(found, names)),
        crop_sets=tuple(_crop_set(place, labels) for place in places),
    )


def short_names(paths: Mapping[str, str]) -> dict[str, str]:
    """What to call the videos of these paths, by letter: by their file names, with folders where those are alike.

    The same video twice has its letter behind the name.
    """
    parts = {letter: Path(path).parts for letter, path in paths.items()}
    names = {}
    for letter, mine in parts.items():
        others = [other for rival, other in parts.items() if rival != letter]
        lengths = range(1, len(mine) + 1)
        length = next((n for n in lengths if all(other[-n:] != mine[-n:] for other in others)), None)
        names[letter] = f"{mine[-1]} ({letter})" if length is None else str(Path(*mine[-length:]))
    return names


def _plots(found: Comparison, names: tuple[str, str]) -> list[Plot]:
    rows = [frame.to_dict() for frame in found.frames]
    run = -(-len(rows) // LONGEST_CURVE)
    label = "frame" if run == 1 else f"frames / {run} (means of {run})"

    def curve(name: str) -> list[float]:
        values = np.array([row[name] for row in rows])
        parts = np.array_split(values, -(-len(values) // run))
        return [float(part.mean()) for part in parts]

    a, b = names
    end, ends = "", {f"{a} against {b}": ""}
    if found.a is not None:
        end, ends = ", against the reference", {a: "_a", b: "_b"}
    wanted = [
        (f"PSNR{end}", "PSNR, dB", {name: f"psnr{suffix}" for name, suffix in ends.items()}),
        (f"SSIM{end}", "SSIM", {name: f"ssim{suffix}" for name, suffix in ends.items()}),
    ]
    if found.a is not None:
        series = {name: f"temporal_error{suffix}" for name, suffix in ends.items()}
        wanted.append((f"Temporal error{end}", "levels of 255", series))
    for name, title in (("std", "Standard deviation of the residual"), ("mean", "Mean of the residual")):
        wanted.append((title, "levels of 255", {channel: f"{name}_{channel}" for channel in CHANNELS}))
    plots = []
    for title, unit, columns in wanted:
        curves = {name: curve(column) for name, column in columns.items()}
        if has_curve(curves):
            plots.append(line_plot(title, label, unit, curves, colors=CHANNEL_COLORS))
    return plots


def _crop_set(place: Place, labels: Mapping[str, str]) -> CropSet:
    pictures = tuple(
        Picture(labels.get(label, label), encode_picture(crop)) for label, crop in place.pictures.items()
    )
    note = f"Here the residual is most like structure: {place.left} pixels from the left, {place.top} from the top."
    return CropSet(f"Frame {place.frame}, {place.seconds:.2f} s", pictures, left=0, right=1, note=note)


def _strongest_part(residual: np.ndarray) -> tuple[float, tuple[slice, slice]]:
    """Mean square of the smoothed luma of (H, W, 3) in its strongest square; rows and columns of that."""
    luma = cv2.GaussianBlur(residual @ np.array(LUMA_WEIGHTS, np.float32), (0, 0), COARSE_STD)
    energy = luma * luma
    window = strongest_part(energy, CROP_SIDE)
    return float(energy[window].mean()), window
