"""Where VapourSynth is not installed: nothing else needs it, and what does says so."""

import subprocess
import sys

WITHOUT = "import sys; sys.modules['vapoursynth'] = None; "


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False)


def test_the_package_needs_no_vapoursynth() -> None:
    assert run("import stbn_cli, stbn_cli.inference.windows").returncode == 0


def test_the_filter_says_what_to_install() -> None:
    result = run("import stbn_cli.vapoursynth")
    assert result.returncode == 1
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("ImportError: ")]
    assert "needs VapourSynth" in sentence and "pip install vapoursynth" in sentence


def test_torch_is_imported_with_the_model() -> None:
    code = "import types; sys.modules['vapoursynth'] = types.ModuleType('vapoursynth'); import stbn_cli.vapoursynth; "
    assert run(code + "sys.exit('torch' in sys.modules or 'av' in sys.modules)").returncode == 0
