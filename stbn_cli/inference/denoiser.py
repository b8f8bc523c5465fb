"""The ready-to-run denoiser: frames of any number in, as many denoised frames out, in bounded memory.

Splits the stream into scenes, finds each scene's noise level, runs the chunks, and falls back where memory or
precision do not suffice. Knows nothing of files or the command line.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.errors import InputError
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.inference.plan import EngineOptions, Plan
from stbn_cli.inference.report import EngineReport, SceneReport
from stbn_cli.inference.scene import Scene, SceneQueue
from stbn_cli.inference.scenes import CutDetector
from stbn_cli.inference.schedule import Schedule
from stbn_cli.inference.worker import Worker
from stbn_cli.models.stbn import MINIMUM_SIZE, STBN
from stbn_cli.noise.estimate import MAXIMUM_FRAMES, estimate_sigma
from stbn_cli.noise.model import LearnedNoise, NoiseModel

# Noise that differs from the learned one by this factor is that of other footage.
FOREIGN_NOISE = 1.4

INTEGER_MAXIMUM = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


class Denoiser:
    """A network with everything it needs to denoise frames. Not to be used from two threads at once.

    `device`: one, or several that share the chunks. `sigma_range`: noise levels ([0, 1]) the network was trained for.
    Outside, it is told the nearest one, while the posterior uses the true one. `noise`: that of the footage the model
    was finetuned on; it takes the place of the estimate where `options.sigma` is None. `on_message` receives whole
    sentences about fallbacks as they happen.
    """

    def __init__(
        self,
        network: STBN,
        flow: FlowEstimator,
        options: EngineOptions,
        *,
        device: torch.device | Sequence[torch.device],
        dtype: torch.dtype,
        sigma_range: tuple[float, float] | None = None,
        noise: LearnedNoise | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self.devices = (device,) if isinstance(device, torch.device) else tuple(device)
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
        self._sigma_range = sigma_range
        self._noise = noise if options.sigma is None else None
        self._on_message = on_message
        self._size = (0, 0)  # height and width of the frames in work
        self.device = self.devices[0]
        self.dtype = dtype
        self.report = EngineReport()

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
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"expected frames (T, H, W, 3), got {frames.shape}")
        maximum = INTEGER_MAXIMUM.get(frames.dtype)
        if maximum is None:
            if not np.issubdtype(frames.dtype, np.floating):
                raise ValueError(f"expected uint8, uint16 or floating point frames, got {frames.dtype}")
            return _stack(self.stream(frame.astype(np.float32) for frame in frames), frames)
        scaled = self.stream(frame.astype(np.float32) / np.float32(maximum) for frame in frames)
        return _stack((np.rint(np.clip(frame, 0.0, 1.0) * maximum) for frame in scaled), frames)

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Denoise frames `(H, W, 3)` float32 RGB, nominal [0, 1], one by one; the same number in the same order.

        Lazy: looks ahead by a chunk and its overlap, by some chunks more on GPUs, or to the next scene cut.
        """
        self.report = EngineReport()
        detector = CutDetector() if self.options.scene_cuts else None
        waiting: list[Tensor] = []  # the scene's frames, until there are enough to estimate its noise
        queue: SceneQueue | None = None
        size: tuple[int, int] | None = None
        index = -1
        with self._schedule(self._workers) as schedule:
            for index, frame in enumerate(frames):
                if size is None:
                    size = frame.shape[:2]
                    self._start(size)
                elif frame.shape[:2] != size:
                    raise InputError(
                        f"Frame {index} is {frame.shape[1]}x{frame.shape[0]} after frames of {size[1]}x{size[0]}; the "
                        "size must not change. Split the video there."
                    )
                if detector is not None and detector.is_cut(frame) and index:
                    yield from self._run_rest(schedule, queue or self._open_scene(waiting, index))
                    queue, waiting = None, []
                tensor = _to_tensor(frame, index)
                if queue is not None:
                    queue.add(tensor)
                else:
                    waiting.append(tensor)
                    if len(waiting) >= self._window():
                        queue, waiting = self._open_scene(waiting, index + 1), []
                while queue is not None and len(queue.pending) >= self._window():
                    yield from self._run(schedule, queue)
            if size is not None:
                yield from self._run_rest(schedule, queue or self._open_scene(waiting, index + 1))
            yield from self._cropped(schedule.finish())

    def stream_scene(
        self, frames: Iterable[np.ndarray], sigma: float, plan: Plan, *, skip: int = 0
    ) -> Iterator[np.ndarray]:
        """As `stream`, for frames that are known to be one scene (or part of one) of noise level `sigma` ([0, 1]).

        `plan` is one of `plan_for`. The first `skip` frames, whole chunks of it, only carry the recurrence on, at a
        third of the cost; nothing is yielded for them.
        """
        self.report = EngineReport(plan=plan)
        worker = self._workers[0]
        worker.start(plan, self.report)
        queue = self._new_scene(sigma, first_frame=0)
        with self._schedule([worker]) as schedule:
            for index, frame in enumerate(frames):
                self._size = frame.shape[:2]
                queue.add(_to_tensor(frame, index))
                if skip:
                    # No look-ahead: the forward pass does not need it.
                    if len(queue.pending) >= min(skip, plan.chunk):
                        chunk = queue.next_chunk(plan, skip=True)
                        skip -= chunk.count
                        yield from schedule.run(chunk)
                elif len(queue.pending) >= self._window():
                    yield from self._run(schedule, queue)
            yield from self._run_rest(schedule, queue)
            yield from self._cropped(schedule.finish())

    def scene_sigma(self, opening: Sequence[np.ndarray]) -> float:
        """Noise level ([0, 1]) that `stream` finds for a scene that opens with these frames `(H, W, 3)`.

        `opening`: a chunk and its overlap, or the whole scene if that is shorter.
        """
        if self.options.sigma is not None:
            return self.options.sigma
        frames = [_to_tensor(frame, index) for index, frame in enumerate(opening)]
        return self._learned_level(frames) if self._noise is not None else _estimate(frames)

    def _window(self) -> int:
        """Frames that have to wait before a chunk can run."""
        assert self.report.plan is not None
        return self.report.plan.chunk + self.report.plan.chunk_overlap

    def _start(self, size: tuple[int, int]) -> None:
        """Plan for frames `(height, width)` on every device; the first one's plan is what chunks are cut by."""
        self._size = size
        plans = [worker.plan_for(*size) for worker in self._workers]
        self.report.plan = plans[0]
        for worker, plan in zip(self._workers, plans, strict=True):
            worker.start(plan, self.report)

    def _schedule(self, workers: Sequence[Worker]) -> Schedule:
        # A CPU has nothing to do while it waits for itself.
        background = len(workers) > 1 or self.device.type == "cuda"
        return Schedule(workers, background=background)

    def _run(self, schedule: Schedule, queue: SceneQueue) -> Iterator[np.ndarray]:
        """Start the next chunk; yields frames that are finished."""
        assert self.report.plan is not None
        yield from self._cropped(schedule.run(queue.next_chunk(self.report.plan)))

    def _run_rest(self, schedule: Schedule, queue: SceneQueue) -> Iterator[np.ndarray]:
        """Everything that is left of a scene."""
        while queue.pending:
            yield from self._run(schedule, queue)

    def _cropped(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Without what pictures smaller than the network's minimum were extended by."""
        height, width = self._size
        for frame in frames:
            yield frame if frame.shape[:2] == self._size else np.ascontiguousarray(frame[:height, :width])

    def _open_scene(self, waiting: list[Tensor], end: int) -> SceneQueue:
        """A scene of the frames that wait, the last of which is frame `end - 1`, with its noise level."""
        first_frame = end - len(waiting)
        sigma = self.options.sigma
        if sigma is None:
            sigma = _estimate(waiting)
            if self._noise is not None:
                sigma = self._expected_level(waiting, sigma, first_frame)
        queue = self._new_scene(sigma, first_frame=first_frame)
        for frame in waiting:
            queue.add(frame)
        return queue

    def _expected_level(self, frames: list[Tensor], estimated: float, first_frame: int) -> float:
        """The level of the learned noise in these frames; says so if that is not what was found there."""
        sigma = self._learned_level(frames)
        if not sigma / FOREIGN_NOISE <= estimated <= sigma * FOREIGN_NOISE:
            self._say(
                f"The noise from frame {first_frame} on measures {255 * estimated:.3g}, the model was finetuned for "
                f"{255 * sigma:.3g} there: other footage? Finetune on this one, or use the original model."
            )
        return sigma

    def _learned_level(self, frames: list[Tensor]) -> float:
        assert self._noise is not None
        return self._noise.model.level(torch.cat(_some(frames)))

    def _new_scene(self, sigma: float, *, first_frame: int) -> SceneQueue:
        noise, learned = NoiseModel.white(sigma), self._noise is not None
        told = sigma
        if self._sigma_range is not None:
            told = min(max(sigma, self._sigma_range[0]), self._sigma_range[1])
        if self._noise is not None:
            noise, told = self._noise.model, self._noise.told
        estimated = self.options.sigma is None and not learned
        self.report.scenes.append(SceneReport(first_frame, sigma, estimated, learned))
        return SceneQueue(Scene(noise, sigma, told))

    def _say(self, message: str) -> None:
        self.report.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)


