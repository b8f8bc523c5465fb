"""Progress on stderr: lines where it is no terminal, a bar where it is one."""

import pytest

from stbn_cli.cli import progress
from stbn_cli.cli.progress import BatchPlace, FrameProgress, clock


@pytest.fixture
def now(monkeypatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_lines_every_few_seconds_without_the_start(capsys, now) -> None:
    with FrameProgress(200) as report:
        now[0] += 60.0  # loading, measuring, the first chunk's first frame: no forecast comes from these
        for count in range(1, 81):
            report(count)
            now[0] += 0.125
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Denoising: 1 of 200 frames",
        "Denoising: 41 of 200 frames, 8 fps, 0:20 left",
    ]


def test_parts_of_frames_count_and_nothing_goes_backwards(capsys, now) -> None:
    with FrameProgress(16, start=4) as report:
        report(4)  # kept by an earlier run
        now[0] += 10.0
        report.working(4.5)
        now[0] += 10.0
        report.working(9.5)
        report(6)  # given out after it was worked on
        now[0] += 10.0
        report.working(14.5)
    assert capsys.readouterr().err.splitlines() == [
        "Denoising: 4 of 16 frames",
        "Denoising: 9 of 16 frames, 0.5 fps, 0:13 left",
        "Denoising: 14 of 16 frames, 0.5 fps, 0:03 left",
    ]


def test_unknown_length_phases_and_a_place_in_a_batch(capsys, now) -> None:
    with FrameProgress(None, place=BatchPlace(2, 5)) as report:
        report(2)
        now[0] += 6.0
        report(14)
        report.phase("verifying")
    assert capsys.readouterr().err == "[2/5] Denoising: 14 frames, 2 fps\n[2/5] Verifying\n"


def test_quiet(capsys, now) -> None:
    with FrameProgress(10, quiet=True) as report:
        now[0] += 60.0
        report(5)
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(capsys, monkeypatch, now) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with FrameProgress(3, place=BatchPlace(1, 2)) as report:
        for count in range(1, 5):  # one more than estimated
            now[0] += 1.0
            report(count)
    captured = capsys.readouterr()
    assert captured.out == "" and "4 of 4 frames" in captured.err and "all inputs" in captured.err


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3600, 36061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]
