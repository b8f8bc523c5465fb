"""What training the light flow network means: known motion of rendered scenes, and real clips that should match.

The network sees noisy frames; its losses compare clean ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stbn_cli.checkpoints.flow import FlowCheckpoint, save_flow_checkpoint
from stbn_cli.checkpoints.serial import ModelInfo
from stbn_cli.flow.estimator import NetworkFlow
from stbn_cli.inference.transfer import upload
from stbn_cli.models.lightflow import LightFlowNet, LightFlowPyramid
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.training.dataset import SequenceSource
from stbn_cli.training.flow_losses import (
    end_point_loss,
    photometric_loss,
    smoothness_loss,
    visible_by_consistency,
)
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.validation import Validation, validate_flow
from stbn_cli.training.virtual_camera import render, true_flow

PHOTOMETRIC_WEIGHT = 20.0  # its distances are a hundredth of the sum of all steps' end-point errors
SMOOTHNESS_WEIGHT = 4.0
# Matching has to be found before noise hides it and before unknown motion blurs it: over this share of the run the
# noise rises to its full range, and real clips come in only after it.
RISE = 0.1


class FlowBatch(NamedTuple):
    """Frame pairs, rendered ones first: `clean`, `noisy (N, 2, 3, P, P)`, `sigma (N,)`, and the rendered ones' motion.

    `motion (2, M, 2, P, P)` and `visible (2, M, P, P)`, M <= N: from the first frame to the second, and back.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    motion: Tensor
    visible: Tensor


class FlowTask(nn.Module):
    """The losses of a `LightFlowNet`, both directions of every pair. Called with a batch, it gives the loss."""

    margin = 0  # pixels that a sequence needs around the patch

    def __init__(self, options: TrainOptions, network: LightFlowNet) -> None:
        super().__init__()
        self.options = options
        self.network = network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser gets; `factor` scales the learning rate."""
        return [{"params": list(self.network.parameters()), "factor": 1.0}]

    @torch.no_grad()
    def prepare(self, source: SequenceSource, numbers: range) -> FlowBatch:
        """The batch of these sequence numbers; depends on them and the seed alone."""
        progress = numbers.start / self.options.batch_size / (RISE * self.options.steps)
        rendered, real, motions, seens = [], [], [], []
        low, high = (sigma / BYTE_SCALE * min(progress, 1.0) for sigma in self.options.noise_interval)
        for number in numbers:
            random = source.random(number)
            if not source.takes_still(random) and progress >= 1.0:
                real.append((number, source.clip(random)))
                continue
            scene = source.scene(random)
            frames, alpha = render(scene)
            there, back = true_flow(scene, alpha, 0, 1), true_flow(scene, alpha, 1, 0)
            motions.append(torch.stack((there[0], back[0])))
            seens.append(torch.stack((there[1], back[1])))
            rendered.append((number, source.coloured(frames, random)))
        clean = torch.stack([frames for _, frames in (*rendered, *real)])
        draws = [source.noise(number, frames, (low, high)) for number, frames in (*rendered, *real)]
        sigma = upload(torch.tensor([level for level, _ in draws]), clean.device)
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * torch.stack([noise for _, noise in draws])
        size = clean.shape[-1]
        motion = torch.stack(motions, 1) if motions else clean.new_zeros(2, 0, 2, size, size)
        visible = torch.stack(seens, 1) if seens else clean.new_zeros(2, 0, size, size, dtype=torch.bool)
        return FlowBatch(clean, noisy, sigma, motion, visible)

    def forward(self, batch: FlowBatch) -> Tensor:
        """The loss, in float32 whatever autocast has set for the network."""
        pairs = len(batch.clean)
        first = self.network.features(batch.noisy.transpose(0, 1).flatten(0, 1), batch.sigma.repeat(2))
        second = LightFlowPyramid(tuple(level.roll(pairs, 0) for level in first.levels), first.size)
        flow, levels = self.network.levels_from_features(first, second)
        known = batch.motion.shape[1]
        loss = flow.new_zeros(())
        if known:
            picked = [level.mapped(lambda tensor: _both(tensor, 0, known)) for level in levels]
            motion, visible = batch.motion.flatten(0, 1), batch.visible.flatten(0, 1)
            loss = loss + end_point_loss(_both(flow, 0, known), picked, motion, visible)
        if known < pairs:
            there = _both(flow, known, pairs)
            back = there.roll(pairs - known, 0)
            frames = batch.clean[known:].transpose(0, 1).flatten(0, 1)
            others = frames.roll(pairs - known, 0)
            matching = photometric_loss(frames, others, there, visible_by_consistency(there, back))
            smoothness = smoothness_loss(_both(levels[-1].flow, known, pairs), frames)
            loss = loss + PHOTOMETRIC_WEIGHT * matching + SMOOTHNESS_WEIGHT * smoothness
        return loss

    def validate(self, state: Mapping[str, Tensor], clips: list[Tensor]) -> Validation:
        """Quality of the weights in `state`."""
        network = LightFlowNet()
        network.load_state_dict(_network_state(state))
        device = next(self.network.parameters()).device
        flow = NetworkFlow(network.to(device).eval(), "light")
        return validate_flow(flow, clips, self.options.validation_noise, device)

    def save(self, path: Path, state: Mapping[str, Tensor], training: dict[str, Any]) -> None:
        """Write the weights in `state` as a flow checkpoint."""
        info = ModelInfo(self.options.model, "light", self.options.noise_interval, "Apache-2.0", training)
        save_flow_checkpoint(path, FlowCheckpoint(info, _network_state(state)))


def _network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}


def _both(tensor: Tensor, start: int, end: int) -> Tensor:
    """Items `start` to `end` of both halves of a batch: of the flow there, and of the flow back."""
    there, back = tensor.chunk(2)
    return torch.cat((there[start:end], back[start:end]))
