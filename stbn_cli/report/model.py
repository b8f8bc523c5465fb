"""What a report holds: plain values, all text unescaped."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under column names; the first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numeric: bool = True  # all columns but the first are right-aligned
    best: tuple[tuple[int, int], ...] = ()  # (row, column) of the cells to emphasise, from 0


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing made by `plots`; its colours are variables of the page's style sheet."""

    title: str
    svg: str  # an <svg> element for an HTML page; trusted, not escaped
    alt: str  # what it shows, for those who do not see it
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a file's content; see `crops.encode_picture`."""

    label: str
    image: bytes  # PNG or WebP
    caption: str = ""


@dataclass(frozen=True, slots=True)
class CropSet:
    """Pictures of one place, of equal size, shown two at a time with a divider between them."""

    title: str
    pictures: tuple[Picture, ...]
    left: int = 0  # shown first on the left; negative: from the end
    right: int = -1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole page."""

    title: str
    summary: tuple[str, ...] = ()  # sentences at the top, one a paragraph
    facts: tuple[tuple[str, str], ...] = ()  # (name, value) at the end: versions, seeds, device, command
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    crop_sets: tuple[CropSet, ...] = ()
    wide: bool = False  # as wide as the window, for large pictures
