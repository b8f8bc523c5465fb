"""PWC-Net (Sun et al., CVPR 2018) as the STBN reference uses it: six levels, dense decoders, context network.

Built to hold the flow weights of official STBN checkpoints; comes with none. Knows nothing of files, devices.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.models.correlation import DEFAULT_RADIUS, cost_volume

# Channels of the feature pyramid, level 1 (half resolution) to level 6 (1/64).
PYRAMID_CHANNELS = (16, 32, 64, 96, 128, 196)
# Channels that each densely connected layer of a decoder adds.
DECODER_CHANNELS = (128, 128, 96, 64, 32)
# (channels, dilation) of the context network's hidden layers.
CONTEXT_LAYERS = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))
COARSEST_LEVEL = 6
FINEST_LEVEL = 2
# Pixels of the input that one pixel of the coarsest level covers.
SIZE_MULTIPLE = 2**COARSEST_LEVEL
LEAKY_SLOPE = 0.1
# The network predicts flow in units of 20 input pixels.
FLOW_SCALE = 20.0
# A warped sample counts only if nearly all of its bilinear weight lies inside the frame.
INSIDE_THRESHOLD = 0.999
VOLUME_CHANNELS = (2 * DEFAULT_RADIUS + 1) ** 2


class PwcPyramid(NamedTuple):
    """Features of a batch of frames."""

    # Levels 1 to 6, level k: (N, PYRAMID_CHANNELS[k - 1], H' / 2^k, W' / 2^k), H' and W' multiples of 64.
    levels: tuple[Tensor, ...]
    # Height and width of the frames as given, before the resizing.
    size: tuple[int, int]


class PWCNet(nn.Module):
    """Flow between two frames, in pixels at their own resolution."""

    # `NetworkFlow` asks: the noise level is not an input.
    takes_sigma = False

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *PYRAMID_CHANNELS[:-1])
        self.pyramid = nn.ModuleList(
            _pyramid_level(i, o) for i, o in zip(inputs, PYRAMID_CHANNELS, strict=True)
        )
        # Coarsest first, which is the order of work.
        self.decoders = nn.ModuleList()
        coarser_channels: int | None = None
        for level in range(COARSEST_LEVEL, FINEST_LEVEL - 1, -1):
            decoder = _Decoder(level, coarser_channels)
            coarser_channels = decoder.feature_channels
            self.decoders.append(decoder)
        assert coarser_channels is not None
        self.context = _context_network(coarser_channels)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow from `first` to `second`.

        Args:
            first: (N, 3, H, W) float RGB in nominal [0, 1], any H, W >= 1.
            second: as `first`.

        Returns:
            (N, 2, H, W) float32 flow (dx, dy) in pixels.
        """
        return self.flow_from_features(self.features(first), self.features(second))

    def features(self, frames: Tensor, sigma: float | Tensor | None = None) -> PwcPyramid:
        """Feature pyramid of frames (N, 3, H, W), any float dtype, resized bilinearly to multiples of 64 first.

        `sigma` is not used; `NetworkFlow` passes it to every network.
        """
        height, width = frames.shape[-2:]
        padded = tuple(-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in (height, width))
        x = F.interpolate(frames, size=padded, mode="bilinear", align_corners=False)
        x = x.to(next(self.parameters()).dtype)
        levels = []
        for level in self.pyramid:
            x = level(x)
            levels.append(x)
        return PwcPyramid(tuple(levels), (height, width))

    def flow_from_features(self, first: PwcPyramid, second: PwcPyramid) -> Tensor:
        """Flow (N, 2, H, W) float32 in pixels between frames given by their pyramids; see `forward`."""
        flow = features = None
        for decoder in self.decoders:
            flow, features = decoder(first, second, flow, features)
        assert flow is not None
        # In float32 from here: half precision would round the flow of a wide frame to whole pixels.
        flow = flow.float() + self.context(features).float()
        height, width = first.size
        padded_height, padded_width = (side << FINEST_LEVEL for side in flow.shape[-2:])
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
        ratio = flow.new_tensor([width / padded_width, height / padded_height])
        return FLOW_SCALE * flow * ratio.view(1, 2, 1, 1)


