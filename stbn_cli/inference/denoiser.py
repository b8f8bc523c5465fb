"""The ready-to-run denoiser: frames of any number in, as many denoised frames out, in bounded memory.

Splits the stream into scenes, finds each scene's noise level, runs the chunks, and falls back where memory or
precision do not suffice. Knows nothing of files or the command line.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.devices import kind_of
from stbn_cli.errors import InputError
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.inference.chunks import Chunk, PendingFrame, Scene, SceneQueue
from stbn_cli.inference.cuts import CutDetector, scenes_of
from stbn_cli.inference.parts import Part, is_repeat
from stbn_cli.inference.plan import EngineOptions, Plan
from stbn_cli.inference.report import EngineReport, SceneReport
from stbn_cli.inference.resume import ChunkSizes, StreamState, pinned
from stbn_cli.inference.schedule import ChunkScheduler
from stbn_cli.inference.worker import Worker, padded_size
from stbn_cli.models.config import passes_of
from stbn_cli.models.networks import Network
from stbn_cli.noise.calibration import assumed_levels, assumed_noise
from stbn_cli.noise.clipping import find_clipping
from stbn_cli.noise.estimate import MAXIMUM_FRAMES
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levels import uncertain_levels, white_levels
from stbn_cli.noise.measurement import measure_scene
from stbn_cli.noise.model import LearnedNoise, NoiseLevelFunction, SceneNoise

# Noise that differs from the learned one by this factor is that of other footage.
FOREIGN_NOISE = 1.4

TINY_LEVEL = 1e-6  # [0, 1]
INTEGER_MAXIMUM = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


class _DistinctFrame(NamedTuple):
    """A frame that does not repeat the one before."""

    index: int  # in the stream
    frame: PendingFrame
    cut: bool  # a scene begins with it


class Denoiser:
    """A network with everything it needs to denoise frames. Not to be used from two threads at once.

    `device`: one, or several that share the chunks. `sigma_range`: noise levels ([0, 1]) the network was trained for.
    Outside, the nearest one is its conditioning level, while the posterior uses the true one. `noise`: that of the
    footage the model was finetuned on; it takes the place of the estimate where `options.sigma` is None. `noise_kind`:
    what the network was trained for, which decides how noise is measured and what the network is conditioned on.
    `on_message` receives whole sentences about fallbacks as they happen.
    """

    def __init__(
        self,
        network: Network,
        flow: FlowEstimator,
        options: EngineOptions,
        *,
        device: torch.device | Sequence[torch.device],
        dtype: torch.dtype,
        sigma_range: tuple[float, float] | None = None,
        noise: LearnedNoise | None = None,
        noise_kind: NoiseKind = "white",
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self.devices = (device,) if isinstance(device, torch.device) else tuple(device)
        # Before the workers, who may have something to say.
        self.report = EngineReport()
        self._on_message = on_message
        self._workers = [
            Worker(
                network.eval().float(),
                flow,
                options,
                device=where,
                dtype=dtype,
                workers=len(self.devices),
                on_message=self._say,
            )
            for where in self.devices
        ]
        self._config = network.config
        self._sigma_range = sigma_range
        self._noise = noise if options.sigma is None else None
        self.noise_kind: NoiseKind = noise_kind
        # Called with the frames that are done and the parts of those that are being worked on, from any thread.
        self.on_work: Callable[[float], None] | None = None
        self._begun = 0  # frames of chunks that were begun
        self._size = (0, 0)  # height and width of the frames in work
        self._done = 0  # frames given out
        self._first = 0  # number of the stream's first frame, for sentences
        self.device = self.devices[0]
        self.dtype = dtype

    @property
    def options(self) -> EngineOptions:
        """What the user fixed; other options hold from the next run on."""
        return self._workers[0].options

    @options.setter
    def options(self, options: EngineOptions) -> None:
        for worker in self._workers:
            worker.options = options

    @property
    def device_names(self) -> str:
        """The devices as `--device` takes them."""
        return ",".join(str(device) for device in self.devices)

    def plan_for(self, height: int, width: int) -> Plan:
        """The (first device's) plan for frames of this size with the memory that is free now."""
        return self._workers[0].plan_for(height, width)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Denoise a clip `(T, H, W, 3)` RGB; the result has its shape and type.

        uint8 and uint16 span their whole range; floating point is nominally [0, 1] and is not clipped. Raises
        `ValueError` for other shapes or types.
        """
        channels = self._config.image_channels
        if frames.ndim != 4 or frames.shape[-1] != channels:
            raise ValueError(f"expected frames (T, H, W, {channels}), got {frames.shape}")
        maximum = INTEGER_MAXIMUM.get(frames.dtype)
        if maximum is None:
            if not np.issubdtype(frames.dtype, np.floating):
                raise ValueError(f"expected uint8, uint16 or floating point frames, got {frames.dtype}")
            return _stack(self.stream(frame.astype(np.float32) for frame in frames), frames)
        scaled = self.stream(frame.astype(np.float32) / np.float32(maximum) for frame in frames)
        return _stack((np.rint(np.clip(frame, 0.0, 1.0) * maximum) for frame in scaled), frames)

    def stream(
        self,
        frames: Iterable[np.ndarray],
        *,
        resume: StreamState | None = None,
        on_chunk: Callable[[StreamState], None] | None = None,
        part: Part | None = None,
    ) -> Iterator[np.ndarray]:
        """Denoise frames `(H, W, 3)` float32 RGB, nominal [0, 1], one by one; the same number in the same order.

        With `options.uncertainty` they are `(H, W, 6)`: behind each value its standard deviation under the posterior,
        before any share of the noise is put back.

        Lazy: looks ahead by a chunk and its overlap, by some chunks more on GPUs, or to the next scene cut. A frame
        that repeats the one before value for value has no noise of its own: it is not shown to the network and gets the
        first one's result. `on_chunk` is called between two chunks, when all frames before have been taken. With
        `resume`, one of those states, `frames` are all the same, from the first on; those that are done are looked at
        for cuts alone, and the results of the others are yielded, equal to those of the first run. `part` says what
        part of a longer stream the frames are: its scenes take the place of those that would be found, and states and
        reports count from its first frame.
        """
        self._first = 0 if part is None else part.first
        self.report = EngineReport()
        self._done = self._begun = done = 0 if resume is None else resume.frames
        sizes = None
        if resume is not None:
            self.report.scenes, sizes = list(resume.scenes), resume.sizes
        detector = part or CutDetector() if self.options.scene_cuts else None
        before: PendingFrame | None = None

        def remaining() -> Iterator[_DistinctFrame]:
            nonlocal before
            for item in self._distinct(frames, detector):
                if self.report.plan is None:
                    self._start(self._size, sizes)
                if item.index >= done:
                    yield item
                else:
                    before = item.frame

        with self._schedule(self._workers) as schedule:
            for scene in scenes_of(remaining(), lambda item: item.cut, self._window):
                queue = None
                if resume is not None:
                    queue, resume, before = self._resumed(resume, before), None, None
                if queue is None:
                    queue = self._open_scene([item.frame for item in scene.opening], scene.opening[0].index)
                queue.pending.extend(item.frame for item in scene.opening)
                scene.opening.clear()  # frames that are done need not be kept
                while len(queue.pending) >= self._window():
                    yield from self._give(self._run(schedule, queue), on_chunk)
                for item in scene.rest:
                    queue.pending.append(item.frame)
                    while len(queue.pending) >= self._window():
                        yield from self._give(self._run(schedule, queue), on_chunk)
                yield from self._give(self._run_rest(schedule, queue), on_chunk)
            yield from self._give(schedule.finish(), on_chunk)

    def _distinct(
        self, frames: Iterable[np.ndarray], detector: CutDetector | Part | None = None
    ) -> "Iterator[_DistinctFrame]":
        """The frames that differ from the one before, repeats counted, and what the detector says of them.

        Raises `InputError` for a change of size, or values that are not finite.
        """
        held: tuple[int, np.ndarray, PendingFrame] | None = None

        def found(index: int, frame: np.ndarray, pending: PendingFrame) -> _DistinctFrame:
            if isinstance(detector, Part):
                cut = detector.begins_scene(index)
            else:
                cut = detector is not None and detector.is_cut(frame)
            return _DistinctFrame(index, pending, cut)

        for index, frame in enumerate(frames):
            if held is None:
                self._size = frame.shape[:2]
            else:
                shown = held[1]
                if frame.shape != shown.shape:
                    raise InputError(
                        f"Frame {self._first + index} is {frame.shape[1]}x{frame.shape[0]} after frames of "
                        f"{shown.shape[1]}x{shown.shape[0]}; the size must not change. Split the video there."
                    )
                if is_repeat(frame, shown):
                    held[2].repeats += 1
                    self.report.repeated_frames += 1
                    continue
                yield found(*held)
            tensor = _to_tensor(frame, self._first + index, self._config.multiple)
            held = index, frame, PendingFrame(tensor)
        if held is not None:
            yield found(*held)

    def stream_scene(
        self, frames: Iterable[np.ndarray], noise: SceneNoise, plan: Plan, *, skip: int = 0
    ) -> Iterator[np.ndarray]:
        """As `stream`, for frames that are known to be one scene (or part of one) with this noise.

        `plan` is one of `plan_for`. The first `skip` frames, whole chunks of it, only carry the recurrence on, at a
        third of the cost; nothing is yielded for them.
        """
        self.report = EngineReport(plan=plan)
        self._done = self._begun = 0
        worker = self._workers[0]
        worker.start(plan, self.report)
        queue = self._new_scene(noise, first_frame=0)
        with self._schedule([worker]) as schedule:
            for item in self._distinct(frames):
                queue.pending.append(item.frame)
                if skip:
                    # No look-ahead: the forward pass does not need it.
                    if len(queue.pending) >= min(skip, plan.chunk):
                        chunk = queue.next_chunk(plan, skip=True)
                        skip -= chunk.count
                        yield from self._give(schedule.run(chunk))
                elif len(queue.pending) >= self._window():
                    yield from self._give(self._run(schedule, queue))
            yield from self._give(self._run_rest(schedule, queue))
            yield from self._give(schedule.finish())

    def scene_noise(self, opening: Sequence[np.ndarray]) -> SceneNoise:
        """The noise that `stream` finds for a scene that opens with these frames `(H, W, 3)`.

        `opening`: a chunk and its overlap, or the whole scene if that is shorter.
        """
        frames = [_to_tensor(frame, index, self._config.multiple) for index, frame in enumerate(opening)]
        return self._found(frames)

    def _found(self, frames: list[Tensor], first_frame: int | None = None) -> SceneNoise:
        """The noise of a scene that opens with `frames (1, C, H, W)`; says so where a finetuned model knows other."""
        if self.options.sigma is not None:
            noise = SceneNoise.white(self.options.sigma)
        elif self._noise is None:
            noise = self._estimate(frames)
        elif first_frame is None:
            noise = self._learned(frames)
        else:
            noise = self._expected(frames, self._estimate(frames).shown, first_frame)
        # What was learned of clipped noise is weaker at the ends than it was before: the strongest stands for it there.
        before = noise.model if self._noise is None else noise.model.strongest
        # Networks may be conditioned on more than was measured.
        if noise.shown < noise.level:
            before = before.scaled(noise.shown / noise.level)
        return replace(noise, clipping=find_clipping(torch.cat(_some(frames)), before))

    def _window(self) -> int:
        """Frames that have to wait before a chunk can run."""
        assert self.report.plan is not None
        return self.report.plan.chunk + self.report.plan.chunk_overlap

    def _start(self, size: tuple[int, int], sizes: ChunkSizes | None) -> None:
        """Plan for frames `(height, width)` on every device; the first one's plan is what chunks are cut by.

        `sizes`: those of the run that goes on.
        """
        own = self.options
        if sizes is not None:
            self.options = pinned(own, sizes)
        plans = [worker.plan_for(*size) for worker in self._workers]
        self.options = own
        self.report.plan = plans[0]
        for worker, plan in zip(self._workers, plans, strict=True):
            worker.start(plan, self.report)

    def _schedule(self, workers: Sequence[Worker]) -> ChunkScheduler:
        # A CPU has nothing to do while it waits for itself.
        background = len(workers) > 1 or kind_of(self.device).queued
        return ChunkScheduler(workers, background=background)

    def _run(
        self, schedule: ChunkScheduler, queue: SceneQueue, *, last: bool = False
    ) -> Iterator[tuple[Chunk, list[np.ndarray]]]:
        """Start the next chunk; yields chunks that are finished. last: no more frames come."""
        assert self.report.plan is not None
        chunk = queue.next_chunk(self.report.plan, last=last)
        self._watch(chunk)
        yield from schedule.run(chunk)

    def _watch(self, chunk: Chunk) -> None:
        """Have `on_work` called as the chunk is computed."""
        on_work, before, frames, steps = self.on_work, self._begun, chunk.frames, chunk.steps
        self._begun += frames
        if on_work is None:
            return
        made = 0

        def stepped(count: int) -> None:
            nonlocal made
            made = min(made + count, steps)  # what has to be done again adds nothing
            on_work(before + frames * made / steps)

        chunk.stepped = stepped

    def _run_rest(
        self, schedule: ChunkScheduler, queue: SceneQueue
    ) -> Iterator[tuple[Chunk, list[np.ndarray]]]:
        """Everything that is left of a scene."""
        while queue.pending:
            yield from self._run(schedule, queue, last=True)

    def _give(
        self,
        finished: Iterator[tuple[Chunk, list[np.ndarray]]],
        on_chunk: Callable[[StreamState], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of finished chunks, repeated where the video repeats them.

        They come without what pictures smaller than the network's minimum were extended by.
        """
        height, width = self._size
        for chunk, frames in finished:
            for pending, frame in zip(chunk.window, frames, strict=False):
                if frame.shape[:2] != self._size:
                    frame = np.ascontiguousarray(frame[:height, :width])
                yield frame
                for _ in range(pending.repeats):
                    yield frame.copy()
            self._done += chunk.frames
            if on_chunk is not None:
                on_chunk(self._state_after(chunk))

    def _state_after(self, chunk: Chunk) -> StreamState:
        assert self.report.plan is not None
        begun = [scene for scene in self.report.scenes if scene.first_frame < self._done]
        state = None if chunk.ends_scene else chunk.following.result()
        return StreamState(self._done, tuple(begun), ChunkSizes.of(self.report.plan), state)

    def _resumed(self, resume: StreamState, before: PendingFrame | None) -> SceneQueue | None:
        """The scene that goes on after the frame `before`; None where a new one begins."""
        if resume.state is None:
            return None
        begun = resume.scenes[-1]
        noise = SceneNoise(
            NoiseLevelFunction(begun.variances),
            begun.sigma,
            begun.measured,
            begun.levels,
            begun.clipping,
            begun.level_error,
        )
        return SceneQueue(self._scene(noise), before, resume.state)

    def _open_scene(self, opening: list[PendingFrame], first_frame: int) -> SceneQueue:
        """The empty queue of a scene that begins with these frames, whose noise is measured."""
        noise = self._found([frame.noisy for frame in opening], first_frame)
        return self._new_scene(noise, first_frame=first_frame)

    def _expected(self, frames: list[Tensor], estimated: float, first_frame: int) -> SceneNoise:
        """The learned noise in these frames; says so if that is not what was found there."""
        noise = self._learned(frames)
        sigma = noise.level
        if not sigma / FOREIGN_NOISE <= estimated <= sigma * FOREIGN_NOISE:
            self._say(
                f"From frame {self._first + first_frame} on the noise level is {255 * estimated:.3g}, but the model "
                f"was finetuned for {255 * sigma:.3g}. If this is other footage, finetune on it or use the original "
                "model."
            )
        return noise

    def _learned(self, frames: list[Tensor]) -> SceneNoise:
        assert self._noise is not None
        level = self._noise.model.level(torch.cat(_some(frames)))
        return SceneNoise(self._noise.model, level, levels=self._noise.levels)

    def _estimate(self, frames: list[Tensor]) -> SceneNoise:
        """The noise of a scene's first frames `(1, C, H, W)`."""
        # Successive ones: the further apart, the worse they can be aligned. The middle, since scenes may fade in.
        start = max(len(frames) - MAXIMUM_FRAMES, 0) // 2
        chosen = torch.cat(frames[start : start + MAXIMUM_FRAMES])
        measured = measure_scene(chosen.permute(0, 2, 3, 1))
        if self._config.head == "direct":
            return assumed_levels(measured, self.noise_kind)
        return assumed_noise(measured, self.noise_kind)

    def _new_scene(self, noise: SceneNoise, *, first_frame: int) -> SceneQueue:
        learned = self._noise is not None
        estimated = self.options.sigma is None and not learned
        self.report.scenes.append(
            SceneReport(
                first_frame,
                noise.level,
                estimated,
                learned,
                noise.model.variances,
                noise.measured,
                noise.levels,
                noise.clipping,
                noise.level_error,
            )
        )
        return SceneQueue(self._scene(noise))

    def _scene(self, noise: SceneNoise) -> Scene:
        """The conditioning of network and posterior for this noise: more than there is at a strength above 1."""
        factor = self.options.exaggeration
        model = noise.model.scaled(factor)
        low, high = self._sigma_range or (0.0, math.inf)
        if self._noise is not None and self._config.head != "direct":
            learned = self._noise.conditioning_sigma
            conditioning = min(factor * learned, max(learned, high))
            return Scene(model, noise.level, conditioning, clipping=noise.clipping)
        conditioning = min(max(factor * noise.level, low), high)
        if self._config.head == "direct":
            levels = white_levels(noise.level) if noise.levels is None else torch.tensor(noise.levels)
            # Conditioned on more than they were trained for, these networks destroy the picture.
            room = max(high, noise.level) / max(noise.level, TINY_LEVEL)
            factor = min(factor, room)
            if passes_of(self._config) > 1:
                levels = uncertain_levels(levels, min(noise.level_error, math.log(room / factor)))
            return Scene(
                model,
                noise.level,
                conditioning,
                levels=factor * levels,
                state_scale=self._config.state_scale,
                clipping=noise.clipping,
                exaggerated=factor > 1.0,
            )
        maps = (low, high) if self.noise_kind == "sensor" else None
        return Scene(model, noise.level, conditioning, maps, clipping=noise.clipping)

    def _say(self, message: str) -> None:
        self.report.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)


def _some(frames: list[Tensor]) -> list[Tensor]:
    """A few of them, evenly spread: copying all of a long chunk would double its memory."""
    return frames[:: -(-len(frames) // MAXIMUM_FRAMES)]


def _to_tensor(frame: np.ndarray, index: int, multiple: int) -> Tensor:
    """`(1, 3, H, W)` from `(H, W, 3)`, extended at the border to the network's minimum and multiple.

    Raises `InputError` for values that are not finite: they would spread over every later frame.
    """
    if not np.isfinite(frame).all():
        raise InputError(
            f"Frame {index} holds values that are not finite (NaN or infinity). Check the input."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(frame, dtype=np.float32)).permute(2, 0, 1)[None]
    missing = [padded_size(size, multiple) - size for size in tensor.shape[-2:]]
    if any(missing):
        tensor = F.pad(tensor, (0, missing[1], 0, missing[0]), mode="replicate")
    return tensor


def _stack(denoised: Iterable[np.ndarray], like: np.ndarray) -> np.ndarray:
    result = np.empty_like(like)
    for index, frame in enumerate(denoised):
        result[index] = frame
    return result
