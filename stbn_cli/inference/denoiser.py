"""The ready-to-run denoiser: frames of any number in, as many denoised frames out, in bounded memory.

Splits the stream into scenes, finds each scene's noise level, runs the chunks, and falls back where memory or
precision do not suffice. Knows nothing of files or the command line.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.errors import CheckpointError, InputError, MemoryExhaustedError
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.inference.device import is_out_of_memory, usable_memory
from stbn_cli.inference.plan import EngineOptions, Plan, make_plan, smaller_plan
from stbn_cli.inference.scene import NonFiniteError, Scene
from stbn_cli.inference.scenes import CutDetector
from stbn_cli.models.stbn import MINIMUM_SIZE, STBN
from stbn_cli.noise.estimate import MAXIMUM_FRAMES, estimate_sigma
from stbn_cli.noise.model import LearnedNoise, NoiseModel

# What a scene does with its next chunk.
ChunkStep: TypeAlias = Callable[[STBN, Plan], list[Tensor]]

# Noise that differs from the learned one by this factor is that of other footage.
FOREIGN_NOISE = 1.4

INTEGER_MAXIMUM = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


@dataclass(frozen=True, slots=True)
class SceneReport:
    """What was found out about a scene."""

    first_frame: int
    sigma: float  # [0, 1]
    estimated: bool
    learned: bool = False  # known from finetuning, not from the user


@dataclass(slots=True)
class EngineReport:
    """What happened in the last run."""

    scenes: list[SceneReport] = field(default_factory=list)
    fp32_chunks: int = 0  # chunks done again in float32
    replans: int = 0  # times memory ran out and the plan shrank
    messages: list[str] = field(default_factory=list)
    plan: Plan | None = None  # the last one used


class Denoiser:
    """A network with everything it needs to denoise frames. Not to be used from two threads at once.

    `sigma_range`: noise levels ([0, 1]) the network was trained for. Outside, it is told the nearest one, while the
    posterior uses the true one. `noise`: that of the footage the model was finetuned on; it takes the place of the
    estimate where `options.sigma` is None. `on_message` receives whole sentences about fallbacks as they happen.
    """

    def __init__(
        self,
        network: STBN,
        flow: FlowEstimator,
        options: EngineOptions,
        *,
        device: torch.device,
        dtype: torch.dtype,
        sigma_range: tuple[float, float] | None = None,
        noise: LearnedNoise | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._exact_network = network.eval().float()
        self._network = _place(network if dtype == torch.float32 else copy.deepcopy(network), device, dtype)
        self._flow = flow
        self._sigma_range = sigma_range
        self._noise = noise if options.sigma is None else None
        self._on_message = on_message
        self.options = options
        self.device = device
        self.dtype = dtype
        self.report = EngineReport()

    def plan_for(self, height: int, width: int) -> Plan:
        """The plan for frames of this size with the memory that is free now."""
        return self._plan(max(height, MINIMUM_SIZE), max(width, MINIMUM_SIZE), self.dtype, self.options)

    def _plan(self, height: int, width: int, dtype: torch.dtype, options: EngineOptions) -> Plan:
        return make_plan(
            self._network.config,
            height,
            width,
            device=self.device,
            dtype=dtype,
            options=options,
            device_budget=usable_memory(self.device),
            host_budget=usable_memory(torch.device("cpu")),
        )

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

        Lazy: looks ahead by a chunk and its overlap, or to the next scene cut.
        """
        self.report = EngineReport()
        detector = CutDetector() if self.options.scene_cuts else None
        waiting: list[Tensor] = []  # the scene's frames, until there are enough to estimate its noise
        scene: Scene | None = None
        size: tuple[int, int] | None = None
        end = 0
        for index, frame in enumerate(frames):
            if size is None:
                size = frame.shape[:2]
                self.report.plan = self.plan_for(*size)
            elif frame.shape[:2] != size:
                raise InputError(
                    f"Frame {index} is {frame.shape[1]}x{frame.shape[0]} after frames of {size[1]}x{size[0]}; the size "
                    "must not change. Split the video there."
                )
            if detector is not None and detector.is_cut(frame) and index:
                yield from self._finish(scene, waiting, index, size)
                scene, waiting = None, []
            tensor = _to_tensor(frame, index)
            end = index + 1
            if scene is not None:
                scene.add(tensor)
            else:
                waiting.append(tensor)
                if len(waiting) >= self._window():
                    scene, waiting = self._open_scene(waiting, end), []
            while scene is not None and len(scene.pending) >= self._window():
                yield from self._run(scene, size)
        if size is not None:
            yield from self._finish(scene, waiting, end, size)

    def stream_scene(
        self, frames: Iterable[np.ndarray], sigma: float, plan: Plan, *, skip: int = 0
    ) -> Iterator[np.ndarray]:
        """As `stream`, for frames that are known to be one scene (or part of one) of noise level `sigma` ([0, 1]).

        The first `skip` frames, whole chunks of `plan`, only carry the recurrence on, at a third of the cost; nothing
        is yielded for them.
        """
        self.report = EngineReport(plan=plan)
        scene = self._new_scene(sigma, first_frame=0)
        size = (0, 0)
        for index, frame in enumerate(frames):
            size = frame.shape[:2]
            scene.add(_to_tensor(frame, index))
            if skip:
                assert self.report.plan is not None
                # No look-ahead: the forward pass does not need it.
                if len(scene.pending) >= min(skip, self.report.plan.chunk):
                    waiting = len(scene.pending)
                    self._process(scene.skip_chunk)
                    skip -= waiting - len(scene.pending)
            elif len(scene.pending) >= self._window():
                yield from self._run(scene, size)
        while scene.pending:
            yield from self._run(scene, size)

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

    def _open_scene(self, waiting: list[Tensor], end: int) -> Scene:
        """A scene of the frames that wait, the last of which is frame `end - 1`, with its noise level."""
        first_frame = end - len(waiting)
        sigma = self.options.sigma
        if sigma is None:
            sigma = _estimate(waiting)
            if self._noise is not None:
                sigma = self._expected_level(waiting, sigma, first_frame)
        scene = self._new_scene(sigma, first_frame=first_frame)
        for frame in waiting:
            scene.add(frame)
        return scene

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

    def _new_scene(self, sigma: float, *, first_frame: int) -> Scene:
        noise, learned = NoiseModel.white(sigma), self._noise is not None
        told = sigma
        if self._sigma_range is not None:
            told = min(max(sigma, self._sigma_range[0]), self._sigma_range[1])
        if self._noise is not None:
            noise, told = self._noise.model, self._noise.told
        estimated = self.options.sigma is None and not learned
        self.report.scenes.append(SceneReport(first_frame, sigma, estimated, learned))
        return Scene(self._flow, noise, sigma, told)

    def _finish(
        self, scene: Scene | None, waiting: list[Tensor], end: int, size: tuple[int, int]
    ) -> Iterator[np.ndarray]:
        """Everything that is left of the scene that ends before frame `end`."""
        if scene is None:
            scene = self._open_scene(waiting, end)
        while scene.pending:
            yield from self._run(scene, size)

    def _run(self, scene: Scene, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """One chunk, with the fallbacks for memory and precision."""
        noisy = [frame.noisy for frame in scene.pending]
        estimates = self._process(scene.process_chunk)
        for before, after in zip(noisy, estimates, strict=False):
            blended = torch.lerp(before, after, self.options.strength)
            yield blended[0, :, : size[0], : size[1]].permute(1, 2, 0).contiguous().numpy()

    @torch.inference_mode()
    def _process(self, step: ChunkStep) -> list[Tensor]:
        while True:
            plan = self.report.plan
            assert plan is not None
            try:
                try:
                    return step(self._network, plan)
                except NonFiniteError:
                    return self._process_exactly(step, plan)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = str(error)
            # Outside the handler: the traceback holds the failed attempt's tensors.
            self._shrink(plan, failure)

    def _process_exactly(self, step: ChunkStep, plan: Plan) -> list[Tensor]:
        """The chunk again in float32. Raises `CheckpointError` if even that is not finite."""
        if plan.dtype != torch.float32:
            self.report.fp32_chunks += 1
            self._say(
                f"Half precision gave values that are not finite; {plan.chunk} frames are done again in fp32."
            )
            network = _place(self._exact_network, self.device, torch.float32)
            # Float32 needs more memory than what was planned; the chunk alone has to stay as it is.
            options = replace(self.options, chunk=plan.chunk, chunk_overlap=plan.chunk_overlap)
            exact = self._plan(plan.height, plan.width, torch.float32, options)
            try:
                return step(network, exact)
            except NonFiniteError:
                pass
        raise CheckpointError(
            "The model gives values that are not finite even in float32: its file is damaged. Use another --model, or "
            "check it with stbn weights verify."
        )

    def _shrink(self, plan: Plan, failure: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = smaller_plan(plan, self._network.config, self.options)
        if smaller is None:
            raise MemoryExhaustedError(
                f"Memory ran out on {plan.device} with {plan.in_words}, and nothing is left to shrink. Give smaller "
                "--tile and --chunk values, a smaller --model, or --device cpu. "
                f"({failure.splitlines()[0]})"
            )
        self.report.plan = smaller
        self.report.replans += 1
        self._say(f"Memory ran out; going on with {smaller.in_words}.")

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


def _place(network: STBN, device: torch.device, dtype: torch.dtype) -> STBN:
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


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
