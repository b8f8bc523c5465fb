"""Damaged inputs by the thousand: what the command makes of files that no program wrote.

    python benchmarks/fuzz.py [--cases 2000] [--seed 0] [--first 0] [--kinds mp4 mkv ts y4m png safetensors]

Small whole files (H.264 in MP4 and MPEG-TS, FFV1 with subtitles in Matroska, Y4M, a PNG, a model) are made on the fly
and damaged: bits flipped, blocks overwritten, cut off, doubled, length fields set to extremes. Every case is a number:
the same (seed, number) damages in the same way. Each is given to the command's entry in a long-lived child process with
limits on time and memory; what it writes goes to containers in turn. Findings, one a line: a crash (signal), a hang, an
error that is none of the documented ones, an exit code that does not fit, files left over, a changed source. Last line:
one JSON document.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

TIME_LIMIT = 20.0  # seconds for one case
MEMORY_LIMIT = 6 << 30  # bytes of address space of a child
START_LIMIT = 120.0  # seconds until a child has imported everything
MAX_PIXELS = 1 << 16  # so that a damaged size costs no time; the limit's default has tests of its own
WIDTH, HEIGHT, FRAMES = 32, 24, 6
# What a damaged file of a kind may lead to: done, the input's or the model's error, memory.
EXPECTED_CODES = {
    "mp4": (0, 3, 5),
    "mkv": (0, 3, 5),
    "ts": (0, 3, 5),
    "y4m": (0, 3, 5),
    "png": (0, 3, 5),
    "safetensors": (0, 4, 5),
}
KINDS = tuple(EXPECTED_CODES)
CONTAINERS = (".mkv", ".mp4", ".mkv", ".mov", ".ts")
ABSURD = (0, -1, 10**6, 2**70, 1e308, "", "x", [], {}, None, True, [[]] * 9, {"a": {}}, [5, -5], ["a", "b"])
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def make_video(path: Path, *, encoder: str, sound_encoder: str, subtitles: bool) -> None:
    """A clip of noise with silence beside it, and a subtitle."""
    import av
    from av.packet import Packet

    with av.open(str(path), "w") as output:
        options = (
            {"preset": "ultrafast", "g": "3", "bf": "1", "threads": "1"}
            if encoder == "libx264"
            else {"threads": "1"}
        )
        stream: Any = output.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound: Any = output.add_stream(sound_encoder, rate=32000)
        text = output.add_mux_stream("subrip") if subtitles and hasattr(output, "add_mux_stream") else None
        if text is not None:
            packet = Packet(b"words")
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 40
            packet.duration = 80
            output.mux(packet)
        for block in range(6):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((2, 1536), np.float32), format="fltp", layout="stereo"
            )
            frame.rate, frame.pts = 32000, 1536 * block
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
        for index in range(FRAMES):
            rgb = np.random.default_rng(index).integers(90, 160, (HEIGHT, WIDTH, 3), np.uint8)
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))


def make_y4m() -> bytes:
    """A YUV4MPEG2 file of noise, 4:2:0."""
    size = WIDTH * HEIGHT * 3 // 2
    frames = [np.random.default_rng(index).integers(16, 235, size, np.uint8) for index in range(FRAMES)]
    head = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F25:1 Ip A1:1 C420jpeg\n".encode()
    return head + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)


def make_model(path: Path) -> None:
    """A model file of the shipped structure at a few channels, with random weights."""
    import dataclasses

    import torch

    from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
    from stbn_cli.models.config import MODEL_SIZES
    from stbn_cli.models.stbn import STBN

    widths = {"channels": 8, "fusion_channels": 8, "expansion_channels": 16}
    depths = {"blocks": 1, "fusion_blocks": 1, "expansion_blocks": 1}
    config = dataclasses.replace(MODEL_SIZES["stbn-xs"], **widths, **depths)
    torch.manual_seed(0)
    info = ModelInfo(name="tiny", flow="none", sigma_range=(5.0, 55.0))
    save_checkpoint(path, Checkpoint(config, info, STBN(config).state_dict()))


def make_seeds(folder: Path) -> dict[str, bytes]:
    """The whole files by kind; `folder` holds them afterwards too, as whole.KIND."""
    import cv2

    make_video(folder / "whole.mp4", encoder="libx264", sound_encoder="aac", subtitles=False)
    make_video(folder / "whole.mkv", encoder="ffv1", sound_encoder="pcm_s16le", subtitles=True)
    make_video(folder / "whole.ts", encoder="libx264", sound_encoder="ac3", subtitles=False)
    (folder / "whole.y4m").write_bytes(make_y4m())
    make_model(folder / "whole.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    (folder / "whole.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    return {kind: (folder / f"whole.{kind}").read_bytes() for kind in KINDS}


def damage_model(whole: bytes, generator: np.random.Generator) -> bytes:
    """A model whose header is still JSON: one value or name of it is replaced by something absurd."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    part = ("config", "info", None)[int(generator.integers(0, 3))]
    table = json.loads(header["__metadata__"][part]) if part else header
    name = sorted(table)[int(generator.integers(len(table)))]
    if not part and isinstance(table[name], dict) and generator.random() < 0.8:
        inner = sorted(table[name])[int(generator.integers(len(table[name])))]
        table[name][inner] = ABSURD[int(generator.integers(len(ABSURD)))]
    elif generator.random() < 0.2:
        table[f"{name}."] = table.pop(name)
    else:
        table[name] = ABSURD[int(generator.integers(len(ABSURD)))]
    if part:
        header["__metadata__"][part] = json.dumps(table)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def mend_png(data: bytes) -> bytes:
    """The same PNG with the checksums of its chunks set right, so that damage reaches what is behind them."""
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def damage(whole: bytes, generator: np.random.Generator) -> bytes:
    """One to four injuries. Half of them strike the first 1024 bytes, where headers are."""
    data = bytearray(whole)
    for _ in range(int(generator.integers(1, 5))):
        if len(data) < 16:
            break
        reach = len(data) if generator.random() < 0.5 else min(len(data), 1024)
        at = int(generator.integers(0, reach - 8))
        match generator.integers(0, 6):
            case 0:
                data[at] ^= 1 << int(generator.integers(0, 8))
            case 1:
                length = int(generator.integers(1, 65))
                block = generator.integers(0, 256, length, np.uint8).tobytes()
                data[at : at + length] = block[: len(data) - at]
            case 2:
                if generator.random() < 0.3:  # less often: nothing more can go wrong behind the cut
                    del data[max(at, 1) :]
            case 3:
                length = int(generator.integers(1, 257))
                data[at:at] = data[at : at + length]
            case 4:
                width = int(generator.choice([1, 2, 4, 8]))
                value = EXTREMES[int(generator.integers(len(EXTREMES)))] & (1 << 8 * width) - 1
                order = "big" if generator.random() < 0.5 else "little"
                data[at : at + width] = value.to_bytes(width, order)
            case _:
                del data[at : at + int(generator.integers(1, 65))]
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Case:
    """A damaged file."""

    number: int
    kind: str
    data: bytes


