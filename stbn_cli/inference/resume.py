"""Where a stream of frames stands between two chunks: what it takes to go on from there as if nothing had happened."""

from dataclasses import dataclass, replace

from torch import Tensor

from stbn_cli.inference.plan import EngineOptions, Plan
from stbn_cli.inference.report import SceneReport


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """What of a plan decides on results; it depends on the memory that is free, so that another run may differ."""

    chunk: int  # frames
    chunk_overlap: int  # frames
    tile: int  # pixels; 0: whole frames

    @classmethod
    def of(cls, plan: Plan) -> "ChunkSizes":
        """Those of a plan."""
        return cls(plan.chunk, plan.chunk_overlap, plan.tile or 0)


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """After a chunk.

    `state`: the forward state `(1, C, H, W)` of the chunk's last frame in its own precision; None where a scene ends
    there. `scenes`: all that began so far.
    """

    frames: int  # that are done
    scenes: tuple[SceneReport, ...]
    sizes: ChunkSizes
    state: Tensor | None


def pinned(options: EngineOptions, sizes: ChunkSizes) -> EngineOptions:
    """`options` with which every run makes chunks and tiles of these sizes."""
    return replace(options, chunk=sizes.chunk, chunk_overlap=sizes.chunk_overlap, tile=sizes.tile)
