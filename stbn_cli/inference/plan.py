"""Decides how many frames and how much picture to work on at a time. Pure: memory in, plan out."""

from dataclasses import dataclass, replace

import torch

from stbn_cli.devices import kind_of
from stbn_cli.inference.tiles import SMALLEST_TILE, TILE_GRID, Tile, plan_tiles
from stbn_cli.models.networks import NetworkConfig

# Frames. Longer chunks save little (an overlap of 6 frames costs a tenth of 16 frames' work, a twentieth of 32 frames')
# and show progress later, which matters less where frames are fast.
LONGEST_AUTO_CHUNK = 16
LONGEST_GPU_CHUNK = 32
# Frames. States go to host memory rather than that chunks on a GPU get shorter than this.
SHORTEST_GPU_CHUNK = 8
SHORTEST_CHUNK = 2
# Memory the layers need at their peak, in multiples of (pixels x channels x bytes of the data type): the largest that
# benchmarks/memory.py measured over all model sizes (propagation of stbn-xs; stbn needs half of it).
ACTIVATION_COST = 20
# Bytes a pixel and pair of frames that the flow network needs at its peak, in float32 (measured on a CPU).
FLOW_NETWORK_COST = 1300
# Share of the memory that it may take at full resolution.
FLOW_SHARE = 0.25
# Float32 values of a frame that waits in the buffer: RGB, two flows, the estimate, and what others hold of it for a
# while (noise estimation, flow, the caller).
BUFFERED_VALUES = 3 + 4 + 3 + 3
# Pixels that keep a GPU busy: smaller frames are worked on together.
BUSY_PIXELS = 1 << 21
MAXIMUM_BATCH = 8  # frames
HIGHEST_STRENGTH = 3.0  # beyond, conditioning levels are such as networks hardly ever saw
# Neighbouring pairs whose flow the CPU's cores find together.
PAIRS_ON_CPU = 8


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a user may fix; None leaves the choice to the planner."""

    sigma: float | None = None  # noise standard deviation on [0, 1]; None: estimated for each scene
    # Share of the estimated noise that is removed; above 1 all is, and the conditioning level is multiplied by it.
    strength: float = 1.0
    luma: float = 1.0  # of that, the share of its luma that is removed
    chroma: float = 1.0  # and of its colour differences
    keep_grain: float = 0.0  # share of the removed luma that is put back
    uncertainty: bool = False  # also give the standard deviation of every value
    chunk: int | None = None  # frames
    chunk_overlap: int | None = None  # frames that the backward pass starts beyond the chunk
    tile: int | None = None  # pixels; 0: never tile
    tile_overlap: int | None = None  # pixels around a tile; None: as far as the network reaches
    scene_cuts: bool = True  # reset the recurrence at scene cuts

    def __post_init__(self) -> None:
        if self.sigma is not None and not 0.0 <= self.sigma <= 1.0:
            raise ValueError(f"expected sigma within 0 to 1, got {self.sigma}")
        highest = {"strength": HIGHEST_STRENGTH, "luma": 1.0, "chroma": 1.0, "keep_grain": 1.0}
        for name, limit in highest.items():
            if not 0.0 <= getattr(self, name) <= limit:
                raise ValueError(f"expected {name} within 0 to {limit:g}, got {getattr(self, name)}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"expected a chunk of at least 1 frame, got {self.chunk}")
        if self.chunk_overlap is not None and self.chunk_overlap < 0:
            raise ValueError(f"expected a chunk overlap of at least 0 frames, got {self.chunk_overlap}")
        if self.tile is not None and self.tile != 0 and self.tile < SMALLEST_TILE:
            raise ValueError(f"expected a tile of 0 or at least {SMALLEST_TILE} pixels, got {self.tile}")
        if self.tile_overlap is not None and self.tile_overlap < 0:
            raise ValueError(f"expected a tile overlap of at least 0 pixels, got {self.tile_overlap}")

    @property
    def shares(self) -> tuple[float, float]:
        """What is removed in the end of the estimated noise's luma and colour differences."""
        strength = min(self.strength, 1.0)
        return strength * self.luma * (1.0 - self.keep_grain), strength * self.chroma

    @property
    def exaggeration(self) -> float:
        """The factor on the noise level that conditions networks and posteriors; 1 up to a strength of 1."""
        return max(self.strength, 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a clip of one frame size is processed."""

    height: int
    width: int
    chunk: int
    chunk_overlap: int
    tile: int | None  # pixels of a tile's core; None: whole frames
    propagation_halo: int
    fusion_halo: int
    exact_tiles: bool  # halos reach as far as the network: joints are exact and need no blending
    state_device: torch.device  # where a chunk's states wait
    running_device: torch.device  # where the state is that the next frame is computed from
    device: torch.device
    dtype: torch.dtype
    device_bytes: int  # estimated peak on the device
    host_bytes: int  # estimated peak of what waits in host memory
    fusion_batch: int = 1  # frames whose outputs are computed together
    flow_batch: int = 1  # neighbouring pairs whose flow is computed together
    flow_network: bool = False  # flow is found by a network on the device
    flow_scale: int = 1  # pixels, along each axis, of a pixel that flow is found in
    state_scale: int = 1  # pixels, along each axis, of a pixel of a hidden state
    in_pairs: bool = False  # both directions in one batch
    uncertainty: bool = False  # standard deviations are given behind the estimates

    @property
    def propagation_tiles(self) -> tuple[Tile, ...]:
        return plan_tiles(self.height, self.width, self.tile, self.propagation_halo)

    @property
    def fusion_tiles(self) -> tuple[Tile, ...]:
        return plan_tiles(self.height, self.width, self.tile, self.fusion_halo)

    @property
    def in_words(self) -> str:
        """How much is worked on at a time, for messages."""
        picture = f"tiles of {self.tile} pixels" if self.tile else "whole pictures"
        return f"chunks of {self.chunk} frames and {picture}"

    def describe(self) -> dict[str, object]:
        """The plan as plain values, for people and JSON."""
        return {
            "frame": f"{self.width}x{self.height}",
            "chunk": self.chunk,
            "chunk_overlap": self.chunk_overlap,
            "tile": self.tile or 0,
            "tiles": len(self.fusion_tiles),
            "tile_overlap": self.fusion_halo if self.tile else 0,
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "states_on": str(self.state_device),
            "running_state_on": str(self.running_device),
            "frames_at_once": self.fusion_batch,
            "flow_scale": self.flow_scale,
            "estimated_device_mib": round(self.device_bytes / 2**20),
            "estimated_host_mib": round(self.host_bytes / 2**20),
        }


def make_plan(
    config: NetworkConfig,
    height: int,
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    options: EngineOptions,
    device_budget: int,
    host_budget: int,
    flow_network: bool = False,
    alone: bool = True,
) -> Plan:
    """The largest chunk and tile that fit the budgets (bytes); what `options` fixes is taken as it is.

    `flow_network`: whether flow is found by a network on the device. `alone`: whether no other device waits for the
    forward state, so that both directions may be computed together.
    """
    tile = options.tile or None
    if options.tile is None:
        tile = _largest_tile(config, height, width, dtype, options, device_budget)
    pixels = height * width
    on_gpu = kind_of(device).queued
    flow_scale, batch = config.state_scale, 1
    if flow_network:
        while (
            FLOW_NETWORK_COST * pixels > flow_scale**2 * FLOW_SHARE * device_budget and pixels > flow_scale**2
        ):
            flow_scale *= 2
    if on_gpu and tile is None:
        batch = min(max(1, BUSY_PIXELS // pixels), MAXIMUM_BATCH)
        while batch > 1 and _activation_bytes(config, height, width, dtype) * batch > device_budget // 4:
            batch //= 2
    longest = LONGEST_GPU_CHUNK if on_gpu else LONGEST_AUTO_CHUNK
    plan = _with_bytes(
        Plan(
            height=height,
            width=width,
            chunk=options.chunk or longest,
            chunk_overlap=config.chunk_overlap if options.chunk_overlap is None else options.chunk_overlap,
            tile=tile,
            propagation_halo=_halo(options, config.propagation_reach),
            fusion_halo=_halo(options, config.fusion_reach),
            exact_tiles=options.tile_overlap is None or options.tile_overlap >= config.fusion_reach,
            state_device=device,
            running_device=device,
            device=device,
            dtype=dtype,
            device_bytes=0,
            host_bytes=0,
            fusion_batch=batch,
            flow_batch=batch if flow_network else PAIRS_ON_CPU,
            flow_network=flow_network,
            flow_scale=flow_scale,
            state_scale=config.state_scale,
            in_pairs=batch > 1 and alone,
            uncertainty=options.uncertainty,
        ),
        config,
    )
    if options.chunk is None:
        while on_gpu and plan.chunk > SHORTEST_GPU_CHUNK and plan.device_bytes > device_budget:
            plan = _with_bytes(replace(plan, chunk=plan.chunk // 2), config)
    if device.type != "cpu" and plan.device_bytes > device_budget:
        chunk = options.chunk or LONGEST_AUTO_CHUNK
        host = torch.device("cpu")
        # Both directions at once need all states at hand.
        plan = _with_bytes(replace(plan, state_device=host, chunk=chunk, in_pairs=False), config)
        if plan.device_bytes > device_budget:
            plan = _with_bytes(replace(plan, running_device=host), config)
    shortest = SHORTEST_CHUNK if options.chunk is None else plan.chunk
    while plan.chunk > shortest and (plan.host_bytes > host_budget or plan.device_bytes > device_budget):
        plan = _with_bytes(replace(plan, chunk=max(shortest, plan.chunk // 2)), config)
    return plan


def smaller_plan(plan: Plan, config: NetworkConfig, options: EngineOptions) -> Plan | None:
    """The next plan to try when memory ran out, within what the user left open: frames one by one, smaller tiles,
    states in host memory, then shorter chunks.

    None if there is nothing left to shrink.
    """
    if plan.fusion_batch > 1 or plan.in_pairs or (plan.flow_network and plan.flow_batch > 1):
        return _with_bytes(replace(plan, fusion_batch=1, flow_batch=1, in_pairs=False), config)
    if _flow_bytes(plan) > _layer_bytes(plan, config):
        return _with_bytes(replace(plan, flow_scale=2 * plan.flow_scale), config)
    if options.tile is None:
        tile = plan.tile or max(plan.height, plan.width)
        half = TILE_GRID * (tile // 2 // TILE_GRID)
        if half >= SMALLEST_TILE:
            return _with_bytes(replace(plan, tile=half), config)
    host = torch.device("cpu")
    if plan.state_device != host:
        return _with_bytes(replace(plan, state_device=host), config)
    if plan.running_device != host:
        return _with_bytes(replace(plan, running_device=host), config)
    if options.chunk is None and plan.chunk > SHORTEST_CHUNK:
        return _with_bytes(replace(plan, chunk=max(SHORTEST_CHUNK, plan.chunk // 2)), config)
    return None


def _halo(options: EngineOptions, reach: int) -> int:
    return reach if options.tile_overlap is None else min(options.tile_overlap, reach)


def _largest_tile(
    config: NetworkConfig, height: int, width: int, dtype: torch.dtype, options: EngineOptions, budget: int
) -> int | None:
    """None if a whole frame fits half of the budget (the other half is for states), else the tile that does."""
    if _activation_bytes(config, height, width, dtype) <= budget // 2:
        return None
    tile = max(height, width)
    halo = 2 * _halo(options, config.fusion_reach)
    while tile > SMALLEST_TILE:
        tile = max(SMALLEST_TILE, TILE_GRID * (tile // 2 // TILE_GRID))
        if _activation_bytes(config, tile + halo, tile + halo, dtype) <= budget // 2:
            break
    return tile


def _activation_bytes(config: NetworkConfig, height: int, width: int, dtype: torch.dtype) -> int:
    values = ACTIVATION_COST * config.working_channels * height * width
    return values * dtype.itemsize // config.state_scale**2


def _layer_bytes(plan: Plan, config: NetworkConfig) -> int:
    """What the layers need for the plan's tiles."""
    halo = 2 * plan.fusion_halo
    height = plan.height if plan.tile is None else min(plan.height, plan.tile + halo)
    width = plan.width if plan.tile is None else min(plan.width, plan.tile + halo)
    return _activation_bytes(config, height, width, plan.dtype) * plan.fusion_batch


def _flow_bytes(plan: Plan) -> int:
    """What the flow network needs on the device."""
    if not plan.flow_network:
        return 0
    return FLOW_NETWORK_COST * plan.height * plan.width // plan.flow_scale**2 * plan.flow_batch


def _with_bytes(plan: Plan, config: NetworkConfig) -> Plan:
    pixels = plan.height * plan.width
    working = max(_layer_bytes(plan, config), _flow_bytes(plan))
    directions = 2 if plan.in_pairs else 1
    has_kernels = kind_of(plan.device).kernels != "no"
    channels = config.padded_state_channels if has_kernels else config.state_channels
    state = channels * pixels * plan.dtype.itemsize // config.state_scale**2
    states = (directions * plan.chunk + 2) * state
    values = BUFFERED_VALUES + config.seen_values
    buffered = (plan.chunk + plan.chunk_overlap + 1) * values * pixels * 4
    if plan.device.type == "cpu":
        return replace(plan, device_bytes=working + states + buffered, host_bytes=states + buffered)
    on_device = plan.state_device.type != "cpu"
    # The state before, warped to the frame, and the next one.
    running = 0 if plan.running_device.type == "cpu" else 3 * state
    # In host memory a second chunk is collected, and a third one given out, while one is denoised.
    return replace(
        plan,
        device_bytes=working + (states + buffered if on_device else running),
        host_bytes=2 * buffered + (0 if on_device else states),
    )