class _Decoder(nn.Module):
    """Estimates one level's flow from the cost volume, the first frame's features and the coarser level."""

    def __init__(self, level: int, coarser_channels: int | None) -> None:
        super().__init__()
        self.level = level
        channels = VOLUME_CHANNELS
        self.upsample_flow = self.upsample_features = None
        if coarser_channels is not None:
            self.upsample_flow = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
            self.upsample_features = nn.ConvTranspose2d(coarser_channels, 2, 4, stride=2, padding=1)
            channels += PYRAMID_CHANNELS[level - 1] + 2 + 2
            # Network units -> pixels of this level: 0.625, 1.25, 2.5, 5.0 at levels 5, 4, 3, 2.
            self.warp_scale = FLOW_SCALE / 2**level
        self.dense = nn.ModuleList()
        for added in DECODER_CHANNELS:
            self.dense.append(nn.Conv2d(channels, added, 3, padding=1))
            channels += added
        self.to_flow = nn.Conv2d(channels, 2, 3, padding=1)
        self.feature_channels = channels

    def forward(
        self, first: PwcPyramid, second: PwcPyramid, flow: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        own, other = first.levels[self.level - 1], second.levels[self.level - 1]
        if self.upsample_flow is None or self.upsample_features is None:
            x = F.leaky_relu(cost_volume(own, other), LEAKY_SLOPE)
        else:
            coarse_flow: Tensor = self.upsample_flow(flow)
            coarse_features: Tensor = self.upsample_features(features)
            warped = _masked_warp(other, coarse_flow * self.warp_scale)
            volume = F.leaky_relu(cost_volume(own, warped), LEAKY_SLOPE)
            x = torch.cat([volume, own, coarse_flow, coarse_features], dim=1)
        for layer in self.dense:
            x = torch.cat([F.leaky_relu(layer(x), LEAKY_SLOPE), x], dim=1)
        return self.to_flow(x), x


def _pyramid_level(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, stride in ((inputs, 2), (outputs, 1), (outputs, 1)):
        layers += [nn.Conv2d(channels, outputs, 3, stride=stride, padding=1), nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers)


def _context_network(inputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for outputs, dilation in CONTEXT_LAYERS:
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation),
            nn.LeakyReLU(LEAKY_SLOPE),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, 2, 3, padding=1))


def _masked_warp(features: Tensor, flow: Tensor) -> Tensor:
    """Features (N, C, H, W) sampled bilinearly at the flow's targets (pixels); 0 where not fully inside.

    The reference divides the flow by (size - 1) / 2 although its grid is that of align_corners=False; trained
    weights expect it. Coordinates stay in float32: half precision cannot address a pixel of a wide frame.
    """
    batch, _, height, width = features.shape
    flow = flow.float()
    columns = (2 * torch.arange(width, device=flow.device, dtype=torch.float32) + 1) / width - 1
    rows = (2 * torch.arange(height, device=flow.device, dtype=torch.float32) + 1) / height - 1
    # A level may be one pixel wide; the reference's sizes never are, so any finite scale will do there.
    x = columns + flow[:, 0] * (2 / max(width - 1, 1))
    y = rows[:, None] + flow[:, 1] * (2 / max(height - 1, 1))
    grid = torch.stack([x, y], dim=-1)
    ones = torch.ones(batch, 1, height, width, device=flow.device, dtype=torch.float32)
    sampled = F.grid_sample(
        torch.cat([features.float(), ones], dim=1),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return (sampled[:, :-1] * (sampled[:, -1:] > INSIDE_THRESHOLD)).to(features.dtype)


_NUMERALS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")


def _reference_prefixes() -> dict[str, str]:
    """Module of the reference -> module of `PWCNet`."""
    table = {}
    for number, numeral in enumerate(_NUMERALS):
        for layer in (0, 2, 4):
            table[f"netExtractor.net{numeral}.{layer}"] = f"pyramid.{number}.{layer}"
    for level in range(FINEST_LEVEL, COARSEST_LEVEL + 1):
        theirs, ours = f"net{_NUMERALS[level - 1]}", f"decoders.{COARSEST_LEVEL - level}"
        for layer in range(len(DECODER_CHANNELS)):
            table[f"{theirs}.net{_NUMERALS[layer]}.0"] = f"{ours}.dense.{layer}"
        table[f"{theirs}.netSix.0"] = f"{ours}.to_flow"
        if level < COARSEST_LEVEL:
            table[f"{theirs}.netUpflow"] = f"{ours}.upsample_flow"
            table[f"{theirs}.netUpfeat"] = f"{ours}.upsample_features"
    for layer in range(0, 2 * len(CONTEXT_LAYERS) + 1, 2):
        table[f"netRefiner.netMain.{layer}"] = f"context.{layer}"
    return table


def convert_pwcnet(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a reference PWC-Net (names as inside its module) to those of `PWCNet`.

    Raises:
        KeyError: a name does not belong to the reference's PWC-Net.
    """
    table = _reference_prefixes()
    converted = {}
    for name, tensor in state_dict.items():
        module, _, parameter = name.rpartition(".")
        converted[f"{table[module]}.{parameter}"] = tensor
    return converted
