"""What `--strict` refuses, in one place: everything of the source that the output would lack.

Losses are what is said with `Warnings.lose`. Those known before the work are an OptionError, those found in the
finished file an OutputError; without --strict both are warnings.
"""

from pathlib import Path

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.video.encoders import EncodeOptions, plan_encoder
from stbn_cli.video.frames import FrameReader, Warnings
from stbn_cli.video.output import resolve_output
from stbn_cli.video.streams import StreamCopier


def known_losses(reader: FrameReader, output: str | Path, options: EncodeOptions) -> list[str]:
    """Sentences on what `output` would lack, as far as it is known before the work; nothing is written.

    Raises OptionError for options that do not fit.
    """
    notes = Warnings()
    for sentence in reader.metadata.losses:
        notes.lose(sentence)
    target = resolve_output(output)
    muxer = target.muxer if target.kind not in ("images", "image") else None
    if muxer is not None:
        plan_encoder(reader.metadata, muxer, options, notes)
    if reader.stream_source is not None:
        copier = StreamCopier(reader.stream_source, notes)
        try:
            copier.plan(muxer)
        finally:
            copier.close()
    return notes.losses


def refuse_known_losses(reader: FrameReader, output: str | Path, options: EncodeOptions) -> None:
    """With `options.strict`, refuse an output that would lack something of the source. Raises OptionError."""
    if options.strict and (losses := known_losses(reader, output, options)):
        raise OptionError(
            f"--strict: {Path(output).name} would lack something of the source. {' '.join(losses)} "
            "Leave out --strict to accept that."
        )


def refuse_found_losses(path: Path, losses: list[str], options: EncodeOptions) -> None:
    """With `options.strict`, refuse a finished file that lacks something. Raises OutputError."""
    if options.strict and losses:
        raise OutputError(
            f"--strict: {path.name} failed its check. {' '.join(losses)} Nothing was put in place; try another "
            "container, such as .mkv, or leave out --strict."
        )
