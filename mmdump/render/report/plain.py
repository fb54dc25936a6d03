"""A report as text of 80 columns, for mailing lists; what Markdown has in common with it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from mmdump import __version__
from mmdump.document import Report, Section, Told
from mmdump.render.escape import escape
from mmdump.render.report.fit import fitted
from mmdump.render.text import coverage_text
from mmdump.result import Kind, Severity, Table

__all__ = ["WIDTH", "Page", "PlainPage", "write_pages", "write_text"]

#: Columns, and bytes that a bug tracker or a mailing list takes without a word.
WIDTH, MOST_BYTES = 80, 100_000
#: Rows of each table, tried from the first: a report that is too large has fewer.
_ROWS = (20, 12, 8, 5, 3, 2, 1)
#: Findings and notes that are written out.
_MOST_FINDINGS, _MOST_NOTES = 60, 12
#: Rows of evidence of a finding: of such with a call chain, and of others.
_WITH_STACKS, _WITHOUT = 2, 6


@dataclass
class Page:
    """How text of some format looks. Texts given to it are not escaped yet; lines of a block are.

    :param rows: Rows of each table.
    """

    rows: int

    def title(self, text: str) -> list[str]:
        """The document's title."""
        raise NotImplementedError

    def heading(self, text: str) -> list[str]:
        """The heading of a section."""
        raise NotImplementedError

    def small_heading(self, text: str) -> list[str]:
        """The heading of a table."""
        raise NotImplementedError

    def paragraph(self, text: str) -> list[str]:
        """Prose."""
        raise NotImplementedError

    def finding(self, number: int, severity: Severity, text: str, source: str) -> list[str]:
        """A finding in the list of findings."""
        raise NotImplementedError

    def facts(self, facts: Sequence[tuple[str, str]]) -> list[str]:
        """Facts by name."""
        raise NotImplementedError

    def block(self, lines: Sequence[str]) -> list[str]:
        """Lines to be shown as they are."""
        raise NotImplementedError


class PlainPage(Page):
    """Text."""

    def title(self, text: str) -> list[str]:
        """Underlined twice."""
        lines = _wrapped(escape(text))
        return [*lines, "=" * max(map(len, lines), default=0), ""]

    def heading(self, text: str) -> list[str]:
        """Underlined."""
        lines = _wrapped(escape(text))
        return [*lines, "-" * max(map(len, lines), default=0), ""]

    def small_heading(self, text: str) -> list[str]:
        """A line."""
        return [*_wrapped(f"{escape(text)}:")]

    def paragraph(self, text: str) -> list[str]:
        """Wrapped."""
        return [*_wrapped(escape(text)), ""]

    def finding(self, number: int, severity: Severity, text: str, source: str) -> list[str]:
        """Numbered, with its severity in capitals."""
        head = f"{number}. "
        words = f"{severity.name}: {escape(text)} [{escape(source)}]"
        return [*_wrapped(words, first=head, then=" " * len(head)), ""]

    def facts(self, facts: Sequence[tuple[str, str]]) -> list[str]:
        """Aligned."""
        width = max((len(what) for what, _ in facts), default=0)
        lines: list[str] = []
        for what, value in facts:
            lines += _wrapped(escape(value), first=f"{escape(what):{width}}  ", then=" " * (width + 2))
        return [*lines, ""]

    def block(self, lines: Sequence[str]) -> list[str]:
        """As they are."""
        return [*lines, ""]


def write_text(report: Report, out: BinaryIO) -> None:
    """Write the report as text of at most 80 columns and 100 kB."""
    write_pages(report, out, PlainPage)


def write_pages(report: Report, out: BinaryIO, page: type[Page]) -> None:
    """Write the report with as many rows as its size allows."""
    text = b""
    for rows in _ROWS:
        text = _encoded(line for part in _parts(report, page(rows)) for line in part)
        if len(text) <= MOST_BYTES:
            out.write(text)
            return
    # Whatever it is that is so long stands behind the findings.
    kept: list[bytes] = []
    size = 0
    for part in _parts(report, page(1)):
        piece = _encoded(part)
        if size + len(piece) > MOST_BYTES - 1000:
            kept.append(_encoded(page(1).paragraph("The rest is left out: the report was too large.")))
            break
        kept.append(piece)
        size += len(piece)
    out.write(b"".join(kept))


