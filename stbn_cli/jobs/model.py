"""From options to a denoiser that is ready to run."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from stbn_cli.checkpoints.flow import build_flow_network, load_flow_checkpoint
from stbn_cli.checkpoints.registry import AUTO, BALANCED
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint
from stbn_cli.checkpoints.store import find_flow, resolve
from stbn_cli.devices import kind_of
from stbn_cli.errors import CheckpointError, checked_options
from stbn_cli.flow.estimator import NETWORK_NAMES, FlowEstimator, create_flow_estimator
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.device import (
    emulation_warning,
    keep_freed_memory,
    resolve_devices,
    resolve_precision,
)
from stbn_cli.inference.raw import RawDenoiser
from stbn_cli.jobs.adapt import ADAPTED_FILE
from stbn_cli.jobs.options import TIERS, DenoiserOptions
from stbn_cli.models.config import RecurrentConfig, passes_of
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.model import LearnedNoise
from stbn_cli.raw.noise import PoissonGaussian
from stbn_cli.raw.pattern import PLANES
from stbn_cli.scale import BYTE_SCALE


class LoadedDenoiser(Denoiser):
    """A `Denoiser` that remembers the options and the file it was made from, and what that file says of itself."""

    def __init__(
        self,
        loaded: "LoadedModel",
        options: DenoiserOptions,
        devices: Sequence[torch.device],
        on_message: Callable[[str], None] | None,
    ) -> None:
        info = loaded.checkpoint.info
        low, high = info.sigma_range
        super().__init__(
            loaded.checkpoint.build(),
            loaded.flow,
            options.for_engine(),
            device=devices,
            dtype=resolve_precision(options.precision, devices[0]),
            sigma_range=(low / BYTE_SCALE, high / BYTE_SCALE),
            noise=loaded.noise,
            noise_kind=_conditioned_for(loaded.checkpoint, options),
            on_message=on_message,
        )
        self.requested = options
        self._checkpoint = replace(loaded.checkpoint, weights={})
        self.on_message = on_message
        self.model_path, self.info, self.flow_name = loaded.path, info, loaded.flow.name

    @property
    def model_name(self) -> str:
        """The name of its file, which tells models for other noise apart; of one adapted to a clip, its own name."""
        return self.info.name if self.model_path.name == ADAPTED_FILE else self.model_path.stem

    @property
    def passes(self) -> int:
        """Mirrored passes over the frames."""
        return passes_of(self._checkpoint.config)

    def for_options(self, options: DenoiserOptions) -> "LoadedDenoiser":
        """A denoiser with these options: this one, if they choose the same model."""
        if options == self.requested:
            return self
        path = resolve(
            str(options.model),
            device=self.devices[0],
            noise=options.noise_kind or "white",
            quality=options.quality,
        )
        same = path == self.model_path and _conditioned_for(self._checkpoint, options) == self.noise_kind
        return self if same else load(options, self.on_message)


class LoadedRawDenoiser(RawDenoiser, LoadedDenoiser):
    """A `LoadedDenoiser` of packed mosaics."""

    @property
    def given_noise(self) -> PoissonGaussian | None:
        given = self.requested.raw_noise
        return None if given is None else PoissonGaussian(*given)


def _conditioned_for(checkpoint: Checkpoint, options: DenoiserOptions) -> NoiseKind:
    """The kind of noise whose level is measured: a recurrent network takes them all, others the one they learned."""
    if checkpoint.config.image_channels == PLANES:
        return "raw"
    if isinstance(checkpoint.config, RecurrentConfig) and options.noise_kind is not None:
        return options.noise_kind
    return checkpoint.info.noise_kind


def load(options: DenoiserOptions, on_message: Callable[[str], None] | None = None) -> LoadedDenoiser:
    """A denoiser; see `stbn_cli.load_denoiser`. The model "auto" for an open kind of noise is that for white noise."""
    options = options.with_tier()
    devices = check(options)
    loaded = load_model(
        options.model, options.flow, devices[0], options.noise_kind or "white", options.quality
    )
    loaded = loaded._replace(checkpoint=with_passes(loaded.checkpoint, options.passes))
    config = loaded.checkpoint.config
    chosen = options.passes not in (None, 1, TIERS[options.quality].passes)
    if chosen and not isinstance(config, RecurrentConfig) and on_message is not None:
        on_message(
            f"The model {loaded.checkpoint.info.name} takes one pass: --passes is for real and real-fast."
        )
    raw = config.image_channels == PLANES
    if raw != (options.noise_kind == "raw") and options.noise_kind is not None:
        raise unfit(loaded.path, raw=raw)
    denoiser = (LoadedRawDenoiser if raw else LoadedDenoiser)(loaded, options, devices, on_message)
    sigma = options.sigma
    if sigma is not None and on_message is not None and (warning := sigma_warning(sigma, denoiser.info)):
        on_message(warning)
    warn_if_emulated(denoiser.dtype, devices[0], on_message)
    return denoiser


def check(options: DenoiserOptions) -> tuple[torch.device, ...]:
    """Raise for options out of range, devices that are not there and models that are unknown; else the devices."""
    options.for_engine()
    options.check_kind()
    with checked_options():
        PoissonGaussian(*(options.raw_noise or (0.0, 0.0)))
    devices = resolve_devices(options.device)
    if str(options.model) != AUTO:
        resolve(str(options.model), device=devices[0])
    return devices


def with_passes(checkpoint: Checkpoint, passes: int | None) -> Checkpoint:
    """The checkpoint with a network that makes so many passes; None, or a blind spot: as it is."""
    config = checkpoint.config
    if passes is None or not isinstance(config, RecurrentConfig):
        return checkpoint
    return replace(checkpoint, config=replace(config, passes=passes))


def sigma_warning(sigma: float, info: ModelInfo) -> str | None:
    """The warning about a noise level (0-255 scale) outside the model's range; None inside it."""
    low, high = info.sigma_range
    if low <= sigma <= high:
        return None
    return (
        f"The noise level {sigma:.3g} lies outside {low:g} to {high:g}, the range that the model {info.name} was "
        "trained for. The result may be worse."
    )


