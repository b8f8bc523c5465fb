"""`stbn denoise --cluster`: what it refuses, and archives on a cluster of two workers on this machine (with Ray)."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import psutil
import pytest

from stbn_cli.jobs.finished import FOLDER
from stbn_cli.jobs.parts import DONE_FILE
from tests.cluster.conftest import same_frames
from tests.conftest import ClipSpec, write_clip

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or os.name == "nt",
    reason="Ray is not installed: pip install 'stbn-cli[cluster]'",
)
ENGINE = ("--chunk", "4", "--chunk-overlap", "2", "--codec", "ffv1")
CLUSTER = ("--cluster", "auto", "--cluster-workers", "2", "--cluster-cpus", "1", "--cluster-part", "20")
LONG = (24, 31, 22, 40, 26, 37, 45, 28)
WAIT_SECONDS = 240


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--uncertainty", "u.mkv", "--output-dir", "out"), "--uncertainty"),
        (("--adapt", "--output-dir", "out"), "--adapt"),
        (("--dry-run", "--output-dir", "out"), "--dry-run"),
        (("--no-keep-progress", "--output-dir", "out"), "--no-keep-progress"),
        (("--device", "cuda:0,cuda:1", "--output-dir", "out"), "--device cuda:0,cuda:1"),
        (("-o", "-"), "a pipe"),
        ((), "--output-dir"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(
    make_scenes, tiny_model_path: Path, stbn, options: tuple[str, ...], word: str
) -> None:
    clip = make_scenes(scenes=(4,))
    result = stbn("denoise", clip, "-m", tiny_model_path, "--cluster", "auto", *options)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1, result.err
    assert {path.name for path in clip.parent.iterdir()} == {clip.name}


def test_options_of_a_cluster_need_one(make_scenes, stbn) -> None:
    result = stbn("denoise", make_scenes(scenes=(4,)), "--cluster-workers", "2")
    assert result.code == 2 and "--cluster auto" in result.err


def test_without_ray_it_says_what_to_install(
    make_scenes, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(4,))
    monkeypatch.setitem(sys.modules, "ray", None)
    out = clip.parent / "out"
    result = stbn("denoise", clip, "-m", tiny_model_path, "--cluster", "auto", "--output-dir", out)
    assert result.code == 2 and "pip install 'stbn-cli[cluster]'" in result.err
    assert not out.exists()


class Run:
    """The command on a cluster, as a process."""

    def __init__(self, archive: Path, output: Path, model: Path) -> None:
        command = ["denoise", archive, "--output-dir", output, "-m", model, *ENGINE, *CLUSTER, "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stbn_cli", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_ADDRESS": ""},
            start_new_session=True,
        )

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a moment of the run."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not holds():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def family(self) -> list[psutil.Process]:
        """The processes that it started, without Ray's agents, which look for their parent only now and then."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in started if "Agent" not in " ".join(process.cmdline())]

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short clips, one with sound, and a long one of eight scenes."""
    from tests.cluster.conftest import write_scenes

    folder = tmp_path_factory.mktemp("archive")
    for number in range(3):
        spec = ClipSpec(
            width=64,
            height=48,
            frames=8 + number,
            encoder="ffv1",
            seed=number,
            audio=None if number else "flac",
        )
        write_clip(folder / f"short{number}.mkv", spec)
    write_scenes(folder / "long.mkv", LONG)
    return folder


@pytest.fixture(scope="module")
def plain(archive: Path, tiny_model_path: Path) -> Path:
    """What one machine makes of the archive."""
    folder = archive.with_name("plain")
    command = ["denoise", archive, "--output-dir", folder, "-m", tiny_model_path, *ENGINE]
    subprocess.run([sys.executable, "-m", "stbn_cli", *map(str, command)], check=True, capture_output=True)
    return folder


@pytest.fixture
def run(archive: Path, tmp_path: Path, tiny_model_path: Path) -> Iterator[Callable[[], Run]]:
    """run() -> the archive's run into the folder out; what is left of it ends with the test."""
    runs: list[Run] = []

    def start() -> Run:
        runs.append(Run(archive, tmp_path / "out", tiny_model_path))
        return runs[-1]

    yield start
    for each in runs:
        if each.process.poll() is None:
            for process in [*each.family(), each.process]:
                process.kill()
            each.process.communicate()


def ended(family: list[psutil.Process]) -> None:
    """Check that nothing is left of a run."""
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


def finished_parts(output: Path) -> dict[str, int]:
    """The parts that are done, and when that was."""
    done = output.glob(f".*.stbn/parts/*/{DONE_FILE}")
    return {path.parent.name: path.stat().st_mtime_ns for path in done}


def check_whole(output: Path, plain: Path) -> None:
    names = {path.name for path in plain.iterdir()}
    assert {path.name for path in output.iterdir()} == names and len(names) == 4
    assert all(same_frames(output / name, plain / name) for name in names)
    with av.open(str(output / "short0.denoised.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


@needs_ray
def test_a_worker_that_is_killed_costs_nothing_but_time(run, plain: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    begun = run()
    begun.until(lambda: any(output.glob(".*.stbn/parts/*/frames-*.mkv")))
    victims = [process for process in begun.family() if "_Worker" in " ".join(process.cmdline())]
    assert len(victims) == 2
    victims[0].kill()
    code, out, err = begun.end()
    assert code == 0, err
    document = json.loads(out)
    assert document["done"] == 4 and document["failed"] == 0
    long = next(row["result"] for row in document["results"] if "long" in row["input"])
    assert long["frames"] == sum(LONG) and long["parts"] == len(LONG) and len(long["scenes"]) == len(LONG)
    # What Ray prints is its own business.
    assert "ray" not in err.lower().replace("array", "") and "Traceback" not in err
    check_whole(output, plain)


@needs_ray
def test_a_run_that_is_killed_goes_on_where_it_was(run, plain: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    begun = run()
    begun.until(lambda: len(finished_parts(output)) >= 2 and len(list(output.glob("short*"))) >= 1)
    family = begun.family()
    begun.process.kill()
    begun.process.communicate()
    ended(family)
    kept = finished_parts(output)
    outputs = {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    assert kept and outputs and (output / FOLDER).is_dir()
    again = run()
    seen: dict[str, int] = {}
    again.until(lambda: seen.update(finished_parts(output)) or len(seen) == len(LONG))
    code, out, err = again.end()
    assert code == 0, err
    document = json.loads(out)
    long = next(row["result"] for row in document["results"] if "long" in row["input"])
    assert long["parts"] == len(LONG) and long["parts_kept"] == len(kept)
    assert {name: seen[name] for name in kept} == kept  # none was done twice
    assert all((output / name).stat().st_mtime_ns == moment for name, moment in outputs.items())
    check_whole(output, plain)


@needs_ray
def test_ctrl_c_ends_all_and_the_same_command_goes_on(run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    begun = run()
    begun.until(lambda: len(finished_parts(output)) >= 1)
    family = begun.family()
    os.killpg(begun.process.pid, signal.SIGINT)
    code, out, err = begun.end()
    assert code == 130 and "start the same command again" in err and "Traceback" not in err, err
    assert json.loads(out)["not_started"]
    ended(family)
    assert not (output / "long.denoised.mkv").exists() and finished_parts(output)
