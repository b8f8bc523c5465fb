"""Smooth random camera motion over a still photograph: translation, rotation and zoom."""

import cv2
import numpy as np

# Ranges of the motion, per frame.
SPEED_RANGE = (0.2, 14.0)  # pixels, drawn log-uniformly
ACCELERATION = 0.15  # share of the speed
ROTATION = 0.012  # radians, standard deviation
ZOOM = 0.008  # relative, standard deviation
SCALE_RANGE = (0.85, 1.5)  # photograph pixels per rendered pixel at the start


def render_pan(still: np.ndarray, frames: int, size: int, random: np.random.Generator) -> np.ndarray:
    """A clip `(frames, size, size, 3)` uint8 seen by a camera that moves over `still (H, W, 3)` uint8.

    Content outside the photograph is mirrored.
    """
    scale = float(np.exp(random.uniform(*np.log(SCALE_RANGE))))
    height, width = still.shape[:2]
    # Larger steps through the photograph than a pixel would alias: blur by as much as they skip.
    source = cv2.GaussianBlur(still, (0, 0), 0.5 * (scale - 1.0)) if scale > 1.15 else still
    direction, turn = random.uniform(0, 2 * np.pi, size=2)
    speed = scale * float(np.exp(random.uniform(*np.log(SPEED_RANGE))))
    velocity = speed * np.array([np.cos(direction), np.sin(direction)])
    acceleration = ACCELERATION * speed * np.array([np.cos(turn), np.sin(turn)])
    rotation, zoom = random.normal(0, ROTATION), random.normal(0, ZOOM)
    centre = np.array([random.uniform(0, width), random.uniform(0, height)])
    angle = random.uniform(-0.2, 0.2)
    clip = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        matrix = _view(centre, angle + rotation * t, scale * (1.0 + zoom) ** t, size)
        clip[t] = cv2.warpAffine(
            source,
            matrix,
            (size, size),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        centre = centre + velocity
        velocity = velocity + acceleration
    return clip


def _view(centre: np.ndarray, angle: float, scale: float, size: int) -> np.ndarray:
    """2x3 matrix from rendered pixels to photograph pixels, `centre` being shown in the middle."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    middle = np.full(2, (size - 1) / 2)
    return np.hstack((linear, (centre - linear @ middle)[:, None]))
