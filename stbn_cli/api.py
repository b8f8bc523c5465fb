"""The job of the command line as three functions: load a model, denoise a file, finetune a model on noisy clips.

The loaded denoiser also takes arrays: `denoiser(frames)` with `(T, H, W, 3)` uint8, uint16 or floating point
RGB.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from stbn_cli.checkpoints.flow import build_flow_network, load_flow_checkpoint
from stbn_cli.checkpoints.registry import AUTO
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint
from stbn_cli.checkpoints.store import find_flow, resolve
from stbn_cli.errors import CheckpointError, MemoryExhaustedError, OptionError
from stbn_cli.flow.estimator import NETWORK_NAMES, FlowEstimator, create_flow_estimator
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.device import (
    emulation_warning,
    is_emulated,
    is_out_of_memory,
    keep_freed_memory,
    resolve_device,
    resolve_devices,
    resolve_precision,
)
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.noise.kinds import INDEPENDENT_KINDS, KINDS, NoiseKind
from stbn_cli.noise.model import LearnedNoise
from stbn_cli.pipeline import DenoiseSummary, SpreadWriter, denoise_video, denoise_video_resumably

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.chunkstore import ChunkStore
    from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult
    from stbn_cli.runs import Clip
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.workfolder import WorkFolder

SIGMA_SCALE = 255.0  # users give noise levels on the 0-255 scale, the engine computes on [0, 1]
RGB_CHANNELS = 3
# What standard deviations are multiplied by in an uncertainty video: 32 of 255 is white.
UNCERTAINTY_GAIN = 8.0
# What CUDA devices use in place of flow that is found on the CPU: as good (docs/gpu.md), and nothing waits.
CUDA_FLOWS = {"dis": "light"}


class LoadedDenoiser(Denoiser):
    """A `Denoiser` that remembers which file it was made from and what that file says of itself."""

    model_path: Path
    info: ModelInfo
    flow_name: str


def load_denoiser(
    model: str | Path = AUTO,
    *,
    sigma: float | None = None,
    strength: float = 1.0,
    luma: float = 1.0,
    chroma: float = 1.0,
    keep_grain: float = 0.0,
    uncertainty: bool = False,
    noise_model: NoiseKind | None = None,
    flow: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    chunk: int | None = None,
    chunk_overlap: int | None = None,
    tile: int | None = None,
    tile_overlap: int | None = None,
    scene_cuts: bool = True,
    on_message: Callable[[str], None] | None = None,
) -> LoadedDenoiser:
    """Load a model, ready to denoise arrays and files.

    Args:
        model: "auto", a name listed by `stbn weights list`, a path, or "hf:owner/repo[@revision]/file.safetensors".
        sigma: standard deviation of the noise on the 0-255 scale; None estimates it for each scene, or takes what a
            finetuned model has learned of its footage.
        strength: share of the noise that is removed, 0 to 1; above, to 3, it is taken for so many times as strong.
        luma, chroma: shares, 0 to 1, of what is to be removed that are: of its brightness, and of its colour.
        keep_grain: share of the removed brightness noise that is put back, 0 to 1.
        uncertainty: `stream` gives the standard deviation of every value behind it; see `Denoiser.stream`.
        noise_model: which kind of noise the model "auto" is to be for: "white", "sensor", "camera" or "compressed"
            (`stbn_cli.analyze` finds out); None: "white". Other models know what they are for.
        flow: optical flow, one of `flow.ESTIMATOR_NAMES`; None takes the one the model was trained with, but on CUDA
            "light" in place of "dis", which would keep the device waiting for the CPU.
        device: auto, cpu, cuda, cuda:N or mps, or several CUDA devices with commas between them, which share the
            chunks.
            On a CPU under Linux the process keeps freed memory for itself from then on (`keep_freed_memory`).
        precision: auto, fp32, fp16 or bf16.
        chunk, chunk_overlap: frames worked on at a time, and looked ahead; None: as memory allows.
        tile, tile_overlap: pixels of a tile (0: never tile), and around it; None: as memory allows.
        scene_cuts: start afresh at scene cuts.
        on_message: receives sentences on fallbacks, on a sigma the model was not trained for, and on a precision that
            the device only emulates; the last comes as a Python warning where this is None.

    Raises:
        OptionError: an option is out of range, or the device is not there.
        CheckpointError: the model is unknown, missing or damaged.
    """
    try:
        options = EngineOptions(
            sigma=None if sigma is None else sigma / SIGMA_SCALE,
            strength=strength,
            luma=luma,
            chroma=chroma,
            keep_grain=keep_grain,
            uncertainty=uncertainty,
            chunk=chunk,
            chunk_overlap=chunk_overlap,
            tile=tile,
            tile_overlap=tile_overlap,
            scene_cuts=scene_cuts,
        )
    except ValueError as error:
        raise OptionError(f"The options cannot be used: {error}.") from error
    if noise_model is not None and noise_model not in KINDS:
        raise OptionError(f"The noise model {noise_model!r} is none of {', '.join(KINDS)}.")
    if noise_model is not None and str(model) != AUTO:
        raise OptionError(
            f"The model {str(model)!r} is for one kind of noise, whatever the noise model says. Give one of them."
        )
    devices = resolve_devices(device)
    loaded = _load(model, flow, devices[0], noise_model or "white")
    checkpoint, estimator = loaded.checkpoint, loaded.flow
    low, high = checkpoint.info.sigma_range
    dtype = resolve_precision(precision, devices[0])
    denoiser = LoadedDenoiser(
        checkpoint.build(),
        estimator,
        options,
        device=devices,
        dtype=dtype,
        sigma_range=(low / SIGMA_SCALE, high / SIGMA_SCALE),
        noise=loaded.noise,
        noise_kind=checkpoint.info.noise_kind,
        on_message=on_message,
    )
    denoiser.model_path, denoiser.info, denoiser.flow_name = loaded.path, checkpoint.info, estimator.name
    if sigma is not None and on_message is not None and (warning := sigma_warning(sigma, checkpoint.info)):
        on_message(warning)
    _warn_if_emulated(dtype, devices[0], on_message)
    return denoiser


def denoise_file(
    input: str | Path,
    output: str | Path,
    denoiser: Denoiser,
    *,
    encode: "EncodeOptions | None" = None,
    overwrite: bool = False,
    start: float | None = None,
    end: float | None = None,
    rate: Fraction | float | None = None,
    hardware: str | None = None,
    max_pixels: int | None = None,
    field: str = "auto",
    progress: Callable[[int], None] | None = None,
    uncertainty: str | Path | None = None,
    folder: "WorkFolder | None" = None,
    store: "ChunkStore | None" = None,
    stop: Callable[[], bool] = lambda: False,
) -> DenoiseSummary:
    """Denoise a video file or an image sequence. `output` appears whole and verified, or not at all.

    Args:
        input: a video, a folder of images, a pattern such as frame_%04d.png, or "-": y4m from standard input.
        output: a video by its suffix, a folder or pattern of images, or "-": y4m to standard output.
        encode: how to encode; None: like the input.
        overwrite: replace `output` if it is there.
        start, end: half-open range in seconds from the beginning of the input.
        rate: frames per second of an image sequence; None: 25.
        hardware: "auto" or "cuda" decodes on the graphics card, or in software with a warning where it cannot.
        max_pixels: of one picture; an input that states more is refused. None: 8192 x 8192.
        field: "on" denoises the two fields of each picture apart, "off" does not, "auto" goes by the input's marks.
        progress: called with the number of frames denoised so far.
        uncertainty: a .mkv to write the standard deviation of every value to, times UNCERTAINTY_GAIN, in lossless RGB
            of 16 bits; for a denoiser that was loaded with `uncertainty`, and without `store`.
        folder: the locked place of what is not finished; None: one is made beside the output for this call.
        store: where finished chunks are kept, and taken from; None: an interrupted run starts again.
        stop: asked after each chunk if there is a store; True ends the run with KeyboardInterrupt once that is kept.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
    """
    # Here, so that arrays can be denoised and measured on machines without PyAV.
    from stbn_cli.video.changed import without_streams
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.limits import MAX_PIXELS
    from stbn_cli.video.output import STANDARD_STREAM, check_output
    from stbn_cli.video.reader import VideoReader, open_video
    from stbn_cli.video.workfolder import WorkFolder
    from stbn_cli.video.writer import create_video

    encode = encode or EncodeOptions()
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    with ExitStack() as stack:
        reader = stack.enter_context(
            open_video(
                input,
                start=start,
                end=end,
                rate=rate,
                hardware=hardware,
                max_pixels=limit,
                field=field,
                strict=encode.strict,
            )
        )
        if folder is None and str(output) != STANDARD_STREAM:
            check_output(input, output, overwrite)
            folder = stack.enter_context(WorkFolder(output))
        hidden = None if folder is None else folder.path
        writer = stack.enter_context(create_video(output, reader, encode, overwrite=overwrite, folder=hidden))
        if store is None:
            spread = None
            if uncertainty is not None:
                coding = EncodeOptions(codec="ffv1", pix_fmt="gbrp16le", dither=False)
                made = create_video(uncertainty, without_streams(reader), coding, overwrite=overwrite)
                spread = SpreadWriter(stack.enter_context(made), UNCERTAINTY_GAIN)
            summary = denoise_video(reader, denoiser, writer, spread=spread, progress=progress)
        else:
            store.begin(writer.layout, asdict(writer.color))
            summary = denoise_video_resumably(reader, denoiser, writer, store, progress=progress, stop=stop)
        # A damaged image ends the run; only video files have damage to live with.
        return replace(summary, damage=reader.damage) if isinstance(reader, VideoReader) else summary


def finetune(
    clips: "Clip | Sequence[Clip]",
    output: str | Path | None = None,
    *,
    model: str | Path = AUTO,
    sigma: float | None = None,
    minutes: float = 10.0,
    steps: int | None = None,
    from_scratch: bool = False,
    flow: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    start: float | None = None,
    end: float | None = None,
    rate: Fraction | float | None = None,
    field: str = "auto",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    preview: str | Path | None = None,
    progress: "Callable[[FinetuneProgress], None] | None" = None,
    on_message: Callable[[str], None] | None = None,
    measured: "Analysis | None" = None,
    **sizes: Any,
) -> "FinetuneResult":
    """Adapt a model to noisy clips of one camera, from these clips alone; never worse than the model by its estimate.

    Args:
        clips: videos, folders or patterns of images, or arrays `(T, H, W, 3)` as `denoiser` takes them.
        output: the finetuned model, `.safetensors`; None writes nothing. It appears whole or not at all.
        model: to start from; as `load_denoiser` takes it.
        sigma: standard deviation of the noise on the 0-255 scale; None learns it as a function of brightness.
        minutes: wall-clock time to take, about; with `steps` (of the optimiser) it is as long as that takes.
        from_scratch: start from random weights of the same shape instead.
        flow: as for `load_denoiser`; a network ("light") is finetuned too, where that helps.
        device, precision: as for `load_denoiser`; fp16 is bf16 here, or fp32 where that is only emulated.
        start, end, rate: part of video files in seconds, and frames per second of image sequences.
        field: as for `denoise_file`.
        seed: the same one with the same `steps` gives the same file on a CPU.
        resume: go on with the run for `output` that was interrupted.
        overwrite: replace `output` if it is there.
        preview: a picture of a crop before and after, `.png` or `.jpg`.
        progress: called with how far the run is.
        on_message: receives a sentence on a precision that the device only emulates; None: a Python warning.
        measured: what `analyze` has found in the clip, where that is known; None measures the clips.
        sizes: `batch_size`, `patch_size`, `train_length`, `learning_rate`, `distillation` of `FinetuneOptions`.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
        ValueError: an array is of another shape or type.
    """
    from stbn_cli.finetuning.finetuner import Finetuner
    from stbn_cli.finetuning.learner import StartingPoint
    from stbn_cli.finetuning.options import FinetuneOptions
    from stbn_cli.finetuning.output import check_files, state_path, write_outputs
    from stbn_cli.runs import Span

    clips = [clips] if isinstance(clips, str | Path | np.ndarray) else list(clips)
    span = Span(start, end, rate, field)
    check_files(clips, span, output, preview, overwrite=overwrite or resume)
    try:
        options = FinetuneOptions(
            sigma=None if sigma is None else sigma / SIGMA_SCALE,
            minutes=minutes,
            steps=steps,
            from_scratch=from_scratch,
            seed=seed,
            **sizes,
        )
    except ValueError as error:
        raise OptionError(f"The options cannot be used: {error}.") from error
    loaded = _load(model, flow, resolve_device(device))
    info = loaded.checkpoint.info
    if info.noise_kind not in INDEPENDENT_KINDS:
        raise OptionError(
            f"The model {info.name} is for {info.noise_kind} noise, which neighbouring pixels share, so that it cannot "
            "be learned from noisy clips alone. Start from a model for white or sensor noise."
        )
    dtype = resolve_precision(precision, loaded.device)
    if dtype == torch.float16:
        # Half precision without bfloat16's range would need loss scaling for so little as this.
        dtype = torch.float32 if is_emulated(torch.bfloat16, loaded.device) else torch.bfloat16
    _warn_if_emulated(dtype, loaded.device, on_message)
    begin = StartingPoint(
        checkpoint=loaded.checkpoint,
        flow=loaded.flow,
        device=loaded.device,
        precision=dtype,
        noise=loaded.noise,
    )
    finetuner = Finetuner(
        begin,
        options,
        state_path=None if output is None else state_path(Path(output)),
        resume=resume,
        report=progress or (lambda _: None),
    )
    try:
        result = finetuner.run(clips, span, measured)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            "Memory ran out while finetuning. Give a smaller --batch-size, --patch-size or --model, or --device cpu."
        ) from error
    write_outputs(result, output, preview)
    return result


def sigma_warning(sigma: float, info: ModelInfo) -> str | None:
    """What to tell the user of a noise level (0-255 scale) outside the model's range; None inside it."""
    low, high = info.sigma_range
    if low <= sigma <= high:
        return None
    return (
        f"The noise level {sigma:.3g} lies outside {low:g} to {high:g}, the range that model {info.name} was "
        "trained for; expect a weaker result."
    )


