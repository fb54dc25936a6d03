"""A report as JSON: findings with their evidence, and each section as its command's JSON has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from mmdump import __version__
from mmdump.document import Report, Section, Told
from mmdump.render.base import AT_ONCE
from mmdump.render.json import SCHEMA_VERSION, about, columns_of, dumps, finding_of
from mmdump.render.jsonl import json_lines
from mmdump.result import Table

__all__ = ["write_json"]


def write_json(report: Report, out: BinaryIO) -> None:
    """Write the report: one object."""
    for piece in _document(report):
        # A path may hold bytes that are not UTF-8; as backslash escapes they are JSON escapes too.
        out.write(piece if isinstance(piece, bytes) else piece.encode("utf-8", "backslashreplace"))


def _document(report: Report) -> Iterator[str | bytes]:
    head = {
        "mmdump": __version__,
        "schema": SCHEMA_VERSION,
        "report": report.title,
        "target": dict(report.target),
        "facts": dict(report.facts),
        "masked": list(report.masked),
    }
    yield "{" + ",\n".join(f"{dumps(key)}: {dumps(value)}" for key, value in head.items())
    yield ',\n"findings": ['
    for index, told in enumerate(report.findings):
        yield ",\n" if index else "\n"
        yield from _told(told)
    yield '],\n"sections": ['
    for index, section in enumerate(report.sections):
        yield ",\n" if index else "\n"
        yield from _section(section)
    absent = [{"section": name, "reason": reason} for name, reason in report.absent]
    yield f'],\n"absent": {dumps(absent)},\n"provenance": {{'
    for index, table in enumerate(report.provenance):
        yield ",\n" if index else "\n"
        yield f"{dumps(table.name)}: "
        yield from _table(table, table.frame.height)
    yield "}}\n"


def _told(told: Told) -> Iterator[str | bytes]:
    yield dumps({"section": told.section, **finding_of(told.finding)})[:-1]
    yield ', "evidence": '
    if told.evidence is None:
        yield "null}"
        return
    yield from _table(told.evidence, told.rows)
    yield "}"


def _section(section: Section) -> Iterator[str | bytes]:
    head: dict[str, object] = {
        "section": section.name,
        "title": section.title,
        "plugin": section.plugin or None,
        "seconds": round(section.seconds, 3),
        "error": section.error,
    }
    if section.result is None:
        yield dumps(head)
        return
    yield dumps(head | about(section.result))[:-1]
    yield ', "tables": {'
    for index, (name, table) in enumerate(section.result.tables.items()):
        yield ",\n" if index else "\n"
        yield f"{dumps(name)}: "
        yield from _table(table, section.rows(table))
    yield "}}"


def _table(table: Table, total: int | None) -> Iterator[str | bytes]:
    """The table, with the number of all rows: not all of many are kept."""
    yield f'{{"columns": {dumps(columns_of(table.schema))}, "total": {dumps(total)},\n"rows": ['
    for index, part in enumerate(table.frame.iter_slices(AT_ONCE)):
        lines = json_lines(table.schema, part).removesuffix(b"\n").replace(b"\n", b",\n")
        if lines:
            yield (b",\n" if index else b"\n") + lines
    yield "]}"
