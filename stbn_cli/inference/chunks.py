"""A scene's frames in work, and the chunks they are cut into.

The forward hidden state is handed from chunk to chunk, so it is what a whole-clip pass would have. Knows nothing of
files, cuts or noise estimation.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.profiler import record_function

from stbn_cli.inference.plan import Plan
from stbn_cli.inference.transfer import Transfers
from stbn_cli.models.networks import Network
from stbn_cli.models.seen import Seen
from stbn_cli.noise.levels import level_map
from stbn_cli.noise.model import UNCLIPPED, Clipping, NoiseLevelFunction


@dataclass(slots=True, eq=False)
class PendingFrame:
    """A frame in work; flows are filled in once and shared by the chunks that need them."""

    noisy: Tensor  # (1, C, H, W) float32, host memory
    to_previous: Tensor | None = None  # (1, 2, H, W) float32 pixels; None for a scene's first frame
    to_next: Tensor | None = None
    repeats: int = 0  # frames after it that show the same, value for value
    copies: dict[torch.device, Tensor] = field(default_factory=dict)  # of `noisy`
    seen: dict[torch.device, Seen] = field(default_factory=dict)

    def on(self, plan: Plan, transfers: Transfers) -> Tensor:
        """`noisy` on the plan's device; kept there if the plan keeps states there."""
        copy = self.copies.get(plan.device)
        if copy is None:
            with record_function("stbn.upload"):
                copy = transfers.upload(self.noisy)
            if plan.state_device == plan.device:
                self.copies[plan.device] = copy
        return copy

    def as_seen_by(self, network: Network, plan: Plan, scene: "Scene", transfers: Transfers) -> Seen:
        """What `network` takes, on the plan's device; kept there if that is worth it."""
        seen = self.seen.get(plan.device)
        if seen is None or seen.dtype != plan.dtype:
            noisy = self.on(plan, transfers)
            with record_function("stbn.see"):
                seen = network.see(noisy, scene.level(noisy))
            if plan.state_device == plan.device and network.config.seen_values:
                self.seen[plan.device] = seen
        return seen


@dataclass(frozen=True, slots=True)
class Scene:
    """What the frames between two cuts have in common."""

    noise: NoiseLevelFunction  # what the posterior uses
    sigma: float  # its level, [0, 1]: what the flow is conditioned on
    conditioning_sigma: float  # what the network is conditioned on (within its trained range)
    # What conditions it instead, where it was trained for maps: `noise` within this range.
    map_range: tuple[float, float] | None = None
    # Levels of luma and colour noise by brightness `(2, K)`, for networks that take maps of both; `(4, K)`: those of
    # even and of odd passes.
    levels: Tensor | None = None
    state_scale: int = 1  # pixels of the frame, along each axis, for one of that map
    clipping: Clipping = UNCLIPPED
    exaggerated: bool = False  # `levels` are more than there is

    def level(self, frame: Tensor) -> Tensor:
        """What the network is conditioned on for a noisy `frame (N, C, H, W)`: one number, or a map of its shape.

        The map is that of each pixel's own noisy value, so that a blind spot stays blind.
        """
        if self.levels is not None:
            return level_map(frame, self.levels, self.state_scale)
        if self.map_range is None or self.noise.is_white:
            return torch.full((1, 1, 1, 1), self.conditioning_sigma, device=frame.device)
        return self.noise.sigma_at(frame).clamp(*self.map_range).expand_as(frame)


# An estimate takes about so many times as long as the flow or a state of a frame (stbn-xs-camera on a CPU).
ESTIMATE_STEPS = 4


def _uncounted(count: int) -> None:
    """For steps that nobody counts."""


@dataclass(slots=True, eq=False)
class Chunk:
    """`window[:count]` are denoised, the rest of the window is looked ahead at."""

    scene: Scene
    before: PendingFrame | None  # the frame before the window; None where the scene begins
    window: list[PendingFrame]
    count: int
    state: "Future[Tensor | None]"  # the forward state of `before`, when it is known
    following: "Future[Tensor | None]" = field(default_factory=Future)  # that of the chunk's last frame
    skip: bool = False  # only carry the forward state on
    ends_scene: bool = False
    # Called with a number of steps as they are done: a frame's flow or state is one, its estimate ESTIMATE_STEPS.
    stepped: Callable[[int], None] = _uncounted

    @property
    def steps(self) -> int:
        """How many steps there are to do."""
        followers = self.window if self.before is not None else self.window[1:]
        flows = sum(frame.to_previous is None for frame in followers)
        backward = 0 if self.skip else len(self.window) + ESTIMATE_STEPS * self.count
        return flows + self.count + backward

    @property
    def frames(self) -> int:
        """Frames of the video that it denoises, repeated ones included."""
        return sum(1 + frame.repeats for frame in self.window[: self.count])

    def part(self, start: int, length: int, overlap: int) -> "Chunk":
        """The chunk of `length` frames from `start` on, with as much overlap as there is."""
        window = self.window[start : start + length + overlap]
        before = self.window[start - 1] if start else self.before
        return Chunk(self.scene, before, window, length, Future(), skip=self.skip, stepped=self.stepped)


class SceneQueue:
    """The frames of one scene that wait for their chunk."""

    def __init__(self, scene: Scene, before: PendingFrame | None = None, state: Tensor | None = None) -> None:
        """before, state: the frame before the first one, and its forward state; None where the scene begins."""
        self.scene = scene
        self.pending: list[PendingFrame] = []
        self._before = before
        self._state: Future[Tensor | None] = Future()
        self._state.set_result(state)

    def next_chunk(self, plan: Plan, *, skip: bool = False, last: bool = False) -> Chunk:
        """The next frames as a chunk; fewer where the scene ends. One to `skip` looks at nothing beyond itself.

        last: the scene has no more frames than those that are pending.
        """
        count = min(plan.chunk, len(self.pending))
        window = self.pending[: count if skip else count + plan.chunk_overlap]
        ends = last and count == len(self.pending)
        chunk = Chunk(self.scene, self._before, window, count, self._state, skip=skip, ends_scene=ends)
        self._before, self._state = window[count - 1], chunk.following
        del self.pending[:count]
        return chunk