def warn_if_emulated(
    dtype: torch.dtype, device: torch.device, on_message: Callable[[str], None] | None
) -> None:
    message = emulation_warning(dtype, device)
    if message is None:
        return
    if on_message is None:
        warnings.warn(message, stacklevel=4)  # at the user's call
    else:
        on_message(message)


class LoadedModel(NamedTuple):
    """A model and what it needs to run."""

    path: Path
    checkpoint: Checkpoint
    flow: FlowEstimator
    device: torch.device
    noise: LearnedNoise | None  # of the footage it was finetuned on


def load_model(
    model: str | Path,
    flow: str | None,
    device: torch.device,
    noise: NoiseKind = "white",
    quality: str = BALANCED,
) -> LoadedModel:
    """`flow`: None for the one that suits the model and the device; `noise`, `quality`: what "auto" is to be for."""
    if device.type == "cpu":
        keep_freed_memory()
    path = resolve(str(model), device=device, noise=noise, quality=quality)
    checkpoint = load_checkpoint(path)
    if flow is None:
        flow = checkpoint.info.flow
        if flow == "dis":
            flow = kind_of(device).flow  # as good (docs/experiments/gpu.md)
    estimator = _create_flow(checkpoint, flow, device)
    return LoadedModel(path, checkpoint, estimator, device, _learned_noise(path, checkpoint.info))


def _learned_noise(path: Path, info: ModelInfo) -> LearnedNoise | None:
    if info.noise is None:
        return None
    try:
        return LearnedNoise.from_description(info.noise)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The noise in the header of {str(path)!r} cannot be understood ({error}): the file is damaged. "
            "Finetune again, or give --sigma."
        ) from error


def check_fits(denoiser: Denoiser, *, raw: bool) -> None:
    """Raise `CheckpointError` if a denoiser is for video and the frames are raw, or the other way round."""
    if isinstance(denoiser, LoadedDenoiser) and isinstance(denoiser, RawDenoiser) != raw:
        raise unfit(denoiser.model_path, raw=not raw)


def unfit(model: str | Path, *, raw: bool) -> CheckpointError:
    """The refusal of a model that is for the other kind of frames; `raw`: what it is for."""
    own, other = ("raw pictures", "RGB video") if raw else ("RGB video", "raw pictures")
    return CheckpointError(f"The model {model} is for {own}, not for {other}. Choose another --model.")


def _create_flow(checkpoint: Checkpoint, name: str, device: torch.device) -> FlowEstimator:
    """The estimator called `name`: with the network that travels with the model, or that stbn has for all models."""
    if name not in NETWORK_NAMES:
        return create_flow_estimator(name)
    if name == checkpoint.info.flow and checkpoint.flow_weights:
        network = build_flow_network(name, checkpoint.flow_weights, checkpoint.info.name)
    elif name == "light":
        network = load_flow_checkpoint(find_flow()).build()
    else:
        return create_flow_estimator(name)  # says what is missing
    return create_flow_estimator(name, network.to(device))
