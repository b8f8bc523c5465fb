"""How like the removed noise the film grain is that a player draws, and what it saves.

    python benchmarks/filmgrain.py grain                     # drawn by a decoder against what was removed
    python benchmarks/filmgrain.py size CLIP... --crf 24     # AV1 of the noisy clip against denoised with film grain

`grain` draws noise of known kinds over flat patches, gives it to the writer of AV1 with a denoiser that knows the
clean picture, decodes the file with dav1d, and compares over each patch: standard deviations, and correlations with
neighbours 1 to 3 pixels away in a row and a column. `size` adds a camera's noise to clean clips. A table on stdout,
progress on stderr.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from finetuning import add_noise, middle

from stbn_cli.api import denoise_file, load_denoiser
from stbn_cli.bench.clips import find_clips, load_clean
from stbn_cli.jobs.denoise import write_denoised
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.source import Source
from stbn_cli.synthesis.isp import Grain
from stbn_cli.video.color import PixelLayout
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.pixels import join_planes

KINDS = ("white3", "white10", "blurred30", "grain1", "camera1", "camera2", "camera3")
FRAMES, ROWS, COLUMNS, PATCH = 32, 3, 5, 96
LEVELS = np.linspace(0.15, 0.85, ROWS * COLUMNS)
# Pixels at a patch's edge that do not count: noise of neighbouring patches mixes there.
EDGE = 8
LAGS = (1, 2, 3)
NAMES = ("luma", "cb", "cr")
GRAIN_SIGMA = 6.0


class Known:
    """A denoiser that knows the clean frames (T, H, W, 3)."""

    def __init__(self, clean: np.ndarray) -> None:
        self._clean = clean

    def stream(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """As `Denoiser.stream`."""
        for _, clean in zip(frames, self._clean, strict=False):
            yield clean.copy()


def patches() -> torch.Tensor:
    """(T, 3, H, W): flat patches of all brightnesses, with a little colour."""
    row = torch.tensor(np.random.default_rng(1).permutation(LEVELS), dtype=torch.float32)
    picture = row.view(ROWS, COLUMNS).repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1)
    tint = torch.tensor((1.03, 1.0, 0.95)).view(3, 1, 1)
    return (picture[None] * tint).expand(FRAMES, -1, -1, -1).contiguous()


def noised(clean: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and noisy frames."""
    if kind.startswith("grain"):
        generator = torch.Generator().manual_seed(0)
        level = NoiseLevelFunction.white(GRAIN_SIGMA / 255.0)
        return clean, Grain(level, float(kind.removeprefix("grain")), 0.5).add_to(clean, generator)
    return add_noise(clean, kind)


def write_lossless(path: Path, frames: np.ndarray) -> None:
    """RGB (T, H, W, 3), nominal [0, 1], as 16-bit FFV1."""
    values = np.clip(np.rint(frames * 65535), 0, 65535).astype(np.uint16)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "gbrp16le"
        for number, rgb in enumerate(values):
            frame = join_planes([rgb[..., channel] for channel in (1, 2, 0)], PixelLayout("rgb", 16))
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def write(source: Path, output: Path, frames: np.ndarray, options: EncodeOptions) -> None:
    """What stbn writes if its denoiser returns `frames`."""
    with Source(source).open() as reader:
        write_denoised(reader, output, Known(frames), options)


