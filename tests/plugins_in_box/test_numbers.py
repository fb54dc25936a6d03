"""Sentences of findings where there is one of what they count."""

from __future__ import annotations

import polars as pl

from mmdump.result import Column, Kind, Schema, Table
from mmdump_alloc_tags.findings import findings_of, headline
from mmdump_page_owner.pollution import _pollution

SITE = {"file": "mm/slub.c", "line": 7, "function": "f", "bytes": 4096, "calls": 1, "not_found": 4096}


def sums(part: str, count: int) -> Table:
    schema = Schema("sums", (Column("part"), Column("count", Kind.COUNT)))
    return Table.of_rows(schema, [{"part": part, "count": count}])


def test_one_line_of_code_counts_and_two_count() -> None:
    schema = Schema("sites", tuple(Column(name) for name in SITE))
    said = []
    for count in (1, 2):
        sites = pl.DataFrame([SITE] * count)
        found = findings_of(Table(schema, sites), sums("pages", 0), complete=True, page_size=1 << 20)
        said.append(found[0].message.partition(" that was")[0])
        said.append(headline(sites))
    assert said == [
        "1 line of code counts 4 KiB",
        "1 line of code of 1 has 4 KiB allocated, in 1 allocation",
        "2 lines of code count 8 KiB",
        "2 lines of code of 2 have 8 KiB allocated, in 2 allocations",
    ]


def test_one_page_refers_to_no_tag() -> None:
    schema = Schema("sites", tuple(Column(name) for name in SITE))
    none = Table(schema, pl.DataFrame([SITE]).clear())
    [one] = findings_of(none, sums("stale", 1), complete=True, page_size=4096)
    assert one.message == "1 page is free and still refers to the line that allocated it."
    [two] = findings_of(none, sums("stale", 2), complete=True, page_size=4096)
    assert two.message == "2 pages are free and still refer to the line that allocated them."


def test_one_block_is_polluted_and_two_are() -> None:
    polluters = pl.DataFrame({"stack_id": [7], "pages": [3]})
    for polluted, words in (
        (1, "1 of 62 Movable blocks is polluted"),
        (2, "2 of 62 Movable blocks are polluted"),
    ):
        [found] = _pollution(pl.DataFrame({"blocks": [62], "polluted": [polluted]}), polluters, "Movable")
        assert found.message.startswith(f"{words} by pages that cannot be moved; ")
        assert found.message.endswith("100 % of these pages are of 1 call chain.")