def _estimate(frames: list[Tensor]) -> float:
    """Noise level ([0, 1]) of a scene's first frames `(1, C, H, W)`."""
    return estimate_sigma(torch.cat(_some(frames)).permute(0, 2, 3, 1)).sigma


def _some(frames: list[Tensor]) -> list[Tensor]:
    """A few of them, evenly spread: copying all of a long chunk would double its memory."""
    return frames[:: -(-len(frames) // MAXIMUM_FRAMES)]


def _to_tensor(frame: np.ndarray, index: int) -> Tensor:
    """`(1, 3, H, W)` from `(H, W, 3)`; pictures smaller than the network's minimum are extended at their border.

    Raises `InputError` for values that are not finite: they would spread over every later frame.
    """
    if not np.isfinite(frame).all():
        raise InputError(
            f"Frame {index} holds values that are not finite (NaN or infinity). Check the input."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(frame, dtype=np.float32)).permute(2, 0, 1)[None]
    missing = [max(0, MINIMUM_SIZE - size) for size in tensor.shape[-2:]]
    if any(missing):
        tensor = F.pad(tensor, (0, missing[1], 0, missing[0]), mode="replicate")
    return tensor


def _stack(denoised: Iterable[np.ndarray], like: np.ndarray) -> np.ndarray:
    result = np.empty_like(like)
    for index, frame in enumerate(denoised):
        result[index] = frame
    return result
