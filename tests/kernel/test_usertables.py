"""Page tables made by hand: what is mapped where, and that every walk has an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdump.kernel.usertables import TableFormat, UserTables

X86 = TableFormat(12, (39, 30, 21, 12), 256, arm64=False, pfn_mask=(1 << 52) - (1 << 12))
ARM = TableFormat(
    14, (47, 36, 25, 14), 2, arm64=True, pfn_mask=(1 << 48) - (1 << 14), invalid_present=1 << 11
)
PRESENT, HUGE, PROT_NONE = 1, 0x80, 0x100
PAGES = 64


class Tables:
    """Physical memory of some pages, in which tables are written; the top table is page 0."""

    def __init__(self, form: TableFormat, pages: int = PAGES) -> None:
        self.form = form
        self.memory = np.zeros(pages << form.page_shift >> 3, "<u8")
        self.pages = pages

    def entry(self, pfn: int, index: int, word: int) -> Tables:
        self.memory[(pfn << self.form.page_shift >> 3) + index] = word & ((1 << 64) - 1)
        return self

    def _read(self, address: int, size: int) -> SimpleNamespace:
        data = self.memory.view(np.uint8)[address : address + size]
        return SimpleNamespace(data=data, complete=len(data) == size)

    def walker(self) -> UserTables:
        memmap = SimpleNamespace(pages=self.pages, valid=lambda pfn: (pfn >= 0) & (pfn < self.pages))
        reader = SimpleNamespace(read=self._read, read_physical=self._read)
        kernel = SimpleNamespace(memmap=memmap, target=SimpleNamespace(reader=reader))
        return UserTables(cast(Any, kernel), self.form)

    def leaves(self) -> set[tuple[int, int, int]]:
        return {
            (address, pfn, each.order)
            for each in self.walker().walk(0)
            for address, pfn in zip(each.address.tolist(), each.pfn.tolist(), strict=True)
        }


def x86() -> Tables:
    """Three levels of tables, each in entry 1 of the one above."""
    tables = Tables(X86)
    for pfn in (0, 1, 2):
        tables.entry(pfn, 1, (pfn + 1) << 12 | PRESENT)
    return tables


BASE = (1 << 39) + (1 << 30) + (1 << 21)


def test_a_pte_maps_a_page() -> None:
    assert x86().entry(3, 5, 42 << 12 | PRESENT).leaves() == {(BASE + (5 << 12), 42, 0)}


def test_a_pmd_maps_a_huge_page_whatever_its_low_bits() -> None:
    # Bit 12 of such an entry is PAT, not an address bit.
    tables = Tables(X86, 2048).entry(0, 1, 1 << 12 | PRESENT).entry(1, 1, 2 << 12 | PRESENT)
    tables.entry(2, 7, 512 << 12 | 1 << 12 | HUGE | PRESENT)
    assert tables.leaves() == {((1 << 39) + (1 << 30) + (7 << 21), 512, 9)}


def test_a_page_without_access_is_mapped_with_its_address_inverted() -> None:
    word = ~(42 << 12) & X86.pfn_mask | PROT_NONE
    assert x86().entry(3, 5, word).leaves() == {(BASE + (5 << 12), 42, 0)}


def test_a_huge_page_that_is_being_split_is_still_mapped() -> None:
    tables = Tables(X86, 2048).entry(0, 1, 1 << 12 | PRESENT).entry(1, 1, 2 << 12 | PRESENT)
    tables.entry(2, 7, ~(512 << 12) & X86.pfn_mask | HUGE)
    assert [each[1:] for each in tables.leaves()] == [(512, 9)]


def test_what_is_swapped_out_is_not_mapped() -> None:
    assert x86().entry(3, 5, 0x7FFF_FFFF_0000_0000 & ~0x1FF).leaves() == set()


def test_the_kernels_half_is_not_walked() -> None:
    assert Tables(X86).entry(0, 256, 1 << 12 | PRESENT).entry(1, 0, 2 << 12 | PRESENT).leaves() == set()


def test_a_table_that_is_its_own_child_is_walked_once_a_level() -> None:
    tables = Tables(X86)
    for index in range(256):
        tables.entry(0, index, PRESENT)
    walker = tables.walker()
    assert sum(len(each.pfn) for each in walker.walk(0)) <= 512
    assert walker.budget == PAGES // 2 + 1024 - 3


def test_tables_where_no_memory_is_are_lost() -> None:
    walker = x86().entry(2, 9, (1 << 30) << 12 | PRESENT).walker()
    assert list(walker.walk(0)) == []
    assert walker.lost == 1


def test_the_budget_ends_a_walk() -> None:
    walker = x86().entry(3, 5, 42 << 12 | PRESENT).walker()
    walker.budget = 1
    assert list(walker.walk(0)) == []
    assert walker.lost


@pytest.mark.parametrize(
    ("word", "mapped"),
    [(42 << 14 | 3, True), (42 << 14 | 1 << 11, True), (42 << 14, False), (42 << 14 | 2, False)],
    ids=["valid", "no access", "swapped", "invalid"],
)
def test_pages_of_arm64(word: int, mapped: bool) -> None:
    tables = Tables(ARM)
    for pfn in (0, 1, 2):
        tables.entry(pfn, 1, (pfn + 1) << 14 | 3)
    base = (1 << 47) + (1 << 36) + (1 << 25)
    assert tables.entry(3, 5, word).leaves() == ({(base + (5 << 14), 42, 0)} if mapped else set())


def test_blocks_of_arm64() -> None:
    tables = Tables(ARM, 4096).entry(0, 0, 1 << 14 | 3).entry(1, 1, 2 << 14 | 3)
    tables.entry(2, 3, 2048 << 14 | 1)
    assert tables.leaves() == {((1 << 36) + (3 << 25), 2048, 11)}


@given(st.integers(0, 1 << 32), st.sampled_from([X86, ARM]))
@settings(max_examples=20, deadline=None)
def test_random_tables_have_an_end(seed: int, form: TableFormat) -> None:
    tables = Tables(form)
    generator = np.random.default_rng(seed)
    low = generator.choice(np.array([0, 1, 3, 0x81, 0x100], np.uint64), len(tables.memory))
    pfn = generator.integers(0, PAGES + 4, len(tables.memory)).astype(np.uint64)
    tables.memory[:] = pfn << np.uint64(form.page_shift) | low
    walker = tables.walker()
    for each in walker.walk(0):
        assert ((each.pfn >= 0) & (each.pfn < PAGES)).all()
    assert walker.budget >= PAGES // 2 + 1024 - len(form.shifts) * PAGES
