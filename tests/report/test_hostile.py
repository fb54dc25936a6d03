"""Markup planted in names does nothing, in no format."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mmdump.document import Report, Section, Told
from mmdump.render.report import REPORT_FORMATS
from mmdump.render.report.markdown import MarkdownPage, markdown_text
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from tests.report.dumps import planted_dump, report_of
from tests.report.test_formats import words_of

#: Names of tasks, 15 characters at most; and what functions are called in place of their own names.
COMMS = (
    *("<img/src=x:q>", "</pre><b>", "\x1b[31m\x07red", "[x](//evil)", "**b** `c`", "[red]rich[/]"),
    "@team #1 ~~s~~",
)
FUNCTIONS = {
    b"vfs_read": b"<b>x</b>",
    b"ksys_write": b"[b]red[/b]",
    b"path_openat": b"`$(id)`_**x",
    b"do_syscall_64": b"<svg/onload=>",
    b"vfs_write": b"\x1b[31m]]>\n",
}
#: The elements that a report has.
ALLOWED = {
    *("html", "head", "meta", "title", "style", "script", "body", "header", "nav", "main", "footer"),
    *("section", "article", "aside", "h1", "h2", "h3", "p", "a", "span", "small", "div", "ol", "ul", "li"),
    *("dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("figure", "figcaption", "img"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    directory = tmp_path_factory.mktemp("hostile")
    calls = [name.decode() for name in FUNCTIONS]
    return report_of(planted_dump(directory, COMMS, calls, b"<i>host</i>\x1b[2J", FUNCTIONS))


def written(report: Report, format_: str) -> str:
    out = io.BytesIO()
    REPORT_FORMATS[format_].write(report, out)
    return out.getvalue().decode()


def test_the_names_are_in_the_report(report: Report) -> None:
    text = written(report, "txt")
    assert "<img/src=x:q> 2000" in " ".join(text.split())
    assert "<svg/onload=>+0x" in text
    assert r"\x1b[31m]]>\n+0x" in text


@pytest.mark.parametrize("format_", list(REPORT_FORMATS))
def test_no_format_holds_a_control_character(report: Report, format_: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u202e]", written(report, format_))


def test_html_has_no_element_that_is_not_its_own(report: Report) -> None:
    words = words_of(written(report, "html"))
    assert set(words.tags) <= ALLOWED
    assert words.tags.count("script") == 1
    assert words.tags.count("img") == 1
    assert [each for each in words.asks if not each.startswith("data:image/png;base64,")] == []
    assert "<svg/onload=>" in "".join(words.text)


def tokens(markdown: str) -> set[str]:
    """What a renderer of Markdown, tables and raw HTML among it, makes of a text."""
    found: set[str] = set()
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for token in reader.parse(markdown):
        found.add(token.type)
        for child in token.children or ():
            # The comments that keep trackers from linking are ours.
            if not (child.type == "html_inline" and child.content == "<!---->"):
                found.add(child.type)
    return found


def test_markdown_makes_nothing_of_it(report: Report) -> None:
    found = tokens(written(report, "md"))
    assert not found & {"html_block", "html_inline", "link_open", "image", "em_open", "s_open", "code_inline"}
    assert not found & {"table_open", "code_block", "blockquote_open"}


@pytest.mark.parametrize(
    "text",
    [
        *COMMS,
        "<script>alert(1)</script>",
        "`id`_$(id)",
        "# heading",
        "- item",
        "1. item",
        "> quote",
        "    code",
        "a\n\n# b",
        "| a | b |\n|---|---|",
        "![x](y)",
        "<https://evil.example>",
        "&lt;b&gt; &#60;",
        "~~~\ncode",
        "[x]: //evil",
        "***\n---\n===",
        "a  \nb",
        "$x$ $$y$$",
    ],
)
def test_any_text_stays_text_in_markdown(text: str) -> None:
    told = Told("a", Finding("k", Severity.NOTE, text))
    result = Result("a", summary=[text], notes=[text])
    markdown = written(
        Report(text, [("host", text)], [told], [Section("a", text, result)], [("b", text)]), "md"
    )
    found = tokens(markdown)
    allowed = {"inline", "text", "softbreak", "text_special"}
    blocks = ("heading", "paragraph", "strong", "list_item", "bullet_list", "ordered_list")
    allowed |= {f"{block}_{end}" for block in blocks for end in ("open", "close")}
    assert found <= allowed, markdown
    # And it is still there to be read.
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)
    seen = re.sub(r"<[^>]*>", "", rendered)
    plain = re.sub(r"\s+", " ", text.replace("\x1b", r"\x1b").replace("\x07", r"\x07").replace("\n", r"\n"))
    unescaped = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert plain.strip() in re.sub(r"\s+", " ", unescaped), markdown


MARKUP = st.text(alphabet=st.sampled_from(list("ab1 #*_-+=~`|<>[]()!&;:.\\\\/@$^\n\t'\"")), max_size=60)


@given(MARKUP)
def test_no_text_becomes_markup(text: str) -> None:
    page = MarkdownPage(20)
    for markdown in (
        page.paragraph(text),
        page.finding(1, Severity.NOTE, text, text),
        page.facts([(text, text)]),
    ):
        blocks = ("paragraph", "strong", "list_item", "bullet_list", "ordered_list")
        allowed = {"inline", "text", "softbreak", "text_special"}
        allowed |= {f"{block}_{end}" for block in blocks for end in ("open", "close")}
        assert tokens("\n".join(markdown)) <= allowed


def test_mentions_and_links_of_trackers_are_cut() -> None:
    assert markdown_text("@team") == "@<!---->team"
    assert markdown_text("#12") == "#<!---->12"
    assert "://" not in markdown_text("https://evil.example")


def test_a_fence_is_longer_than_any_in_it() -> None:
    schema = Schema("t", (Column("what"), Column("frames", Kind.STACK)))
    rows = [{"what": "````\n# out", "frames": ["`````", "```"]}]
    import polars as pl

    table = Table(schema, pl.DataFrame(rows))
    result = Result("a", tables={"t": table}, primary="t", text_tables=["t"])
    markdown = written(Report("x", sections=[Section("a", "a", result)]), "md")
    parsed = MarkdownIt("commonmark").parse(markdown)
    [fence] = [each for each in parsed if each.type == "fence"]
    assert "`````" in fence.content


def test_json_holds_names_as_they_are(report: Report) -> None:
    document = json.loads(written(report, "json"))
    [groups] = [each["tables"]["groups"] for each in document["sections"] if each["section"] == "pinned"]
    owners = {row["owner_comm"] for row in groups["rows"]}
    assert {"<img/src=x:q>", "[x](//evil)", "**b** `c`", "[red]rich[/]"} <= owners


def test_text_of_a_terminal_obeys_no_markup_of_rich(report: Report) -> None:
    assert "[red]rich[/]" in written(report, "txt")


def test_a_report_of_a_path_with_odd_bytes_can_be_written(report: Report, tmp_path: Path) -> None:
    from dataclasses import replace

    odd = replace(report, facts=[("dump", "caf\udce9/vmcore")], title="caf\udce9")
    for format_ in REPORT_FORMATS:
        assert written(odd, format_)
