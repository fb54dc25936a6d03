"""A report as Markdown, for bug trackers. Tables stand in fences, so that they can be read as they are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import BinaryIO

from mmdump.document import Report
from mmdump.render.escape import escape
from mmdump.render.report.plain import WIDTH, Page, write_pages
from mmdump.result import Severity

__all__ = ["MarkdownPage", "markdown_text", "write_markdown"]

#: What Markdown (CommonMark and GitHub's) or HTML may take for more than text, wherever it stands. An
#: underscore within a word is one: names of functions stay as they are.
_SPECIAL = re.compile(r"[\\`*\[\]<~|$]|(?<![^\W_])_|_(?![^\W_])")
#: A line that begins so is a heading, a list, a quotation or an underline.
_LEADING = re.compile(r"^(\s*)([#+\-=:>]|\d+[.)](?=\s|$))")
#: What trackers make links of after Markdown is done; a comment between takes the sense from it.
_LINKS = re.compile(r"(?<=[@#])(?=\w)|(?<=:)(?=//)|(?<=[wW]{3})(?=\.)")
_BREAK = "<!---->"
_FENCE = re.compile(r"`{3,}")


def markdown_text(text: str) -> str:
    """A text from a dump as nothing but text: control characters, markup, mentions and links are undone."""
    text = escape(text).replace("&", "&amp;")
    text = _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), text)
    return _LINKS.sub(_BREAK, text)


_ENTITIES = {"<": "&lt;"}


class MarkdownPage(Page):
    """Markdown."""

    def title(self, text: str) -> list[str]:
        """A heading of the first level."""
        return [f"# {markdown_text(text)}", ""]

    def heading(self, text: str) -> list[str]:
        """A heading of the second level."""
        return [f"## {markdown_text(text)}", ""]

    def small_heading(self, text: str) -> list[str]:
        """A heading of the third level."""
        return [f"### {markdown_text(text)}", ""]

    def paragraph(self, text: str) -> list[str]:
        """Wrapped."""
        return [*_wrapped(markdown_text(text)), ""]

    def finding(self, number: int, severity: Severity, text: str, source: str) -> list[str]:
        """An item of a numbered list."""
        words = f"**{severity.name}**: {markdown_text(text)} ({markdown_text(source)})"
        head = f"{number}. "
        return [*_wrapped(words, head, " " * len(head)), ""]

    def facts(self, facts: Sequence[tuple[str, str]]) -> list[str]:
        """A list."""
        lines: list[str] = []
        for what, value in facts:
            lines += _wrapped(f"{markdown_text(what)}: {markdown_text(value)}", "- ", "  ")
        return [*lines, ""]

    def block(self, lines: Sequence[str]) -> list[str]:
        """A fence that is longer than any in it."""
        longest = max((len(found) for line in lines for found in _FENCE.findall(line)), default=2)
        fence = "`" * (longest + 1)
        return [f"{fence}text", *lines, fence, ""]


def write_markdown(report: Report, out: BinaryIO) -> None:
    """Write the report as Markdown of at most 80 columns and 100 kB."""
    write_pages(report, out, MarkdownPage)


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    lines = textwrap.wrap(
        text.strip(),
        WIDTH - 1,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [_plain_start(line, first if index == 0 else then) for index, line in enumerate(lines)]


def _plain_start(line: str, indent: str) -> str:
    """The line, so that what it begins with is not markup."""
    rest = line[len(indent) :]
    found = _LEADING.match(rest)
    if found is None:
        return line
    # Of a number the mark behind it is what makes a list.
    at = found.end() if found[2][0].isdigit() else found.start(2) + 1
    return f"{indent}{rest[: at - 1]}\\{rest[at - 1 :]}"
