"""A picture to judge by: the whole frame before and after, and below it parts of it, magnified."""

from fractions import Fraction

import cv2
import numpy as np

from stbn_cli.preview.places import PictureSquare, detailed_places, noisiest_places
from stbn_cli.scale import BYTE_SCALE

# Pixels of the sheet. A row of magnified parts holds two pairs of panels.
PANEL = 480
JOINT = 4  # between before and after
GAP = 16  # between pairs
SHEET_WIDTH = 4 * PANEL + 2 * JOINT + GAP
FRAME_HEIGHT = 720  # of a whole frame, at most
LINE_HEIGHT = 30  # of a line of text
# At least so much; more where a panel would else show more than a third of the frame's shorter side.
MAGNIFICATION = 4
PLACES_PER_ROW = 2

BACKGROUND, TEXT = (24, 24, 24), (230, 230, 230)
NOISE_COLOR, DETAIL_COLOR = (255, 210, 0), (0, 220, 255)
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.6


def compose_sheet(
    before: np.ndarray, after: np.ndarray, title: str, *, turns: int = 0, aspect: Fraction | None = None
) -> np.ndarray:
    """One frame before and after, and its noisiest and most detailed places, as a picture (h, w, 3) uint8 RGB.

    Args:
        before, after: (H, W, 3) float32 RGB, nominal [0, 1]; clipped.
        title: what stands above; ASCII.
        turns: quarter turns counter-clockwise that a player gives the frame.
        aspect: width : height of a pixel as stored; the whole frame is shown with it, the parts pixel by pixel.
    """
    before, after = (np.clip(np.rot90(frame, turns), 0.0, 1.0) for frame in (before, after))
    factor = min(max(MAGNIFICATION, -(-3 * PANEL // min(before.shape[:2]))), PANEL)
    size = PANEL // factor
    noisy = noisiest_places(before, after, size, PLACES_PER_ROW)
    detailed = detailed_places(after, size, PLACES_PER_ROW, noisy)
    before, after = (np.rint(BYTE_SCALE * frame).astype(np.uint8) for frame in (before, after))
    if aspect is not None and turns % 2:
        aspect = 1 / aspect
    marks = [(place, NOISE_COLOR) for place in noisy] + [(place, DETAIL_COLOR) for place in detailed]
    rows = [_line(title), _frames(before, after, marks, float(aspect or 1))]
    for text, places, color, number in (
        ("Where most was removed", noisy, NOISE_COLOR, 1),
        ("Where the picture has most detail", detailed, DETAIL_COLOR, 1 + len(noisy)),
    ):
        if places:
            rows += [_line(text, color), _panels(before, after, places, color, number)]
    return np.vstack(rows)


def label(picture: np.ndarray, text: str, left: int, bottom: int, color: tuple[int, int, int] = TEXT) -> None:
    """Write a word on a dark field into a picture (H, W, 3) uint8, or floating point on [0, 1], in place.

    What lies outside the picture is cut off.
    """
    (width, height), below = cv2.getTextSize(text, FONT, FONT_SIZE, 1)
    field = _blank(height + below + 4, width + 8)
    cv2.putText(field, text, (4, height + 2), FONT, FONT_SIZE, color, 1, cv2.LINE_AA)
    top = max(bottom - field.shape[0], 0)
    place = picture[top : top + field.shape[0], left : left + field.shape[1]]
    values = field if picture.dtype == np.uint8 else field.astype(picture.dtype) / BYTE_SCALE
    place[...] = values[: place.shape[0], : place.shape[1]]


def _line(text: str, color: tuple[int, int, int] = TEXT) -> np.ndarray:
    line = _blank(LINE_HEIGHT, SHEET_WIDTH)
    label(line, text, 4, LINE_HEIGHT, color)
    return line


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _frames(
    before: np.ndarray,
    after: np.ndarray,
    marks: list[tuple[PictureSquare, tuple[int, int, int]]],
    aspect: float,
) -> np.ndarray:
    """Both whole frames side by side, with the places marked and numbered."""
    height, width = before.shape[:2]
    room = (SHEET_WIDTH - JOINT) // 2
    scale = min(room / (width * aspect), FRAME_HEIGHT / height)
    # Enlarged by whole numbers only, so that pixels stay squares of one size.
    scale = float(int(scale)) if scale >= 1 else scale
    shown = (max(1, round(width * aspect * scale)), max(1, round(height * scale)))
    method = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    halves = []
    for frame, word in ((before, "before"), (after, "after")):
        half = cv2.resize(np.ascontiguousarray(frame), shown, interpolation=method)
        for number, (place, color) in enumerate(marks, 1):
            left, right = (round(x * aspect * scale) for x in (place.left, place.left + place.size))
            top, bottom = (round(y * scale) for y in (place.top, place.top + place.size))
            cv2.rectangle(half, (left, top), (right - 1, bottom - 1), color, 1)
            label(half, str(number), left + 1, top + LINE_HEIGHT - 4, color)
        label(half, word, 4, shown[1] - 4)
        halves.append(_centred(half, shown[1], room))
    return np.hstack((halves[0], _blank(shown[1], JOINT), halves[1]))


def _panels(
    before: np.ndarray,
    after: np.ndarray,
    places: list[PictureSquare],
    color: tuple[int, int, int],
    number: int,
) -> np.ndarray:
    """A row of magnified places, each before and after."""
    parts = []
    for index, place in enumerate(places):
        factor = PANEL // place.size
        for frame, word in ((before, "before"), (after, "after")):
            panel = place.cut(frame).repeat(factor, axis=0).repeat(factor, axis=1)
            panel = _centred(panel, PANEL, PANEL)
            label(panel, f"{number + index} {word}", 4, PANEL - 4, color)
            parts += [panel, _blank(PANEL, JOINT if word == "before" else GAP)]
    row = np.hstack(parts[:-1])
    return np.hstack((row, _blank(PANEL, SHEET_WIDTH - row.shape[1])))


def _centred(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """`picture` in the middle of a dark field of this size."""
    field = _blank(height, width)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    field[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return field
