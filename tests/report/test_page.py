"""The page as text: complete, escaped, self-contained, and written whole or not at all."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stbn_cli.errors import OutputError
from stbn_cli.report.model import CropSet, Picture, Plot, Report, Table
from stbn_cli.report.page import render, write_report
from tests.report.conftest import NASTY

VOID = {"meta", "link", "img", "input", "br", "hr", "path", "use"}


class Page(HTMLParser):
    """What a parser sees: tags with attributes, text by the tag around it, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, tag: str) -> list[str]:
        """The text of every element `tag`, without the surrounding white space."""
        return [data.strip() for around, data in self.texts if around == tag and data.strip()]

    def values(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def test_everything_is_in_the_page(report: Report) -> None:
    page = Page(render(report))
    assert not page.open
    assert page.text("h1") == [report.title]
    for table in report.tables:
        cells = [cell for row in table.rows for cell in row]
        assert set(cells) <= {*page.text("td"), *page.text("th"), *page.text("strong")}
        assert set(table.columns) <= set(page.text("th"))
    assert len(page.text("strong")) == len(report.tables[0].best)
    assert {"PSNR [dB]", "frame", "seconds per frame", "nlmeans", NASTY[:14] + "…" + NASTY[-15:]} <= set(
        page.text("text")
    )
    assert page.values("alt").count(NASTY) == 1
    assert [name for name, _ in report.facts] == page.text("dt")
    assert [value.strip() for _, value in report.facts] == page.text("dd")
    assert set(report.summary) <= set(page.text("p"))
    pictures = [picture for crop_set in report.crop_sets for picture in crop_set.pictures]
    sources = page.values("src")
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [p.image for p in pictures]


@settings(max_examples=12)
@given(st.text(st.characters(exclude_categories=("C", "Z"))).map(lambda text: f"x{text}<&\"'>x"))
def test_text_comes_back_as_it_was(text: str) -> None:
    table = Table(text, (text, "b"), ((text, text),), note=text)
    page = Page(render(Report(text, (text,), ((text, text),), (table,))))
    for tag in ("title", "h1", "h2", "p", "th", "td", "dt", "dd"):
        assert text in page.text(tag)
    tags = {tag for tag, _ in page.tags}
    assert tags == {
        tag for tag, _ in Page(render(replace(Report("x", ("x",), (("x", "x"),)), tables=(table,)))).tags
    }


def test_nothing_is_loaded(report: Report) -> None:
    text = render(report)
    page = Page(text)
    assert all(value.startswith("data:") for value in page.values("src"))
    assert all(value.startswith(("#", "data:,")) for value in page.values("href"))
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "video", "source"}
    assert not page.values("srcset") and not page.values("action")
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_the_policy_allows_this_script_and_no_network(report: Report) -> None:
    text = render(report)
    policy = next(
        str(attributes["content"])
        for tag, attributes in Page(text).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_ids_are_unique_and_references_arrive(report: Report) -> None:
    page = Page(render(report))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value.removeprefix("#") for value in page.values("href") if value.startswith("#")]
    targets += page.values("aria-labelledby")
    targets += re.findall(r"url\(#([^)]*)\)", " ".join(page.values("style") + page.values("clip-path")))
    assert targets and set(targets) <= set(ids)


def test_equal_reports_give_equal_pages(report: Report) -> None:
    assert render(report) == render(replace(report))


def test_contents_only_where_they_help(report: Report) -> None:
    assert "<nav" in render(report)
    assert "<nav" not in render(replace(report, crop_sets=(), tables=()))


@pytest.mark.parametrize(
    "empty",
    [
        Report("empty"),
        Report("no rows", tables=(Table("t", ("a", "b"), ()),)),
        Report("no columns", tables=(Table("t", (), ()),)),
        Report("no pictures", crop_sets=(CropSet("c", ()),)),
    ],
    ids=lambda report: report.title,
)
def test_empty_parts_have_a_page(empty: Report) -> None:
    page = Page(render(empty))
    assert not page.open
    assert page.text("h1") == [empty.title]


def test_the_pictures_shown_first(report: Report) -> None:
    crop_set = replace(report.crop_sets[0], left=-2, right=0)
    page = Page(render(Report("x", crop_sets=(crop_set,))))
    chosen = [
        str(attributes["value"])
        for tag, attributes in page.tags
        if tag == "option" and "selected" in attributes
    ]
    assert chosen == ["1", "0"]
    with pytest.raises(IndexError):
        render(Report("x", crop_sets=(replace(crop_set, left=3),)))


def test_other_files_than_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="neither PNG nor WebP"):
        render(Report("x", crop_sets=(CropSet("c", (Picture("a", b"GIF89a"),)),)))


def test_undecodable_names_can_be_written(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", Report("clip \udcff.mkv", plots=(Plot("p", "<svg></svg>", "\udcff"),)))
    assert "clip ?.mkv" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_writing_replaces_an_older_page(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    write_report(path, report)
    assert path.read_bytes() == render(report).encode()
    assert [child.name for child in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize("place", ["no such folder/r.html", "a folder"])
def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / place, Report("x"))
    assert [child.name for child in tmp_path.iterdir()] == ["a folder"]
