"""Large folios on page arrays made by hand: their counts, and what is seen when they come apart."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump.kernel.names import FlagNames
from mmdump.kernel.page import PageRange
from mmdump.kernel.page_layout import FolioField
from mmdump.target import ReadStatus
from mmdump_thp import Thp
from mmdump_thp.analysis import State
from mmdump_thp.folios import COUNTERS, FREE, FROZEN, KINDS, STATES, TORN, UNREADABLE, WHOLE, LargeFolios
from mmdump_thp.layout import LargeLayout
from mmdump_thp.mappings import NO_MAPPINGS, Mappings
from mmdump_thp.orphans import fold_orphans, has_orphans, orphan_rows
from mmdump_thp.rows import folio_rows, link_rows
from tests.kernel.builders import ANON, FILE, FOLIO, STRUCT_PAGE, VMEMMAP, Memory, address, hostile_memory

LINK = 2 * STRUCT_PAGE + 16
LAYOUT = LargeLayout(
    {
        "_nr_pages_mapped": FOLIO["_nr_pages_mapped"],
        "_deferred_list_next": FolioField(LINK, np.dtype("<u8")),
        "_deferred_list_prev": FolioField(LINK + 8, np.dtype("<u8")),
    },
    VMEMMAP,
)
ENTIRELY = 0x800000


def find(pages: PageRange, *, hugetlb: bool = False) -> LargeFolios:
    return LargeFolios.find(pages, LAYOUT, -1, hugetlb=hugetlb)


def thp(row: int = 0, order: int = 4, *, pmds: int = 0, ptes: dict[int, int] | None = None) -> Memory:
    """An anonymous folio with these mappings of the whole, and of single pages by their number in it."""
    maps = {page: count for page, count in (ptes or {}).items() if count}
    memory = Memory(64).large(
        row, order, "PG_lru", "PG_swapbacked", refs=3, maps=pmds + sum(maps.values()), mapping=ANON
    )
    memory.folio(row, "_entire_mapcount", pmds - 1)
    memory.folio(row, "_nr_pages_mapped", len(maps) + (ENTIRELY if pmds else 0))
    for page, count in maps.items():
        memory.set(row + page, _mapcount=count - 1)
    return memory


def test_a_folio_mapped_as_a_whole_has_all_its_pages_mapped() -> None:
    found = find(thp(pmds=2).pages())
    assert found.rows.tolist() == [0]
    assert KINDS[found.kind[0]] == "anon"
    assert (found.mapcount[0], found.entire[0], found.ptes[0], found.pages_mapped[0]) == (2, 2, 0, 16)
    assert found.wrong.tolist() == [0]


def test_half_of_a_folio_mapped_is_half_of_its_pages() -> None:
    found = find(thp(ptes=dict.fromkeys(range(8), 2)).pages())
    assert (found.mapcount[0], found.entire[0], found.ptes[0], found.pages_mapped[0]) == (16, 0, 16, 8)
    assert found.wrong.tolist() == [0]


def test_a_folio_mapped_both_ways_counts_both() -> None:
    found = find(thp(pmds=1, ptes={3: 1, 4: 1}).pages())
    assert (found.mapcount[0], found.entire[0], found.ptes[0], found.pages_mapped[0]) == (3, 1, 2, 16)
    assert found.wrong.tolist() == [0]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [("_large_mapcount", 6, "_large_mapcount"), ("_nr_pages_mapped", 3, "_nr_pages_mapped")],
)
def test_a_counter_that_contradicts_the_others_is_named(field: str, value: int, named: str) -> None:
    found = find(thp(ptes={1: 1, 2: 1}).folio(0, field, value).pages())
    assert [name for bit, name in enumerate(COUNTERS) if found.wrong[0] >> bit & 1] == [named]


def test_a_page_mapped_less_than_never_is_named() -> None:
    found = find(thp(ptes={1: 1, 2: 1}).set(5, _mapcount=-3).pages())
    assert "_mapcount" in [name for bit, name in enumerate(COUNTERS) if found.wrong[0] >> bit & 1]


def test_a_kernel_that_does_not_count_by_page_is_not_wrong() -> None:
    memory = Memory(16).large(0, 4, "PG_lru", "PG_swapbacked", refs=9, maps=8, mapping=ANON)
    found = find(memory.folio(0, "_entire_mapcount", -1).pages())
    assert found.uncounted.tolist() == [True]
    assert found.wrong.tolist() == [0]
    assert found.pages_mapped.tolist() == [-1]
    assert found.ptes.tolist() == [8]


def test_a_folio_without_references_is_frozen() -> None:
    assert find(thp(ptes={0: 1}).set(0, _refcount=0).pages()).state.tolist() == [FROZEN]


@pytest.mark.parametrize("tail", [1, 7, 15])
def test_a_head_that_has_lost_a_tail_is_torn_and_its_counts_are_not_believed(tail: int) -> None:
    found = find(thp(pmds=1).set(tail, compound_head=0).pages())
    assert [STATES[code] for code in found.state] == ["torn"]
    assert (found.mapcount[0], found.entire[0], found.pages_mapped[0]) == (0, 0, -1)


def test_a_head_whose_order_is_impossible_is_torn() -> None:
    assert find(thp(pmds=1).folio(0, "_flags_1", 60).pages()).state.tolist() == [TORN]


def test_a_head_in_the_middle_of_another_folio_tears_it() -> None:
    memory = thp(pmds=1).large(8, 3, "PG_lru", "PG_swapbacked", maps=1, mapping=ANON).set(8, compound_head=0)
    found = find(memory.pages())
    assert found.rows.tolist() == [0, 8]
    assert found.state.tolist() == [TORN, WHOLE]
    assert found.pages.tolist() == [8, 8]


def test_a_folio_of_which_a_part_is_not_in_the_dump_is_unreadable() -> None:
    memory = thp(pmds=1)
    memory.status[9] = ReadStatus.UNREADABLE
    found = find(memory.pages())
    assert found.state.tolist() == [UNREADABLE]
    assert found.pages_mapped.tolist() == [-1]


def test_the_kernels_own_compound_pages_and_hugetlb_are_left_out() -> None:
    memory = Memory(64).large(0, 3, refs=1).large(8, 3, refs=1, mapping=ANON).typed(8, "slab")
    memory.large(16, 4, refs=1, maps=1, mapping=FILE).typed(16, "hugetlb")
    assert not len(find(memory.pages()))
    found = find(memory.pages(), hugetlb=True)
    assert found.rows.tolist() == [16]
    assert found.mapcount.tolist() == [1]


def test_a_free_hugetlb_page_is_free_and_not_frozen() -> None:
    memory = Memory(16).large(0, 4, refs=0).typed(0, "hugetlb")
    assert find(memory.pages(), hugetlb=True).state.tolist() == [FREE]


def test_tails_whose_head_is_gone_are_orphans_by_the_head_they_name() -> None:
    memory = thp(row=16, pmds=1).set(16, flags=0)
    pages = memory.pages()
    assert not len(find(pages))
    orphans = fold_orphans(pl.DataFrame(orphan_rows(pages)))
    assert orphans.to_dicts() == [
        {"head_pfn": 16, "first_pfn": 17, "last_pfn": 31, "pages": 15, "reason": 1},
    ]


def test_tails_behind_the_end_of_their_head_are_orphans() -> None:
    memory = thp(row=0, order=4, pmds=1).set(20, compound_head=address(0) + 1)
    orphans = orphan_rows(memory.pages())
    assert (orphans["head_pfn"].tolist(), orphans["first_pfn"].tolist()) == ([0], [20])
    assert has_orphans(orphans)


def test_a_tail_that_names_no_page_at_all_is_an_orphan() -> None:
    orphans = orphan_rows(Memory(8).set(3, compound_head=0xDEAD0001).set(5, compound_head=0x31).pages())
    assert (orphans["head_pfn"].tolist(), orphans["pages"].tolist()) == ([-1], [2])


def test_tails_of_a_gigantic_page_wait_for_its_head_in_another_range() -> None:
    memory = Memory(16, start=1 << 16)
    for row in range(16):
        memory.set(row, compound_head=address(0) + 1)
    orphans = orphan_rows(memory.pages())
    assert orphans["pages"].tolist() == [16]
    assert not has_orphans(orphans)


def test_a_healthy_range_has_no_orphans() -> None:
    assert not len(orphan_rows(thp(row=16, pmds=1).pages())["pages"])


def test_a_link_to_itself_is_on_no_queue_and_one_that_leads_away_is() -> None:
    memory = thp(row=0, pmds=1).large(16, 4, "PG_lru", "PG_swapbacked", refs=2, maps=1, mapping=ANON)
    memory.large(32, 1, "PG_lru", "PG_swapbacked", refs=2, maps=1, mapping=ANON)
    own = VMEMMAP + LINK
    for row, link in ((0, own), (16, own + 99)):
        memory.raw[row * STRUCT_PAGE + LINK :][:16].view("<u8")[:] = link
    pages = memory.pages()
    found = find(pages)
    # Folios of order 1 have no room for a link: 2 is neither.
    assert folio_rows(pages, found, LAYOUT, None)["deferred"].tolist() == [0, 1, 2]
    assert link_rows(pages, found, LAYOUT)["node"].astype(np.uint64).tolist() == [own + 16 * STRUCT_PAGE]


@given(hostile_memory())
@settings(max_examples=60)
def test_whatever_memory_holds_there_is_an_answer(memory: Memory) -> None:
    pages = memory.pages()
    found = find(pages, hugetlb=True)
    assert int(found.pages.sum()) <= len(pages)
    rows = folio_rows(pages, found, LAYOUT, None)
    assert {len(column) for column in rows.values()} == {len(found)}
    orphans = orphan_rows(pages)
    assert int(orphans["pages"].sum()) <= int(pages.is_tail.sum())
    link_rows(pages, found, LAYOUT)


@given(st.dictionaries(st.integers(0, 15), st.integers(0, 3)), st.integers(0, 2))
def test_counts_are_the_sums_of_what_maps_the_folio(ptes: dict[int, int], pmds: int) -> None:
    found = find(thp(row=16, pmds=pmds, ptes=ptes).pages())
    mapped = sum(1 for count in ptes.values() if count)
    assert found.wrong.tolist() == [0]
    assert found.pages_mapped.tolist() == [16 if pmds else mapped]
    assert found.mapcount.tolist() == [pmds + sum(ptes.values())]


def state() -> State:
    return State(LAYOUT, -1, 4096, ("Normal",), FlagNames((), 0), None, NO_MAPPINGS)


def test_on_a_live_kernel_what_is_torn_is_read_again_before_it_is_believed() -> None:
    torn, whole = thp(pmds=1).set(7, compound_head=0).pages(), thp(pmds=1).pages()
    torn.again = lambda: whole
    assert Thp().scan(torn, state())["folios"]["state"].tolist() == [WHOLE]
    torn.again = lambda: torn
    assert Thp().scan(torn, state())["folios"]["state"].tolist() == [TORN]


def test_who_maps_a_folio_is_in_lists_of_equal_length() -> None:
    mappings = Mappings(
        head=np.array([0, 0, 32], np.int64),
        mm=np.array([0, 1, 1], np.int32),
        ptes=np.array([0, 8, 5], np.int32),
        pmds=np.array([1, 0, 0], np.int32),
        # A vfork()ed child runs in its parent's address space.
        processes=pl.DataFrame(
            [(0, 640, "db"), (1, 655, "saver"), (1, 656, "child")],
            schema={"mm": pl.Int32, "pid": pl.Int64, "comm": pl.String},
            orient="row",
        ),
        mm_ids=np.zeros(2, np.int64),
    )
    memory = thp(pmds=1, ptes=dict.fromkeys(range(8), 1))
    here = replace(state(), mappings=mappings)
    parts = {name: pl.DataFrame(rows) for name, rows in Thp().scan(memory.pages(), here).items()}
    found = Thp().batch(parts, here)
    [row] = found["folios"].to_dicts()
    assert (row["pids"], row["comms"]) == ([640, 655, 656], ["db", "saver", "child"])
    assert (row["pid_pmds"], row["pid_ptes"]) == ([1, 0, 0], [0, 8, 8])
    assert row["mappings_found"] == row["mapcount"] == 9
    by_process = {each["pid"]: each for each in found["processes"].to_dicts()}
    assert by_process[640]["AnonHugePages"] == 16 * 4096
    assert (by_process[655]["AnonHugePages"], by_process[655]["pte_mapped"]) == (0, 8 * 4096)


def test_without_page_tables_nobody_is_said_to_map_a_folio() -> None:
    parts = {name: pl.DataFrame(rows) for name, rows in Thp().scan(thp(pmds=1).pages(), state()).items()}
    [row] = Thp().batch(parts, state())["folios"].to_dicts()
    assert row["pids"] is None
    assert row["mappings_found"] is None
    assert not len(Thp().batch(parts, state())["processes"])


def test_a_state_can_go_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(state())).page_size == 4096
