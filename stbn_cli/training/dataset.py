"""Training sequences: moving crops of clean footage, drawn as a few numbers and cut on the footage's device.

Sequence number i of a run depends on (seed, i) alone, so a resumed run sees what an unbroken one would have.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.inference.transfer import upload
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.isp import blurred
from stbn_cli.training.footage import Footage
from stbn_cli.training.virtual_camera import VirtualScene, draw_scene, render

# Clips are shrunk by up to this factor: more scales, less of the source's compression, and details as fine as pixels.
SMALLEST_SCALE = 0.3
KEEP_SCALE_SHARE = 0.25  # of the clip sequences are not shrunk at all
# Chances of taking every frame, every second, every third: motion too large for the flow has to be met in training,
# or the network trusts what is badly aligned.
STRIDE_CHANCES = (0.6, 0.25, 0.15)
NOISE, FLOW_NOISE = (
    1,
    2,
)  # purposes of random numbers: the noise to learn from, and that which flow is found in
# Half the sequences are seen through a filter: each channel is darkened by up to this factor.
COLOUR_SHARE = 0.5
DARKEST_GAIN = 0.6
# Most are sharpened by an unsharp mask of up to this amount: footage that was shrunk or coded is softer than cameras
# are, and who has seen no fine texture takes it for noise.
SHARPENED_SHARE = 0.6
STRONGEST_SHARPENING = 1.2
SHARPENING_RADIUS = (0.6, 1.5)  # standard deviation in pixels


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """Shape and origin of the sequences."""

    frames: int
    size: int  # pixels of the square crop
    still_share: float  # of the sequences, where both stills and clips are there
    seed: int
    augment: bool = True  # strides, reversal, flips and turns, scale, colour; False: crops alone


class SequenceSource:
    """Endless clean sequences of `footage`, addressed by number, on `device`."""

    def __init__(self, footage: Footage, options: SequenceOptions, device: torch.device | str) -> None:
        self.footage = footage.to(device)
        self.options = options
        self.device = torch.device(device)
        # Long clips are drawn more often, but not in proportion: variety counts.
        lengths = np.sqrt([float(len(clip)) for clip in footage.clips])
        self._clip_weights = lengths / lengths.sum() if len(lengths) else lengths

    def random(self, number: int, purpose: int = 0) -> np.random.Generator:
        """The random numbers of sequence `number` for one purpose: 0 is the sequence itself."""
        return np.random.default_rng((self.options.seed, number, purpose))

    def batch(self, numbers: range) -> Tensor:
        """Clean sequences `(N, T, C, size, size)` float32, nominal [0, 1]."""
        return torch.stack([self.sequence(number) for number in numbers])

    def noise(self, number: int, like: Tensor, sigma_range: tuple[float, float]) -> tuple[float, Tensor]:
        """A noise level from `sigma_range` and white Gaussian noise of unit variance, in the shape of `like`."""
        random = self.random(number, NOISE)
        sigma = float(random.uniform(*sigma_range))
        return sigma, _white_noise(random, like)

    def flow_noise(self, number: int, like: Tensor) -> Tensor:
        """White Gaussian noise as `noise` gives it, but another draw."""
        return _white_noise(self.random(number, FLOW_NOISE), like)

    def sequence(self, number: int) -> Tensor:
        """Clean sequence `(T, C, size, size)` float32, nominal [0, 1]: a crop of a clip, or a rendered photograph."""
        random = self.random(number)
        if self.takes_still(random):
            frames, _ = render(self.scene(random))
            frames = self.coloured(frames, random)
        else:
            frames = self.clip(random)
        return self.sharpened(frames, random)

    def takes_still(self, random: np.random.Generator) -> bool:
        """Draws whether a sequence is rendered from photographs."""
        if not self.footage.stills or not self.footage.clips:
            return not self.footage.clips
        return random.random() < self.options.still_share

    def scene(self, random: np.random.Generator) -> VirtualScene:
        """A random scene over the photographs."""
        return draw_scene(self.footage.stills, self.options.frames, self.options.size, random)

    def clip(self, random: np.random.Generator) -> Tensor:
        """A random moving crop of a random clip, `(T, C, size, size)` float32."""
        clip = self.footage.clips[random.choice(len(self.footage.clips), p=self._clip_weights)]
        size, augment = self.options.size, self.options.augment
        order = self._frame_order(len(clip), random)
        height, width = clip.shape[-2:]
        smallest = max(SMALLEST_SCALE, size / min(height, width)) if augment else 1.0
        scale = 1.0
        if smallest < 1.0 and random.random() > KEEP_SCALE_SHARE:
            scale = float(random.uniform(smallest, 1.0))
        window = min(round(size / scale), height, width)
        top, left = random.integers(height - window + 1), random.integers(width - window + 1)
        frames = upload(torch.from_numpy(order), clip.device)
        crop = clip[frames, :, top : top + window, left : left + window].to(self.device, non_blocking=True)
        frames = crop.float() / BYTE_SCALE if crop.dtype == torch.uint8 else crop.float()
        if window != size:
            frames = F.interpolate(frames, (size, size), mode="bilinear", antialias=True)
        return self.coloured(_flipped_and_turned(frames, random), random) if augment else frames

    def _frame_order(self, length: int, random: np.random.Generator) -> np.ndarray:
        wanted = self.options.frames
        stride = 1 + int(random.choice(len(STRIDE_CHANCES), p=STRIDE_CHANCES)) if self.options.augment else 1
        stride = max(1, min(stride, length // wanted))
        span = (wanted - 1) * stride + 1
        start = int(random.integers(max(length - span, 0) + 1))
        order = np.arange(start, start + span, stride)
        # A clip shorter than the sequence plays forth and back.
        order = np.abs((order + length - 1) % (2 * length - 2) - (length - 1))
        return order[::-1].copy() if self.options.augment and random.random() < 0.5 else order

    def coloured(self, frames: Tensor, random: np.random.Generator) -> Tensor:
        """Half the time, if sequences are augmented, the frames through a random colour filter."""
        if not self.options.augment or random.random() >= COLOUR_SHARE:
            return frames
        gains = random.uniform(DARKEST_GAIN, 1.0, size=(frames.shape[1], 1, 1)).astype(np.float32)
        return frames * upload(torch.from_numpy(gains), frames.device)

    def sharpened(self, frames: Tensor, random: np.random.Generator) -> Tensor:
        """Most of the time, if sequences are augmented, the frames under a random unsharp mask."""
        if not self.options.augment or random.random() >= SHARPENED_SHARE:
            return frames
        amount, radius = random.uniform(0.0, STRONGEST_SHARPENING), random.uniform(*SHARPENING_RADIUS)
        return (frames + amount * (frames - blurred(frames, radius))).clamp(0.0, 1.0)


def _white_noise(random: np.random.Generator, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(int(random.integers(2**63)))
    return torch.randn(like.shape, generator=generator, device=like.device)


def _flipped_and_turned(frames: Tensor, random: np.random.Generator) -> Tensor:
    """One of the eight symmetries of the square, with equal chances."""
    if random.random() < 0.5:
        frames = frames.flip(-1)
    return torch.rot90(frames, int(random.integers(4)), (-2, -1))
