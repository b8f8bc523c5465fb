"""Fixtures of the fidelity tests: the command, run on a file with a tiny model."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stbn_cli.cli.app import main
from tests.cli.conftest import save_tiny_model


@dataclass(frozen=True)
class Outcome:
    """How the command ended, and what it left."""

    code: int
    summary: dict
    err: str
    output: Path

    def refused(self, code: int, *words: str) -> None:
        """One sentence with `words` and nothing written."""
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert self.code == code and len(errors) == 1, self.err
        assert all(word in errors[0] for word in words), errors[0]
        assert "Traceback" not in self.err and not self.output.exists()
        if self.output.parent.is_dir():
            assert not [path for path in self.output.parent.iterdir() if ".part" in path.name]

    def done(self) -> dict:
        assert self.code == 0, self.err
        return self.summary


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.safetensors")


@pytest.fixture
def denoise(tmp_path: Path, model: Path, capsys, monkeypatch) -> Callable[..., Outcome]:
    """denoise(source, *options, to="out.mkv") -> Outcome."""
    monkeypatch.delenv("STBN_DEBUG", raising=False)

    def run(source: Path, *options: str, to: str = "out.mkv") -> Outcome:
        output = tmp_path / "results" / to
        output.parent.mkdir(exist_ok=True)
        arguments = [
            "denoise",
            str(source),
            "-o",
            str(output),
            "-m",
            str(model),
            "-s",
            "20",
            "--json",
            *options,
        ]
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, json.loads(captured.out) if code == 0 else {}, captured.err, output)

    return run
