"""What is held, on page arrays made by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.page import PageRange
from mmdump.kernel.references import FolioBatches
from mmdump_page_pinner.evidence import EVIDENCE, EXCESS, FOLL_PIN, PINNER, Held, find_held
from tests.kernel.builders import ANON, DRIVER_MOVABLE, FILE, Ext, Memory, address, hostile_memory

NO_BATCHES = FolioBatches(np.empty(0, np.int64), np.empty(0, np.int64))


def held(memory: Memory, *marks: int, batches: FolioBatches = NO_BATCHES) -> Held:
    return find_held(memory.pages(Ext(len(memory.rows)).mark(*marks).range()), batches)


def test_the_bits_of_evidence_are_in_the_order_of_their_names() -> None:
    assert [EVIDENCE[bit.bit_length() - 1] for bit in (PINNER, FOLL_PIN, EXCESS)] == [
        "page_pinner",
        "foll_pin",
        "excess",
    ]


def test_a_page_with_a_reference_too_many_is_held() -> None:
    found = held(Memory(4).small(2, "PG_lru", "PG_swapbacked", refs=2, maps=1, mapping=ANON))
    assert found.rows.tolist() == found.heads.tolist() == [2]
    assert found.evidence.tolist() == found.folio_evidence.tolist() == [EXCESS]
    assert found.held.tolist() == found.counted.tolist() == [True]
    assert found.account.excess.tolist() == [1]


def test_a_marked_page_that_nothing_holds_is_released() -> None:
    memory = Memory(8).small(1, "PG_lru", "PG_swapbacked", maps=1, mapping=ANON).buddy(4, 2)
    found = held(memory, 1, 4, 5)
    assert found.rows.tolist() == [1, 4, 5]
    assert found.evidence.tolist() == [PINNER] * 3
    assert found.held.tolist() == [False] * 3
    assert found.counted.tolist() == [True] * 3


def test_a_marked_page_that_is_pinned_is_both() -> None:
    found = held(Memory(2).small(1, "PG_lru", "PG_swapbacked", refs=1025, maps=1, mapping=ANON), 1)
    assert found.evidence.tolist() == [PINNER | FOLL_PIN]
    assert found.held.tolist() == [True]


def test_a_marked_tail_and_the_head_of_its_held_folio_are_two_rows_of_one_folio() -> None:
    memory = Memory(32).large(16, 4, "PG_lru", "PG_swapbacked", refs=3, maps=1, pins=1, mapping=ANON)
    found = held(memory, 19, 20)
    assert found.rows.tolist() == [16, 19, 20]
    assert found.heads.tolist() == [16, 16, 16]
    assert found.evidence.tolist() == [FOLL_PIN | EXCESS, *[PINNER | FOLL_PIN | EXCESS] * 2]
    assert found.folio_evidence.tolist() == [PINNER | FOLL_PIN | EXCESS] * 3
    assert found.held.tolist() == [True] * 3
    assert found.counted.tolist() == [True, False, False]
    assert found.account.references.tolist() == [3, 3, 3]


def test_the_marked_tails_of_a_folio_that_is_not_held_are_rows_and_one_of_them_counts() -> None:
    memory = Memory(32).large(16, 4, "PG_lru", "PG_swapbacked", refs=1, maps=1, mapping=ANON)
    found = held(memory, 19, 20)
    assert found.rows.tolist() == [19, 20]
    assert found.held.tolist() == [False, False]
    assert found.counted.tolist() == [True, False]


def test_folios_side_by_side_are_counted_each() -> None:
    memory = Memory(32)
    for row in (0, 4, 8):
        memory.large(row, 2, "PG_lru", "PG_swapbacked", refs=2, maps=1, mapping=ANON)
    found = held(memory, 1, 5, 6)
    assert found.rows.tolist() == [0, 1, 4, 5, 6, 8]
    assert found.heads[found.counted].tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    "memory",
    [
        Memory(2).small(1, refs=7),
        Memory(2).small(1, refs=5000),
        Memory(2).small(1, "PG_reserved", refs=2000, maps=5),
        Memory(2).small(1, refs=9).typed(1, "slab"),
        Memory(2).small(1, refs=9).typed(1, "table"),
        Memory(16).large(0, 3, refs=9),
        Memory(2).small(1, refs=9, mapping=DRIVER_MOVABLE),
    ],
    ids=["kernel", "kernel, often", "reserved", "slab", "page table", "compound", "movable driver page"],
)
def test_what_the_kernel_itself_owns_is_in_use_and_not_held(memory: Memory) -> None:
    assert not len(held(memory).rows)


def test_a_drivers_page_that_a_process_maps_can_be_held() -> None:
    assert held(Memory(2).small(1, refs=3, maps=1)).evidence.tolist() == [EXCESS]


def test_a_page_truncated_from_its_file_is_held_by_who_still_has_it() -> None:
    assert held(Memory(2).small(1, "PG_lru")).evidence.tolist() == [EXCESS]


def test_a_hugetlb_page_can_be_held() -> None:
    memory = Memory(512).large(0, 9, refs=2, maps=1, pins=1, mapping=ANON).typed(0, "hugetlb")
    assert held(memory).evidence.tolist() == [FOLL_PIN]


def test_a_page_that_1500_processes_map_is_not_held() -> None:
    memory = Memory(2).small(1, "PG_lru", refs=1501, maps=1500, mapping=FILE)
    assert not len(held(memory).rows)


def test_what_a_batch_holds_is_not_held() -> None:
    memory = Memory(2).small(1, "PG_lru", "PG_swapbacked", refs=2, maps=1, mapping=ANON)
    assert len(held(memory).rows) == 1
    assert not len(held(memory, batches=FolioBatches(np.array([1]), np.array([1]))).rows)


def test_a_struct_page_of_which_nothing_is_known_is_not_held() -> None:
    memory = Memory(2)
    memory.raw[64:] = ord("X")
    memory.status[1] = 3
    assert not len(held(memory).rows)


def test_a_marked_tail_whose_head_lies_in_a_range_before_is_judged_by_itself() -> None:
    memory = Memory(4, start=65536)
    for row in range(4):
        memory.set(row, compound_head=address(0) + 1)
    found = held(memory, 2, 3)
    assert found.heads.tolist() == [2, 3]
    assert found.counted.tolist() == [True, True]


def test_a_range_without_page_ext_has_evidence_all_the_same() -> None:
    pages = Memory(2).small(1, "PG_lru", refs=3, mapping=FILE).pages()
    assert find_held(pages, NO_BATCHES).rows.tolist() == [1]


def test_nothing_is_held_in_empty_memory() -> None:
    found = held(Memory(3))
    for name in ("rows", "heads", "evidence", "folio_evidence", "held", "counted"):
        assert len(getattr(found, name)) == 0


@given(hostile_memory(), st.data())
def test_whatever_the_bytes_rows_ascend_and_every_folio_is_counted_once(
    memory: Memory, data: st.DataObject
) -> None:
    count = len(memory.rows)
    marks = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=10))
    pages = memory.pages(Ext(count).mark(*marks).range())
    found = find_held(pages, NO_BATCHES)
    assert (np.diff(found.rows) > 0).all()
    assert set(marks) <= set(found.rows.tolist())
    assert (found.heads >= 0).all()
    assert (found.heads <= found.rows).all()
    assert sorted(set(found.heads.tolist())) == sorted(found.heads[found.counted].tolist())
    assert (found.evidence != 0).all()
    assert (found.evidence & ~found.folio_evidence == 0).all()
    assert ((found.folio_evidence & ~np.uint8(PINNER) != 0) == found.held).all()
    # What is not known is not held.
    assert not found.held[~pages.readable[found.heads]].any()


@given(hostile_memory())
def test_a_row_is_a_loop_over_pages_away(memory: Memory) -> None:
    """Small folios one by one, with the rules as a person would say them."""
    pages: PageRange = memory.pages()
    found = find_held(pages, NO_BATCHES)
    rows = set(found.rows.tolist())
    for row in range(len(pages)):
        refs = int(pages.refcount[row]) & 0xFFFFFFFF
        if (
            pages.is_tail[row]
            or not refs
            or pages.has_flag("PG_reserved")[row]
            or (pages.is_typed()[row] and not pages.is_type("hugetlb")[row])
        ):
            assert row not in rows


def test_a_held_frame_keeps_its_columns_in_step() -> None:
    memory = Memory(8).small(1, "PG_lru", refs=3, mapping=FILE).small(5, "PG_lru", refs=1026, mapping=FILE)
    found = held(memory, 1, 3)
    frame = pl.DataFrame(
        {"row": found.rows, "refs": found.account.references, "evidence": found.evidence, "held": found.held}
    )
    assert frame.rows() == [
        (1, 3, PINNER | EXCESS, True),
        (3, 0, PINNER, False),
        (5, 1026, FOLL_PIN | EXCESS, True),
    ]
