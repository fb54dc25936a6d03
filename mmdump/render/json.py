"""JSON: the whole result. Rows that are streamed are written as they come, everything else after them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

import polars as pl

from mmdump.render.base import AT_ONCE, Renderer, RenderOptions
from mmdump.render.jsonl import json_lines
from mmdump.render.query import Query, QueryStream
from mmdump.result import Finding, Result, Schema, Table

__all__ = ["SCHEMA_VERSION", "JsonRenderer", "about", "columns_of", "dumps", "finding_of"]

#: Raised when a reader of the output would have to change.
SCHEMA_VERSION = 1


class JsonRenderer(Renderer):
    """Writes one object: the target, the summary, coverage, findings, notes and the tables.

    The query applies to the table asked about (the primary one, or ``--table``); with ``--table`` only that
    table is written. The order of the keys differs when rows are streamed, since the tables then come first.
    """

    def __init__(self, out: BinaryIO, options: RenderOptions) -> None:
        super().__init__(out, options)
        self._stream: QueryStream | None = None
        self._any_table = False
        self._any_row = False

    def open(self, schema: Schema, query: Query) -> None:
        """Open the object and the table."""
        self._stream = query.stream(schema)
        self._write(f"{{{self._identity()},\n")
        self._open_tables()
        self._open_table(self._stream.schema)

    def rows(self, frame: pl.DataFrame) -> None:
        """Write the rows that meet the query."""
        if self._stream is not None:
            self._rows(self._stream.schema, self._stream.push(frame))

    def finish(self, result: Result) -> None:
        """Write the rest."""
        rest = ",\n".join(f"{dumps(key)}: {dumps(value)}" for key, value in about(result).items())
        if self._stream is not None:
            self._rows(self._stream.schema, self._stream.finish())
            self._write("]}")
            self._tables(self._others(result, self._stream.schema.name))
            self._write(f"}},\n{rest}}}\n")
        else:
            tables = self._asked(result)
            self._write(f"{{{self._identity()},\n{rest},\n")
            self._open_tables()
            self._tables(tables)
            self._write("}}\n")

    def _others(self, result: Result, streamed: str) -> list[Table]:
        """The tables to write after the streamed one: none, if it was asked for by name."""
        if self.options.table is not None:
            return []
        return [table for name, table in result.tables.items() if name != streamed]

    def _asked(self, result: Result) -> list[Table]:
        """The tables to write when nothing was streamed, with the query applied to the one it is for."""
        query = self.options.query
        if self.options.table is not None:
            return [query.table(self.table(result))]
        tables = dict(result.tables)
        if query.shapes or result.primary in tables:
            asked = self.table(result)
            tables[asked.name] = query.table(asked)
        return list(tables.values())

    def _tables(self, tables: list[Table]) -> None:
        for table in tables:
            self._open_table(table.schema)
            self._rows(table.schema, table.frame)
            self._write("]}")

    def _identity(self) -> str:
        return f'"mmdump": {dumps(self.options.version)},\n"schema": {SCHEMA_VERSION}'

    def _open_tables(self) -> None:
        self._write('"tables": {')

    def _open_table(self, schema: Schema) -> None:
        comma = "," if self._any_table else ""
        self._write(f'{comma}\n{dumps(schema.name)}: {{"columns": {dumps(columns_of(schema))},\n"rows": [')
        self._any_table = True
        self._any_row = False

    def _rows(self, schema: Schema, frame: pl.DataFrame | None) -> None:
        if frame is None:
            return
        for part in frame.iter_slices(AT_ONCE):
            # Newlines within strings are escaped, so that each one here ends a row.
            lines = json_lines(schema, part).removesuffix(b"\n").replace(b"\n", b",\n")
            self.out.write((b",\n" if self._any_row else b"\n") + lines)
            self._any_row = True

    def _write(self, text: str) -> None:
        # A path may hold bytes that are not UTF-8; as backslash escapes they are JSON escapes too.
        self.out.write(text.encode("utf-8", "backslashreplace"))


def about(result: Result) -> dict[str, object]:
    """All of a result but its tables."""
    return {
        "target": dict(result.target),
        "analysis": result.analysis,
        "summary": list(result.summary),
        "coverage": None if result.coverage is None else result.coverage.as_dict(),
        "findings": [finding_of(each) for each in result.findings],
        "notes": list(result.notes),
        "incomplete": list(result.incomplete),
    }


def finding_of(finding: Finding) -> Mapping[str, str | None]:
    """A finding, as it stands in JSON."""
    return {
        "key": finding.key,
        "severity": finding.severity.value,
        "message": finding.message,
        "table": finding.table,
        "where": finding.where,
    }


def columns_of(schema: Schema) -> list[dict[str, str]]:
    """The columns of a table, as they stand in JSON."""
    return [
        {"name": column.name, "kind": column.kind.value, "description": column.description}
        for column in schema.columns
    ]


def dumps(value: object) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
