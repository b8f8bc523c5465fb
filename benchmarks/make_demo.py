"""Makes the demo clip: a camera that moves over a photograph, plus white Gaussian noise.

    python benchmarks/make_demo.py [--sigma 20]        (needs scikit-image, part of the dev extra)

The photographs are those that scikit-image ships: `coffee` (Rachel Michetti, CC0), `astronaut` (NASA, public domain).
Writes docs/demo/noisy.mp4, and docs/demo/clean.mp4 as the reference to compare with.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

FOLDER = Path(__file__).parents[1] / "docs" / "demo"
WIDTH, HEIGHT, RATE = 320, 208, 25
SHOT_FRAMES = 12


def shot(
    photograph: np.ndarray, start: tuple[float, float], velocity: tuple[float, float], scale: float
) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of a camera whose middle starts at `start` (x, y) and moves by `velocity` a frame."""
    smooth = cv2.GaussianBlur(photograph, (0, 0), 0.5 * scale)
    frames = []
    for t in range(SHOT_FRAMES):
        angle, zoom = 0.004 * t, scale * 1.006**t
        linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array(start) + t * np.array(velocity)
        offset = centre - linear @ np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
        matrix = np.hstack((linear, offset[:, None]))
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        frames.append(
            cv2.warpAffine(smooth, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)
        )
    return frames


def encode(path: Path, frames: list[np.ndarray], crf: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(RATE), options={"crf": str(crf), "preset": "slow"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sigma", type=float, default=20.0, help="noise level, 0-255 scale")
    parser.add_argument("--crf", type=int, default=20)
    arguments = parser.parse_args()
    clean = shot(data.coffee(), (270, 180), (3.0, 1.0), 1.15) + shot(
        data.astronaut(), (210, 150), (1.5, 1.0), 1.0
    )
    random = np.random.default_rng(0)
    noisy = [
        np.clip(np.rint(frame + arguments.sigma * random.standard_normal(frame.shape)), 0, 255).astype(
            np.uint8
        )
        for frame in clean
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    encode(FOLDER / "noisy.mp4", noisy, arguments.crf)
    encode(FOLDER / "clean.mp4", clean, 12)


if __name__ == "__main__":
    main()
