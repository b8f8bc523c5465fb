"""The job of the command line as three functions: load a model, denoise a file, finetune a model on noisy clips.

The loaded denoiser also takes arrays: `denoiser(frames)` with `(T, H, W, 3)` uint8, uint16 or floating point
RGB.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stbn_cli.checkpoints.registry import AUTO
from stbn_cli.errors import OptionError, checked_options
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.jobs.events import Events
from stbn_cli.jobs.model import LoadedDenoiser, load
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.scale import to_unit
from stbn_cli.source import Source, Span
from stbn_cli.video.limits import MAX_PIXELS

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult
    from stbn_cli.pipeline import DenoiseSummary
    from stbn_cli.runs import Clip
    from stbn_cli.video.encoders import EncodeOptions


def load_denoiser(
    model: str | Path = AUTO,
    *,
    sigma: float | None = None,
    strength: float = 1.0,
    luma: float = 1.0,
    chroma: float = 1.0,
    keep_grain: float = 0.0,
    uncertainty: bool = False,
    noise_kind: NoiseKind | None = None,
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
        noise_kind: which kind of noise the model "auto" is to be for: "white", "sensor", "camera" or "compressed"
            (`stbn_cli.analyze` finds out); None: the kind that `denoise_file` measures in each file, and "white" for
            arrays. Other models know what they are for.
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
    options = DenoiserOptions(
        model=model,
        sigma=sigma,
        strength=strength,
        luma=luma,
        chroma=chroma,
        keep_grain=keep_grain,
        uncertainty=uncertainty,
        noise_kind=noise_kind,
        flow=flow,
        device=device,
        precision=precision,
        chunk=chunk,
        chunk_overlap=chunk_overlap,
        tile=tile,
        tile_overlap=tile_overlap,
        scene_cuts=scene_cuts,
    )
    return load(options, on_message)


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
    keep_progress: bool = False,
    resume: bool = False,
    adapt_minutes: float | None = None,
) -> "DenoiseSummary":
    """Denoise a video file or an image sequence. `output` appears whole and verified, or not at all.

    Args:
        input: a video, a folder of images, a pattern such as frame_%04d.png, or "-": y4m from standard input.
        output: a video by its suffix, a folder or pattern of images, or "-": y4m to standard output.
        encode: how to encode; None: like the input.
        denoiser: with the model "auto" and no kind of noise, the model for the kind that is measured takes its place;
            its `report` is then empty.
        overwrite: replace `output` if it is there.
        start, end: half-open range in seconds from the beginning of the input.
        rate: frames per second of an image sequence; None: 25.
        hardware: "auto" or "cuda" decodes on the graphics card, or in software with a warning where it cannot.
        max_pixels: of one picture; an input that states more is refused. None: 8192 x 8192.
        field: "on" denoises the two fields of each picture apart, "off" does not, "auto" goes by the input's marks.
        progress: called with the number of frames denoised so far.
        uncertainty: a .mkv to write the standard deviation of every value to, times 8, in lossless RGB of
            16 bits; for a denoiser that was loaded with `uncertainty`.
        keep_progress: keep finished frames in a hidden folder beside `output` until it is done.
        resume: go on where an interrupted call with the same options ended, if there was one; keeps progress.
        adapt_minutes: finetune the model on this input first, for about so long.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
    """
    # Here, so that arrays can be denoised and measured on machines without PyAV.
    from stbn_cli.jobs.denoise import DenoiseJob, write_denoised
    from stbn_cli.video.encoders import EncodeOptions

    loaded = denoiser if isinstance(denoiser, LoadedDenoiser) else None
    job = DenoiseJob(
        source=Source(
            input, Span(start, end, rate, field, MAX_PIXELS if max_pixels is None else max_pixels, hardware)
        ),
        output=output,
        options=DenoiserOptions() if loaded is None else loaded.requested,
        encode=encode or EncodeOptions(),
        overwrite=overwrite,
        uncertainty=uncertainty,
        keep_progress=keep_progress or resume,
        resume=resume,
        restart=not resume,
        adapt_minutes=adapt_minutes,
        resume_command="Call denoise_file again with resume=True.",
    )
    if loaded is None and (job.keep_progress or adapt_minutes is not None):
        raise OptionError("To keep progress or to adapt a model, give a denoiser made by load_denoiser.")
    tell = None if loaded is None else loaded.on_message
    with job.prepare(Events(show_warning=tell or (lambda message: None)), denoiser) as prepared:
        if loaded is not None:
            return prepared.run(progress).summary
        return write_denoised(
            prepared.reader,
            output,
            denoiser,
            job.encode,
            overwrite=overwrite,
            uncertainty=uncertainty,
            folder=prepared.folder,
            progress=progress,
        )


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
    max_pixels: int | None = None,
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
        field, max_pixels: as for `denoise_file`.
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
    from stbn_cli.finetuning.options import FinetuneOptions
    from stbn_cli.jobs.finetune import FinetuneJob

    with checked_options():
        options = FinetuneOptions(
            sigma=to_unit(sigma), minutes=minutes, steps=steps, from_scratch=from_scratch, seed=seed, **sizes
        )
    job = FinetuneJob(
        clips=[clips] if isinstance(clips, str | Path | np.ndarray) else list(clips),
        output=output,
        span=Span(start, end, rate, field, MAX_PIXELS if max_pixels is None else max_pixels),
        options=options,
        model=model,
        flow=flow,
        device=device,
        precision=precision,
        preview=preview,
        overwrite=overwrite,
        resume=resume,
    )
    return job.run(progress or (lambda _: None), on_message, measured)
