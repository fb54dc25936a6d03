"""Pages as columns, on page arrays made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.page import PageRange
from mmdump.kernel.pageblock import PageblockRange
from mmdump.target import ReadStatus
from tests.kernel.builders import (
    ANON,
    FLAGS,
    LAYOUT,
    STRUCT_PAGE,
    TYPES,
    VMEMMAP,
    Memory,
    address,
    bits,
    hostile_memory,
)

COLUMNS = {
    "readable": bool,
    "pfn": np.int64,
    "flags": np.uint64,
    "compound_head": np.uint64,
    "mapping": np.uint64,
    "private": np.uint64,
    "refcount": np.int32,
    "raw_mapcount": np.int32,
    "is_buddy": bool,
    "buddy_order": np.uint8,
    "in_free_block": bool,
    "is_tail": bool,
    "is_head": bool,
    "head_pfn": np.int64,
    "folio_order": np.uint8,
    "zone": np.uint8,
    "node": np.int64,
    "migratetype": np.uint8,
}


@given(hostile_memory())
def test_any_bytes_give_every_column_a_value_per_page(memory: Memory) -> None:
    pages = memory.pages()
    for name, dtype in COLUMNS.items():
        column = getattr(pages, name)
        assert (name, column.dtype, column.shape) == (name, np.dtype(dtype), (len(pages),))
    every = np.arange(len(pages))
    for column in (pages.folio_mapcount(every), pages.folio_pincount(every), pages.node_of(every)):
        assert (column.dtype, column.shape) == (np.dtype(np.int64), (len(pages),))
    for name in LAYOUT.folio:
        assert pages.folio_field(name, every).shape == (len(pages),)
    for name in TYPES:
        assert pages.is_type(name).shape == pages.is_typed().shape == (len(pages),)


@given(hostile_memory())
def test_whatever_the_bytes_a_head_comes_before_its_tail_and_orders_are_possible(memory: Memory) -> None:
    pages = memory.pages()
    assert (pages.head_pfn >= 0).all()
    assert (pages.head_pfn <= pages.pfn).all()
    assert (pages.head_pfn == pages.pfn)[~pages.is_tail].all()
    assert not (pages.is_head & pages.is_tail).any()
    assert (pages.buddy_order <= LAYOUT.max_buddy_order).all()
    assert not pages.buddy_order[~pages.is_buddy].any()
    assert not pages.folio_order[~pages.is_head].any()
    assert (pages.pfn % (1 << pages.folio_order.astype(np.int64)) == 0).all()
    assert pages.in_free_block[pages.is_buddy].all()


@given(hostile_memory(), st.integers(0, 1 << 32))
def test_rows_and_sums_are_those_of_the_columns_whatever_the_bytes(memory: Memory, seed: int) -> None:
    pages = memory.pages()
    few = np.unique(np.random.default_rng(seed).integers(0, len(pages), 1 + len(pages) // 10))
    for name in ("private", "compound_head", "mapping", "memcg_data"):
        assert (memory.pages().word_at(name, few) == getattr(pages, name)[few]).all()
    for rows, column in (
        (pages.heads, pages.is_head),
        (pages.tails, pages.is_tail),
        (pages.buddies, pages.is_buddy),
        (pages.referenced, pages.refcount != 0),
    ):
        assert rows.tolist() == np.flatnonzero(column).tolist()
    for names in (("PG_head",), ("PG_lru", "PG_reserved"), ("PG_reported", "no such flag")):
        mask = np.uint64(pages.layout.mask(*names))
        assert (pages.has_flag(*names) == ((pages.flags & mask) != 0)).all()
    inside = pages.head_pfn >= pages.start
    assert (pages.head_rows() == np.where(inside, pages.head_pfn, pages.pfn) - pages.start).all()
    assert (memory.pages().head_rows(at=few) == pages.head_rows()[few]).all()
    heads = pages.head_pfn[pages.tails] - pages.start
    assert (pages.named_heads == heads).all()
    order = pages.folio_order.astype(np.int64)
    inside = [
        head for tail, head in zip(pages.tails, heads, strict=True)
        if 0 <= head < tail < head + (1 << order[head])
    ]  # fmt: skip
    assert pages.tail_counts.tolist() == np.bincount(inside, minlength=len(pages)).tolist()
    assert pages.tails_in_place == (len(inside) == len(heads))
    places = np.stack((pages.node, pages.zone), axis=1)
    changes = np.flatnonzero((places[1:] != places[:-1]).any(axis=1)) + 1
    assert pages.places.tolist() == [0, *changes]
    assert np.diff(pages.mapcount_sums).tolist() == (pages.raw_mapcount.astype(np.int64) + 1).tolist()


def test_what_all_share_cannot_be_written_to() -> None:
    pages = Memory(64).set(3, flags=1 << FLAGS["PG_lru"]).pages()
    for column in (pages.has_flag("PG_lru"), pages.is_type("buddy"), pages.is_buddy):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = True


def test_the_columns_are_the_members() -> None:
    memory = Memory(3, start=65536)
    memory.set(1, flags=1 << 63 | 5, compound_head=7, mapping=8, private=9, _mapcount=-5, _refcount=-6)
    pages = memory.pages()
    assert pages.pfn.tolist() == [65536, 65537, 65538]
    assert pages.flags.tolist() == [0, 1 << 63 | 5, 0]
    assert pages.compound_head.tolist() == [0, 7, 0]
    assert pages.mapping.tolist() == [0, 8, 0]
    assert pages.private.tolist() == [0, 9, 0]
    assert pages.raw_mapcount.tolist() == [-1, -5, -1]
    assert pages.refcount.tolist() == [0, -6, 0]


def test_a_flag_that_the_kernel_lacks_is_never_set() -> None:
    pages = Memory(2).set(0, flags=(1 << 64) - 1).pages()
    assert not pages.has_flag("PG_no_such_flag").any()
    assert not pages.has_all_flags("PG_lru", "PG_no_such_flag").any()
    assert pages.has_all_flags("PG_lru", "PG_head").tolist() == [True, False]


def test_any_of_several_flags_is_enough_but_not_for_all_of_them() -> None:
    memory = Memory(4)
    for row, flags in enumerate(((), ("PG_lru",), ("PG_dirty",), ("PG_lru", "PG_dirty"))):
        memory.set(row, flags=bits(*flags))
    pages = memory.pages()
    assert pages.has_flag("PG_lru", "PG_dirty").tolist() == [False, True, True, True]
    assert pages.has_all_flags("PG_lru", "PG_dirty").tolist() == [False, False, False, True]
    some = np.array([3, 0])
    assert pages.has_flag("PG_lru", at=some).tolist() == [True, False]
    assert pages.has_all_flags("PG_lru", "PG_dirty", at=some).tolist() == [True, False]


# Page types


@pytest.mark.parametrize("name", [name for name in TYPES if name != "mapcount_underflow"])
@pytest.mark.parametrize("low", [0, 1, 0xFFFFFF])
def test_a_page_type_is_the_top_byte_whatever_the_lower_bits(name: str, low: int) -> None:
    pages = Memory(2).set(0, _mapcount=(TYPES[name] << 24 | low) - (1 << 32)).pages()
    assert pages.is_typed().tolist() == [True, False]
    assert {each for each in TYPES if pages.is_type(each)[0]} == {name}
    assert pages.is_type(name, at=np.array([1, 0])).tolist() == [False, True]
    # What lies in the word is no count.
    assert pages.folio_mapcount(np.array([0])).tolist() == [0]


@pytest.mark.parametrize("stored", [-1, -2, -128, -(1 << 24), 0, 5, (1 << 31) - 1])
def test_a_mapcount_is_no_page_type_even_when_it_has_underflowed(stored: int) -> None:
    pages = Memory(1).set(0, _mapcount=stored).pages()
    assert not pages.is_typed()[0]
    assert pages.folio_mapcount(np.array([0])).tolist() == [stored + 1]


def test_a_type_that_the_kernel_lacks_is_no_pages() -> None:
    assert not Memory(1).typed(0, "slab").pages().is_type("large_kmalloc").any()


# Free blocks


def test_a_free_block_reaches_from_its_first_page_to_its_order() -> None:
    pages = Memory(32).buddy(4, 2).buddy(16, 3).buddy(24, 0).pages()
    assert np.flatnonzero(pages.is_buddy).tolist() == [4, 16, 24]
    assert pages.buddy_order[[4, 16, 24]].tolist() == [2, 3, 0]
    assert np.flatnonzero(pages.in_free_block).tolist() == [*range(4, 8), *range(16, 24), 24]


@pytest.mark.parametrize("order", [11, 63, 64, 1 << 32, (1 << 64) - 1])
def test_a_free_block_of_an_impossible_order_is_one_page(order: int) -> None:
    pages = Memory(8).buddy(4, order).pages()
    assert pages.buddy_order[4] == 0
    assert np.flatnonzero(pages.in_free_block).tolist() == [4]


def test_the_largest_order_is_possible_and_a_block_ends_with_the_range() -> None:
    pages = Memory(1500).buddy(0, 10).buddy(1024, 10).pages()
    assert pages.buddy_order[[0, 1024]].tolist() == [10, 10]
    assert pages.in_free_block.all()


def test_private_of_a_page_in_use_is_no_order() -> None:
    pages = Memory(2).small(0).set(0, private=5).pages()
    assert not pages.buddy_order.any()
    assert not pages.in_free_block.any()


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 12)), max_size=12))
def test_free_blocks_are_those_a_loop_over_pages_finds_even_where_they_overlap(
    blocks: list[tuple[int, int]],
) -> None:
    memory = Memory(64)
    stored = {}
    for row, order in blocks:
        memory.buddy(row, order)
        stored[row] = order if order <= 10 else 0
    free = {page for row, order in stored.items() for page in range(row, min(row + (1 << order), 64))}
    assert set(np.flatnonzero(memory.pages().in_free_block).tolist()) == free


# Compound pages


def test_a_large_folio_is_a_head_and_tails_that_name_it() -> None:
    pages = Memory(32, start=65536).large(8, 3).pages()
    assert np.flatnonzero(pages.is_head).tolist() == [8]
    assert np.flatnonzero(pages.is_tail).tolist() == list(range(9, 16))
    assert pages.head_pfn[8:16].tolist() == [65544] * 8
    assert pages.head_pfn[[7, 16]].tolist() == [65543, 65552]
    assert pages.folio_order.tolist() == [0] * 8 + [3] + [0] * 23


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (address(3) + 8 + 1, "not at a struct page"),
        (VMEMMAP - 64 + 1, "before the page array"),
        (address(9) + 1, "after the tail"),
        (address(8) + 1, "the tail itself"),
        (1, "null"),
        (0xFFFFFFFFFFFFFFFF, "the last address"),
        (address(1 << 32) + 1, "after all memory"),
    ],
)
def test_a_tail_whose_head_is_garbage_is_its_own(named: int, why: str) -> None:
    pages = Memory(16).set(8, compound_head=named).pages()
    assert pages.is_tail[8], why
    assert pages.head_pfn[8] == 8, why


def test_tails_name_a_head_in_a_range_before() -> None:
    memory = Memory(16, start=65536)
    for row in range(16):
        memory.set(row, compound_head=address(0) + 1)
    pages = memory.pages()
    assert pages.is_tail.all()
    assert not pages.head_pfn.any()


def test_the_second_page_of_a_folio_tells_its_order_and_counts() -> None:
    pages = Memory(64).large(0, 4, refs=9, maps=5, pins=3).pages()
    head = np.array([0])
    assert pages.folio_mapcount(head).tolist() == [5]
    assert pages.folio_pincount(head).tolist() == [3]
    assert pages.folio_field("_flags_1", head).tolist() == [4]


@pytest.mark.parametrize(("order", "row"), [(25, 0), (255, 0), (3, 4), (1, 3), (9, 64)])
def test_an_order_that_is_impossible_or_not_aligned_is_none(order: int, row: int) -> None:
    memory = Memory(128).set(row, flags=bits("PG_head"))
    memory.folio(row, "_flags_1", order)
    pages = memory.pages()
    assert pages.is_head[row]
    assert pages.folio_order[row] == 0


@pytest.mark.parametrize("word", [0x102, 0xFFFFFFFFFFFFFF02])
def test_only_the_low_byte_of_flags_1_is_the_order(word: int) -> None:
    memory = Memory(16).large(0, 2)
    memory.folio(0, "_flags_1", word)
    assert memory.pages().folio_order[0] == 2


def test_a_head_in_the_last_row_has_nothing_behind_it() -> None:
    pages = Memory(4).set(3, flags=bits("PG_head"), _refcount=1, mapping=ANON).pages()
    last = np.array([3])
    assert pages.is_head[3]
    assert pages.folio_order[3] == 0
    assert pages.folio_field("_pincount", last).tolist() == [0]
    assert pages.folio_pincount(last).tolist() == [0]


def test_a_fake_head_of_an_optimised_hugetlb_page_is_a_tail_of_the_real_one() -> None:
    # The memory map of a 2 MiB page takes 8 pages; all are one and the same, the first.
    memory = Memory(1024, start=65536).large(512, 9, refs=1)
    first = memory.raw[512 * STRUCT_PAGE : 576 * STRUCT_PAGE].copy()
    for row in range(576, 1024, 64):
        memory.raw[row * STRUCT_PAGE : (row + 64) * STRUCT_PAGE] = first
    pages = memory.pages()
    assert (pages.flags[512:1024:64] & np.uint64(1 << FLAGS["PG_head"])).all()
    assert np.flatnonzero(pages.is_head).tolist() == [512]
    assert pages.is_tail[513:1024].all()
    assert (pages.head_pfn[512:1024] == 65536 + 512).all()


def test_fake_heads_are_told_wherever_in_the_map_the_range_begins() -> None:
    memory = Memory(200, start=65536 + 40)
    # PFN 65600 is the first of a page of the map: row 24.
    memory.set(24, flags=bits("PG_head")).set(25, compound_head=address(65536) + 1)
    # Any other row that looks like a head is one.
    memory.set(30, flags=bits("PG_head")).set(31, compound_head=address(65536) + 1)
    pages = memory.pages()
    assert pages.is_tail[24]
    assert pages.head_pfn[24] == 65536
    assert pages.is_head[30]


def test_what_looks_like_a_head_in_the_last_row_is_one_since_nothing_is_known_of_the_next() -> None:
    """That row is the first of a page of the map."""
    pages = Memory(65).set(64, flags=bits("PG_head")).pages()
    assert pages.is_head[64]


def test_a_real_head_at_the_start_of_a_page_of_the_map_stays_one() -> None:
    pages = Memory(128).large(0, 6).large(64, 6).pages()
    assert np.flatnonzero(pages.is_head).tolist() == [0, 64]


# Counts


@pytest.mark.parametrize(
    ("references", "pins"),
    [(0, 0), (1, 0), (1023, 0), (1024, 1), (1025, 1), (2048, 2), (0xC0000000, 3145728)],
)
def test_each_pin_of_a_small_folio_is_1024_references(references: int, pins: int) -> None:
    pages = Memory(1).small(0, refs=references, mapping=ANON).pages()
    assert pages.folio_pincount(np.array([0])).tolist() == [pins]


def test_a_large_folio_counts_its_pins_apart_however_many_references_it_has() -> None:
    pages = Memory(16).large(0, 4, refs=5000, pins=0).pages()
    assert pages.folio_pincount(np.array([0])).tolist() == [0]


# What is missing


@pytest.mark.parametrize("status", [ReadStatus.UNREADABLE, ReadStatus.ERASED])
def test_rows_that_could_not_be_read_are_zeros_in_every_column(status: ReadStatus) -> None:
    memory = Memory(4).small(1, "PG_lru", refs=2, maps=1, mapping=ANON)
    # A struct page across two pages of the map, of which one is there; or the erase filter's Xs.
    memory.raw[2 * STRUCT_PAGE : 3 * STRUCT_PAGE] = ord("X")
    memory.status[2] = status
    pages = memory.pages()
    assert pages.readable.tolist() == [True, True, False, True]
    for name in set(COLUMNS) - {"pfn", "head_pfn", "migratetype", "readable"}:
        assert not getattr(pages, name)[2], name
    assert pages.head_pfn[2] == 2
    assert pages.refcount[1] == 2
    assert pages.folio_mapcount(np.array([1, 2])).tolist() == [1, 0]


# What surrounds the page


def test_zone_and_node_are_the_top_bits_of_flags() -> None:
    pages = Memory(3).set(1, flags=5 << 58 | 2 << 56 | 0xFF).set(2, flags=(1 << 64) - 1).pages()
    assert pages.zone.tolist() == [0, 2, 3]
    assert pages.node.tolist() == [0, 5, 63]
    assert pages.zone_of(np.array([2, 1])).tolist() == [3, 2]
    assert pages.node_of(np.array([1])).tolist() == [5]


def test_a_pages_migratetype_is_its_blocks() -> None:
    blocks = PageblockRange(128, 9, np.array([1, 4, 255], np.uint8))
    pages = Memory(1536, start=65536).pages(blocks=blocks)
    assert pages.migratetype.tolist() == [1] * 512 + [4] * 512 + [255] * 512
    assert pages.migratetype_of(np.array([1023, 0])).tolist() == [4, 1]


@pytest.mark.parametrize(("start", "count"), [(0, 64), (8, 24), (4, 24), (6, 1), (7, 4)])
def test_the_migratetypes_of_a_range_are_those_of_its_pages(start: int, count: int) -> None:
    blocks = PageblockRange(start >> 2, 2, np.arange(32, dtype=np.uint8))
    pages = Memory(count, start).pages(blocks=blocks)
    assert (pages.migratetype == blocks.of_pages(pages.pfn)).all()


def test_without_pageblocks_no_migratetype_is_known() -> None:
    assert Memory(3).pages().migratetype.tolist() == [255] * 3


def test_a_struct_page_of_another_size_is_read_at_its_own_stride() -> None:
    """Such as with CONFIG_KASAN or KMSAN: then no page of the map begins with a struct page."""
    size = 80
    dtype = np.dtype(
        {
            "names": list(LAYOUT.dtype.names),
            "formats": [LAYOUT.dtype.fields[name][0] for name in LAYOUT.dtype.names],
            "offsets": [LAYOUT.dtype.fields[name][1] for name in LAYOUT.dtype.names],
            "itemsize": size,
        }
    )
    layout = dataclasses.replace(LAYOUT, dtype=dtype)
    raw = np.zeros(size * 8, np.uint8)
    rows = raw.view(dtype)
    rows["flags"][4] = bits("PG_head")
    rows["compound_head"][5:8] = VMEMMAP + 4 * size + 1
    pages = PageRange(0, raw, np.zeros(8, np.uint8), layout, Memory(1).pages()._zone_bits)
    assert pages.head_pfn.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
