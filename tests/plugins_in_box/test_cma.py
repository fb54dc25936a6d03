"""What stands in the way in a CMA area, on page arrays made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.cma import CmaArea
from mmdump.kernel.references import FolioBatches
from mmdump.render import Query
from mmdump.result import Column, Schema, Table
from mmdump_page_pinner.cma import CMA, area_of, cma_findings, cma_runs, cma_table
from mmdump_page_pinner.evidence import find_held
from tests.kernel.builders import ANON, FILE, PAGE_SIZE, Kernelish, Memory, address, hostile_memory

BITMAP = 0xFFFF888000100000
NO_BATCHES = FolioBatches(np.empty(0, np.int64), np.empty(0, np.int64))
UNKNOWN, FREE, MOVABLE, HELD = range(4)


def area(base: int, count: int, *, name: str = "a", order: int = 0) -> CmaArea:
    return CmaArea(name, base, count, order, BITMAP)


def states(memory: Memory, *areas: CmaArea) -> list[int]:
    """The state of each page of the areas, run by run."""
    pages = memory.pages()
    found = cma_runs(pages, find_held(pages, NO_BATCHES), areas)
    assert (found["pages"] > 0).all()
    return np.repeat(found["state"], found["pages"]).tolist()


def table(memory: Memory, *areas: CmaArea, bitmap: bytes | None = bytes(512)) -> tuple[Table, list[str]]:
    pages = memory.pages()
    runs = pl.DataFrame(dict(cma_runs(pages, find_held(pages, NO_BATCHES), areas)))
    kernel = Kernelish({} if bitmap is None else {BITMAP: bitmap})
    return cma_table(SimpleNamespace(target=kernel.target), areas, runs)


def test_a_page_is_free_movable_or_held() -> None:
    memory = Memory(8).buddy(0, 1)
    memory.small(2, "PG_lru", "PG_swapbacked", maps=1, mapping=ANON)
    memory.small(3, "PG_lru", refs=3, mapping=FILE)
    memory.status[5] = 2
    assert states(memory, area(0, 8)) == [FREE, FREE, MOVABLE, HELD, FREE, UNKNOWN, FREE, FREE]


def test_every_page_of_a_held_folio_is_held_and_every_page_of_another_is_movable() -> None:
    memory = Memory(16)
    memory.large(0, 2, "PG_lru", "PG_swapbacked", refs=2, maps=1, pins=1, mapping=ANON)
    memory.large(8, 2, "PG_lru", "PG_swapbacked", maps=1, mapping=ANON)
    assert states(memory, area(0, 16)) == [HELD] * 4 + [FREE] * 4 + [MOVABLE] * 4 + [FREE] * 4
    # The head lies outside.
    assert states(memory, area(2, 4)) == [HELD] * 2 + [FREE] * 2


def test_a_tail_whose_head_lies_in_a_range_before_is_not_held_because_the_first_page_is() -> None:
    memory = Memory(8, start=65536).small(0, "PG_lru", refs=3, mapping=FILE)
    memory.set(5, compound_head=address(65000) + 1)
    assert states(memory, area(65536, 8)) == [HELD, FREE, FREE, FREE, FREE, MOVABLE, FREE, FREE]


@given(hostile_memory(), st.lists(st.tuples(st.integers(-20, 150), st.integers(1, 80)), max_size=3))
def test_whatever_the_bytes_runs_cover_the_areas_within_the_range(
    memory: Memory, some: list[tuple[int, int]]
) -> None:
    areas = [area(max(memory.start + offset, 0), count) for offset, count in some]
    pages = memory.pages()
    found = cma_runs(pages, find_held(pages, NO_BATCHES), areas)
    covered = [
        pfn
        for start, count in zip(found["start"].tolist(), found["pages"].tolist(), strict=True)
        for pfn in range(start, start + count)
    ]
    inside = [
        pfn for each in areas for pfn in range(max(each.base_pfn, pages.start), min(each.end_pfn, pages.end))
    ]
    assert covered == inside
    assert {name: column.dtype for name, column in found.items()} == {
        "start": np.int64,
        "pages": np.int64,
        "state": np.uint8,
    }
    unknown = [pfn for pfn in inside if not pages.readable[pfn - pages.start]]
    by_pfn = dict(zip(covered, np.repeat(found["state"], found["pages"]).tolist(), strict=True))
    assert [pfn for pfn in inside if by_pfn[pfn] == UNKNOWN] == unknown


def test_an_area_is_accounted_for_in_bytes_and_its_longest_runs() -> None:
    memory = Memory(64)
    for row in range(16, 24):
        memory.small(row, "PG_lru", mapping=FILE)
    memory.small(40, "PG_lru", refs=3, mapping=FILE)
    # cma_alloc() has pages 0 to 7: of the driver they are, whatever they look like.
    memory.small(3, "PG_lru", refs=3, mapping=FILE)
    found, notes = table(memory, area(0, 64), bitmap=b"\xff" + bytes(7))
    assert notes == []
    assert found.frame.to_dicts() == [
        {
            "area": "a",
            "base_pfn": 0,
            "size": 64 * PAGE_SIZE,
            "used": 8 * PAGE_SIZE,
            "free": 47 * PAGE_SIZE,
            "movable": 8 * PAGE_SIZE,
            "blockers": 1,
            "longest_now": 32 * PAGE_SIZE,
            "longest_without": 56 * PAGE_SIZE,
        }
    ]


def test_a_bit_of_the_bitmap_may_be_several_pages() -> None:
    found, _ = table(Memory(64), area(0, 64, order=3), bitmap=b"\x81" + bytes(7))
    [row] = found.frame.to_dicts()
    assert (row["used"], row["longest_now"]) == (16 * PAGE_SIZE, 48 * PAGE_SIZE)


def test_pages_that_were_not_seen_end_a_run_and_are_neither_free_nor_movable() -> None:
    memory = Memory(32)
    memory.status[10] = 3
    # The area goes on where no page could be looked at.
    found, _ = table(memory, area(0, 48))
    [row] = found.frame.to_dicts()
    assert (row["free"], row["movable"]) == (31 * PAGE_SIZE, 0)
    assert row["longest_now"] == row["longest_without"] == 21 * PAGE_SIZE


def test_a_bitmap_that_is_missing_is_said() -> None:
    found, notes = table(Memory(32), area(0, 32, name="reserved"), bitmap=None)
    row = found.frame.to_dicts()[0]
    assert [row[name] for name in ("used", "free", "longest_now", "longest_without")] == [None] * 4
    assert ["reserved" in note for note in notes] == [True]


def test_an_area_of_nothing_but_held_pages_has_no_run() -> None:
    memory = Memory(4)
    for row in range(4):
        memory.small(row, "PG_lru", refs=3, mapping=FILE)
    [row] = table(memory, area(0, 4))[0].frame.to_dicts()
    assert (row["blockers"], row["longest_now"], row["longest_without"]) == (4, 0, 4 * PAGE_SIZE)


@pytest.mark.parametrize("name", ["reserved", "it's", "a''b", "quote\" and 'quote'"])
def test_a_blocked_area_is_a_finding_whose_rows_can_be_selected(name: str) -> None:
    memory = Memory(1024).small(40, "PG_lru", refs=3, mapping=FILE)
    found, _ = table(memory, area(0, 512, name=name), area(512, 512, name="fine"))
    groups = pl.DataFrame(
        {
            "folio_evidence": [4, 4],
            "state": ["held", "held"],
            "order": [0, 0],
            "cma_area": [name, "fine"],
            "owner_comm": ["tar", "cat"],
            "owner_pid": [7, 8],
            "folios": [1, 1],
            "first_pfn": [40, 600],
        }
    )
    [finding] = cma_findings(found, groups, PAGE_SIZE)
    assert finding.message == (
        f"CMA {name}: 2 MiB; 1 page blocks it: 1 by unexplained references (allocated by tar 7); "
        "longest run now 1.8 MiB, without them 2 MiB."
    )
    frame = pl.DataFrame(
        {
            "pfn": [1, 2, 3, 4],
            "cma": [name, "fine", name, None],
            "state": ["held", "held", "released", "held"],
        }
    )
    schema = Schema("groups", (Column("pfn"), Column("cma"), Column("state")))
    assert Query(finding.where).table(Table(schema, frame)).frame["pfn"].to_list() == [1]


def test_area_of_is_the_area_a_pfn_lies_in() -> None:
    areas = [area(10, 5), area(20, 5)]
    assert area_of(areas, np.array([9, 10, 14, 15, 24, 25])).tolist() == [-1, 0, 0, -1, 1, -1]
    assert area_of([], np.array([1])).tolist() == [-1]
    assert CMA.names[0] == "area"
