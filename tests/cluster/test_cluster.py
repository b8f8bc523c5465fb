"""`stbn denoise --cluster`: what it refuses, and archives on a cluster of two workers on this machine (with Ray)."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace

import av
import psutil
import pytest

from stbn_cli import devices
from stbn_cli.errors import OptionError
from stbn_cli.jobs import cluster
from stbn_cli.jobs.cluster import (
    ADDRESS_VARIABLE,
    RETRIES,
    ClusterError,
    ClusterOptions,
    FileDone,
    address_of,
    denoise_archive,
)
from stbn_cli.jobs.denoise import DenoiseJob
from stbn_cli.jobs.finished import FOLDER
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.jobs.parts import DONE_FILE, ArchiveWorker, Tell
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.source import Source
from stbn_cli.synthesis.sensor import SensorNoise
from stbn_cli.video.encoders import EncodeOptions
from tests.cli.test_analyze import write_clip as write_smooth_clip
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
        # Wrong for every file, which needs no cluster to know.
        (("--film-grain", "--codec", "ffv1", "--output-dir", "out"), "--codec av1"),
        (("--cluster", "nonsense", "--output-dir", "out"), "HOST:PORT"),
        (("--cluster", "http://host:80", "--output-dir", "out"), "HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(
    make_scenes, tiny_model_path: Path, stbn, options: tuple[str, ...], word: str
) -> None:
    clip = make_scenes(scenes=(4,))
    result = stbn("denoise", clip, "-m", tiny_model_path, "--cluster", "auto", *options)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1, result.err
    assert {path.name for path in clip.parent.iterdir()} == {clip.name}


def test_a_device_that_this_machine_lacks_is_refused(
    make_scenes, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(4,))
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    monkeypatch.setattr(devices, "count", lambda kind: 0)
    options = ("--cluster", "auto", "--output-dir", clip.parent / "out", "--device", "cuda")
    result = stbn("denoise", clip, "-m", tiny_model_path, *options)
    assert result.code == 2 and "'cuda'" in result.err


@pytest.mark.parametrize(
    ("named", "variable", "address"),
    [
        ("auto", "", None),
        ("auto", "local", None),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("[::1]:6379", "10.0.0.1:6379", "[::1]:6379"),
        ("ray://head:10001", "", "ray://head:10001"),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, named: str, variable: str, address: str | None) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, variable)
    assert address_of(named) == address


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, "10.0.0.1")
    with pytest.raises(OptionError, match=r"RAY_ADDRESS=10\.0\.0\.1 is no address"):
        address_of("auto")


def test_where_nothing_listens_it_says_so_at_once(
    make_scenes, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_scenes(scenes=(4,))
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{free.getsockname()[1]}"
        out = clip.parent / "out"
        result = stbn("denoise", clip, "-m", tiny_model_path, "--cluster", address, "--output-dir", out)
    assert result.code == 1 and f"No Ray cluster can be used at {address}" in result.err
    assert f"Connecting to {address}" in result.err and "Starting the workers" not in result.err
    assert not out.exists()


def test_film_grain_is_told_of_and_its_table_lies_where_the_command_ran(
    tmp_path: Path, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_smooth_clip(tmp_path / "smooth.mkv", SensorNoise(NoiseLevelFunction.white(5 / 255)))
    monkeypatch.chdir(tmp_path)
    handed_over: list[DenoiseJob] = []

    def in_this_process(ray: object, jobs: list[DenoiseJob], options: object, tell: Tell, look: object):
        handed_over.extend(jobs)
        for index, job in enumerate(jobs):
            yield FileDone(index, ArchiveWorker(tell).whole(job, None, lambda count: None))

    monkeypatch.setattr(cluster, "connected", lambda options: nullcontext(ModuleType("ray")))
    monkeypatch.setattr(cluster, "denoise_archive", in_this_process)
    options = ("--grain-table", "grain.tbl", "--output-dir", "out", "--cluster", "auto", "--json", *ENGINE)
    result = stbn("denoise", clip.name, "-m", tiny_model_path, "--sigma", "5", *options)
    assert result.code == 0, result.err
    table = clip.with_name("grain.tbl")
    assert handed_over[0].grain_table == str(table)
    grain = json.loads(result.out)["results"][0]["result"]["film_grain"]
    assert grain["table"] == str(table) and grain["segments"] and not grain["in_stream"]
    assert table.is_file() and "Film grain of strength" in result.err


def test_ctrl_c_while_connecting_promises_nothing(
    make_scenes, tiny_model_path: Path, stbn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    clip = make_scenes(scenes=(4,))
    monkeypatch.setattr(cluster, "connected", interrupted)
    out = clip.parent / "out"
    result = stbn("denoise", clip, "-m", tiny_model_path, "--cluster", "auto", "--output-dir", out)
    assert result.code == 130 and "kept" not in result.err and not out.exists()


def test_a_ray_that_never_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.__dict__["init"] = lambda **options: Event().wait(5)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "START_SECONDS", 0)
    monkeypatch.setenv(ADDRESS_VARIABLE, "")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "600")
    with (
        pytest.raises(ClusterError, match="cannot be started on this machine"),
        cluster.connected(ClusterOptions()),
    ):
        pass


class DyingRay(ModuleType):
    """Ray where every worker dies as it starts."""

    class exceptions:  # noqa: N801 - a module of Ray
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class RayActorError(RayError):
            pass

        class OutOfMemoryError(RayError):
            pass

        class WorkerCrashedError(RayError):
            pass

    def __init__(self) -> None:
        super().__init__("ray")
        self.started = 0

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": {"CPU": 4}}]

    def cluster_resources(self) -> dict[str, int]:
        return {"CPU": 4}

    def remote(self, **options) -> Callable:
        return lambda actor: SimpleNamespace(remote=lambda *arguments: self._make(actor))

    def _make(self, actor: type) -> SimpleNamespace:
        self.started += actor.__name__ == "_Worker"
        return SimpleNamespace(**{name: SimpleNamespace(remote=object) for name in ("ready", "counts")})

    def wait(self, waited: list, **options) -> tuple[list, list]:
        return waited[:1], waited[1:]

    def get(self, result: object, timeout: float | None = None) -> object:
        raise self.exceptions.OutOfMemoryError

    def kill(self, worker: object) -> None:
        pass


def test_workers_that_die_as_they_start_end_the_run(tmp_path: Path) -> None:
    ray = DyingRay()
    job = DenoiseJob(Source(tmp_path / "a.mkv"), tmp_path / "b.mkv", DenoiserOptions(), EncodeOptions())
    options = ClusterOptions(address="10.0.0.1:6379", workers=2)
    files = denoise_archive(ray, [job] * 4, options, lambda *_: ("", {}), lambda standing: None)
    with pytest.raises(ClusterError, match=r"No worker stays alive on 10\.0\.0\.1:6379 \(out of memory\)"):
        next(files)
    assert RETRIES < ray.started <= RETRIES + 2


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


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


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
            assert self.process.poll() is None, self.end()[2]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def family(self) -> list[psutil.Process]:
        """The processes that it started, without Ray's agents, which look for their parent only now and then."""
        found = []
        with suppress(psutil.Error):  # it may end meanwhile, and so may each of them
            found = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in found if "Agent" not in _command_of(process)]

    def kill(self) -> None:
        """End it and all that it started, itself first: it would start others."""
        family = self.family()
        for process in [self.process, *family]:
            with suppress(psutil.Error):
                process.kill()
        self.process.communicate(timeout=WAIT_SECONDS)

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
    subprocess.run(
        [sys.executable, "-m", "stbn_cli", *map(str, command)],
        check=True,
        capture_output=True,
        timeout=WAIT_SECONDS,
    )
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
            each.kill()


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
    victims = [process for process in begun.family() if "_Worker" in _command_of(process)]
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
    begun.until(lambda: len(finished_parts(output)) >= 2)
    family = begun.family()
    begun.process.kill()
    begun.process.communicate(timeout=WAIT_SECONDS)
    ended(family)
    kept = finished_parts(output)
    outputs = {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    assert kept and (output / FOLDER).is_dir()  # short files may come before the parts or after them
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
