"""What the fuzzer found, kept small, and a hundred cases of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from stbn_cli.pipeline import denoise_video
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.conftest import read_streams

FUZZ = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
needs_fuzzer = pytest.mark.skipif(not FUZZ.exists(), reason="an installed source package has no benchmarks")
# (seed, case) of what once failed: seeks that a damaged index forbids, sound whose packets the muxer refuses, streams
# that are announced but empty.
FOUND = [(1, 296), (1, 554), (1, 684), (1, 49), (2, 1726)]


class Identity:
    def stream(self, frames):
        yield from frames


def load_fuzzer():
    found = importlib.util.spec_from_file_location("fuzz", FUZZ)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["fuzz"] = module  # its dataclasses look themselves up
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fuzzer():
    return load_fuzzer()


@needs_fuzzer
def test_cases_are_their_numbers(fuzzer) -> None:
    seeds = {kind: bytes(range(256)) * 8 for kind in fuzzer.KINDS if kind != "safetensors"}
    kinds = tuple(seeds)
    first = [fuzzer.make_case(seeds, 5, number, kinds) for number in range(20)]
    assert first == [fuzzer.make_case(seeds, 5, number, kinds) for number in range(20)]
    assert all(case.data != seeds[case.kind] for case in first[:4])
    assert [case.data for case in first] != [fuzzer.make_case(seeds, 6, n, kinds).data for n in range(20)]


@needs_fuzzer
def test_the_judge_sees_what_is_wrong(fuzzer, tmp_path) -> None:
    case = fuzzer.Case(0, "mp4", b"")

    def kinds(answer, expected=()):
        return [what for what, _ in fuzzer.judge(case, answer, tmp_path, set(expected))]

    fine = {"code": 3, "said": "Error: no.", "surprise": []}
    assert kinds(fine) == []
    assert kinds({"signal": 11}) == ["crash"]
    assert kinds({"hang": True}) == ["hang"]
    assert kinds({**fine, "surprise": ["ValueError"]}) == ["surprise"]
    assert kinds({**fine, "code": 6}) == ["exit code"]
    assert kinds({**fine, "said": ""}) == ["message"]
    (tmp_path / ".out.part").touch()
    assert kinds(fine) == ["files"]


@needs_fuzzer
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "number"), FOUND)
def test_what_was_found_stays_mended(seed, number) -> None:
    assert run_fuzzer("--seed", seed, "--first", number, "--cases", 1)["findings"] == []


@needs_fuzzer
@pytest.mark.slow
def test_a_hundred_cases() -> None:
    report = run_fuzzer("--seed", 7, "--cases", 100)
    assert report["cases"] == sum(report["codes"].values()) == 100
    assert report["findings"] == []


def run_fuzzer(*arguments: object) -> dict:
    command = [sys.executable, str(FUZZ), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_sound_that_the_muxer_refuses_is_left_out(make_clip, tmp_path) -> None:
    """Two recordings in one file: where times begin again, no muxer takes the sound."""
    whole, path, out = (
        make_clip(name="whole.ts", frames=10, audio="aac"),
        tmp_path / "two.ts",
        tmp_path / "out.mp4",
    )
    path.write_bytes(2 * whole.read_bytes())
    count = len(next(stream for stream in read_streams(whole) if stream.kind == "audio").packets)
    with open_video(path) as reader, create_video(out, reader, EncodeOptions()) as writer:
        summary = denoise_video(reader, Identity(), writer)
    assert summary.frames == 20
    assert any("left out" in sentence and "audio" in sentence for sentence in summary.warnings)
    kept = next(stream for stream in read_streams(out) if stream.kind == "audio")
    assert count <= len(kept.packets) < 2 * count


def test_a_stream_without_packets_does_not_fail_the_check(make_clip, tmp_path) -> None:
    """A file cut before its first sound still announces the stream; MPEG-TS keeps none of it."""
    whole, path = make_clip(frames=4, audio="aac"), tmp_path / "silent.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        targets = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size and packet.stream.type == "video":
                packet.stream = targets[packet.stream.index]
                output.mux(packet)
    for name in ("out.ts", "out.mov", "out.mkv"):
        out = tmp_path / name
        with open_video(path) as reader, create_video(out, reader, EncodeOptions()) as writer:
            assert denoise_video(reader, Identity(), writer).frames == 4
        assert out.exists()


def test_a_range_of_a_file_that_cannot_seek(make_clip, monkeypatch) -> None:
    from stbn_cli.video import decoding

    clip = make_clip(frames=10)
    with open_video(clip, start=0.2) as whole:
        wanted = [frame.pts for frame in whole]
    monkeypatch.setattr(decoding, "seek", lambda *arguments: False)
    with open_video(clip, start=0.2) as unseekable:
        assert [frame.pts for frame in unseekable] == wanted
