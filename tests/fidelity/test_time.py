"""Times through the command: every frame at its own, nothing added or lost, sound in step."""

from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.conftest import B_FRAME_OPTIONS, read_content, read_streams

AUDIO_FRAME = Fraction(1024, 48000)
TICK = Fraction(1, 1000)  # of Matroska's clock
# 2 to the 33rd ticks of 90 kHz: where MPEG-TS begins again at 0.
WRAP_SECONDS = Fraction(2**33, 90000)


def copied(source: Path, target: Path, change=None, **options) -> Path:
    """The packets of `source` in another file; change(packet): before they are written."""
    with av.open(str(source)) as before, av.open(str(target), "w", container_options=options) as after:
        pairs = {s.index: after.add_stream_from_template(s, opaque=True) for s in before.streams}
        for packet in before.demux():
            if packet.size:
                if change is not None:
                    change(packet)
                packet.stream = pairs[packet.stream.index]
                after.mux(packet)
    return target


def times(path: Path) -> list[Fraction]:
    return read_content(path).times


def lag(path: Path) -> Fraction:
    """From the first packet of sound to the first picture."""
    sound = next(stream for stream in read_streams(path) if stream.kind == "audio")
    first = sound.packets[0][0]
    assert first is not None
    return times(path)[0] - first


def length(path: Path) -> Fraction:
    """From the first picture or sound to the last."""
    stamps = [time for time, _ in read_streams(path)[1].packets if time is not None] + times(path)
    return max(stamps) - min(stamps)


def raw(data: bytes) -> bytes:
    """An AAC packet without the header that MPEG-TS puts before it."""
    return data[7:] if data[:2] == b"\xff\xf1" else data


def assert_in_step(source: Path, output: Path, allowed: Fraction = TICK) -> None:
    before, after = times(source), times(output)
    assert len(after) == len(before)
    steps = [(a - after[0]) - (b - before[0]) for a, b in zip(after, before, strict=True)]
    assert max(map(abs, steps)) <= allowed
    assert abs(lag(output) - lag(source)) <= AUDIO_FRAME
    old, new = (read_streams(path)[1].packets for path in (source, output))
    assert [raw(data) for _, data in new] == [raw(data) for _, data in old]
    assert abs(length(output) - length(source)) <= AUDIO_FRAME


UNEVEN = (0, 40, 55, 130, 131, 400, 900, 1000)


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.ts"])
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv"])
def test_uneven_times(make_clip, denoise, source, target) -> None:
    clip = make_clip(name=source, ticks=UNEVEN, time_base=TICK, audio="aac", options=B_FRAME_OPTIONS)
    outcome = denoise(clip, "--preset", "fast", "--codec", "h264", to=target)
    assert outcome.done()["frames"] == len(UNEVEN)
    assert_in_step(clip, outcome.output)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)])
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_broken_rates(make_clip, denoise, rate, target) -> None:
    clip = make_clip(name="in.mp4", rate=rate, time_base=1 / rate, frames=12, audio="aac")
    outcome = denoise(clip, to=target)
    outcome.done()
    assert_in_step(clip, outcome.output)
    if target == "out.mp4":
        assert times(outcome.output) == [index / rate for index in range(12)]


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_a_late_start(make_clip, tmp_path, denoise, container, target) -> None:
    """Everything begins two seconds in."""
    clip = make_clip(name="plain.mkv", audio="aac")

    def later(packet):
        packet.pts += 2000
        packet.dts += 2000

    late = copied(clip, tmp_path / f"late.{container}", later)
    outcome = denoise(late, to=target)
    outcome.done()
    assert_in_step(late, outcome.output)
    if container != "ts":
        assert abs(times(outcome.output)[0] - times(late)[0]) <= TICK


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_an_edit_list_that_hides_the_beginning(make_clip, tmp_path, denoise, target) -> None:
    """Frames before time 0 are there for the decoder alone; players do not show them."""
    clip = make_clip(name="plain.mkv", frames=10, audio="aac")

    def earlier(packet):
        if packet.stream.type == "video":
            packet.pts -= 120
            packet.dts -= 120

    cut = copied(clip, tmp_path / "cut.mp4", earlier, avoid_negative_ts="disabled", use_editlist="1")
    shown = times(cut)
    assert len(shown) == 7 and shown[0] == 0
    outcome = denoise(cut, to=target)
    assert outcome.done()["frames"] == 7
    assert_in_step(cut, outcome.output)
    assert times(outcome.output)[0] == 0


