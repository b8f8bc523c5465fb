"""The files of a finetuning run: the model, a picture of what it does, and what an interrupted run leaves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stbn_cli.checkpoints.serial import save_checkpoint
from stbn_cli.errors import InputError, OptionError, OutputError
from stbn_cli.files import check_file
from stbn_cli.finetuning.result import FinetuneResult
from stbn_cli.preview.picture import label
from stbn_cli.raw.bayer import pseudo_rgb
from stbn_cli.raw.pattern import PLANES
from stbn_cli.runs import Clip
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.source import Source, Span
from stbn_cli.video.formats import JPEG_SUFFIXES
from stbn_cli.video.images import write_picture

MODEL_SUFFIX = ".safetensors"
STATE_SUFFIX = ".resume.pt"
PICTURE_SUFFIXES = (".png", *JPEG_SUFFIXES)
# The crop is magnified by whole numbers up to about this height, pixels.
PICTURE_HEIGHT = 720
JOINT = 4  # pixels between the panels


def state_path(output: Path) -> Path:
    """Where a run that is to end in `output` keeps its state until it is finished."""
    return output.with_name(output.name.removesuffix(MODEL_SUFFIX) + STATE_SUFFIX)


def check_files(
    clips: Sequence[Clip],
    span: Span,
    output: str | Path | None,
    preview: str | Path | None,
    *,
    overwrite: bool,
) -> None:
    """Refuse what could not be read or written, before the work.

    Raises `OptionError` for wrong suffixes and ranges, `OutputError` for files that exist or folders that do not, and
    `InputError` where there is no clip, or one cannot be read.
    """
    if not clips:
        raise InputError("There is no clip to learn from. Name one or more.")
    for clip in clips:
        if not isinstance(clip, np.ndarray):
            Source(clip, span).open().close()
    if output is not None:
        if Path(output).suffix != MODEL_SUFFIX:
            raise OptionError(f"The model {output} has to end in {MODEL_SUFFIX}.")
        check_file(Path(output), overwrite)
    if preview is not None:
        if Path(preview).suffix.lower() not in PICTURE_SUFFIXES:
            raise OptionError(f"The picture {preview} has to end in one of {', '.join(PICTURE_SUFFIXES)}.")
        check_file(Path(preview), overwrite)


def write_outputs(result: FinetuneResult, output: str | Path | None, preview: str | Path | None) -> None:
    """Write model and picture; the state of a run that ended by itself is deleted. Raises `OutputError`."""
    try:
        if output is not None:
            save_checkpoint(Path(output), result.checkpoint)
            if not result.interrupted:
                state_path(Path(output)).unlink(missing_ok=True)
        if preview is not None and result.before is not None:
            write_picture(Path(preview), compose(result))
    except OSError as error:
        raise OutputError(
            f"The result cannot be written ({error.strerror or error}). Make room, or name another file."
        ) from error


def compose(result: FinetuneResult) -> np.ndarray:
    """A crop as it was, denoised by the start, and by the result if that is another: (h, w, 3) uint8 RGB."""
    panels = []
    for picture, words in (
        (result.before, "noisy"),
        (result.start, "before finetuning"),
        (result.after, "after finetuning"),
    ):
        if picture is None:
            continue
        if len(picture) == PLANES:
            picture = pseudo_rgb(picture)
        panel = (picture.clamp(0.0, 1.0) * BYTE_SCALE).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        factor = max(1, PICTURE_HEIGHT // panel.shape[0])
        panel = np.ascontiguousarray(panel.repeat(factor, axis=0).repeat(factor, axis=1))
        label(panel, words, 4, panel.shape[0] - 4)
        panels += [panel, np.zeros((panel.shape[0], JOINT, 3), np.uint8)]
    return np.hstack(panels[:-1])
