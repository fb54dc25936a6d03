"""Whose references a folio has, case by case."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.references import (
    KIND_NAMES,
    FolioBatches,
    ReferenceAccount,
    account_references,
    folio_kinds,
    read_folio_batches,
)
from tests.kernel.builders import ANON, DRIVER_MOVABLE, FILE, KSM, Kernelish, Memory, address, hostile_memory

NO_BATCHES = FolioBatches(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Folio:
    """A folio, and what is known of its references."""

    story: str
    kind: str
    refs: int
    excess: int
    flags: tuple[str, ...] = ("PG_lru",)
    order: int = 0
    maps: int = 0
    pins: int = 0
    mapping: int = 0
    batched: int = 0
    page_type: str | None = None
    #: Pins that are to be found, when not those given.
    pincount: int | None = None

    def account(self) -> ReferenceAccount:
        memory = Memory(1024)
        if self.order:
            memory.large(
                0,
                self.order,
                *self.flags,
                refs=self.refs,
                maps=self.maps,
                pins=self.pins,
                mapping=self.mapping,
            )
        else:
            memory.small(0, *self.flags, refs=self.refs, maps=self.maps, mapping=self.mapping)
        if self.page_type:
            memory.typed(0, self.page_type)
        batches = FolioBatches(np.array([0, 5]), np.array([self.batched, 1]))
        return account_references(memory.pages(), np.array([0]), batches)


ANON_LRU = ("PG_lru", "PG_swapbacked")
ANON_SWAP = (*ANON_LRU, "PG_swapcache")
CASES = [
    Folio("an anonymous page mapped by one process", "anon", 1, 0, ANON_LRU, maps=1, mapping=ANON),
    Folio("an anonymous page shared after fork", "anon", 3, 0, ANON_LRU, maps=3, mapping=ANON),
    Folio("an anonymous page in a pipe (vmsplice)", "anon", 2, 1, ANON_LRU, maps=1, mapping=ANON),
    Folio("an anonymous page in the swap cache", "anon", 2, 0, ANON_SWAP, maps=1, mapping=ANON),
    Folio("an anonymous page only in the swap cache", "anon", 1, 0, ANON_SWAP, mapping=ANON),
    Folio("a large anonymous folio in the swap cache", "anon", 20, 0, ANON_SWAP, 4, 4, mapping=ANON),
    Folio(
        "a page whose PG_swapcache bit means something else",
        "file",
        1,
        0,
        ("PG_lru", "PG_swapcache"),
        mapping=FILE,
    ),
    Folio("a page of a file, not mapped", "file", 1, 0, mapping=FILE),
    Folio("a page of a file, mapped twice", "file", 3, 0, maps=2, mapping=FILE),
    Folio("a page of a file with buffer heads", "file", 2, 0, ("PG_lru", "PG_private"), mapping=FILE),
    Folio("a page of a file that somebody reads into a pipe (splice)", "file", 2, 1, mapping=FILE),
    Folio("PG_private of an anonymous page", "anon", 2, 1, (*ANON_LRU, "PG_private"), maps=1, mapping=ANON),
    Folio("a page of shmem", "shmem", 1, 0, ANON_LRU, mapping=FILE),
    Folio("a page of shmem in the swap cache", "other", 1, 0, ANON_SWAP),
    Folio("a huge page of shmem, mapped by PMD", "shmem", 513, 0, ANON_LRU, 9, 1, mapping=FILE),
    Folio("a large folio of a file: one reference per page", "file", 16, 0, order=4, mapping=FILE),
    Folio("the same with buffer heads", "file", 17, 0, ("PG_lru", "PG_private"), order=4, mapping=FILE),
    Folio("the same, mapped 16 times and held once", "file", 33, 1, order=4, maps=16, mapping=FILE),
    Folio("an anonymous THP mapped by PMD", "anon", 1, 0, ANON_LRU, 9, 1, mapping=ANON),
    Folio("an anonymous THP mapped by PTEs", "anon", 512, 0, ANON_LRU, 9, 512, mapping=ANON),
    Folio("an anonymous THP pinned thrice", "anon", 4, 0, ANON_LRU, 9, 1, pins=3, mapping=ANON),
    Folio("an anonymous THP pinned once and held once", "anon", 3, 1, ANON_LRU, 9, 1, pins=1, mapping=ANON),
    Folio("a KSM page shared by five", "ksm", 5, 0, ANON_LRU, maps=5, mapping=KSM),
    Folio("an anonymous page pinned once", "anon", 1025, 0, ANON_LRU, maps=1, mapping=ANON, pins=1),
    Folio("an anonymous page pinned twice", "anon", 2049, 0, ANON_LRU, maps=1, mapping=ANON, pins=2),
    Folio("a page of a file pinned and held", "file", 1026, 1, mapping=FILE, pins=1),
    Folio("a page of libc, mapped by 1500 processes", "file", 1501, 0, maps=1500, mapping=FILE, pincount=0),
    Folio("the same, pinned once", "file", 2525, 0, maps=1500, mapping=FILE, pins=1),
    Folio("the same, held once", "file", 1502, 1, maps=1500, mapping=FILE, pincount=0),
    Folio("an anonymous page isolated from the LRU", "anon", 2, 0, ("PG_swapbacked",), maps=1, mapping=ANON),
    Folio("an isolated page that is held, too", "anon", 3, 1, ("PG_swapbacked",), maps=1, mapping=ANON),
    Folio(
        "a new page off the LRU, with no reference but its mapping",
        "anon",
        1,
        0,
        ("PG_swapbacked",),
        maps=1,
        mapping=ANON,
    ),
    Folio(
        "a new page on its way to the LRU", "anon", 2, 0, ("PG_swapbacked",), maps=1, mapping=ANON, batched=1
    ),
    Folio(
        "a page on its way to the LRU that is held",
        "anon",
        3,
        1,
        ("PG_swapbacked",),
        maps=1,
        mapping=ANON,
        batched=1,
    ),
    Folio("a page in two batches", "anon", 3, 0, ANON_LRU, maps=1, mapping=ANON, batched=2),
    Folio("a page of the kernel", "other", 1, 0, ()),
    Folio("a page of the kernel with two users", "other", 2, 1, ()),
    Folio("a compound page of the kernel", "other", 1, 0, (), 3),
    Folio("a slab", "other", 1, 0, (), 3, page_type="slab"),
    Folio("a driver's page mapped into a process", "other", 2, 0, (), maps=1),
    Folio("a driver's page mapped into two, and held", "other", 4, 1, (), maps=2),
    Folio("a movable page of a driver", "other", 1, 0, (), mapping=DRIVER_MOVABLE),
    Folio("a page that was truncated from a file while a pipe held it", "other", 1, 1),
    Folio("the same, with a bit that is PG_swapcache elsewhere", "other", 1, 1, ("PG_lru", "PG_swapcache")),
    Folio("an anonymous huge page of hugetlb", "anon", 1, 0, (), 9, 1, mapping=ANON, page_type="hugetlb"),
    Folio("the same, pinned", "anon", 2, 0, (), 9, 1, pins=1, mapping=ANON, page_type="hugetlb"),
    Folio("the same, held", "anon", 2, 1, (), 9, 1, mapping=ANON, page_type="hugetlb"),
    Folio(
        "a huge page of hugetlbfs, mapped by two", "file", 514, 0, (), 9, 2, mapping=FILE, page_type="hugetlb"
    ),
    Folio("a free page", "other", 0, 0, ()),
    Folio("a tail or a free page of which something is left", "anon", 0, 0, (), maps=2, mapping=ANON),
]


@pytest.mark.parametrize("folio", CASES, ids=lambda folio: folio.story)
def test_references_are_explained(folio: Folio) -> None:
    account = folio.account()
    [code] = account.kinds.codes().tolist()
    assert KIND_NAMES[code] == folio.kind
    assert account.references.tolist() == [folio.refs]
    assert account.mapcount.tolist() == [folio.maps]
    assert account.pincount.tolist() == [folio.pins if folio.pincount is None else folio.pincount]
    assert account.excess.tolist() == [folio.excess]
    if folio.excess:
        assert (account.explained + account.excess).tolist() == [folio.refs]


@given(hostile_memory(), st.data())
def test_whatever_the_bytes_what_is_not_explained_is_excess(memory: Memory, data: st.DataObject) -> None:
    pages = memory.pages()
    rows = np.flatnonzero(~pages.is_tail)
    some = data.draw(st.lists(st.sampled_from(pages.pfn.tolist()), unique=True, max_size=5).map(sorted))
    batches = FolioBatches(np.array(some, np.int64), np.ones(len(some), np.int64))
    account = account_references(pages, rows, batches)
    for name in ("references", "mapcount", "pincount", "explained", "excess"):
        column = getattr(account, name)
        assert (column.dtype, column.shape) == (np.dtype(np.int64), rows.shape)
    # A count below zero is garbage: it is shown as it is, and holds nothing.
    assert (account.excess[account.references <= 0] == 0).all()
    assert (account.excess >= 0).all()
    over = account.excess > 0
    assert (account.explained + account.excess == account.references)[over].all()
    assert (account.explained >= account.references)[~over].all()


@given(hostile_memory())
def test_a_folio_is_of_one_kind_and_ksm_is_anonymous(memory: Memory) -> None:
    pages = memory.pages()
    kinds = folio_kinds(pages, np.arange(len(pages)))
    assert (kinds.anon | ~kinds.ksm).all()
    assert (kinds.anon.astype(int) + kinds.file + kinds.shmem <= 1).all()
    codes = kinds.codes()
    assert codes.dtype == np.uint8
    assert ((codes == 2) == kinds.ksm).all()
    assert ((codes == 1) == (kinds.anon & ~kinds.ksm)).all()


def test_the_kinds_are_numbered_as_they_are_named() -> None:
    memory = Memory(5).small(1, mapping=ANON).small(2, mapping=KSM).small(3, mapping=FILE)
    memory.small(4, "PG_swapbacked", mapping=FILE)
    codes = folio_kinds(memory.pages(), np.arange(5)).codes()
    assert [KIND_NAMES[code] for code in codes.tolist()] == ["other", "anon", "ksm", "file", "shmem"]


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 9)), st.lists(st.integers(-3, 60), max_size=30))
def test_batches_hold_what_a_dictionary_says(held: dict[int, int], asked: list[int]) -> None:
    pfns = sorted(held)
    batches = FolioBatches(np.array(pfns, np.int64), np.array([held[pfn] for pfn in pfns], np.int64))
    assert batches.references(np.array(asked, np.int64)).tolist() == [held.get(pfn, 0) for pfn in asked]


# The batches in memory

BATCH = 8 + 31 * 8


@dataclass
class Cpus:
    """Per-CPU batches in memory: cpu_fbatches with two of them, and mlock_fbatch."""

    lists: list[list[int]] = field(default_factory=list)
    nr: dict[int, int] = field(default_factory=dict)
    holes: tuple[int, ...] = ()

    def read(self, monkeypatch: pytest.MonkeyPatch) -> FolioBatches:
        base = 0xFFFF888000000000
        memory = bytearray(3 * 4096)
        for index, folios in enumerate(self.lists):
            at = index * 4096 // 2 if index < 2 else 2 * 4096
            memory[at] = self.nr.get(index, len(folios)) & 0xFF
            for place, folio in enumerate(folios):
                start = at + 8 + 8 * place
                memory[start : start + 8] = folio.to_bytes(8, "little")
        kernel = Kernelish({base: bytes(memory)}, self.holes)
        pointer = kernel.prog.pointer_type(kernel.prog.void_type())
        batch = kernel.struct(
            "folio_batch",
            BATCH,
            {"nr": (kernel.integer(1), 0), "folios": (kernel.prog.array_type(pointer, 31), 8)},
        )
        both = kernel.struct(
            "cpu_fbatches",
            4096,
            {"lock": (kernel.integer(4), 2040), "lru_add": (batch, 0), "deactivate": (batch, 2048)},
        )
        one = kernel.struct("mlock_fbatch", BATCH + 8, {"fbatch": (batch, 0)})
        kernel.variable("cpu_fbatches", both, base)
        kernel.variable("mlock_fbatch", one, base + 8192)
        monkeypatch.setattr("mmdump.kernel.references.each_cpu", lambda _prog, variable: iter([variable]))
        from mmdump.kernel.memmap import MemMap
        from tests.kernel.builders import VMEMMAP, sections

        memmap = MemMap(VMEMMAP, 64, np.array([[16, 100]]), sections(32768, 0))
        return read_folio_batches(kernel.prog, memmap)


def test_batches_are_counted_over_all_lists_and_marks_of_mlock_left_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = Cpus([[address(20), address(21)], [address(20)], [address(30) | 1, address(31) | 2]]).read(
        monkeypatch
    )
    assert batches.complete
    assert dict(zip(batches.pfn.tolist(), batches.count.tolist(), strict=True)) == {
        20: 2,
        21: 1,
        30: 1,
        31: 1,
    }


def test_batched_garbage_is_no_folio(monkeypatch: pytest.MonkeyPatch) -> None:
    garbage = [0, 1 << 63, (1 << 64) - 1, address(20) + 32, address(5), address(100), address(99)]
    assert Cpus([garbage, [], []]).read(monkeypatch).pfn.tolist() == [99]


def test_a_batch_is_never_longer_than_its_array(monkeypatch: pytest.MonkeyPatch) -> None:
    folios = [address(20 + place) for place in range(31)]
    batches = Cpus([folios, [], []], nr={0: 127}).read(monkeypatch)
    assert batches.pfn.tolist() == list(range(20, 51))


def test_batches_that_are_not_in_the_dump_leave_the_account_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = Cpus([[address(20)], [], [address(30)]], holes=(0xFFFF888000000000,)).read(monkeypatch)
    assert batches.pfn.tolist() == [30]
    assert not batches.complete


def test_an_account_of_no_folios_is_one() -> None:
    none = np.empty(0, np.int64)
    account = account_references(SimpleNamespace(), none, FolioBatches(none, none))
    assert {name: len(values) for name, values in vars(account).items() if name != "kinds"} == {
        each.name: 0 for each in fields(ReferenceAccount) if each.name != "kinds"
    }


def test_what_has_a_type_has_no_mapping_whatever_stands_there() -> None:
    memory = Memory(3).small(0, mapping=FILE).typed(1, "slab", mapping=FILE).typed(2, "table", mapping=ANON)
    codes = folio_kinds(memory.pages(), np.arange(3)).codes()
    assert [KIND_NAMES[code] for code in codes.tolist()] == ["file", "other", "other"]
