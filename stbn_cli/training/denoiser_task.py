"""What training a denoiser means: its batches, its loss, its validation, its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, save_checkpoint
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.inference.transfer import upload
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.posterior import colours_of, gaussian_nll, posterior_mean, posterior_nll
from stbn_cli.raw.pattern import CELL
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.kinds import conditioning_noise, degrade
from stbn_cli.training.dataset import NOISE, SequenceSource
from stbn_cli.training.flow_losses import inside
from stbn_cli.training.muon import hidden_and_others
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.unprocessed import raw_pair, validate_unprocessed
from stbn_cli.training.validation import Validation, validate_denoiser, validate_on_kind, validate_raw

# Flow is found on the crop and this margin around it (pixels), since flow at a border is poor.
FLOW_MARGIN = 24
# Of the likelihood beside the logarithm of the squared error, which is what is wanted; it teaches how sure to be.
LIKELIHOOD_WEIGHT = 0.1
# Sequences hardly wrong (0-255 scale) are not to be made perfect at the expense of others.
NEGLIGIBLE_ERROR = 0.25
# Noise levels of the stabilised values that are trained on, about (0-255 scale).
RAW_SIGMAS = (1.5, 30.0)
NETWORK, FLOW = "network.", "pupil."  # prefixes in the state


class DenoiserBatch(NamedTuple):
    """Sequences `noisy (N, T, C, P, P)`, `sigma (N,)` or a map, and the flows `(N, T, 2, P, P)` unless learned.

    `matched`: the frames that a learned flow is found in, those of `noisy` under other noise.
    """

    noisy: Tensor
    sigma: Tensor
    flows: tuple[Tensor, Tensor] | None
    matched: Tensor | None = None
    clean: Tensor | None = None  # as `noisy`, where it is learned from
    noises: tuple[NoiseLevelFunction, ...] = ()  # of each sequence, where it is more than `sigma`


class DenoiserTask(nn.Module):
    """The blind-spot likelihood of an STBN (the squared error for raw models), and flow distillation on demand.

    Called with a batch, it gives the loss; wrapped by DistributedDataParallel it still does.
    """

    def __init__(
        self,
        options: TrainOptions,
        network: STBN,
        flow: FlowEstimator,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """`flow` lies on its device already; `precision`: of the flow that is found for the batches."""
        super().__init__()
        self.options = options
        self.network = network
        self.flow = flow
        self.pupil: nn.Module | None = None
        self._teacher: tuple[nn.Module, ...] = ()  # in a tuple: neither trained nor saved
        self._batch_flow = flow
        if isinstance(flow, NetworkFlow) and not options.distillation:
            # Not autocast, which would also reach the rendering, and whose cache the network's own thread uses.
            self._batch_flow = flow.copy()
            self._batch_flow.network.to(precision)
        if options.distillation:
            assert isinstance(flow, NetworkFlow)
            self.pupil = flow.copy().network.train().requires_grad_(True)
            self._teacher = (flow.network.eval().requires_grad_(False),)

    @property
    def margin(self) -> int:
        """Pixels that a sequence needs around the patch."""
        if self.options.unprocesses:
            # A mosaic has two pixels for one of a plane.
            return FLOW_MARGIN * CELL + self.options.patch_size // 2
        return 0 if self.pupil is not None else FLOW_MARGIN

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser gets; `factor` scales the learning rate."""
        if self.options.optimizer == "muon":
            return hidden_and_others(self.network, ("head.leave",))
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters()), "factor": 1.0}]
        if self.pupil is not None:
            factor = self.options.flow_learning_rate / self.options.learning_rate
            groups.append({"params": list(self.pupil.parameters()), "factor": factor})
        return groups

    @torch.no_grad()
    def prepare(self, source: SequenceSource, numbers: range) -> DenoiserBatch:
        """The batch of these sequence numbers; depends on them and the seed alone."""
        if self.options.unprocesses:
            return self._prepare_unprocessed(source, numbers)
        if self.options.noise != "white":
            return self._prepare_supervised(source, numbers)
        noisy = matched = source.batch(numbers)
        sigma = torch.zeros(len(numbers), device=noisy.device)
        if self.network.config.noise_level:
            low, high = self.options.noise_interval
            draws = [
                source.noise(number, noisy[0], (low / BYTE_SCALE, high / BYTE_SCALE)) for number in numbers
            ]
            sigma = upload(torch.tensor([level for level, _ in draws]), noisy.device)
            strength = sigma.view(-1, 1, 1, 1, 1)
            # Flow found in the very frames to predict aligns their noise with that of their neighbours, so that a
            # pixel's own noise can be read there. The network learned to keep it: 5 % (sigma 30) to 50 % (bus, sigma
            # 50) of the error was that. Flow of the same frames under other noise is as good and betrays nothing.
            matched = noisy + strength * torch.stack(
                [source.flow_noise(number, noisy[0]) for number in numbers]
            )
            noisy = noisy + strength * torch.stack([noise for _, noise in draws])
        if self.pupil is not None:
            return DenoiserBatch(noisy, sigma, None, matched)
        inner = (..., slice(FLOW_MARGIN, -FLOW_MARGIN), slice(FLOW_MARGIN, -FLOW_MARGIN))
        to_previous, to_next = (
            flow[inner].contiguous()
            for flow in estimate_clip_flows(
                self._batch_flow, matched, sigma if self.network.config.noise_level else None
            )
        )
        return DenoiserBatch(noisy[inner].contiguous(), sigma, (to_previous, to_next))

    def _prepare_supervised(self, source: SequenceSource, numbers: range) -> DenoiserBatch:
        low, high = self.options.noise_interval
        drawn = []
        for number in numbers:
            random = source.random(number, NOISE)
            found = degrade(
                self.options.noise, source.sequence(number), random, (low / BYTE_SCALE, high / BYTE_SCALE)
            )
            # What will be measured is not the truth either.
            noise = conditioning_noise(self.options.noise, found.noise, found.noisy, random.normal())
            drawn.append(found._replace(noise=noise))
        noisy = torch.stack([part.noisy for part in drawn])
        sigma = torch.stack([part.noise.sigma_at(part.noisy).expand_as(part.noisy) for part in drawn])
        levels = upload(torch.tensor([part.noise.level(part.noisy) for part in drawn]), noisy.device)
        # Flow of the very frames, as it will be used: who learns from clean frames gains nothing by keeping noise.
        inner = (..., slice(FLOW_MARGIN, -FLOW_MARGIN), slice(FLOW_MARGIN, -FLOW_MARGIN))
        flows = estimate_clip_flows(self._batch_flow, noisy, levels)
        to_previous, to_next = (flow[inner].contiguous() for flow in flows)
        return DenoiserBatch(
            noisy[inner].contiguous(),
            sigma[inner].contiguous(),
            (to_previous, to_next),
            clean=torch.stack([part.clean for part in drawn])[inner].contiguous(),
            noises=tuple(part.noise for part in drawn),
        )

    def _prepare_unprocessed(self, source: SequenceSource, numbers: range) -> DenoiserBatch:
        pairs = [raw_pair(source.sequence(number), source.random(number, NOISE)) for number in numbers]
        noisy = torch.stack([seen for seen, _, _ in pairs])
        clean = torch.stack([goal for _, goal, _ in pairs])
        levels = upload(torch.tensor([level for *_, level in pairs]), noisy.device)
        inner = (..., slice(FLOW_MARGIN, -FLOW_MARGIN), slice(FLOW_MARGIN, -FLOW_MARGIN))
        flows = estimate_clip_flows(self._batch_flow, noisy, levels)
        to_previous, to_next = (flow[inner].contiguous() for flow in flows)
        return DenoiserBatch(
            noisy[inner].contiguous(),
            levels,
            (to_previous, to_next),
            clean=clean[inner].contiguous(),
            noises=tuple(NoiseLevelFunction.white(level) for *_, level in pairs),
        )

    def _supervised_loss(self, batch: DenoiserBatch, outputs: Tensor) -> Tensor:
        assert batch.clean is not None
        means = outputs[:, :, : colours_of(outputs)].detach().float()
        # The posterior's noise is that of the predicted brightness: of the seen one it would depend on the noise.
        sigma = torch.stack(
            [noise.sigma_at(mean).expand_as(mean) for noise, mean in zip(batch.noises, means, strict=True)]
        )
        likelihood = posterior_nll(outputs, batch.noisy, sigma, batch.clean).mean()
        errors = (posterior_mean(outputs, batch.noisy, sigma) - batch.clean).square().mean(dim=(1, 2, 3, 4))
        # As PSNR has it: each sequence counts the same, however noisy it is.
        return (errors + (NEGLIGIBLE_ERROR / BYTE_SCALE) ** 2).log().mean() + LIKELIHOOD_WEIGHT * likelihood

    def forward(self, batch: DenoiserBatch) -> Tensor:
        """The loss, in float32 whatever autocast has set for the networks."""
        if batch.clean is not None:
            assert batch.flows is not None
            return self._supervised_loss(batch, self.network(batch.noisy, batch.sigma, *batch.flows))
        sigma = broadcast_sigma(batch.sigma, batch.noisy)
        flows, learned = batch.flows, None
        if flows is None:
            assert self.pupil is not None and batch.matched is not None
            learned = _both_directions(self.pupil, batch.matched, batch.sigma)
            flows = _for_every_frame(learned)
        outputs = self.network(batch.noisy, batch.sigma, *flows)
        if self.network.config.head == "plain":
            return (outputs.float() - batch.noisy).square().mean()
        loss = gaussian_nll(outputs, batch.noisy, sigma).mean()
        if learned is None:
            return loss
        denoised = posterior_mean(outputs.detach(), batch.noisy, sigma)
        with torch.no_grad():
            goals = _both_directions(self._teacher[0], denoised, torch.zeros_like(batch.sigma))
        for found, goal in zip(learned, goals, strict=True):
            # Where the motion leads out of the crop there is nothing to learn it from.
            seen = inside(goal.flatten(0, 1))[:, None].unflatten(0, goal.shape[:2])
            distance = ((found - goal).abs() * seen).sum() / (2.0 * seen.sum()).clamp_min(1.0)
            loss = loss + 0.5 * self.options.distillation_weight * distance
        return loss

    def validate(self, state: Mapping[str, Tensor], clips: list[Tensor]) -> Validation:
        """Quality of the weights in `state`."""
        network = STBN(self.network.config)
        network.load_state_dict(_part(state, NETWORK))
        network = network.to(next(self.network.parameters()).device).eval()
        if network.config.head == "plain":
            return validate_raw(network, self.flow, clips)
        if self.options.unprocesses:
            return validate_unprocessed(network, self.flow, clips)
        flow = self.flow
        if self.pupil is not None and isinstance(flow, NetworkFlow):
            flow = flow.copy()
            flow.network.load_state_dict(_part(state, FLOW))
            flow.network.eval()
        if self.options.noise != "white":
            low, high = self.options.noise_interval
            return validate_on_kind(
                network, flow, clips, self.options.noise, (low / BYTE_SCALE, high / BYTE_SCALE)
            )
        return validate_denoiser(network, flow, clips, self.options.validation_noise)

    def save(self, path: Path, state: Mapping[str, Tensor], training: dict[str, Any]) -> None:
        """Write the weights in `state` as a checkpoint that `stbn denoise` takes."""
        flow_weights: dict[str, Tensor] = {}
        if self.pupil is not None:
            flow_weights = _part(state, FLOW)
        elif isinstance(self.flow, NetworkFlow):
            flow_weights = dict(self.flow.network.state_dict())
        info = ModelInfo(
            name=self.options.model,
            flow=self.flow.name,
            sigma_range=RAW_SIGMAS if self.options.unprocesses else self.options.noise_interval,
            licence="Apache-2.0",
            noise_kind="raw" if self.options.takes_planes else self.options.noise,
            training=training,
        )
        weights = _part(state, NETWORK)
        save_checkpoint(path, Checkpoint(self.network.config, info, weights, flow_weights))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _both_directions(network: nn.Module, clips: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Flow `(N, T - 1, 2, H, W)` of every frame but the first to the one before, and of all but the last onwards."""
    earlier, later = clips[:, :-1], clips[:, 1:]
    level = (sigma.repeat_interleave(earlier.shape[1]),) if getattr(network, "takes_sigma", False) else ()
    flows = (
        network(first.flatten(0, 1), second.flatten(0, 1), *level).float().unflatten(0, earlier.shape[:2])
        for first, second in ((later, earlier), (earlier, later))
    )
    to_previous, to_next = flows
    return to_previous, to_next


def _for_every_frame(flows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Without gradient, and with the zeros that the network expects for the clip's ends."""
    to_previous, to_next = (flow.detach() for flow in flows)
    nothing = torch.zeros_like(to_next[:, :1])
    return torch.cat((nothing, to_previous), 1), torch.cat((to_next, nothing), 1)