def test_an_edit_list_that_waits(make_clip, tmp_path, denoise) -> None:
    """The picture begins half a second after the sound."""
    clip = make_clip(name="plain.mkv", audio="aac")

    def later(packet):
        if packet.stream.type == "video":
            packet.pts += 500
            packet.dts += 500

    late = copied(clip, tmp_path / "late.mp4", later)
    assert lag(late) > Fraction(45, 100)
    outcome = denoise(late, to="out.mp4")
    outcome.done()
    assert_in_step(late, outcome.output)


@pytest.mark.parametrize("name", ["in.avi", "in.h264"])
def test_files_without_presentation_times(make_clip, tmp_path, denoise, name) -> None:
    if name == "in.avi":
        clip = make_clip(name=name, frames=10)
    else:
        clip = copied(make_clip(name="plain.ts", frames=10), tmp_path / name)
    outcome = denoise(clip)
    assert outcome.done()["frames"] == 10
    found = times(outcome.output)
    assert [time - found[0] for time in found] == [Fraction(index, 25) for index in range(10)]


def test_a_transport_stream_whose_clock_begins_again(make_clip, tmp_path, denoise) -> None:
    clip = make_clip(name="plain.mp4", frames=20, audio="aac")
    offset = str(float(WRAP_SECONDS - Fraction(18, 10)))  # the muxer adds 1.4 s by itself
    around = copied(clip, tmp_path / "wrap.ts", output_ts_offset=offset)
    outcome = denoise(around)
    assert outcome.done()["frames"] == 20
    found = times(outcome.output)
    assert times(around)[0] < 0 and found[0] == 0
    assert max(abs(time - found[0] - Fraction(index, 25)) for index, time in enumerate(found)) <= TICK
    assert abs(lag(outcome.output) - lag(around)) <= AUDIO_FRAME


@pytest.mark.parametrize("code", ["01:00:00;00", "00:59:59;28", "10:00:00:00"])
@pytest.mark.parametrize("target", ["out.mov", "out.mp4", "out.mkv"])
def test_time_codes(make_clip, denoise, code, target) -> None:
    rate = Fraction(30000, 1001)
    clip = make_clip(name="in.mov", rate=rate, time_base=1 / rate, tags={"timecode": code})
    outcome = denoise(clip, "--strict", to=target)
    outcome.done()
    with av.open(str(outcome.output)) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert tags["timecode"] == code


def test_a_first_time_that_lies_hours_before(make_clip, denoise) -> None:
    seven_hours = 7 * 3600 * 1000
    ticks = (0, *(seven_hours + 40 * index for index in range(1, 8)))
    clip = make_clip(ticks=ticks, time_base=TICK)
    outcome = denoise(clip)
    assert outcome.done()["frames"] == 8
    assert any("hours before" in sentence for sentence in outcome.summary["warnings"])
    found = times(outcome.output)
    assert [time - found[0] for time in found] == [Fraction(40 * index, 1000) for index in range(8)]


@pytest.mark.parametrize("hours", [1, 5])
def test_a_pause_of_hours_is_kept(make_clip, denoise, hours) -> None:
    clip = make_clip(ticks=(0, 40, 80, hours * 3_600_000, hours * 3_600_000 + 40), time_base=TICK)
    outcome = denoise(clip)
    assert outcome.done()["warnings"] == []
    assert times(outcome.output) == times(clip)