def decode(path: Path, *, grain: bool) -> list[np.ndarray]:
    """Planes (T, H, W) float64 of a video, on the 0-255 scale."""
    with av.open(str(path)) as container:
        if not grain:
            container.streams.video[0].codec_context.options = {"export_side_data": "film_grain"}
        pictures = [planes_of(frame) for frame in container.decode(video=0)]
    return [np.stack(planes) for planes in zip(*pictures, strict=True)]


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame of 8 or 10 bits."""
    bits = frame.format.components[0].bits
    kind = np.uint8 if bits == 8 else np.uint16
    return [
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] / 2.0 ** (bits - 8)
        for plane in frame.planes
    ]


def correlations(values: np.ndarray) -> np.ndarray:
    """(6,) of (T, H, W): LAGS to the right, and down."""
    values = values - values.mean()
    power = np.mean(np.square(values))
    across = [np.mean(values[..., :-lag] * values[..., lag:]) for lag in LAGS]
    down = [np.mean(values[:, :-lag] * values[:, lag:]) for lag in LAGS]
    return np.array(across + down) / max(power, 1e-9)


def compare(removed: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """By patches, standard deviations of what was removed and of what is drawn; how wrong the worst correlation is."""
    size = removed.shape[1] // ROWS
    edge = EDGE * size // PATCH
    sigmas, wrong = [], np.zeros(2 * len(LAGS))
    for row in range(ROWS):
        for column in range(COLUMNS):
            rows, columns = (slice(at * size + edge, (at + 1) * size - edge) for at in (row, column))
            first, second = removed[:, rows, columns], drawn[:, rows, columns]
            wrong += correlations(second) - correlations(first)
            sigmas.append((first.std(), second.std()))
    sigma, other = np.array(sigmas).T
    return sigma, other, float(np.abs(wrong / len(sigmas)).max())


def check_size(folder: Path, options: argparse.Namespace) -> None:
    """Print the table of `size`."""
    print("| clip | noise | noisy, kB | denoised, kB | with film grain, kB | of noisy | removed | drawn |")
    print("|---|---|---|---|---|---|---|---|")
    encode = EncodeOptions("av1", options.crf, pix_fmt=options.pix_fmt)
    for clip in options.clips:
        for kind in options.kinds:
            clean = middle(load_clean(find_clips([clip])[0], options.frames), options.crop)
            noisy = noised(clean, kind)[1].permute(0, 2, 3, 1).contiguous().numpy()
            stem = f"{clip.stem}-{kind}"
            given, source, plain, denoised, grained = (
                folder / f"{stem}-{name}.mkv" for name in ("given", "source", "noisy", "denoised", "grained")
            )
            write_lossless(given, noisy)
            write(given, source, noisy, EncodeOptions("ffv1", pix_fmt=options.pix_fmt, dither=False))
            write(source, plain, noisy, encode)
            denoiser = load_denoiser(options.model, noise_kind="camera")
            summary = denoise_file(source, grained, denoiser, encode=replace(encode, film_grain=True))
            denoise_file(source, denoised, denoiser, encode=encode)
            sizes = [file.stat().st_size / 1000 for file in (plain, denoised, grained)]
            removed = [segment.strengths[0] for segment in summary.grain or ()]
            drawn = decode(grained, grain=True)[0] - decode(grained, grain=False)[0]
            print(
                f"| {clip.stem} | {kind} | {sizes[0]:.0f} | {sizes[1]:.0f} | {sizes[2]:.0f} | "
                f"{100 * sizes[2] / sizes[0]:.0f} % | {np.mean(removed):.2f} | {drawn.std():.2f} |",
                flush=True,
            )


def check_grain(folder: Path, kinds: list[str]) -> None:
    """Print the table of `grain`."""
    print("| noise | bits | plane | removed | drawn | ratio by patch | correlation off by, at most |")
    print("|---|---|---|---|---|---|---|")
    for kind in kinds:
        for bits, pix_fmt in ((8, "yuv420p"), (10, "yuv420p10le")):
            clean, noisy = (part.permute(0, 2, 3, 1).numpy() for part in noised(patches(), kind))
            files = [folder / f"{name}-{kind}-{bits}.mkv" for name in ("given", "noisy", "grained")]
            write_lossless(files[0], noisy)
            write(files[0], files[1], noisy, EncodeOptions("ffv1", pix_fmt=pix_fmt, dither=False))
            write(files[1], files[2], clean, EncodeOptions("av1", 8, "faster", film_grain=True))
            source, plain = decode(files[1], grain=True), decode(files[2], grain=False)
            grained = decode(files[2], grain=True)
            for index, plane in enumerate(NAMES):
                sigma, drawn, wrong = compare(source[index] - plain[index], grained[index] - plain[index])
                ratio = drawn / np.maximum(sigma, 1e-6)
                print(
                    f"| {kind} | {bits} | {plane} | {np.sqrt(np.mean(sigma**2)):.2f} | "
                    f"{np.sqrt(np.mean(drawn**2)):.2f} | {ratio.min():.2f} to {ratio.max():.2f} | {wrong:.2f} |",
                    flush=True,
                )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    grain = commands.add_parser("grain")
    grain.add_argument("--kinds", nargs="+", default=KINDS)
    size = commands.add_parser("size")
    size.add_argument("clips", type=Path, nargs="+")
    size.add_argument("--kinds", nargs="+", default=("camera2", "grain1"))
    size.add_argument("--crf", type=float, default=24)
    size.add_argument("--frames", type=int, default=25)
    size.add_argument("--crop", default="640x360", metavar="WIDTHxHEIGHT")
    size.add_argument("--pix-fmt", default="yuv420p")
    size.add_argument("--model", default="real")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        if options.command == "grain":
            check_grain(Path(name), options.kinds)
        else:
            check_size(Path(name), options)


if __name__ == "__main__":
    main()
