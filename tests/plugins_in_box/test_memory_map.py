"""Memory as a map, page by page: whatever a dump says, each is counted in its cell, for one use."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel.pageblock import PageblockRange
from mmdump.kernel.references import FolioBatches
from mmdump_page_pinner.evidence import find_held
from mmdump_pages.memory_map import USES, MemoryMap, State, uses_of
from tests.kernel.builders import Memory, hostile_memory

NONE = np.empty(0, np.int64)
BATCHES = FolioBatches(NONE, NONE)
ORDER = 4


@given(hostile_memory(), st.integers(0, 1 << 32), st.integers(ORDER, ORDER + 3))
def test_whatever_the_bytes_a_cell_counts_its_pages(memory: Memory, seed: int, order: int) -> None:
    first, last = memory.start >> ORDER, (memory.start + len(memory.rows) - 1) >> ORDER
    types = np.random.default_rng(seed).integers(0, 3, last - first + 1).astype(np.uint8)
    pages = memory.pages(blocks=PageblockRange(first, ORDER, types))
    cells = MemoryMap().scan(pages, State(order, ORDER, 2, BATCHES, NONE))["cells"]
    uses, cell = uses_of(pages, find_held(pages, BATCHES), 2, NONE), pages.pfn >> order
    assert cells["cell"].tolist() == np.unique(cell).tolist()
    for row, number in enumerate(cells["cell"]):
        inside = cell == number
        assert cells["pages"][row] == inside.sum()
        for code, use in enumerate(USES[1:], 1):
            assert cells[use][row] == (uses[inside] == code).sum()
        of = set(pages.migratetype[inside].tolist())
        assert cells["migratetype"][row] == (of.pop() if len(of) == 1 else 254)
        known = np.flatnonzero(inside & pages.readable)
        assert cells["node"][row] == (pages.node[known[0]] if len(known) else -1)
        assert cells["zone"][row] == (pages.zone[known[0]] if len(known) else 255)


@given(hostile_memory(), st.integers(0, 140), st.integers(0, 140))
def test_a_page_outside_of_all_zones_is_counted_once_too(memory: Memory, first: int, count: int) -> None:
    """In its cell if it looks used, or else as no memory; and one within is always counted in its cell."""
    start, last = memory.start >> ORDER, (memory.start + len(memory.rows) - 1) >> ORDER
    types = np.zeros(last - start + 1, np.uint8)
    pages = memory.pages(blocks=PageblockRange(start, ORDER, types))
    span = np.array([[memory.start + first, memory.start + first + count]], np.int64)
    found = MemoryMap().scan(pages, State(ORDER, ORDER, 2, BATCHES, NONE, span))
    counted, outside = found["cells"]["pages"], int(found["outside"]["pages"].sum())
    assert counted.sum() + outside == len(pages)
    assert (counted > 0).all()
    inside = ((pages.pfn >= span[0, 0]) & (pages.pfn < span[0, 1])).sum()
    assert counted.sum() >= inside
    used = pages.readable & ~pages.has_flag("PG_reserved") & (pages.refcount > 0)
    assert counted.sum() >= (used | ((pages.pfn >= span[0, 0]) & (pages.pfn < span[0, 1]))).sum()


@given(hostile_memory(), st.sets(st.integers(0, 139)))
def test_a_page_is_free_in_a_free_block_or_on_a_per_cpu_list(memory: Memory, stock: set[int]) -> None:
    pages = memory.pages()
    listed = np.array(sorted(row + pages.start for row in stock), np.int64)
    uses = uses_of(pages, find_held(pages, BATCHES), -1, listed)
    names = np.array(USES)[uses]
    assert ((names == "unread") == ~pages.readable).all()
    reserved = pages.has_flag("PG_reserved") & pages.readable
    assert (names[reserved] == "reserved").all()
    free = pages.in_free_block | np.isin(pages.pfn, listed)
    assert (np.isin(names, ("free", "reported")) == (free & pages.readable & ~reserved)).all()
