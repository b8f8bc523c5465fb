"""Training sequences: a moving crop of clean footage, noise, and the flow found on the noisy frames.

Sample number i of a run depends on (seed, i) alone, so a resumed run sees what an unbroken one would have.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator
from stbn_cli.training.library import Library
from stbn_cli.training.motion import render_pan

# Flow is found on the crop and this margin around it (pixels), since flow at a border is poor.
FLOW_MARGIN = 24
# Clips are shrunk by up to this factor: more scales, and less of the source's compression.
SMALLEST_SCALE = 0.55
KEEP_SCALE_SHARE = 0.4  # of the clip sequences are not shrunk at all
# Chances of taking every frame, every second, every third: motion too large for the flow has to be met in training,
# or the network trusts what is badly aligned.
STRIDE_CHANCES = (0.6, 0.25, 0.15)


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """Shape and noise of the sequences; noise levels on the 0-255 scale."""

    frames: int
    patch_size: int
    sigma_range: tuple[float, float]
    still_share: float
    seed: int


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Endless training sequences, addressed by number.

    Each is a dict of float32 tensors: `noisy (T, 3, P, P)`, `sigma ()` on the [0, 1] scale, `flow_to_previous` and
    `flow_to_next (T, 2, P, P)`.
    """

    def __init__(self, library: Library, flow: FlowEstimator, options: SampleOptions) -> None:
        self.library = library
        self.flow = flow
        self.options = options
        self._context = options.patch_size + 2 * FLOW_MARGIN
        # Long clips are drawn more often, but not in proportion: variety counts.
        lengths = np.array([len(clip) for clip in library.clips], dtype=float)
        self._clip_weights = np.sqrt(lengths) / np.sqrt(lengths).sum() if len(lengths) else lengths

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((self.options.seed, index))
        use_still = self.library.stills and (
            not self.library.clips or random.random() < self.options.still_share
        )
        if use_still:
            still = self.library.stills[random.integers(len(self.library.stills))]
            clean = render_pan(still, self.options.frames, self._context, random)
        else:
            clean = self._crop_clip(random)
        clean = _flip_and_turn(clean, random)
        return self._with_noise_and_flow(clean, random)

    def _crop_clip(self, random: np.random.Generator) -> np.ndarray:
        clip = self.library.clips[random.choice(len(self.library.clips), p=self._clip_weights)]
        wanted = self.options.frames
        stride = 1 + int(random.choice(len(STRIDE_CHANCES), p=STRIDE_CHANCES))
        stride = max(1, min(stride, len(clip) // wanted))
        span = (wanted - 1) * stride + 1
        start = int(random.integers(max(len(clip) - span, 0) + 1))
        # A clip shorter than the sequence plays forth and back.
        order = np.arange(start, start + span, stride)
        order = np.abs((order + len(clip) - 1) % (2 * len(clip) - 2) - (len(clip) - 1))
        height, width = clip.shape[1:3]
        smallest = max(SMALLEST_SCALE, self._context / min(height, width))
        scale = 1.0
        if smallest < 1.0 and random.random() > KEEP_SCALE_SHARE:
            scale = float(random.uniform(smallest, 1.0))
        window = min(round(self._context / scale), height, width)
        top, left = random.integers(height - window + 1), random.integers(width - window + 1)
        frames = clip[order, top : top + window, left : left + window]
        if window == self._context:
            return frames
        size = (self._context, self._context)
        return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])

    def _with_noise_and_flow(self, clean: np.ndarray, random: np.random.Generator) -> dict[str, Tensor]:
        sigma = float(random.uniform(*self.options.sigma_range)) / 255.0
        pixels = clean.astype(np.float32).transpose(0, 3, 1, 2) / 255.0
        noise = random.standard_normal(pixels.shape, dtype=np.float32)
        noisy = torch.from_numpy(pixels + sigma * noise)
        to_previous, to_next = estimate_clip_flows(self.flow, noisy, sigma)
        inner = (..., slice(FLOW_MARGIN, -FLOW_MARGIN), slice(FLOW_MARGIN, -FLOW_MARGIN))
        return {
            "noisy": noisy[inner].contiguous(),
            "sigma": torch.tensor(sigma),
            "flow_to_previous": to_previous[inner].contiguous(),
            "flow_to_next": to_next[inner].contiguous(),
        }


def _flip_and_turn(clip: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One of the eight symmetries of the square, and the other direction of time, with equal chances."""
    if random.random() < 0.5:
        clip = clip[::-1]
    if random.random() < 0.5:
        clip = clip[:, :, ::-1]
    return np.ascontiguousarray(np.rot90(clip, int(random.integers(4)), axes=(1, 2)))
