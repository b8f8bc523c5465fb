"""Optical flow of noisy frames by OpenCV's DIS (Kroeger et al., ECCV 2016, dense inverse search), on the CPU.

Needs no weights. Knows nothing of networks; `estimator.py` chooses between this and the learned estimators.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stbn_cli.machine import available_cores
from stbn_cli.scale import BYTE_SCALE

# Largest value of the 8-bit frames that DIS takes.
# DIS refuses or crashes on frames of a few patches (8 pixels each); smaller ones are padded up to this.
SMALLEST_DIS_SIDE = 64
# The frames' mean brightness is made equal first (fades, flicker), by at most this factor either way.
MAXIMUM_GAIN = 2.0
# OpenCV's presets by speed; "fine" is "medium" carried on to full resolution, with larger patches.
PRESETS = {"ultrafast": 0, "fast": 1, "medium": 2, "fine": 2}
# (finest scale, patch size, patch stride, gradient descent and variational refinement iterations) of "fine".
FINE_SETTINGS = (0, 12, 6, 12, 2)

# From so many pairs on they are shared among the cores; OpenCV lets go of the interpreter.
SHARED_PAIRS = 2

# How the defaults were chosen: 26 frame pairs of 13 real clips (240p to 540p), Gaussian noise of std
# 10 / 30 / 50 (0-255), mean PSNR (dB) of the clean second frame warped to the first by nearest neighbour; no
# flow: 19.4.
#   luma, smoothing 2.0, medium                       27.36 / 26.58 / 25.65   17 ms a pair on one core
#   channel mean, smoothing 2.0                       27.42 / 26.73 / 25.95
#   channel mean, smoothing 1.5                       27.55 / 26.91 / 26.21
#   channel mean, smoothing 1.0                       27.59 / 27.02 / 26.39
#   channel mean, smoothing 0.7                       27.56 / 27.00 / 26.38
#   1.0 without DIS's own mean normalisation          27.83 / 27.34 / 26.75
#   that with preset fast                             26.26 / 25.91 / 25.49    3 ms
#   that with preset fine                             28.49 / 27.87 / 27.09   75 ms, the default
# and of the fine one's 25 and 5 iterations, later on other frames (five held-out clips, two frames apart):
#   25 gradient descents, 5 refinements               27.58 / 26.94 / 26.25   320 ns a pixel on one core
#   12 and 2, the default                             27.54 / 26.90 / 26.21   225
# Denoised frames gained 0.16 dB from fine (stbn-xs half trained, motorbike and rafting, sigma 30: 27.18 against
# 27.02), for about an eighth of the time that the network takes on the same CPU.
# So the smoothing need not follow sigma: the patches and the coarser scales average already. Without mean
# normalisation 4 % more brightness costs 0.7 to 1.5 dB; equalising the means brings that back completely.
# The flow hardly aligns noise with noise (correlation 0.0015 / 0.003 / 0.004; "fine" 0.005 / 0.011 / 0.014),
# so it does not spoil the independence that blind spots rely on.
DEFAULT_SMOOTHING = 1.0


# Of frames at half size, mean PSNR (dB) of the clean second frame warped bilinearly, sigma 3 / 10 / 30 / 50 (five
# held-out clips; ms a pair of 570x320 on one core):
#   whole frames, fine, smoothing 1.0                 31.58 / 31.39 / 30.30 / 29.21  100 ms
#   half size, fine, smoothing 0.5                    30.50 / 30.40 / 29.73 / 28.94   22 ms
#   half size, fine, smoothing 1.0                    30.28 / 30.10 / 29.22 / 28.32
#   half size, medium, smoothing 0.7                  29.43 / 29.33 / 28.76 / 28.12    7 ms
HALF_SMOOTHING = 0.5


@dataclass(frozen=True, slots=True)
class DisOptions:
    """How `DisFlow` runs."""

    # One of PRESETS.
    preset: str = "fine"
    # Standard deviation (pixels) of the Gaussian that smooths the frames first; 0: none.
    smoothing: float = DEFAULT_SMOOTHING

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"expected preset to be one of {sorted(PRESETS)}, got {self.preset!r}")
        if not self.smoothing >= 0:
            raise ValueError(f"expected smoothing >= 0 pixels, got {self.smoothing}")


class DisFlow:
    """DIS flow between two batches of noisy frames; a `FlowEstimator`.

    May be called from several threads at once: OpenCV's object keeps buffers, so every thread has its own.
    """

    def __init__(self, options: DisOptions | None = None, name: str = "dis") -> None:
        self.name = name
        self.options = options or DisOptions()
        self._per_thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        # Data-loader processes receive the options and build their own OpenCV objects.
        return (type(self), (self.options, self.name))

    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first: (N, 3, H, W) float RGB, nominal range [0, 1], noisy (values outside are fine), any device.
            second: as `first`.
            sigma: not used: one smoothing suits all noise levels (see the numbers above).

        Returns:
            (N, 2, H, W) float32 flow (dx, dy) in pixels on the device of `first`: `second` at
            (col + dx, row + dy) shows what `first` shows at (col, row).

        Raises:
            ValueError: the shapes differ or are not (N, 3, H, W).
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
            raise ValueError(
                f"expected two (N, 3, H, W) tensors, got {tuple(first.shape)} and {tuple(second.shape)}"
            )
        pairs = (_grey(first), _grey(second))
        if len(first) < SHARED_PAIRS:
            flows = list(map(self._flow_of_pair, *pairs))
        else:
            flows = list(_threads().map(self._flow_of_pair, *pairs))
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(first.device)

    def _flow_of_pair(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Flow (H, W, 2) float32 between two grey frames (H, W) float32."""
        height, width = first.shape
        second = second * _gain(first, second)
        smoothing = self.options.smoothing
        flow = self._engine().calc(_dis_input(first, smoothing), _dis_input(second, smoothing), None)
        return flow[:height, :width]

    def _engine(self) -> Any:
        """This thread's OpenCV object."""
        import cv2

        engine = getattr(self._per_thread, "engine", None)
        if engine is None:
            # Pairs are shared among cores. OpenCV would share the rows of one: nothing is gained at this preset
            # (measured), and the result depends on the number of threads.
            cv2.setNumThreads(1)
            preset = self.options.preset
            engine = cv2.DISOpticalFlow.create(PRESETS[preset])
            engine.setUseMeanNormalization(False)
            if preset == "fine":
                finest_scale, patch_size, patch_stride, descents, refinements = FINE_SETTINGS
                engine.setFinestScale(finest_scale)
                engine.setPatchSize(patch_size)
                engine.setPatchStride(patch_stride)
                engine.setGradientDescentIterations(descents)
                engine.setVariationalRefinementIterations(refinements)
            self._per_thread.engine = engine
        return engine


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_cores(), thread_name_prefix="stbn-dis")


