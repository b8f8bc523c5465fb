"""One interface for every source of optical flow: DIS, a network, or none at all.

Knows nothing of video files, tiles or checkpoints; networks live in `models/`, arrive built and loaded.
"""

from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stbn_cli.errors import OptionError
from stbn_cli.flow.dis import HALF_SMOOTHING, DisFlow, DisOptions

# What `create_flow_estimator` accepts; those of NETWORK_NAMES need a network.
NETWORK_NAMES = ("pwc", "light")
# DIS for frames at half size, for networks whose states have that: as good as it gets there, and three times as fast.
HALF_SIZE_DIS = {
    "dis-half": DisOptions("fine", HALF_SMOOTHING),
    "dis-half-fast": DisOptions("medium", HALF_SMOOTHING),
}
ESTIMATOR_NAMES = ("dis", *HALF_SIZE_DIS, "none", *NETWORK_NAMES)


class FlowEstimator(Protocol):
    """Finds the motion between two batches of noisy frames."""

    @property
    def name(self) -> str:
        """Short name, one of `ESTIMATOR_NAMES` for those made by `create_flow_estimator`."""
        ...

    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first: (N, 3, H, W) float RGB, nominal range [0, 1], noisy (values outside are fine).
            second: as `first`.
            sigma: noise std on [0, 1], one number or one per clip (N,); None: not known.

        Returns:
            (N, 2, H, W) float32 flow (dx, dy) in pixels on the device of `first`: `second` sampled at
            (col + dx, row + dy) shows what `first` shows at (col, row).
        """
        ...


class NoFlow:
    """Zero flow: frames are compared in place. A `FlowEstimator`."""

    name = "none"

    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Zeros (N, 2, H, W) float32 on the device of `first` (N, 3, H, W); the rest is unused."""
        batch, _, height, width = first.shape
        return torch.zeros(batch, 2, height, width, dtype=torch.float32, device=first.device)


class NetworkFlow:
    """Flow by a torch network `network(first, second)` or `network(first, second, sigma)`. A `FlowEstimator`.

    The network stays where the caller put it, in the precision the caller gave it. No gradient is kept.
    """

    def __init__(self, network: nn.Module, name: str = "pwc") -> None:
        self.network = network
        self.name = name
        # LightFlowNet reads the noise level; PWC-Net does not.
        self._takes_sigma = bool(getattr(network, "takes_sigma", False))

    def copy(self, device: torch.device | None = None) -> "NetworkFlow":
        """The same with a network of its own, on `device` if one is given."""
        return NetworkFlow(deepcopy(self.network).to(device), self.name)

    @torch.no_grad()
    def neighbours(self, clips: Tensor, sigma: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Flow of every frame of `clips (N, T, 3, H, W)` but the first to the one before, and of all but the last on.

        Both (N, T - 1, 2, H, W) float32. What a network can find of a frame alone is found once.
        """
        batch, frames = clips.shape[:2]
        level = sigma.repeat_interleave(frames) if isinstance(sigma, Tensor) and sigma.ndim else sigma
        pyramid = self.network.features(clips.flatten(0, 1), level)  # type: ignore[operator]

        def at(times: slice) -> Any:
            levels = (part.unflatten(0, (batch, frames))[:, times].flatten(0, 1) for part in pyramid.levels)
            return type(pyramid)(tuple(levels), pyramid.size)

        earlier, later = at(slice(None, -1)), at(slice(1, None))
        pairs = ((later, earlier), (earlier, later))
        flows = (self.network.flow_from_features(*pair).float() for pair in pairs)  # type: ignore[operator]
        to_previous, to_next = (flow.unflatten(0, (batch, frames - 1)) for flow in flows)
        return to_previous, to_next

    @property
    def finds_features_once(self) -> bool:
        """Whether the network separates what it finds of a frame from what it finds of a pair."""
        return hasattr(self.network, "flow_from_features")

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Flow (N, 2, H, W) float32 from `first` to `second`, both (N, 3, H, W); see `FlowEstimator`."""
        frames = (first, second)
        if not self.finds_features_once:  # else it rounds the frames itself
            dtype = next(self.network.parameters()).dtype
            frames = (first.to(dtype), second.to(dtype))
        flow = self.network(*frames, sigma) if self._takes_sigma else self.network(*frames)
        return flow.float()


def create_flow_estimator(name: str, network: nn.Module | None = None) -> FlowEstimator:
    """Build the estimator called `name`.

    Args:
        name: one of `ESTIMATOR_NAMES`.
        network: the loaded network of "pwc" or "light", on its device; not used by the others.

    Raises:
        OptionError: the name is not known, or the network that it needs was not given.
    """
    if name not in ESTIMATOR_NAMES:
        raise OptionError(
            f"There is no flow estimator called '{name}'; choose one of {', '.join(ESTIMATOR_NAMES)}."
        )
    if name == "dis":
        return DisFlow()
    if name in HALF_SIZE_DIS:
        return DisFlow(HALF_SIZE_DIS[name], name)
    if name == "none":
        return NoFlow()
    if network is None:
        raise OptionError(
            f"Flow estimator '{name}' needs a network, and this model carries none; use --flow dis instead."
        )
    return NetworkFlow(network, name)
