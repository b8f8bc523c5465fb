"""Progress on stderr: lines where it is no terminal, a bar where it is one."""

import pytest

from stbn_cli.cli import progress
from stbn_cli.cli.progress import FrameProgress, clock


@pytest.fixture
def now(monkeypatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_lines_every_few_seconds(capsys, now) -> None:
    with FrameProgress(200) as report:
        for count in range(1, 81):
            now[0] += 0.125
            report(count)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "40/200 frames, 8.00 fps, 0:20 left",
        "80/200 frames, 8.00 fps, 0:15 left",
    ]


def test_unknown_length(capsys, now) -> None:
    with FrameProgress(None) as report:
        now[0] += 6.0
        report(12)
    assert capsys.readouterr().err == "12 frames, 2.00 fps\n"


def test_quiet(capsys, now) -> None:
    with FrameProgress(10, quiet=True) as report:
        now[0] += 60.0
        report(5)
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(capsys, monkeypatch, now) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with FrameProgress(3) as report:
        for count in range(1, 5):  # one more than estimated
            now[0] += 1.0
            report(count)
    captured = capsys.readouterr()
    assert captured.out == "" and "4/4" in captured.err


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3600, 36061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]
