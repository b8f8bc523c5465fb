"""Matplotlib's SVG files as small elements for an HTML page, with colours that the page's style sheet decides."""

import hashlib
import re
from xml.etree import ElementTree

# Stand-ins that drawings are made with, and the style sheet's variables that take their place.
INK, MUTED, FAINT, PAGE = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 7))
CHANNELS = {"red": "#010301", "green": "#010302", "blue": "#010303"}
_VARIABLES = (
    {INK: "ink", MUTED: "muted", FAINT: "faint", PAGE: "page"}
    | {color: f"series-{number}" for number, color in enumerate(SERIES, 1)}
    | {color: f"series-{name}" for name, color in CHANNELS.items()}
)

_COLOR = re.compile("|".join(_VARIABLES))
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")


def inline_svg(document: str) -> str:
    """An SVG file as an `<svg>` element without a size, its coordinates rounded to a hundredth of a point.

    Ids that are referred to are prefixed with a digest of the content, so that several drawings fit in one page; the
    others go, and so do the metadata and the style element, which would apply to the whole page.
    """
    root = ElementTree.fromstring(document)
    prefix = "p" + hashlib.sha256(document.encode("utf-8")).hexdigest()[:8] + "-"
    for element in list(root.iter()):
        element.tag = _local(element.tag)
        for child in list(element):
            if _local(child.tag) in ("metadata", "style"):
                element.remove(child)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _attribute(name, value, prefix) for name, value in attributes.items()})
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    text = ElementTree.tostring(root, encoding="unicode")
    for element in root.iter():
        if f"#{element.get('id')}" not in text:
            element.attrib.pop("id", None)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its namespace: an HTML parser knows that of what is inside an <svg>."""
    return name.rpartition("}")[2]


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href":
        return "#" + prefix + value.removeprefix("#")
    if name in _GEOMETRY:
        return _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value)
    value = _REFERENCE.sub(lambda found: prefix + found[0], value)
    return _COLOR.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", value)
