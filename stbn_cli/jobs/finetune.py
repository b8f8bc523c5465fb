"""Finetuning a model on noisy clips, from the first check to the written files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stbn_cli.checkpoints.registry import AUTO, BALANCED, has_model
from stbn_cli.errors import InputError, MemoryExhaustedError, OptionError
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.inference.device import is_emulated, is_out_of_memory, resolve_device, resolve_precision
from stbn_cli.jobs.model import load_model, unfit, warn_if_emulated, with_passes
from stbn_cli.jobs.options import TIERS
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.noise.kinds import INDEPENDENT_KINDS, NoiseKind
from stbn_cli.raw.pattern import PLANES
from stbn_cli.runs import is_raw
from stbn_cli.source import Span

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.finetuning.frame_trainer import FrameModels
    from stbn_cli.finetuning.result import FinetuneProgress, FinetuneResult
    from stbn_cli.finetuning.trainer import StartingPoint
    from stbn_cli.runs import Clip

# The model that learns from noise that neighbours share, whatever `stbn denoise` would take.
FRAME_LEARNER = "real"


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """What is to be learned from, and with what; see `stbn_cli.finetune`."""

    clips: "Sequence[Clip]"
    output: str | Path | None = None  # None: no file
    span: Span = field(default_factory=Span)
    options: FinetuneOptions = field(default_factory=FinetuneOptions)
    model: str | Path = AUTO
    noise_kind: NoiseKind | None = None  # that the model "auto" is for; None: what is measured
    quality: str = BALANCED  # what `stbn denoise` would take the model "auto" for, where noise is shared
    passes: int | None = None  # that `stbn denoise` would take; None: as the quality and the model say
    flow: str | None = None
    device: str = AUTO
    precision: str = AUTO
    preview: str | Path | None = None
    overwrite: bool = False
    resume: bool = False

    def run(
        self,
        progress: "Callable[[FinetuneProgress], None]" = lambda progress: None,
        on_message: Callable[[str], None] | None = None,
        measured: "Analysis | None" = None,
    ) -> "FinetuneResult":
        """Check, learn, and write the files. Parameters and errors are those of `stbn_cli.finetune`."""
        from stbn_cli.finetuning.output import check_files, state_path, write_outputs
        from stbn_cli.finetuning.run import FinetuneRun

        check_files(self.clips, self.span, self.output, self.preview, overwrite=self.overwrite or self.resume)
        start = self._start(on_message)
        finetuner = FinetuneRun(
            start,
            self.options,
            frame_models=lambda kind: self._frame_models(start, kind, on_message),
            state_path=None if self.output is None else state_path(Path(self.output)),
            resume=self.resume,
            report=progress,
        )
        try:
            result = finetuner.run(self.clips, self.span, measured)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryExhaustedError(
                "Memory ran out while finetuning. Give a smaller --batch-size, --patch-size or --model, or --device "
                "cpu."
            ) from error
        write_outputs(result, self.output, self.preview)
        return result

    def _start(self, on_message: Callable[[str], None] | None) -> "StartingPoint":
        """The model to start from. Raises `OptionError` for one that cannot learn from noisy clips alone."""
        kinds = {is_raw(clip, self.span) for clip in self.clips}
        if len(kinds) > 1:
            raise InputError(
                "Some of the clips are raw and others are video. Finetune on one kind at a time."
            )
        raw = kinds == {True}
        start = self._load(self.model, "raw" if raw else "white", on_message)
        config = start.checkpoint.config
        if raw != (config.image_channels == PLANES):
            raise unfit(start.checkpoint.info.name, raw=not raw)
        if raw and config.head != "gaussian":
            raise OptionError(
                f"The model {start.checkpoint.info.name} does not say how sure it is, so that nothing could judge the "
                "finetuning. Use stbn train with --initial, or start from another model."
            )
        if raw and self.options.sigma is not None:
            raise OptionError("--sigma is for video: the noise of raw pictures is measured. Leave it out.")
        info, recurrent = start.checkpoint.info, isinstance(start.checkpoint.config, RecurrentConfig)
        if not recurrent and info.noise_kind not in INDEPENDENT_KINDS:
            raise OptionError(
                f"The model {info.name} is for {info.noise_kind} noise, which neighbouring pixels share, so that it "
                f"cannot be learned from noisy clips alone. Leave the model to stbn, or start from {FRAME_LEARNER}."
            )
        if recurrent and self.options.from_scratch:
            raise OptionError(
                "Nothing can be learned from frame to frame from scratch: motion is found in what the start makes of "
                "the frames. Leave out --from-scratch, or start from a model for white noise."
            )
        return start

    def _frame_models(
        self, start: "StartingPoint", kind: NoiseKind, on_message: Callable[[str], None] | None
    ) -> "FrameModels | None":
        """What learns from noise of this kind, which neighbours share; None where the start cannot."""
        from stbn_cli.finetuning.frame_trainer import FrameModels

        kind = self.noise_kind or kind
        if isinstance(start.checkpoint.config, RecurrentConfig):
            return FrameModels(start, start, kind)
        if str(self.model) != AUTO or self.options.from_scratch:
            return None
        known = has_model(str(resolve_device(self.device)), kind)
        reference = self._load(AUTO, kind if known else "white", on_message, self.quality)
        if isinstance(reference.checkpoint.config, RecurrentConfig):
            return FrameModels(reference, reference, kind)
        return FrameModels(reference, self._load(FRAME_LEARNER, kind, on_message), kind)

    def _load(
        self,
        model: str | Path,
        kind: NoiseKind,
        on_message: Callable[[str], None] | None,
        quality: str = BALANCED,
    ) -> "StartingPoint":
        from stbn_cli.finetuning.trainer import StartingPoint

        loaded = load_model(model, self.flow, resolve_device(self.device), kind, quality)
        dtype = resolve_precision(self.precision, loaded.device)
        if dtype == torch.float16:
            # Half precision without bfloat16's range would need loss scaling for so little as this.
            dtype = torch.float32 if is_emulated(torch.bfloat16, loaded.device) else torch.bfloat16
        warn_if_emulated(dtype, loaded.device, on_message)
        return StartingPoint(
            checkpoint=with_passes(loaded.checkpoint, self.passes or TIERS[quality].passes),
            flow=loaded.flow,
            device=loaded.device,
            precision=dtype,
            noise=loaded.noise,
        )
