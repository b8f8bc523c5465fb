"""Help is instant and complete: no heavy library is loaded for it."""

import json
import os
import subprocess
import sys

import pytest

import stbn_cli
from tests.conftest import PATIENCE

HEAVY = ("torch", "av", "cv2", "numpy", "huggingface_hub", "safetensors", "matplotlib", "jinja2")
PROBE = f"""
import sys
from stbn_cli.cli.app import main
code = main(sys.argv[1:])
import json
print(json.dumps([code, [name for name in {HEAVY} if name in sys.modules]]), file=sys.stderr)
"""


COMMANDS = ("denoise", "preview", "compare", "finetune", "bench", "train", "doctor")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["weights", "list"], *([command, "--help"] for command in COMMANDS)],
)
def test_heavy_libraries_stay_out(arguments) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]


def test_package_import_is_light() -> None:
    code = f"import sys, stbn_cli; assert not [n for n in {HEAVY} if n in sys.modules]; stbn_cli.nonsense"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert "AttributeError" in done.stderr and "AssertionError" not in done.stderr


def test_python_m_reports_the_version_and_the_exit_code() -> None:
    command = [sys.executable, "-m", "stbn_cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, f"stbn {stbn_cli.__version__}\n")
    done = subprocess.run(
        [*command, "denoise", "/no/such/clip.mp4"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 3 and done.stdout == "" and "Traceback" not in done.stderr


def test_closed_pipe_is_silent() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "stbn_cli", "--version"]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    finally:
        os.close(write)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("command", ["denoise", "finetune", "train", "weights", "doctor"])
def test_help_states_exit_codes(stbn, command) -> None:
    result = stbn(command, "--help")
    assert result.code == 0
    assert stbn().code == 2  # no arguments: the help, as a usage error


def test_denoise_help_shows_panels_defaults_and_codes(stbn) -> None:
    text = stbn("denoise", "--help").out
    for panel in ("Input and output", "Denoising", "Memory and speed", "Video encoding", "Logging"):
        assert panel in text
    for word in ("<stem>.denoised.<suffix>", "--no-scene-cuts", "130 interrupted", "stbn denoise clip.mp4"):
        assert word in text


def test_training_and_arrays_need_no_pyav() -> None:
    """A training machine may lack PyAV: its clips are read by OpenCV."""
    code = (
        "import sys; sys.modules['av'] = None; "
        "import stbn_cli, stbn_cli.cli.train, stbn_cli.training.trainer; stbn_cli.load_denoiser"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