def make_case(seeds: dict[str, bytes], seed: int, number: int, kinds: tuple[str, ...] = KINDS) -> Case:
    """Case `number` of `seed`; the kinds take turns."""
    kind = kinds[number % len(kinds)]
    generator = np.random.default_rng((seed, number))
    if kind == "safetensors" and generator.random() < 0.5:
        return Case(number, kind, damage_model(seeds[kind], generator))
    data = damage(seeds[kind], generator)
    return Case(number, kind, mend_png(data) if kind == "png" and generator.random() < 0.5 else data)


def lay_out(case: Case, seeds: dict[str, bytes], folder: Path) -> tuple[list[str], set[str], set[str]]:
    """Write the case into the empty `folder`: arguments of the command, names there are, names success adds."""
    model = folder.parent / "whole.safetensors"
    turn = case.number // len(KINDS)
    # Whether other containers hold a file's streams is no matter of damage.
    containers = (".mkv",) if case.kind == "mkv" else CONTAINERS
    source, output = folder / f"case.{case.kind}", folder / f"out{containers[turn % len(containers)]}"
    if case.kind == "png":
        # The first or a later image is damaged.
        source, output = folder / "frames", folder / "out"
        source.mkdir()
        for index in range(2):
            data = case.data if index == turn % 2 else seeds["png"]
            (source / f"{index}.png").write_bytes(data)
    elif case.kind == "safetensors":
        model = folder / "case.safetensors"
        model.write_bytes(case.data)
        source = folder / "clip.y4m"
        source.write_bytes(seeds["y4m"])
    else:
        source.write_bytes(case.data)
    present = {path.name for path in folder.iterdir()}
    options = [
        "-s",
        "20",
        "--flow",
        "none",
        "--device",
        "cpu",
        "--quiet",
        "--json",
        "--max-pixels",
        str(MAX_PIXELS),
    ]
    if turn % 5 == 4:
        options += ["--start", "0.05"]
    command = ["denoise", str(source), "-o", str(output), "-m", str(model), *options]
    return command, present, {output.name}