def _warn_if_emulated(
    dtype: torch.dtype, device: torch.device, on_message: Callable[[str], None] | None
) -> None:
    message = emulation_warning(dtype, device)
    if message is None:
        return
    if on_message is None:
        warnings.warn(message, stacklevel=3)  # at the user's call
    else:
        on_message(message)


class _Loaded(NamedTuple):
    """A model and what it needs to run."""

    path: Path
    checkpoint: Checkpoint
    flow: FlowEstimator
    device: torch.device
    noise: LearnedNoise | None  # of the footage it was finetuned on


def _load(model: str | Path, flow: str | None, device: torch.device, noise: NoiseKind = "white") -> _Loaded:
    """`flow`: None for the one that suits the model and the device; `noise`: what "auto" is to be for."""
    if device.type == "cpu":
        keep_freed_memory()
    path = resolve(str(model), device=device, noise=noise)
    checkpoint = load_checkpoint(path)
    _check_rgb(path, checkpoint)
    if flow is None:
        flow = checkpoint.info.flow
        if device.type == "cuda":
            flow = CUDA_FLOWS.get(flow, flow)
    estimator = _create_flow(checkpoint, flow, device)
    return _Loaded(path, checkpoint, estimator, device, _learned_noise(path, checkpoint.info))


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


def _check_rgb(path: Path, checkpoint: Checkpoint) -> None:
    channels = checkpoint.config.image_channels
    if channels != RGB_CHANNELS:
        raise CheckpointError(
            f"The model {path} is for raw pictures of {channels} channels, not for RGB video. "
            "Choose another --model."
        )


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
