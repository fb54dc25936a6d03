"""What a result says of itself where Python shows it."""

from __future__ import annotations

from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table


def test_a_result_is_shown_in_one_line() -> None:
    one = Table.of_rows(Schema("areas", (Column("area"),)), [{"area": "reserved"}])
    two = Table.of_rows(Schema("ranges", (Column("pfn", Kind.PFN), Column("area"))), [{"pfn": 1}, {"pfn": 2}])
    result = Result(
        "cma",
        summary=["64 MiB"],
        tables={each.name: each for each in (one, two)},
        findings=[Finding("cma-blocked", Severity.PROBLEM, "8 pages block it.")],
        notes=["A note.", "Another."],
        target={"path": "vmcore"},
    )
    line = "<Result of cma: tables areas (1 row), ranges (2 rows); 1 finding; 2 notes; complete>"
    assert repr(result) == line
    assert repr(two) == "<Table ranges: 2 rows, 2 columns>"
    short = Result("cma", incomplete=["The areas are not in the dump."])
    assert repr(short) == "<Result of cma: no tables; 0 findings; 0 notes; incomplete: 1>"
