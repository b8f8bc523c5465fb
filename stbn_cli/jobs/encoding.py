"""How an output will be encoded, decided before the work."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbn_cli.jobs.events import Events

if TYPE_CHECKING:
    from stbn_cli.video.encoders import EncodeOptions
    from stbn_cli.video.frames import VideoMetadata


@dataclass(frozen=True, slots=True)
class Encoding:
    """A video's container, encoder, pixel format and options; or images: their pattern ("" for the input's names)."""

    images: str | None = None
    container: str = ""
    encoder: str = ""
    pix_fmt: str = ""
    options: dict[str, str] | None = None

    def describe(self) -> dict[str, Any]:
        """As plain values, for people and programs."""
        if self.images is not None:
            return {"images": self.images or "named as the input's"}
        return {
            "container": self.container,
            "encoder": self.encoder,
            "pix_fmt": self.pix_fmt,
            "options": self.options,
        }


def plan_encoding(
    metadata: "VideoMetadata", output: str | Path, options: "EncodeOptions", events: Events
) -> Encoding:
    """How `output` will be encoded. Raises `OptionError` for options that do not fit."""
    from stbn_cli.raw.rendering import rendered_metadata
    from stbn_cli.raw.writer import keeps_mosaic, refuse_foreign_dng
    from stbn_cli.video.encoders import check_alpha, plan_encoder
    from stbn_cli.video.frames import Warnings
    from stbn_cli.video.output import resolve_output

    check_alpha(metadata, options)
    target = resolve_output(output)
    refuse_foreign_dng(metadata, target)
    if metadata.bayer is not None and not keeps_mosaic(metadata, target):
        metadata = rendered_metadata(metadata)
    if target.kind not in ("video", "pipe"):
        return Encoding(images=target.pattern or "")
    found = Warnings()
    plan = plan_encoder(metadata, target.muxer, options, found)
    events.warn_all(found.messages)
    return Encoding(None, target.muxer, plan.encoder, plan.pix_fmt, dict(plan.options))
