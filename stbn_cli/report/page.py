"""A report as one HTML document: style, script, plots and pictures are inside it, and nothing is ever loaded."""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from stbn_cli.files import whole_file
from stbn_cli.report.model import CropSet, Report

ZOOMS = (1, 2, 4)
# A table of contents is offered from this many tables, plots and sets of pictures on.
CONTENTS_FROM = 5
# Tables of more columns are shown as lists on narrow screens.
WIDEST_TABLE = 3
_SIGNATURES = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def render(report: Report) -> str:
    """The document. Equal reports give equal text.

    Raises `ValueError` for a picture that is neither PNG nor WebP and `IndexError` for a `CropSet` that starts with
    a picture it does not have.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = _data_uri
    script = _asset("page.js")
    page = environment.from_string(_asset("page.html.jinja")).render(
        report=report,
        sides=[_sides(crop_set) for crop_set in report.crop_sets],
        contents=len(report.tables) + len(report.plots) + len(report.crop_sets) >= CONTENTS_FROM,
        zooms=ZOOMS,
        widest=WIDEST_TABLE,
        policy=_policy(script),
        style=_asset("page.css"),
        script=script,
    )
    # File names may hold bytes that are no text (surrogates), which UTF-8 cannot write.
    return page.encode("utf-8", "replace").decode("utf-8")


def write_report(path: Path, report: Report) -> None:
    """Write the page; the file appears whole or not at all and replaces an older one.

    Raises `OutputError` if it cannot be written.
    """
    page = render(report).encode("utf-8")
    with whole_file(path) as partial:
        partial.write_bytes(page)


def _policy(script: str) -> str:
    """A Content Security Policy: no network, no script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _sides(crop_set: CropSet) -> tuple[int, int] | None:
    """Indices from 0 of the pictures shown first; None if there are none."""
    indices = range(len(crop_set.pictures))
    return (indices[crop_set.left], indices[crop_set.right]) if indices else None


def _data_uri(image: bytes) -> str:
    for signature, media_type in _SIGNATURES.items():
        if image.startswith(signature):
            return f"data:{media_type};base64,{base64.b64encode(image).decode('ascii')}"
    raise ValueError("A picture of a report is neither PNG nor WebP.")


def _asset(name: str) -> str:
    return resources.files("stbn_cli.report").joinpath(name).read_text(encoding="utf-8")
