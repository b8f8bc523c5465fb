"""What `--strict` refuses, in one place: everything of the source that the output would lack.

Losses are what is reported with `Warnings.lose`. Those known before the work are an OptionError, those found in the
finished file an OutputError; without --strict both are warnings.
"""

from pathlib import Path

from stbn_cli.errors import OptionError, OutputError
from stbn_cli.raw.writer import keeps_mosaic, rendered_note
from stbn_cli.video.color import untagged_matrix
from stbn_cli.video.encoders import EncodeOptions, EncoderPlan, plan_encoder
from stbn_cli.video.formats import JPEG_SUFFIXES, Y4M
from stbn_cli.video.frames import UNSPECIFIED, FrameReader, Warnings
from stbn_cli.video.output import OutputTarget, image_pattern, resolve_output
from stbn_cli.video.pixels import MATRIX_NUMBERS, describe_format, tag_name
from stbn_cli.video.stereo import report_stereo
from stbn_cli.video.streams import StreamCopier


def known_losses(reader: FrameReader, output: str | Path, options: EncodeOptions) -> list[str]:
    """Sentences on what `output` would lack, as far as it is known before the work; nothing is written.

    Raises OptionError for options that do not fit.
    """
    notes = Warnings()
    for sentence in reader.metadata.losses:
        notes.lose(sentence)
    target = resolve_output(output)
    if reader.metadata.bayer is not None:
        return [*notes.losses, *([] if keeps_mosaic(reader.metadata, target) else [rendered_note(reader)])]
    muxer = target.muxer if target.kind in ("video", "pipe") else None
    if muxer is None:
        report_jpeg_loss(reader, target, notes)
    if muxer is not None:
        plan = plan_encoder(reader.metadata, muxer, options, notes)
        if muxer == Y4M:
            report_y4m_losses(reader, plan, notes)
    report_left_out(reader, muxer, notes)
    return notes.losses


def report_left_out(reader: FrameReader, muxer: str | None, notes: Warnings) -> None:
    """Say which streams, chapters, tags and marks a container (None: images) cannot hold."""
    report_stereo(reader.metadata, muxer, notes)
    if reader.stream_source is not None:
        copier = StreamCopier(reader.stream_source, notes)
        try:
            copier.plan(muxer)
        finally:
            copier.close()


def report_jpeg_loss(reader: FrameReader, target: OutputTarget, notes: Warnings) -> None:
    """Say that images of more than 8 bits are rounded."""
    depth = reader.metadata.bit_depth
    if depth > 8 and Path(image_pattern(target, reader.image_names)).suffix.lower() in JPEG_SUFFIXES:
        notes.lose(f"JPEG holds 8 bits; the {depth}-bit source is rounded. Use .png.")


def report_y4m_losses(reader: FrameReader, plan: EncoderPlan, notes: Warnings) -> None:
    """Say what of the pictures' meaning y4m has no tag for."""
    metadata, color = reader.metadata, plan.color
    assumed = untagged_matrix(metadata.width, metadata.height)
    if describe_format(plan.pix_fmt).family == "yuv" and color.matrix != assumed:
        known = tag_name("matrix", MATRIX_NUMBERS[color.matrix]).lower()
        notes.lose(
            f"y4m has no tag for the colour matrix {color.matrix}; readers will take {assumed}. Tell the next "
            f"command, such as ffmpeg -colorspace {known} before its -i, or write .mkv."
        )
    untold = [
        name
        for name, value in (("colour primaries", color.primaries), ("transfer curve", color.transfer))
        if value != UNSPECIFIED
    ]
    if untold:
        notes.lose(f"y4m does not keep the source's {', '.join(untold)}. An .mkv output does.")


def check_known_losses(reader: FrameReader, output: str | Path, options: EncodeOptions) -> list[str]:
    """`known_losses`. With `options.strict`, an output that would lose something is refused: raises OptionError."""
    losses = known_losses(reader, output, options)
    if options.strict and losses:
        raise OptionError(
            f"--strict: {Path(output).name} would lose something of the source. {' '.join(losses)} "
            "Leave out --strict to accept that."
        )
    return losses


def refuse_found_losses(path: Path, losses: list[str], options: EncodeOptions) -> None:
    """With `options.strict`, refuse a finished file that lacks something. Raises OutputError."""
    if options.strict and losses:
        raise OutputError(
            f"--strict: {path.name} failed its check. {' '.join(losses)} Nothing was put in place; try another "
            "container, such as .mkv, or leave out --strict."
        )
