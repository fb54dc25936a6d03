"""Text for a person: the answer, the tables, what was found, and what was not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import BinaryIO

import polars as pl

from mmdump.render.base import Renderer, RenderOptions
from mmdump.render.escape import escape
from mmdump.render.layout import Line, laid_out, painted, wrapped
from mmdump.render.query import Query, QueryStream
from mmdump.result import Coverage, Result, Schema, Severity, Table

__all__ = ["DEFAULT_LIMIT", "TextRenderer", "coverage_text"]

#: Rows of a table that text shows unless ``--limit`` says otherwise, on a terminal and in a pipe alike:
#: widths are known only once all rows to show are, so that more rows means more memory.
DEFAULT_LIMIT = 20
#: A few more than that are shown at once, as it takes a line to say that they are left out.
_FEW_MORE = 10

_STYLES = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow"}


class TextRenderer(Renderer):
    """Writes the default view, or only one table when ``--table`` or a query asks about one.

    Of streamed rows the first few and their count are held. ``--limit 0`` shows (and holds) all.
    """

    def __init__(self, out: BinaryIO, options: RenderOptions) -> None:
        super().__init__(out, options)
        self._stream: QueryStream | None = None
        self._frames: list[pl.DataFrame] = []

    @property
    def _one(self) -> bool:
        return self.options.table is not None or self.options.query.shapes

    def needs(self, schema: Schema) -> frozenset[str]:
        """Of the default view only the columns that it shows."""
        if not self._one:
            return frozenset(column.name for column in schema.columns if column.in_text)
        return super().needs(schema)

    def open(self, schema: Schema, query: Query) -> None:
        """Get ready to keep the first rows."""
        self._stream = _limited(query).stream(schema)

    def rows(self, frame: pl.DataFrame) -> None:
        """Keep what may be shown and count the rest."""
        if self._stream is not None:
            self._keep(self._stream.push(frame))

    def finish(self, result: Result) -> None:
        """Write everything."""
        if self._stream is not None:
            self._keep(self._stream.finish())
        tables = list(self._shown(result))
        lines: list[Line] = []
        for text in result.summary:
            lines += self._sentence(escape(text))
        for table, matched in tables:
            lines += self._table(table, matched)
        for finding in result.findings:
            # A mere note needs no prefix.
            named = finding.severity is not Severity.NOTE
            prefix = f"{finding.severity.name}: " if named else ""
            lines += self._sentence(
                escape(finding.message), prefix=prefix, style=_STYLES.get(finding.severity, "")
            )
        for note in result.notes:
            lines += self._sentence(escape(note))
        if result.coverage is not None and not result.coverage.complete:
            lines += self._sentence(coverage_text(result.coverage), "yellow")
        for sentence in result.incomplete:
            lines += self._sentence(escape(sentence), "yellow")
        for line in lines:
            self.out.write(painted(line, self.options.color))

    def _sentence(self, text: str, color: str = "", *, prefix: str = "", style: str = "") -> list[Line]:
        """A sentence in the lines that a terminal has room for, all but the first indented; else in one."""
        width = self.options.width
        first, *rest = [prefix + text] if width is None else wrapped(prefix + text, max(width, 1), hang=2)
        head: Line = [(prefix, style)] if prefix else []
        return [[*head, (first[len(prefix) :], color)], *([(f"  {each}", color)] for each in rest)]

    def _keep(self, frame: pl.DataFrame | None) -> None:
        if frame is not None:
            self._frames.append(frame)

    def _shown(self, result: Result) -> Iterable[tuple[Table, int]]:
        """The tables to show, cut to their first rows, and how many rows each has."""
        for table, matched in self._first_rows(result):
            many = self.options.query.limit is None and matched > DEFAULT_LIMIT + _FEW_MORE
            yield replace(table, frame=table.frame.head(DEFAULT_LIMIT)) if many else table, matched

    def _first_rows(self, result: Result) -> Iterable[tuple[Table, int]]:
        query = _limited(self.options.query)
        if self._one:
            yield self._held(self._stream) if self._stream is not None else query.first(self.table(result))
            return
        for name in result.text_tables:
            if self._stream is not None and name == self._stream.schema.name:
                table, matched = self._held(self._stream)
            elif name in result.tables:
                table, matched = query.first(result.tables[name])
            else:
                continue
            if matched:
                shown = replace(
                    table.schema, columns=tuple(each for each in table.schema.columns if each.in_text)
                )
                yield Table(shown, table.frame.select(shown.names)), matched

    def _held(self, stream: QueryStream) -> tuple[Table, int]:
        """The rows kept of the streamed table."""
        if not self._frames:
            return Table(stream.schema, pl.DataFrame(schema=stream.schema.names)), 0
        return Table(stream.schema, pl.concat(self._frames, how="vertical_relaxed")), stream.matched

    def _table(self, table: Table, matched: int) -> list[Line]:
        lines: list[Line] = []
        if table.schema.title and not self._one:
            lines.append([(escape(table.schema.title), "bold")])
        laid = laid_out(table, self.options.width)
        lines += laid.lines
        if not matched:
            lines.append([("  (no rows)", "dim")])
        elif matched > table.frame.height:
            more = f"  ... {matched - table.frame.height:,} more rows (--limit 0 for all)"
            lines.append([(more, "dim")])
        if self._one and self.options.query.where and matched:
            meet = "row meets" if matched == 1 else "rows meet"
            lines.append([(f"  ({matched:,} {meet} the condition; all else here is about all rows)", "dim")])
        if laid.left_out:
            lines += self._left_out(table.schema.name, laid.left_out)
        return lines

    def _left_out(self, table: str, names: Sequence[str]) -> list[Line]:
        """What a terminal has no room for, and how to see it."""
        asked = "" if self._one else f"--table {escape(table)} "
        words = (
            f"(no room for {', '.join(map(escape, names))}: a wider terminal, a pipe as in | less -S, or "
            f"-o FILE has them; {asked}--columns NAMES chooses)"
        )
        return [[(f"  {each}", "dim")] for each in wrapped(words, max((self.options.width or 0) - 2, 1))]


def _limited(query: Query) -> Query:
    return replace(query, limit=DEFAULT_LIMIT + _FEW_MORE) if query.limit is None else query


def coverage_text(coverage: Coverage) -> str:
    """What could not be read, in one sentence; of complete coverage, that everything could."""
    parts = _missing(coverage, "pages")
    if coverage.page_ext is not None:
        parts += _missing(coverage.page_ext, "page_ext entries")
    if not parts:
        return "Everything could be read."
    return f"Not everything could be read: {', '.join(parts)}."


def _missing(coverage: Coverage, noun: str) -> list[str]:
    counts = [
        (coverage.unreadable, "unreadable"),
        (coverage.zero_filled, "zero-filled"),
        (coverage.erased, "erased"),
    ]
    parts: list[str] = []
    for count, what in counts:
        if count and not parts:
            parts.append(f"{count:,} of {coverage.pages:,} {noun} {what} ({_percent(count, coverage.pages)})")
        elif count:
            parts.append(f"{count:,} {what}")
    return parts


def _percent(part: int, whole: int) -> str:
    """A share to one decimal, that says neither none nor all unless it is so."""
    if part == whole:
        return "all"
    tenths = (part * 1000 + whole // 2) // whole
    if tenths == 0:
        return "under 0.1 %"
    tenths = min(tenths, 999)
    return f"{tenths // 10}.{tenths % 10} %"
