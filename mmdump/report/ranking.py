"""All findings of all sections, the most important first, each with the rows that are its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from mmdump.document import Section, Told
from mmdump.errors import MmdumpError
from mmdump.render import Query
from mmdump.result import Finding, Table

__all__ = ["ranked"]

#: Evidence rows that are kept of a finding.
_EVIDENCE = 10
#: Where invariants are broken nothing else is sure: these come before all else of their severity.
_FIRST = "check"


def ranked(sections: Sequence[Section]) -> list[Told]:
    """Findings by severity, then in order of sections; what two sections tell of one thing is told once."""
    found = [
        (finding.severity.rank, section.name != _FIRST, order, index, section, finding)
        for order, section in enumerate(sections)
        if section.result is not None
        for index, finding in enumerate(section.result.findings)
    ]
    told: list[Told] = []
    known: set[tuple[str, str]] = set()
    for *_, section, finding in sorted(found, key=lambda each: each[:4]):
        if finding.about is not None:
            if (finding.key, finding.about) in known:
                continue
            known.add((finding.key, finding.about))
        told.append(_told(section, finding))
    return told


def _told(section: Section, finding: Finding) -> Told:
    table = None if section.result is None else section.result.tables.get(finding.table or "")
    if table is None:
        return Told(section.name, finding)
    shown, matched = _rows(table, finding.where)
    whole = section.rows(table) == table.frame.height
    if shown is None or not matched:
        return Told(section.name, finding, None, None)
    return Told(section.name, finding, shown, matched if whole else None)


def _rows(table: Table, where: str | None) -> tuple[Table | None, int]:
    """The first rows that the condition selects, and how many there are; None if it cannot be told."""
    try:
        return Query.parse(where, None, None, _EVIDENCE).first(table)
    except MmdumpError:
        return None, 0
