"""Dump levels: what is left out is what makedumpfile leaves out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mmdump.target.coverage import PhysStatus
from mmdump.target.dumpfile import inspect_dump
from mmdump_snapshots.writer.addresses import AddressSpace
from mmdump_snapshots.writer.facts import mapcount_value
from mmdump_snapshots.writer.filter import CACHE, CACHE_PRIVATE, FREE, USER, Filter, PageArray, page_filter
from mmdump_snapshots.writer.memory import PhysicalMemory
from mmdump_snapshots.writer.pagetables import PageTables

PAGE = np.dtype(
    {
        "names": ["flags", "compound_head", "mapping", "private", "_mapcount"],
        "formats": ["<u8", "<u8", "<u8", "<u8", "<i4"],
        "offsets": [0, 8, 24, 40, 48],
        "itemsize": 64,
    }
)
CONSTANTS = {
    "PG_lru": 5, "PG_head": 6, "PG_swapcache": 10, "PG_private": 14, "PG_swapbacked": 17, "PG_hwpoison": 20,
    "PGTY_buddy": 0xF0, "PGTY_offline": 0xF1, "PGTY_hugetlb": 0xF4, "PGTY_slab": 0xF5,
}  # fmt: skip
SPACE = AddressSpace.x86_64()
PAGES = 1 << 15
ARRAY = 16 << 20


class Types:
    def __init__(self, rename=()):
        self._rename = dict(rename)

    def sizeof(self, name):
        return {"struct page": 64}[name]

    def member(self, _name, path):
        return SimpleNamespace(offset=PAGE.fields[self._rename.get(path, path)][1])

    def has(self, name, path):
        if path in self._rename.values():
            return False
        return name == "struct page" and self._rename.get(path, path) in PAGE.names

    def constant(self, name):
        return CONSTANTS[name]


@pytest.fixture
def pages():
    rows = np.zeros(PAGES, PAGE)
    rows["_mapcount"] = -1
    return rows


def left_out(rows, level, types=None, version=(6, 12)):
    memory = PhysicalMemory([(0, PAGES << 12)])
    memory.write(ARRAY, rows)
    array = PageArray(memory, SPACE, types or Types(), [(0, PAGES, ARRAY)], version)
    out = page_filter(level, array).pages(0, PAGES)
    # However it is asked.
    assert np.array_equal(page_filter(level, array).pages(777, 20001), out[777:20001])
    return set(np.flatnonzero(out).tolist())


def compound(rows, head, order):
    rows["flags"][head] |= 1 << 6
    rows["compound_head"][head + 1 : head + (1 << order)] = SPACE.page(head) | 1


def test_free_blocks_are_left_out_as_a_whole(pages):
    pages["_mapcount"][[1024, 4096]] = -268435456
    pages["private"][[1024, 4096]] = [10, 0]
    assert left_out(pages, FREE) == {*range(1024, 2048), 4096}
    assert left_out(pages, CACHE | CACHE_PRIVATE | USER) == set()


def test_cache_is_left_out_by_whether_it_has_private_data(pages):
    pages["flags"][10] = 1 << 5
    pages["flags"][11] = 1 << 5 | 1 << 14
    pages["flags"][12] = 1 << 10 | 1 << 17
    pages["flags"][13] = 1 << 10
    assert left_out(pages, CACHE) == {10, 12}
    assert left_out(pages, CACHE_PRIVATE) == {10, 11, 12}


def test_anonymous_pages_are_user_data_and_no_cache(pages):
    pages["flags"][10:12] = 1 << 5
    pages["mapping"][10] = 0xFFFF888000001001
    pages["mapping"][11] = 0xFFFF888000001000
    assert left_out(pages, USER) == {10}
    assert left_out(pages, CACHE | CACHE_PRIVATE) == {11}
    pages["_mapcount"][10] = -184549376  # slab
    assert left_out(pages, USER) == set()


def test_a_folio_goes_with_its_head(pages):
    compound(pages, 512, 9)
    pages["flags"][512] |= 1 << 5
    pages["mapping"][512] = 0xFFFF888000001001
    assert left_out(pages, USER) == set(range(512, 1024))
    # A hugetlb page of 64 MiB, larger than what is looked at at once.
    compound(pages, 16384, 14)
    compound(pages, 4096, 5)
    pages["_mapcount"][16384] = -201326592
    assert left_out(pages, USER) == set(range(512, 1024)) | set(range(16384, 32768))


def test_tails_may_hold_a_mask_for_their_own_address(pages):
    """compound_info of 7.1."""
    compound(pages, 512, 9)
    pages["compound_head"][513:1024] = (2**64 - (64 << 9)) | 1
    pages["flags"][512] |= 1 << 5
    pages["mapping"][512] = 1
    types = Types({"compound_info": "compound_head"})
    assert left_out(pages, USER, types, (7, 1)) == set(range(512, 1024))


def test_poisoned_and_offline_pages_are_left_out_whenever_pages_are_looked_at(pages):
    pages["flags"][7] = 1 << 20
    pages["_mapcount"][8] = -251658240
    assert left_out(pages, CACHE) == {7, 8}
    assert left_out(pages, 1) == set()


def test_a_filter_must_give_one_answer_per_page():
    with pytest.raises(ValueError, match="for 3 pages"):
        Filter(2, lambda *_: np.zeros(2, np.bool_)).pages(5, 8)


@pytest.mark.parametrize(
    ("version", "value"), [((4, 15), -128), ((4, 19), -129), ((6, 1), -129), ((6, 12), -268435456)]
)
def test_the_value_of_a_free_pages_mapcount(version, value):
    known = {"PGTY_buddy": 0xF0} if version >= (6, 12) else {}
    assert mapcount_value(SimpleNamespace(constant=known.__getitem__), version, "buddy") == value


def test_the_real_dump_was_filtered_like_this(sample):
    """Level 31 of the real memory, decided here and by makedumpfile."""
    from tests.snapshots.real import read_sample

    memory, space, types, table = read_sample(sample)
    tables = PageTables(memory, space, lambda *_: 0, table)
    step = (2 << 20) // 64
    parts = []
    for pfn in range(0, 1 << 20, step):
        phys = tables.translate(space.page(pfn))
        if phys is not None and memory.is_ram(phys, 2 << 20):
            parts.append((pfn, pfn + step, phys))
    ours = page_filter(31, PageArray(memory, space, types, parts, (6, 12))).pages(0, 1 << 17)
    theirs = inspect_dump(sample.kdump).coverage.status(0, 1 << 17)
    ram = theirs != PhysStatus.ABSENT
    assert ram.sum() > 100_000
    assert np.array_equal(ours[ram], theirs[ram] == PhysStatus.EXCLUDED)
