"""Which list a free block is on, on page arrays made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.freelists import NO_ORDER, FreeLists, ListHeads, find_lists, free_blocks
from mmdump.kernel.memmap import MemMap
from mmdump.kernel.zones import Zone
from tests.kernel.builders import STRUCT_PAGE, VMEMMAP, Memory, address, sections

ORDERS, TYPES, LRU = 11, 6, 8
HEADS = 0xFFFF88807FFF1000
ZONES = (Zone(0, 0, "DMA", 0, 64, 64), Zone(0, 1, "DMA32", 64, 64, 64))
MOVABLE, CMA = 1, 4
#: zone 1 of node 0 in page flags.
DMA32 = 1 << 56


def number(zone: int, order: int, kind: int) -> int:
    return (zone * ORDERS + order) * TYPES + kind


def anchor(which: int) -> int:
    return HEADS + 16 * which


def link(pfn: int) -> int:
    return address(pfn) + LRU


class Machine:
    """Free blocks on lists: pages' and heads' links in the making."""

    def __init__(self, pages: int = 128) -> None:
        self.memory = Memory(pages)
        count = len(ZONES) * ORDERS * TYPES
        self.next = np.array([anchor(which) for which in range(count)], np.uint64)
        self.prev = self.next.copy()
        self.nr_free = np.zeros((len(ZONES), ORDERS), np.uint64)

    def list(self, zone: int, order: int, kind: int, *pfns: int) -> Machine:
        """Put free blocks on a list, in this order."""
        which = number(zone, order, kind)
        chain = [anchor(which), *(link(pfn) for pfn in pfns), anchor(which)]
        self.next[which], self.prev[which] = chain[1], chain[-2]
        self.nr_free[zone, order] += len(pfns)
        for place, pfn in enumerate(pfns, 1):
            self.memory.buddy(pfn, order).set(pfn, flags=zone * DMA32)
            self.relink(pfn, chain[place + 1], chain[place - 1])
        return self

    def relink(self, pfn: int, after: int | None = None, before: int | None = None) -> Machine:
        """Change the links of a page."""
        words = self.memory.raw.view(np.uint64).reshape(-1, STRUCT_PAGE // 8)
        if after is not None:
            words[pfn, LRU // 8] = after
        if before is not None:
            words[pfn, LRU // 8 + 1] = before
        return self

    @property
    def heads(self) -> ListHeads:
        pages = len(self.memory.rows)
        memmap = MemMap(VMEMMAP, STRUCT_PAGE, np.array([[0, pages]]), sections(pages, 0))
        count = len(self.next)
        return ListHeads(
            ZONES,
            ORDERS,
            TYPES,
            np.array([anchor(which) for which in range(count)], np.uint64),
            self.next,
            self.prev,
            self.nr_free,
            np.ones(len(ZONES), bool),
            memmap,
            LRU,
        )

    def found(self) -> FreeLists:
        heads = self.heads
        return find_lists(heads, pl.DataFrame(dict(free_blocks(self.memory.pages(), heads))))


def lists_of(found: FreeLists) -> dict[int, int]:
    return dict(zip(found.pfn.tolist(), found.list.tolist(), strict=True))


def test_a_block_is_on_the_list_that_its_links_lead_to() -> None:
    found = Machine().list(0, 0, MOVABLE, 5, 3, 9).list(1, 2, CMA, 100, 64).list(1, 0, MOVABLE, 110).found()
    movable, cma, other = number(0, 0, MOVABLE), number(1, 2, CMA), number(1, 0, MOVABLE)
    assert lists_of(found) == {3: movable, 5: movable, 9: movable, 64: cma, 100: cma, 110: other}
    assert found.counts[0, 0, MOVABLE] == 3
    assert found.counts[1, 2, CMA] == 2
    assert (found.counts.sum(axis=2) == found.blocks).all()
    assert (found.blocks == found.heads.nr_free).all()
    for damage in (found.broken, found.broken_heads, found.misplaced, found.strangers):
        assert not damage.any()


def test_a_list_of_many_blocks_is_found_whole() -> None:
    pfns = np.random.default_rng(1).permutation(4000).tolist()
    machine = Machine(4096).list(0, 0, MOVABLE, *pfns)
    assert machine.found().counts[0, 0, MOVABLE] == 4000


def test_a_block_behind_a_broken_link_is_found_from_the_other_side() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2, 3, 4).relink(2, after=0xDEAD000000000100)
    found = machine.found()
    assert set(found.list.tolist()) == {number(0, 0, MOVABLE)}
    # The page whose link is broken, and the one that it should lead to.
    assert found.pfn[found.broken].tolist() == [2, 3]


def test_a_block_whose_links_are_poisoned_is_on_no_list() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2, 3)
    machine.memory.buddy(7, 0)
    machine.relink(7, after=0xDEAD000000000100, before=0xDEAD000000000122)
    found = machine.found()
    assert found.pfn[found.list < 0].tolist() == [7]
    assert found.counts.sum() == 3


def test_blocks_in_a_ring_without_a_head_are_on_no_list() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2)
    for pfn, after, before in ((10, 11, 12), (11, 12, 10), (12, 10, 11)):
        machine.memory.buddy(pfn, 0)
        machine.relink(pfn, after=link(after), before=link(before))
    found = machine.found()
    assert found.pfn[found.list < 0].tolist() == [10, 11, 12]
    # Their links are sound: only the head is missing.
    assert not found.broken.any()


def test_a_page_that_is_not_free_but_on_a_list_is_a_stranger() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2, 3)
    machine.memory.small(2)
    machine.relink(2, after=link(3), before=link(1))
    found = machine.found()
    assert found.strangers.tolist() == [2]
    assert lists_of(found) == {1: number(0, 0, MOVABLE), 3: number(0, 0, MOVABLE)}
    assert found.broken.all()


def test_a_head_that_nobody_links_back_to_is_broken() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2)
    machine.next[number(0, 0, MOVABLE)] = anchor(number(0, 0, MOVABLE))
    found = machine.found()
    assert np.flatnonzero(found.broken_heads).tolist() == [number(0, 0, MOVABLE)]
    assert found.pfn[found.broken].tolist() == [1]


@pytest.mark.parametrize("member", [{"private": 3}, {"flags": DMA32}])
def test_a_block_on_the_list_of_another_order_or_zone_is_misplaced(member: dict[str, int]) -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2)
    machine.memory.set(2, **member)
    found = machine.found()
    assert found.pfn[found.misplaced].tolist() == [2]


def test_an_order_or_zone_that_does_not_exist_is_no_order_and_no_zone() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2)
    machine.memory.set(1, private=1 << 40).set(2, flags=3 << 56)
    found = machine.found()
    assert found.order.tolist() == [NO_ORDER, 0]
    assert found.zone.tolist() == [0, -1]
    assert found.blocks.sum() == 0


def test_nothing_is_said_of_the_links_of_a_zone_that_is_not_in_the_dump() -> None:
    machine = Machine().list(0, 0, MOVABLE, 1, 2).list(1, 0, MOVABLE, 70)
    heads = machine.heads
    lost = slice(0, ORDERS * TYPES)
    heads.next[lost] = heads.prev[lost] = 0
    heads = replace(heads, readable=np.array([False, True]))
    found = find_lists(heads, pl.DataFrame(dict(free_blocks(machine.memory.pages(), heads))))
    # The blocks say themselves where they belong.
    assert lists_of(found) == {1: number(0, 0, MOVABLE), 2: number(0, 0, MOVABLE), 70: number(1, 0, MOVABLE)}
    assert not found.broken.any()
    assert not found.broken_heads.any()


def walked(machine: Machine) -> dict[int, int]:
    """The list of every block, by walking from it: forwards, and where that fails backwards."""
    words = machine.memory.raw.view(np.uint64).reshape(-1, STRUCT_PAGE // 8)
    free = set(np.flatnonzero(machine.memory.pages().is_buddy).tolist())
    by_link = {link(pfn): pfn for pfn in free}
    by_anchor = {anchor(which): which for which in range(len(machine.next))}

    def end(pfn: int, word: int) -> int:
        seen: set[int] = set()
        while pfn not in seen:
            seen.add(pfn)
            at = int(words[pfn, word])
            if at in by_anchor:
                return by_anchor[at]
            if at not in by_link:
                return -1
            pfn = by_link[at]
        return -1

    forwards = {pfn: end(pfn, LRU // 8) for pfn in free}
    return {pfn: which if which >= 0 else end(pfn, LRU // 8 + 1) for pfn, which in forwards.items()}


_LINKS = st.one_of(
    st.integers(-2, 40).map(link),
    st.integers(0, 2 * ORDERS * TYPES).map(anchor),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 40).map(lambda pfn: link(pfn) + 8),
)


@given(
    st.lists(st.tuples(st.integers(0, 39), _LINKS, _LINKS), max_size=30),
    st.lists(st.integers(0, 39), unique=True, max_size=40),
)
def test_whatever_the_links_say_the_list_is_the_one_that_walking_finds(
    damage: list[tuple[int, int, int]], free: list[int]
) -> None:
    machine = Machine(40).list(0, 0, MOVABLE, *free[::2]).list(1, 0, CMA, *free[1::2])
    for pfn, after, before in damage:
        machine.relink(pfn, after=after, before=before)
    found = machine.found()
    assert lists_of(found) == walked(machine)
    assert found.counts.sum() == (found.list >= 0).sum()
