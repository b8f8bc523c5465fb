"""From the options of a run to its parts: networks, flow, footage."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stbn_cli.checkpoints.flow import build_flow_network, load_flow_checkpoint
from stbn_cli.checkpoints.serial import Checkpoint, load_checkpoint
from stbn_cli.checkpoints.store import find_flow
from stbn_cli.devices import kind_of
from stbn_cli.errors import InputError
from stbn_cli.flow.estimator import FlowEstimator, create_flow_estimator
from stbn_cli.models.config import IMAGE_CHANNELS, RECURRENT_SIZES, STBNConfig
from stbn_cli.models.lightflow import LightFlowNet
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.models.stbn import STBN
from stbn_cli.synthesis.kinds import lead_of
from stbn_cli.training.dataset import SequenceOptions, SequenceSource
from stbn_cli.training.denoiser_task import DenoiserTask
from stbn_cli.training.flow_task import FlowTask
from stbn_cli.training.footage import Footage, check_apart, load_footage
from stbn_cli.training.options import FLOW_MODEL, TrainOptions
from stbn_cli.training.pool import KEPT_FRAMES, Pool
from stbn_cli.training.recurrent_task import RecurrentTask
from stbn_cli.training.validation import CLIP_FRAMES, crop_clips
from stbn_cli.training.widening import can_widen, from_rgb, widen

AUTO_FLOW = "auto"
PAIR = 2  # frames that a flow network is trained on


def create_task(
    options: TrainOptions, device: torch.device, precision: torch.dtype
) -> DenoiserTask | FlowTask | RecurrentTask:
    """The network that `options` name, new or from their checkpoint, on the CPU, with what its training means.

    `device` and `precision` are those of the flow that batches need.

    Raises `CheckpointError` if a file is missing or damaged, `InputError` if it holds another network.
    """
    if options.model == FLOW_MODEL:
        network = LightFlowNet()
        if options.initial is not None:
            network.load_state_dict(load_flow_checkpoint(options.initial).build().state_dict())
        return FlowTask(options, network)
    initial = load_checkpoint(options.initial) if options.initial is not None else None
    if options.is_recurrent:
        return _create_recurrent(options, initial)
    config = options.config
    same = initial is not None and _leads_to(initial.stbn_config, config)
    if options.unprocesses and initial is not None and initial.config.image_channels == IMAGE_CHANNELS:
        network = STBN(config)
        from_rgb(initial.build_stbn(), network)
        return DenoiserTask(options, network, _create_flow(options, initial, device), precision)
    if initial is not None and not same and not can_widen(initial.stbn_config, config):
        raise InputError(
            f"The model {str(options.initial)!r} is of another kind than --model {options.model} with --noise "
            f"{options.noise}, or larger. Name its own, or another file."
        )
    # torch's default weights: scaling the residual branches down, or He's gain, learned more slowly.
    network = STBN(config)
    if initial is not None and not same:
        widen(initial.build_stbn(), network)
    elif initial is not None:
        # A refinement that the file lacks begins as nothing.
        added = config.refinement_blocks != initial.stbn_config.refinement_blocks
        network.load_state_dict(initial.build().state_dict(), strict=not added)
    if initial is not None and initial.config.blind_spot and not config.blind_spot:
        # What lies there never acted and was never learned.
        for branch in (network.forward_branch, network.backward_branch):
            branch.masked.weight.data[..., 1, 1] = 0.0
    return DenoiserTask(options, network, _create_flow(options, initial, device), precision)


def _create_recurrent(options: TrainOptions, initial: Checkpoint | None) -> RecurrentTask:
    network = Recurrent(RECURRENT_SIZES[options.model])
    if initial is not None:
        if initial.config != network.config:
            raise InputError(
                f"The model {str(options.initial)!r} is of another shape than --model {options.model}. "
                "Name another file."
            )
        network.load_state_dict(initial.build().state_dict())
    return RecurrentTask(options, network)


def open_source(
    options: TrainOptions, footage: Footage, margin: int, device: torch.device
) -> SequenceSource | Pool:
    """What batches are made of. Raises `InputError` if a pool is empty or its clips are too short."""
    if options.pool is not None:
        if options.train_length > KEPT_FRAMES:
            raise InputError(
                f"Clips of a pool have {KEPT_FRAMES} frames, fewer than --train-length {options.train_length}. "
                f"Give --train-length {KEPT_FRAMES} or less."
            )
        return Pool(options.pool, options.seed)
    return SequenceSource(footage, sequence_options(options, margin), device)


def _leads_to(initial: STBNConfig, wanted: STBNConfig) -> bool:
    """Whether a network of one shape can begin with the weights of another: it may see more, and be refined."""
    seeing = replace(initial, blind_spot=initial.blind_spot and wanted.blind_spot)
    if not seeing.blind_spot and not seeing.refinement_blocks:
        seeing = replace(seeing, refinement_blocks=wanted.refinement_blocks)
    return seeing == wanted


def load_training_footage(options: TrainOptions) -> tuple[Footage, list[Tensor]]:
    """Footage to train on, and clips `(T, C, H, W)` float32 to validate on.

    Raises `InputError` if a folder is missing or holds nothing.
    """
    # A plain head learned from values clamped at black, as the published one.
    load = partial(
        load_footage,
        bayer=options.mosaics if options.is_raw else None,
        clamp=options.is_raw,
    )
    check_apart(options.train_dirs, options.hold_out, options.validation_dirs, raw=options.is_raw)
    if options.is_recurrent:
        footage = Footage()  # all is in the pool; what is held out of it is in --train-dir
    else:
        footage = load(options.train_dirs, options.still_dirs, leave_out=options.hold_out)
    clips: list[Tensor] = []
    if options.hold_out:
        clips += crop_clips(load(options.train_dirs, only=options.hold_out, maximum_frames=CLIP_FRAMES))
    if options.validation_dirs:
        clips += crop_clips(load(options.validation_dirs, maximum_frames=CLIP_FRAMES))
    return footage, clips


def sequence_options(options: TrainOptions, margin: int) -> SequenceOptions:
    """Shape and origin of the sequences, with `margin` pixels around the patch."""
    return SequenceOptions(
        frames=PAIR if options.model == FLOW_MODEL else options.train_length + lead_of(options.noise),
        size=options.patch_size + 2 * margin,
        still_share=options.still_share,
        seed=options.seed,
        # Mirroring or shrinking a mosaic would change where its colours lie.
        augment=options.augment and not options.is_raw,
    )


def _create_flow(options: TrainOptions, initial: Checkpoint | None, device: torch.device) -> FlowEstimator:
    name = options.flow
    if name == AUTO_FLOW:
        if initial is not None and initial.flow_weights:
            network = build_flow_network(initial.info.flow, initial.flow_weights, initial.info.name)
            return create_flow_estimator(initial.info.flow, network.to(device))
        name = kind_of(device).flow
    if name in ("dis", "none"):
        if options.distillation:
            raise InputError(
                f"--distill trains a flow network, and flow {name!r} is none. Give --flow light or a file."
            )
        return create_flow_estimator(name)
    path = find_flow() if name == "light" else Path(name)
    checkpoint = load_flow_checkpoint(path)
    return create_flow_estimator(checkpoint.info.flow, checkpoint.build().to(device))