def fingerprint(folder: Path, names: set[str]) -> str:
    """A hash of all bytes of files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.exists() else b"gone")
    return digest.hexdigest()


class Child:
    """The command's entry in a process of its own, fed with command lines."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        if self._answer(START_LIMIT) is None:
            self.close()
            raise RuntimeError("the child process did not start")

    def run(self, command: list[str]) -> dict[str, Any]:
        """What the child says of the command; {"signal": ...} or {"hang": True} where it cannot: then it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer(TIME_LIMIT)
        if answer is not None:
            return answer
        ended = self._process.poll()
        if ended is None and not self._ends_soon():
            self.close()
            return {"hang": True}
        return {"signal": -self._process.wait()}

    def _ends_soon(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
            return True
        return False

    def _answer(self, limit: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        line = self._process.stdout.readline() if ready else b""
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve(answers: IO[bytes]) -> None:
    """The child: run command lines of stdin, one JSON list a line, and answer with one JSON document a line."""
    import av  # noqa: F401
    import cv2
    import torch

    import stbn_cli.api  # noqa: F401
    from stbn_cli.cli import app, exits
    from stbn_cli.errors import StbnError

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    surprises: list[str] = []

    def note(error: BaseException) -> int:
        if not isinstance(error, (StbnError, KeyboardInterrupt, MemoryError)):
            surprises.append("".join(traceback.format_exception(error)[-3:]))
        return exits.report_error(error)

    app.report_error = note  # type: ignore[assignment]
    answers.write(b"{}\n")
    answers.flush()
    for line in sys.stdin.buffer:
        surprises.clear()
        heard, told = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(heard):
            code = app.main(json.loads(line))
        if code == 0:
            json.loads(told.getvalue())
        answer = {"code": code, "said": heard.getvalue()[-4000:], "surprise": surprises[-1:]}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def judge(case: Case, answer: dict[str, Any], folder: Path, expected: set[str]) -> Iterator[tuple[str, str]]:
    """Findings as (what kind, words)."""
    if "signal" in answer:
        yield "crash", signal.Signals(answer["signal"]).name if answer["signal"] > 0 else "exit"
        return
    if "hang" in answer:
        yield "hang", f"more than {TIME_LIMIT:g} s"
        return
    code = answer["code"]
    if answer["surprise"]:
        yield "surprise", answer["surprise"][0]
    elif code not in EXPECTED_CODES[case.kind]:
        yield "exit code", f"{code}: {answer['said']}"
    elif code and answer["said"].count("Error: ") != 1:
        yield "message", answer["said"]
    found = {path.name for path in folder.iterdir()}
    if found != expected:
        yield "files", f"exit code {code}; {sorted(found ^ expected)}"


def try_case(
    child: Child, case: Case, seeds: dict[str, bytes], folder: Path
) -> tuple[list[tuple[str, str]], Any]:
    """Findings of one case, and its exit code, None where it has none. `folder` is made and removed."""
    folder.mkdir()
    try:
        command, present, added = lay_out(case, seeds, folder)
        before = fingerprint(folder, present)
        answer = child.run(command)
        expected = present | added if answer.get("code") == 0 else present
        findings = list(judge(case, answer, folder, expected))
        if fingerprint(folder, present) != before:
            findings.append(("source", "it was changed"))
        return findings, answer.get("code")
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--fresh", type=int, default=200, help="cases of one child process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with os.fdopen(os.dup(1), "wb") as answers:
            os.dup2(2, 1)  # nothing else may write between the answers
            serve(answers)
        return
    begin, codes, findings, slowest = time.perf_counter(), Counter(), [], (0.0, 0)
    with tempfile.TemporaryDirectory(prefix="stbn-fuzz-") as name:
        seeds, child, used = make_seeds(Path(name)), None, 0
        for number in range(arguments.first, arguments.first + arguments.cases):
            # Children are renewed now and then: what leaks in one must not decide about later cases.
            if child is not None and used >= arguments.fresh:
                child.close()
                child = None
            if child is None:
                child, used = Child(), 0
            case = make_case(seeds, arguments.seed, number, tuple(arguments.kinds))
            since = time.perf_counter()
            found, code = try_case(child, case, seeds, Path(name, "case"))
            slowest, used = max(slowest, (time.perf_counter() - since, number)), used + 1
            codes[f"{case.kind} {code}"] += 1
            if code is None:
                child.close()
                child = None
            for what, words in found:
                findings.append({"case": number, "kind": case.kind, "what": what, "words": words[-600:]})
                print(f"case {number} ({case.kind}): {what}: {words}", flush=True)
        if child is not None:
            child.close()
    seconds = time.perf_counter() - begin
    summary = {
        "cases": arguments.cases,
        "seed": arguments.seed,
        "first": arguments.first,
        "kinds": arguments.kinds,
    }
    numbers = {
        "seconds": round(seconds, 1),
        "slowest_seconds": round(slowest[0], 2),
        "slowest_case": slowest[1],
        "codes": dict(sorted(codes.items())),
    }
    print(json.dumps({**summary, **numbers, "findings": findings}))


if __name__ == "__main__":
    main()
