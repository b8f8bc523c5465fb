"""Makes the demo clip: a camera that moves over a photograph, plus white Gaussian noise.

    python benchmarks/make_demo.py [--sigma 20]        (needs scikit-image, part of the dev extra)

The photographs are those that scikit-image ships: `coffee` (Rachel Michetti, CC0), `astronaut` (NASA, public domain).
Writes docs/demo/noisy.mp4, and docs/demo/clean.mp4 as the reference to compare with. With --denoised FILE (made from
noisy.mp4) it writes docs/demo/before_after.png instead and prints the PSNR of both.
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
PICTURE_FRAMES = (6, 18)


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


def decode(path: Path) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def before_after(denoised: Path) -> None:
    """One frame of each shot: noisy on the left, denoised on the right."""
    noisy, result, clean = decode(FOLDER / "noisy.mp4"), decode(denoised), decode(FOLDER / "clean.mp4")
    for name, clip in (("noisy", noisy), ("denoised", result)):
        error = (clip.astype(float) - clean.astype(float)) ** 2
        print(f"{name}: {np.mean(10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))):.2f} dB")
    rows = [np.hstack((noisy[t], result[t])) for t in PICTURE_FRAMES]
    cv2.imwrite(str(FOLDER / "before_after.png"), np.vstack(rows)[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sigma", type=float, default=20.0, help="noise level, 0-255 scale")
    parser.add_argument("--crf", type=int, default=20)
    parser.add_argument("--denoised", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.denoised is not None:
        before_after(arguments.denoised)
        return
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
