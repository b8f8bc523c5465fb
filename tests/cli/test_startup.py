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


def test_a_dry_run_loads_no_compiler(make_clip) -> None:
    """Shapes are compared without torch's compiler, which takes longer to import than all else."""
    code = (
        "import sys; from stbn_cli.cli.app import main; code = main(sys.argv[1:]); "
        "print(code, [name for name in ('sympy', 'torch._dynamo') if name in sys.modules])"
    )
    arguments = ["denoise", make_clip(), "--dry-run", "-q", "--sigma", "9", "--noise-model"]
    for kind in ("white", "camera"):
        command = [sys.executable, "-c", code, *map(str, arguments), kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_help_is_short_and_all_of_it_is_a_word_away(stbn, monkeypatch) -> None:
    assert stbn().code == 2  # no arguments: the help, as a usage error
    assert "130 interrupted" in stbn("--help").out
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        for command in COMMANDS:
            short, whole = (stbn(command, option) for option in ("--help", "--help-all"))
            assert short.code == whole.code == 0
            assert len(short.out) <= len(whole.out) + 100
            for text in (short.out, whole.out):
                assert "Exit codes" not in text and "<bool>" not in text
                prose = [line for line in text.splitlines() if "$ " not in line and "://" not in line]
                assert all(len(line) <= width or len(line.split()) <= 3 for line in prose)


def test_denoise_help_shows_panels_and_defaults(stbn) -> None:
    text = stbn("denoise", "--help-all").out
    for panel in ("Input and output", "Denoising", "Memory and speed", "Video encoding", "Logging"):
        assert panel in text
    for word in ("<stem>.denoised.<suffix>", "--no-scene-cuts", "stbn denoise clip.mp4"):
        assert word in text
    assert "--keep-grain" not in stbn("denoise", "--help").out


def test_short_helps_name_real_options() -> None:
    import typer

    from stbn_cli.cli.app import app

    for command in typer.main.get_command(app).commands.values():
        chosen = getattr(command, "main_options", ())
        names = {name for option in command.params for name in option.opts}
        assert set(chosen) <= names


def test_training_and_arrays_need_no_pyav() -> None:
    """A training machine may lack PyAV: its clips are read by OpenCV."""
    code = (
        "import sys; sys.modules['av'] = None; "
        "import stbn_cli, stbn_cli.cli.train, stbn_cli.training.trainer; stbn_cli.load_denoiser"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
