"""Shapes of the networks, and their named sizes. Knows nothing of their layers, and needs no torch."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

IMAGE_CHANNELS = 3  # of RGB
MEAN_CHANNELS = IMAGE_CHANNELS  # of a mean colour
LEVEL_CHANNELS = 2  # standard deviation of luma and of chroma noise
MINIMUM_SIZE = 8  # smallest height and width, pixels
PASSES = (1, 2, 4)  # that a recurrent network can make over a clip


def gaussian_channels(colours: int) -> int:
    """Outputs of a Gaussian head: a mean of so many channels, and a triangular factor of its covariance."""
    return colours * (colours + 3) // 2


GAUSSIAN_CHANNELS = gaussian_channels(MEAN_CHANNELS)


@dataclass(frozen=True, slots=True)
class STBNConfig:
    """Shape of the network. The defaults are the published sRGB network."""

    channels: int = 64  # of the hidden state
    blocks: int = 5  # residual blocks in each branch
    image_channels: int = 3  # 3 RGB, 4 packed Bayer
    head: Literal["gaussian", "plain"] = "gaussian"  # mean and covariance factor, or the estimate itself
    noise_level: bool = True  # the branches are conditioned on sigma
    tail: bool = True  # the 1x1 bottleneck at the end of each branch
    fusion_channels: int = 128
    fusion_blocks: int = 5
    expansion_channels: int = 256
    expansion_stages: int = 2
    expansion_blocks: int = 8  # in each stage
    expansion_groups: int = 2
    head_blocks: int = 2
    # Adds both directions' features to the expansion's output: a short path that small models learn from first.
    feature_skip: bool = False
    # The hidden state carries its noisy frame along. The published state knows a pixel of an earlier frame only
    # through that pixel's neighbours, which small models fail to unravel; a frame's own pixel stays unseen, since only
    # the states of other frames are read with it.
    carry_frame: bool = False
    # The mean is predicted as the difference to a Gaussian mean of the pixels around (needs carry_frame).
    mean_residual: bool = False
    # False: the network sees the pixel that it predicts, as denoisers do that learn from clean frames. For noise that
    # neighbouring pixels share, which a blind spot would not hide.
    blind_spot: bool = True
    # Residual blocks, and their channels, that correct the outputs with all pixels in view (needs carry_frame, and no
    # blind spot); 0: none.
    refinement_blocks: int = 0
    refinement_channels: int = 64

    multiple: ClassVar[int] = 1  # heights and widths may be any
    state_scale: ClassVar[int] = 1  # hidden states have the frame's resolution

    def __post_init__(self) -> None:
        if self.head not in ("gaussian", "plain"):
            raise ValueError(f"expected head 'gaussian' or 'plain', got {self.head!r}")
        if self.mean_residual and not self.carry_frame:
            raise ValueError("mean_residual needs carry_frame")
        if self.refinement_blocks and (self.blind_spot or not self.carry_frame):
            raise ValueError("refinement needs carry_frame, and a network without a blind spot")
        if self.expansion_channels % self.expansion_groups:
            raise ValueError("expansion_channels must be a multiple of expansion_groups")

    @property
    def output_channels(self) -> int:
        return gaussian_channels(self.image_channels) if self.head == "gaussian" else self.image_channels

    @property
    def working_channels(self) -> int:
        """Channels that the layers' memory is in proportion to, at the resolution of a hidden state."""
        return self.channels

    @property
    def state_channels(self) -> int:
        """Channels of a hidden state."""
        return self.channels + (self.image_channels if self.carry_frame else 0)

    @property
    def chunk_overlap(self) -> int:
        """Frames beyond a chunk that the backward pass starts at.

        Against whole clips, chunks of 4 frames lost 0.02 dB without overlap, 0.001 dB with 4 (stbn-xs, sigma 50).
        """
        return 6

    @property
    def seen_values(self) -> int:
        """Values that `STBN.see` finds and that are worth keeping."""
        return 0

    @property
    def padded_state_channels(self) -> int:
        """Of a hidden state as the GPU's kernels keep it: with room for a frame behind, rows of whole 16 bytes."""
        return -(-(self.state_channels + self.image_channels) // 8) * 8

    @property
    def propagation_reach(self) -> int:
        """How far (pixels) a hidden state depends on its frame and on the aligned state before it."""
        return 1 + 2 * (self.blocks + self.fusion_blocks)

    @property
    def fusion_reach(self) -> int:
        """How far (pixels) the outputs depend on the hidden states of their frame.

        A 3x3 convolution reaches two pixels in the phase domain and four in the expansion, whose unshuffle adds up to
        two more within its blocks.
        """
        expansion = 4 * (2 + self.expansion_stages * self.expansion_blocks) + 2
        # At half the resolution, a convolution reaches two pixels; a pixel's pair adds one.
        refinement = 2 * (self.refinement_blocks + 1) + 1 if self.refinement_blocks else 0
        return expansion + 2 * self.head_blocks + refinement


# What paid at every size that was tried: a short path from the propagated features to the head, the noisy frame carried
# with the state, and a mean that starts from the pixels around.
SHORT_PATHS: dict[str, Any] = {"feature_skip": True, "carry_frame": True, "mean_residual": True}

# Of every network without a blind spot, whatever its size.
REFINEMENT_BLOCKS = 4

# The named sizes. `stbn-published` is the network of the paper, layer for layer, and `stbn-raw` its variant for packed
# Bayer frames. The small ones are leaner where it was measured to pay: no bottleneck, dense instead of grouped
# convolutions.
MODEL_SIZES: dict[str, STBNConfig] = {
    "stbn": STBNConfig(**SHORT_PATHS),
    "stbn-published": STBNConfig(),
    "stbn-raw": STBNConfig(image_channels=4, head="plain", noise_level=False),
    "stbn-s": STBNConfig(
        channels=32,
        blocks=2,
        tail=False,
        fusion_channels=64,
        fusion_blocks=2,
        expansion_channels=128,
        expansion_stages=1,
        expansion_blocks=8,
        expansion_groups=1,
        head_blocks=1,
        **SHORT_PATHS,
    ),
    "stbn-xs": STBNConfig(
        channels=16,
        blocks=2,
        tail=False,
        fusion_channels=32,
        fusion_blocks=2,
        expansion_channels=64,
        expansion_stages=1,
        expansion_blocks=6,
        expansion_groups=1,
        head_blocks=1,
        **SHORT_PATHS,
    ),
}
# Raw values after the transform that makes their noise white (`raw.noise.Stabiliser`); with a Gaussian head.
MODEL_SIZES["stbn-raw-xs"] = replace(MODEL_SIZES["stbn-xs"], image_channels=4)


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """Shape of the recurrent network, which has no blind spot; the default is the size for ordinary CPUs."""

    scale: int = 2  # pixels of the frame for one of the hidden state, in both directions
    channels: int = 32  # of the hidden state
    blocks: int = 2  # residual blocks in each direction
    fusion_blocks: int = 1  # residual blocks before the coarser level, and as many behind it
    coarse_channels: int = 64  # at half the resolution of the state
    coarse_blocks: int = 4
    passes: int = 1  # over the clip, each mirrored in another way; the mean of their estimates is the result

    head: ClassVar[Literal["direct"]] = "direct"  # outputs are the estimate itself, see `Recurrent.fuse`
    image_channels: ClassVar[int] = IMAGE_CHANNELS
    blind_spot: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scale not in (2, 4):
            raise ValueError(f"expected scale 2 or 4, got {self.scale}")
        if self.passes not in PASSES:
            raise ValueError(f"expected 1, 2 or 4 passes, got {self.passes}")

    @property
    def multiple(self) -> int:
        """Heights and widths that the network computes on are multiples of this."""
        return 2 * self.scale

    @property
    def state_scale(self) -> int:
        """Pixels of a frame, along each axis, for one of a hidden state; flow is found and used at that size."""
        return self.scale

    @property
    def working_channels(self) -> int:
        """Channels that the layers' memory is in proportion to, at the resolution of a hidden state."""
        return max(self.channels, self.coarse_channels // 4)

    @property
    def padded_state_channels(self) -> int:
        """Of a hidden state on a GPU."""
        return self.state_channels

    @property
    def frame_channels(self) -> int:
        """Of an unshuffled frame."""
        return IMAGE_CHANNELS * self.scale**2

    @property
    def state_channels(self) -> int:
        """Of a hidden state: all passes' together."""
        return self.passes * self.channels

    @property
    def chunk_overlap(self) -> int:
        """Frames beyond a chunk that the backward pass starts at.

        Against whole clips, chunks of 16 frames lost nothing without overlap (`real`, bus and rafting, white and camera
        noise of sigma 20), chunks of 4 at most 0.03 dB, with 1 at most 0.01 dB; more made the results no better.
        """
        return 1

    @property
    def seen_values(self) -> int:
        """Values for a pixel of a frame that `Recurrent.see` finds and that are kept, rounded up."""
        channels = self.frame_channels + 2 * MEAN_CHANNELS + 2 * LEVEL_CHANNELS
        levels = min(self.passes, 2)  # at most: passes may assume two
        return -(-levels * channels // self.scale**2)

    @property
    def propagation_reach(self) -> int:
        """How far (pixels) a hidden state depends on its frame and on the aligned state before it."""
        return self.scale * (4 + 2 * self.blocks)

    @property
    def fusion_reach(self) -> int:
        """How far (pixels) the estimate depends on the hidden states of its frame."""
        fine = 2 + 4 * self.fusion_blocks
        return self.scale * (fine + 2 * (2 + 2 * self.coarse_blocks)) + self.multiple


# `real-fast` for slow machines, `real` for ordinary CPUs, `real-large` for GPUs: about 18, 64 and 620 thousand
# multiply-adds a pixel.
RECURRENT_SIZES: dict[str, RecurrentConfig] = {
    "real-fast": RecurrentConfig(channels=16, blocks=1, coarse_channels=48, coarse_blocks=3),
    "real": RecurrentConfig(),
    "real-large": RecurrentConfig(channels=96, blocks=3, coarse_channels=160, coarse_blocks=6),
}
# The flow estimator of each size.
TRAINED_FLOW = {"real-fast": "dis-half-fast", "real": "dis-half", "real-large": "dis-half"}


def passes_of(config: STBNConfig | RecurrentConfig) -> int:
    """Passes that a network makes over a clip."""
    return config.passes if isinstance(config, RecurrentConfig) else 1