def _encoded(lines: Iterator[str] | Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _parts(report: Report, page: Page) -> Iterator[list[str]]:
    """The document in pieces: its head, each finding, each section, the end."""
    yield [*page.title(f"mmdump report: {report.title}"), *page.facts(report.facts)]
    yield page.heading("Findings")
    if not report.findings:
        yield page.paragraph("Nothing was found that calls for attention.")
    for number, told in enumerate(report.findings[:_MOST_FINDINGS], 1):
        yield _finding(page, number, told)
    if len(report.findings) > _MOST_FINDINGS:
        yield page.paragraph(f"{len(report.findings) - _MOST_FINDINGS} more findings are left out.")
    if report.incomplete:
        yield page.heading("Incomplete")
        for sentence in report.incomplete[:_MOST_NOTES]:
            yield page.paragraph(sentence)
        if len(report.incomplete) > _MOST_NOTES:
            yield page.paragraph(f"{len(report.incomplete) - _MOST_NOTES} more such sentences are left out.")
    for section in report.sections:
        yield _section(page, section)
    if report.absent:
        yield page.heading("Not in this report")
        yield page.facts(report.absent)
    yield [*page.heading("Where this comes from"), *page.paragraph(f"Made by mmdump {__version__}.")]
    for table in report.provenance:
        yield _provenance(page, table)
    for sentence in report.masked:
        yield page.paragraph(sentence)


def _finding(page: Page, number: int, told: Told) -> list[str]:
    lines = page.finding(number, told.finding.severity, told.finding.message, told.section)
    if told.evidence is not None:
        stacks = any(column.kind is Kind.STACK for column in told.evidence.schema.columns)
        most = min(_WITH_STACKS if stacks else _WITHOUT, page.rows)
        lines += _rows(page, told.evidence, most, told.rows)
    return lines


def _section(page: Page, section: Section) -> list[str]:
    lines = page.heading(f"{section.name}: {section.title}")
    if section.error is not None:
        lines += page.paragraph(f"This section is missing: {section.error}.")
    result = section.result
    if result is None:
        return lines
    for sentence in result.summary:
        lines += page.paragraph(sentence)
    for name in result.text_tables:
        table = result.tables.get(name)
        if table is not None and table.frame.height:
            if table.schema.title:
                lines += page.small_heading(table.schema.title)
            lines += _rows(page, table, page.rows, section.rows(table))
    notes = list(result.notes)
    if result.coverage is not None and not result.coverage.complete:
        notes.append(coverage_text(result.coverage))
    for note in notes[:_MOST_NOTES]:
        lines += page.paragraph(note)
    if len(notes) > _MOST_NOTES:
        lines += page.paragraph(f"{len(notes) - _MOST_NOTES} more notes are left out.")
    return lines


def _provenance(page: Page, table: Table) -> list[str]:
    if table.schema.names == ("what", "value"):
        return page.facts([(str(what), str(value)) for what, value in table.frame.iter_rows()])
    return [
        *page.small_heading(table.schema.title or table.name),
        *_rows(page, table, table.frame.height, table.frame.height),
    ]


def _rows(page: Page, table: Table, rows: int, total: int | None) -> list[str]:
    lines, left_out = fitted(table, rows, WIDTH)
    shown = min(rows, table.frame.height)
    if total is None:
        lines.append("  ... and perhaps more: not all rows were kept")
    elif total > shown:
        lines.append(f"  ... {total - shown:,} more rows")
    if left_out:
        lines += _wrapped(
            f"(not shown: {', '.join(escape(name) for name in left_out)})", first="  ", then="   "
        )
    return page.block(lines)


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    # Nothing stands behind a blank that a reader could miss; what has none is broken.
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=then) or [first.rstrip()]