def _grey(frames: Tensor) -> np.ndarray:
    """(N, 3, H, W) on any device -> (N, H, W) float32 in host memory, the mean of the channels.

    Luma weighs green most and so keeps more of the noise: variance 0.45 of a channel's, here 0.33.
    """
    return frames.detach().float().mean(dim=1).cpu().numpy()


def _gain(first: np.ndarray, second: np.ndarray) -> float:
    """Factor that gives `second` the mean brightness of `first`."""
    means = float(first.mean()), float(second.mean())
    if not min(means) > 0:
        return 1.0
    return min(max(means[0] / means[1], 1 / MAXIMUM_GAIN), MAXIMUM_GAIN)


def _dis_input(grey: np.ndarray, smoothing: float) -> np.ndarray:
    """(H, W) float32 grey in [0, 1] -> smoothed uint8, replicated right and bottom to DIS's minimum."""
    import cv2

    if smoothing > 0:
        # Before rounding to bytes, so that clipping cannot bias the noise near black and white.
        grey = cv2.GaussianBlur(grey, (0, 0), smoothing, borderType=cv2.BORDER_REPLICATE)
    height, width = grey.shape
    pad_bottom, pad_right = max(SMALLEST_DIS_SIDE - height, 0), max(SMALLEST_DIS_SIDE - width, 0)
    if pad_bottom or pad_right:
        grey = np.pad(grey, ((0, pad_bottom), (0, pad_right)), mode="edge")
    return np.clip(np.rint(grey * BYTE_SCALE), 0, BYTE_SCALE).astype(np.uint8)
