"""What reading and writing a video costs per frame: colour conversion, decoding, encoding, the check at the end.

    python benchmarks/video.py [--size 1920x1080 ...] [--format yuv420p ...] [--frames 48] [--threads 1]
                               [--codec h264] [--preset medium] [--hardware cuda]

Prints milliseconds per frame: for each pixel format, picture to RGB and RGB to picture (medians); then for an H.264
clip made on the fly, decoding alone, decoding to RGB (`open_video`), RGB to the file (`create_video`), and reading the
finished file back for its check. --threads bounds OpenCV only; FFmpeg takes what the machine has (taskset bounds it).
Last line: one JSON document.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from stbn_cli.video import writer as writing
from stbn_cli.video.frames import Frame
from stbn_cli.video.pixels import describe_format, frame_to_rgb, resolve_color, rgb_to_frame
from stbn_cli.video.reader import open_video
from stbn_cli.video.verify import Expected
from stbn_cli.video.writer import EncodeOptions, create_video

FORMATS = ("yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "gbrp", "gray", "nv12", "p010le", "rgb24")
SIZES = ("960x540", "1920x1080")
REPEATS = 15
RATE = 25
BACKDROPS = 8  # different noise pictures: making one a frame would take longer than all that is measured


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of `work`, run once before to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def conversions(pixel_format: str, width: int, height: int) -> dict[str, float]:
    """Milliseconds from a picture of random RGB to float RGB and back."""
    matrix = 0 if describe_format(pixel_format).family == "rgb" else 1
    color = resolve_color(pixel_format, width, height, matrix=matrix, color_range=0, primaries=2, transfer=2)
    rgb = np.random.default_rng(0).random((height, width, 3), np.float32)
    frame = Frame(rgb, 0, Fraction(1, RATE))
    picture = rgb_to_frame(frame, pixel_format, color)
    return {
        "to_rgb": milliseconds(lambda: frame_to_rgb(picture, color)),
        "from_rgb": milliseconds(lambda: rgb_to_frame(frame, pixel_format, color)),
    }


def make_clip(path: Path, width: int, height: int, frames: int) -> None:
    """A noisy gradient that moves, as H.264."""
    generator = np.random.default_rng(1)
    ramp = np.add.outer(np.linspace(60, 120, height), np.linspace(0, 80, width))
    luma = [
        np.clip(ramp + generator.normal(0, 4, ramp.shape), 16, 235).astype(np.uint8) for _ in range(BACKDROPS)
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = np.roll(luma[index % BACKDROPS], 3 * index, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))


def decoding(clip: Path, hardware: str | None) -> tuple[dict[str, float], list[str]]:
    """Milliseconds a frame of FFmpeg's decoder alone and of `open_video`, and the reader's warnings."""
    begin, count = time.perf_counter(), 0
    with av.open(str(clip)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            count += 1
    alone = time.perf_counter() - begin
    with open_video(clip, hardware=hardware) as reader:
        begin = time.perf_counter()
        for _ in reader:
            pass
        whole = time.perf_counter() - begin
    return {"decode_alone": 1e3 * alone / count, "decode_to_rgb": 1e3 * whole / count}, list(reader.warnings)


def encoding(clip: Path, output: Path, options: EncodeOptions) -> tuple[dict[str, float], list[str]]:
    """Milliseconds a frame of `create_video`, of the check in it, and the writer's warnings."""
    check = writing.verify_video
    checking = 0.0

    def timed(path: Path, expected: Expected) -> list[str]:
        nonlocal checking
        begin = time.perf_counter()
        lost = check(path, expected)
        checking = time.perf_counter() - begin
        return lost

    writing.verify_video = timed
    try:
        spent, count = 0.0, 0
        with open_video(clip) as reader, create_video(output, reader, options, overwrite=True) as writer:
            for frame in reader:
                begin = time.perf_counter()
                writer.write(frame)
                spent += time.perf_counter() - begin
                count += 1
            begin = time.perf_counter()
            writer.finish()
            spent += time.perf_counter() - begin
    finally:
        writing.verify_video = check
    return {
        "rgb_to_file": 1e3 * (spent - checking) / count,
        "check": 1e3 * checking / count,
    }, list(writer.warnings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", default=SIZES, help="WIDTHxHEIGHT")
    parser.add_argument("--format", nargs="*", default=FORMATS)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV")
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--lossless", action="store_true")
    parser.add_argument("--hardware", help="of the decoder: cuda or auto")
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    options = EncodeOptions(codec=arguments.codec, preset=arguments.preset)
    if arguments.lossless:
        options = replace(options, lossless=True)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for size in arguments.size:
        width, height = map(int, size.split("x"))
        results[size] = {}
        for pixel_format in arguments.format:
            found = results[size][pixel_format] = conversions(pixel_format, width, height)
            print(
                f"{size:>10} {pixel_format:12}",
                *(f"{name} {value:6.2f}" for name, value in found.items()),
                flush=True,
            )
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder, "clip.mp4")
            make_clip(clip, width, height, arguments.frames)
            read, notes = decoding(clip, arguments.hardware)
            written, more = encoding(clip, Path(folder, "out.mp4"), options)
        found = results[size]["h264"] = read | written
        print(
            f"{size:>10} {'h264':12}", *(f"{name} {value:6.2f}" for name, value in found.items()), flush=True
        )
        print(*notes, *more, sep="\n")
    print(json.dumps({"codec": arguments.codec, "preset": arguments.preset, "milliseconds": results}))


if __name__ == "__main__":
    main()
