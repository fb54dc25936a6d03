"""A report as one HTML file that asks nothing of a network: a template, its style and its script in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, BinaryIO

from mmdump import __version__
from mmdump.document import Report, Section, Told
from mmdump.render.escape import escape
from mmdump.render.report.flame import Flame, flame_of
from mmdump.render.report.physmap import Drawing, map_of
from mmdump.render.report.views import Chains, TableView, table_view
from mmdump.render.text import coverage_text
from mmdump.result import Map, Schema, Severity, Table

__all__ = ["MOST_BYTES", "write_html"]

#: What bug trackers take as an attachment without a word.
MOST_BYTES = 1_500_000
#: Rows of each table, tried from the first: a report that is too large has fewer.
_ROWS = (300, 150, 80, 40, 20, 10, 5, 2, 0)
_MOST_FINDINGS, _MOST_NOTES = 200, 50
#: Findings whose evidence is shown with them.
_WITH_EVIDENCE = 40


@dataclass(frozen=True)
class _FindingView:
    number: int
    severity: str
    message: str
    section: str
    where: str | None
    evidence: TableView | None


@dataclass(frozen=True)
class _SectionView:
    name: str
    title: str
    seconds: str
    error: str | None
    summary: Sequence[str]
    notes: Sequence[str]
    incomplete: Sequence[str]
    tables: Sequence[TableView]
    drawing: Drawing | None
    flame: Flame | None


def write_html(report: Report, out: BinaryIO) -> None:
    """Write the report as one file of at most 1.5 MB."""
    drawing, flame = map_of(report), flame_of(report)
    page, tried = b"", 0
    for rows in _ROWS:
        # Most of a page that is much too large is rows.
        if tried and len(page) * rows // tried > 2 * MOST_BYTES:
            continue
        page, tried = _page(report, rows, drawing, flame), rows
        if len(page) <= MOST_BYTES:
            break
    out.write(page)


def _page(report: Report, rows: int, drawing: Drawing | None, flame: Flame | None) -> bytes:
    style, script = _text("report.css"), _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    chains = Chains.of(report.sections)
    severities = [told.finding.severity for told in report.findings]
    text: str = _template().render(
        report=report,
        version=__version__,
        style=_trusted(style),
        script=_trusted(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        findings=[
            _finding(number, told, rows, chains)
            for number, told in enumerate(report.findings[:_MOST_FINDINGS], 1)
        ],
        more_findings=len(report.findings) - _MOST_FINDINGS,
        counts=[
            (severity.value, severities.count(severity))
            for severity in (Severity.PROBLEM, Severity.WARNING, Severity.NOTE)
        ],
        sections=[_section(each, rows, chains, drawing, flame) for each in report.sections],
        provenance=[
            table_view(f"provenance-{table.name}", table, 1000, table.frame.height, Chains())
            for table in report.provenance
        ],
    )
    return text.encode("utf-8", "backslashreplace")


def _finding(number: int, told: Told, rows: int, chains: dict[str, Chains]) -> _FindingView:
    finding, evidence = told.finding, None
    if told.evidence is not None and number <= _WITH_EVIDENCE:
        shown = told.evidence
        named = tuple(column for column in shown.schema.columns if column.in_text)
        schema = Schema(shown.schema.name, named, shown.schema.title)
        shown = Table(schema, shown.frame.select(schema.names))
        evidence = table_view(
            f"evidence-{number}", shown, min(rows, 10), told.rows, chains.get(told.section, Chains())
        )
    where = None if finding.table is None else f"table {finding.table}"
    if where is not None and finding.where is not None:
        where += f" where {finding.where}"
    return _FindingView(number, finding.severity.value, finding.message, told.section, where, evidence)


def _section(
    section: Section, rows: int, chains: dict[str, Chains], drawing: Drawing | None, flame: Flame | None
) -> _SectionView:
    result = section.result
    tables: list[TableView] = []
    notes: list[str] = []
    incomplete: list[str] = []
    if result is not None:
        names = [name for name in result.text_tables if name in result.tables]
        names += [name for name in result.tables if name not in names]
        for name in names:
            table = result.tables[name]
            drawn = isinstance(table.schema.chart, Map) and drawing is not None
            if table.frame.height:
                tables.append(
                    table_view(
                        f"{section.name}-{name}",
                        table,
                        # What is in the picture need not be spelled out.
                        min(rows, 20) if drawn else rows,
                        section.rows(table),
                        chains[section.name],
                        shown=name in result.text_tables,
                    )
                )
        notes = list(result.notes)
        if result.coverage is not None and not result.coverage.complete:
            notes.append(coverage_text(result.coverage))
        incomplete = list(result.incomplete)
    return _SectionView(
        section.name,
        section.title,
        f"{section.seconds:.2f} s",
        section.error,
        [] if result is None else list(result.summary),
        notes[:_MOST_NOTES],
        incomplete[:_MOST_NOTES],
        tables,
        drawing if drawing is not None and drawing.section == section.name else None,
        flame if flame is not None and flame.section == section.name else None,
    )


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mmdump.render.report", "."),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = _anchor
    return environment.get_template("report.html.j2")


def _visible(value: Any) -> Any:
    """What is not plainly visible, as escapes; markup of the template's own stays."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return escape(value)
    return value


def _anchor(text: str) -> str:
    """A text as the name of a place in the document."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _text(name: str) -> str:
    return files("mmdump.render.report").joinpath(name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - our own style and script
