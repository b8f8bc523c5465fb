"""The job of the command line as three functions: load a model, denoise a file, finetune a model on noisy clips.

The loaded denoiser also takes arrays: `denoiser(frames)` with `(T, H, W, 3)` uint8, uint16 or floating point
RGB.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from stbn_cli.finetuning.options import FinetuneOptions
    from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult
    from stbn_cli.pipeline import DenoiseSummary
    from stbn_cli.runs import Clip
    from stbn_cli.video.encoders import EncodeOptions


def load_denoiser(
    model: str | Path | None = None,
    *,
    sigma: float | None = None,
    strength: float | None = None,
    noise_kind: NoiseKind | None = None,
    flow: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    options: DenoiserOptions | None = None,
    on_message: Callable[[str], None] | None = None,
) -> LoadedDenoiser:
    """Load a model, ready to denoise arrays and files.

    Args:
        model, sigma, strength, noise_kind, flow, device, precision: those of `DenoiserOptions`, in place of what
            `options` say.
        options: all that can be chosen; None: the defaults.
        on_message: receives sentences on fallbacks, on a sigma the model was not trained for, and on a precision that
            the device only emulates; the last comes as a Python warning where this is None.

    Raises:
        OptionError: an option is out of range, or the device is not there.
        CheckpointError: the model is unknown, missing or damaged.
    """
    given = {
        "model": model,
        "sigma": sigma,
        "strength": strength,
        "noise_kind": noise_kind,
        "flow": flow,
        "device": device,
        "precision": precision,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return load(replace(options or DenoiserOptions(), **chosen), on_message)


def denoise_file(
    input: str | Path,
    output: str | Path,
    denoiser: Denoiser,
    *,
    encode: "EncodeOptions | None" = None,
    span: Span | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    uncertainty: str | Path | None = None,
    keep_progress: bool = False,
    resume: bool = False,
    restart: bool = False,
    adapt_minutes: float | None = None,
    grain_table: str | Path | None = None,
) -> "DenoiseSummary":
    """Denoise a video file or an image sequence. `output` appears whole and verified, or not at all.

    Args:
        input: a video, a folder of images, a pattern such as frame_%04d.png, or "-": y4m from standard input.
        output: a video by its suffix, a folder or pattern of images, or "-": y4m to standard output.
        encode: how to encode; None: like the input.
        denoiser: with the model "auto" and no kind of noise, the model for the kind that is measured takes its place;
            its `report` is then empty.
        span: which part of the input to take, and how to read it; None: all.
        overwrite: replace `output` if it is there.
        progress: called with the number of frames denoised so far.
        uncertainty: a .mkv to write the standard deviation of every value to, times 8, in lossless RGB of
            16 bits; for a denoiser that was loaded with `uncertainty`.
        keep_progress: keep finished frames in a hidden folder beside `output` until it is done.
        resume: go on where an interrupted call with the same options ended, if there was one; keeps progress.
        restart: drop what an interrupted call has kept; without this or `resume`, that is an `OutputError`.
        adapt_minutes: finetune the model on this input first, for about so long.
        grain_table: a file to write the grain that was removed to, as a film-grain table that AV1 encoders read. With
            `EncodeOptions(film_grain=True)` an AV1 output states it too; the summary's `grain` has what was measured.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
    """
    # Here, so that arrays can be denoised and measured on machines without PyAV.
    from stbn_cli.jobs.denoise import DenoiseJob, write_denoised
    from stbn_cli.video.encoders import EncodeOptions

    loaded = denoiser if isinstance(denoiser, LoadedDenoiser) else None
    job = DenoiseJob(
        source=Source(input, span or Span()),
        output=output,
        options=DenoiserOptions() if loaded is None else loaded.requested,
        encode=encode or EncodeOptions(),
        overwrite=overwrite,
        uncertainty=uncertainty,
        keep_progress=keep_progress or resume,
        resume=resume,
        restart=restart,
        adapt_minutes=adapt_minutes,
        grain_table=grain_table,
        resume_command="Call denoise_file again with resume=True.",
        choices="Use resume=True to continue it, or restart=True to start again.",
    )
    if loaded is None and (job.keep_progress or adapt_minutes is not None):
        raise OptionError("To keep progress or to adapt a model, give a denoiser made by load_denoiser.")
    on_message = None if loaded is None else loaded.on_message
    with job.prepare(Events(show_warning=on_message or (lambda message: None)), denoiser) as prepared:
        if loaded is not None:
            return prepared.run(progress).summary
        return write_denoised(
            prepared.reader,
            output,
            denoiser,
            job.encode,
            overwrite=overwrite,
            uncertainty=uncertainty,
            grain_table=grain_table,
            folder=prepared.folder,
            progress=progress,
        )


def finetune(
    clips: "Clip | Sequence[Clip]",
    output: str | Path | None = None,
    *,
    model: str | Path = AUTO,
    sigma: float | None = None,
    minutes: float | None = None,
    flow: str | None = None,
    device: str = AUTO,
    precision: str = AUTO,
    options: "FinetuneOptions | None" = None,
    span: Span | None = None,
    resume: bool = False,
    overwrite: bool = False,
    preview: str | Path | None = None,
    progress: "Callable[[FinetuneProgress], None] | None" = None,
    on_message: Callable[[str], None] | None = None,
) -> "FinetuneResult":
    """Adapt a model to noisy clips of one camera, from these clips alone; never worse than the model by its estimate.

    Args:
        clips: videos, folders or patterns of images, or arrays `(T, H, W, 3)` as `denoiser` takes them.
        output: the finetuned model, `.safetensors`; None writes nothing. It appears whole or not at all.
        model: to start from; as `DenoiserOptions` has it.
        sigma: standard deviation of the noise on the 0-255 scale, in place of what `options` say; None there too
            learns it as a function of brightness.
        minutes: wall-clock time to take, about, in place of what `options` say.
        flow: as in `DenoiserOptions`; a network ("light") is finetuned too, where that helps.
        device, precision: as in `DenoiserOptions`; fp16 is bf16 here, or fp32 where that is only emulated.
        options: how to learn; None: the defaults. The same `seed` with the same `steps` gives the same file on a CPU.
        span: which part of video files to take, and how to read them; None: all.
        resume: go on with the run for `output` that was interrupted.
        overwrite: replace `output` if it is there.
        preview: a picture of a crop before and after, `.png` or `.jpg`.
        progress: called with how far the run is.
        on_message: receives a sentence on a precision that the device only emulates; None: a Python warning.

    Raises:
        StbnError: one of its classes, with a sentence that says what to do.
        ValueError: an array is of another shape or type.
    """
    from stbn_cli.finetuning.options import FinetuneOptions
    from stbn_cli.jobs.finetune import FinetuneJob

    given = {"sigma": to_unit(sigma), "minutes": minutes}
    with checked_options():
        chosen = {name: value for name, value in given.items() if value is not None}
        options = replace(options or FinetuneOptions(), **chosen)
    job = FinetuneJob(
        clips=[clips] if isinstance(clips, str | Path | np.ndarray) else list(clips),
        output=output,
        span=span or Span(),
        options=options,
        model=model,
        flow=flow,
        device=device,
        precision=precision,
        preview=preview,
        overwrite=overwrite,
        resume=resume,
    )
    return job.run(progress or (lambda _: None), on_message)
