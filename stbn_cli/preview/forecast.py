"""What the full run will take: time, memory and disk, extrapolated from the few frames of a moment."""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch

from stbn_cli.machine import available_cores, peak_memory
from stbn_cli.preview.location import LocatedMoment
from stbn_cli.preview.moment import Shot, StageTimings
from stbn_cli.preview.timing import StageTiming
from stbn_cli.video.encoders import EncodeOptions
from stbn_cli.video.frames import Frame, Warnings
from stbn_cli.video.names import media_name
from stbn_cli.video.output import resolve_output
from stbn_cli.video.probe import find_video_stream
from stbn_cli.video.streams import is_attached
from stbn_cli.video.writer import create_video

# Frames from one key frame to the next where nothing else asks for one, as the encoders do by themselves (measured).
KEY_INTERVALS = {"h264": 250, "hevc": 250, "av1": 160, "vp9": 128}
# These look ahead at what a frame is good for, and a short trial ends before they see it: frames in the middle of 32
# took 2 to 24 % less (8 % in the mean; five clips, x264 and x265) than the same frames within the whole clip.
LOOKING_AHEAD = ("h264", "hevc")
SHORT_TRIAL_FACTOR = 1.08


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Bytes of a short encoded part, and what encoding it cost."""

    frames: int
    key_frames: int
    key_bytes: int
    other_bytes: int  # of frames that are not key frames
    copied_bytes: int  # of sound and subtitles
    fixed_bytes: int  # of cover pictures, attachments and the container itself
    codec: str | None  # canonical name; None for images
    timing: StageTiming
    warnings: tuple[str, ...]

    def extrapolate(self, frames: int) -> int:
        """Bytes of an output of so many frames like these."""
        others = self.frames - self.key_frames
        # The first frame is a key frame anyway; further ones show how often the picture changes.
        share = (self.key_frames - 1) / self.frames
        if self.codec in KEY_INTERVALS:
            share = max(share, 1 / KEY_INTERVALS[self.codec])
        keys = min(max(1, math.ceil(share * frames)), frames) if others else frames
        video = keys * self.key_bytes / self.key_frames
        if others:
            short = frames > self.frames and self.codec in LOOKING_AHEAD
            factor = SHORT_TRIAL_FACTOR if short else 1.0
            video += factor * (frames - keys) * self.other_bytes / others
        return round(video + self.copied_bytes * frames / self.frames + self.fixed_bytes)


class Trial:
    """The full run's encoding of a few frames, in a folder of its own that disappears with it. A context manager.

    `output` is the full run's: its name decides container and codec. Raises what `create_video` raises.
    """

    def __init__(self, found: LocatedMoment, output: str | Path, options: EncodeOptions) -> None:
        self._timing = StageTiming()
        self._start: int | None = None  # pts of the first frame
        self._folder = tempfile.TemporaryDirectory(prefix="stbn-")
        images = resolve_output(output).kind != "video"
        self._path = Path(self._folder.name, "images" if images else Path(output).name)
        try:
            with found.open(found.parts[0].first, found.parts[-1].stop) as reader:
                self._writer = create_video(self._path, reader, replace(options, drop_alpha=True))
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
        self._folder.cleanup()

    def write(self, shot: Shot) -> None:
        """Encode the denoised frame of the next shot."""
        before = shot.before
        self._start = before.pts if self._start is None else self._start
        frame = Frame(shot.after, before.pts - self._start, before.time_base, before.duration)
        with self._timing.measured():
            self._writer.write(frame)

    def finish(self) -> TrialResult:
        """Finish the trial and weigh it."""
        with self._timing.measured(frames=0):
            self._writer.finish()
        frames, warnings = self._timing.frames, tuple(self._writer.warnings)
        if self._path.is_dir():
            size = sum(file.stat().st_size for file in self._path.iterdir())
            return TrialResult(frames, frames, size, 0, 0, 0, None, self._timing, warnings)
        key_frames = key_bytes = other_bytes = copied_bytes = 0
        with av.open(media_name(self._path)) as container:
            stream = find_video_stream(container, self._path, Warnings())
            codec = stream.codec_context.codec.canonical_name
            for packet in container.demux():
                if packet.stream.index != stream.index:
                    copied_bytes += 0 if is_attached(packet.stream) else packet.size
                elif packet.is_keyframe:
                    key_frames, key_bytes = key_frames + 1, key_bytes + packet.size
                else:
                    other_bytes += packet.size
        fixed_bytes = self._path.stat().st_size - key_bytes - other_bytes - copied_bytes
        return TrialResult(
            frames,
            key_frames,
            key_bytes,
            other_bytes,
            copied_bytes,
            fixed_bytes,
            codec,
            self._timing,
            warnings,
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the full run will take, roughly. None: the video's length is not known."""

    measured_frames: int
    frames: int | None
    seconds_per_frame: float
    seconds: float | None  # without loading the model
    memory_bytes: int  # the plan's estimate for frames and network, on the device
    host_bytes: int | None  # and for what waits in host memory; None where that is the device
    # The most that this process has taken in host memory, under the same plan: with libraries, decoder and encoder,
    # 5 % below what the full run took in the one case measured. None where the system does not report it.
    process_bytes: int | None
    output_bytes: int | None


def forecast(found: LocatedMoment, timings: StageTimings, trial: TrialResult) -> Forecast:
    """Extrapolate what was measured on a moment to the whole video."""
    frames, plan = found.metadata.frame_count, found.plan
    seconds = seconds_per_frame(found.detection, timings, trial.timing, plan.device)
    return Forecast(
        measured_frames=trial.frames,
        frames=frames,
        seconds_per_frame=seconds,
        seconds=None if frames is None else frames * seconds,
        memory_bytes=plan.device_bytes,
        host_bytes=None if plan.device.type == "cpu" else plan.host_bytes,
        process_bytes=peak_memory(),
        output_bytes=None if frames is None else trial.extrapolate(frames),
    )


def seconds_per_frame(
    detection: StageTiming,
    timings: StageTimings,
    encoding: StageTiming,
    device: torch.device,
    cores: int | None = None,
) -> float:
    """Seconds a frame takes where reading, denoising and encoding overlap, from their timings one after another.

    No faster than the slowest of them, and no faster than the processor does the work of all three. `cores`: those
    of the processor; None: those that this process may use.
    """
    cores = cores or available_cores()
    denoising = timings.denoising
    slowest = max(
        timings.reading.wall_per_frame,
        denoising.wall_per_frame + detection.wall_per_frame,
        encoding.wall_per_frame,
    )
    # A processor that others use too gives less than all its cores: seen in what the denoiser got of its threads.
    given = 1.0
    if device.type == "cpu" and denoising.wall:
        given = min(1.0, denoising.cpu / (denoising.wall * min(cores, torch.get_num_threads())))
    work = sum(timing.cpu_per_frame for timing in (timings.reading, denoising, detection, encoding))
    return max(slowest, work / (cores * given))
