"""``mmdump map``: each page is counted once, in its cell, for what it is used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdump.kernel import Kernel
from mmdump.kernel.pageblock import PageblockRange
from mmdump.kernel.references import FolioBatches
from mmdump.plugins import load_plugins
from mmdump.scan import run_one
from mmdump_page_pinner.evidence import find_held
from mmdump_pages.memory_map import USES, MemoryMap, State, uses_of
from mmdump_snapshots.kernels import profile
from mmdump_snapshots.scenarios import SCENARIOS
from tests.kernel.builders import Memory, hostile_memory

BATCHES = FolioBatches(np.empty(0, np.int64), np.empty(0, np.int64))
ORDER = 4


@given(hostile_memory(), st.integers(0, 1 << 32), st.integers(ORDER, ORDER + 3))
def test_whatever_the_bytes_a_cell_counts_its_pages(memory: Memory, seed: int, order: int) -> None:
    first, last = memory.start >> ORDER, (memory.start + len(memory.rows) - 1) >> ORDER
    types = np.random.default_rng(seed).integers(0, 3, last - first + 1).astype(np.uint8)
    pages = memory.pages(blocks=PageblockRange(first, ORDER, types))
    cells = MemoryMap().scan(pages, State(order, 2, BATCHES))["cells"]
    uses, cell = uses_of(pages, find_held(pages, BATCHES), 2), pages.pfn >> order
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


@given(hostile_memory())
def test_a_page_is_free_or_used_as_its_struct_page_says(memory: Memory) -> None:
    pages = memory.pages()
    uses = uses_of(pages, find_held(pages, BATCHES), -1)
    names = np.array(USES)[uses]
    assert ((names == "unread") == ~pages.readable).all()
    reserved = pages.has_flag("PG_reserved") & pages.readable
    assert (names[reserved] == "reserved").all()
    free = pages.in_free_block | ((pages.refcount == 0) & ~pages.is_tail)
    assert (np.isin(names, ("free", "reported")) == (free & pages.readable & ~reserved)).all()


@pytest.mark.parametrize("kernel", ["5.10", "6.12"])
def test_a_machines_memory_is_free_and_pinned_as_other_analyses_say(kernel: str) -> None:
    image = {each.name: each for each in SCENARIOS}["cma-failure"].image(profile(kernel))
    plugins = load_plugins(disabled=["*"])
    read = Kernel(image.target(), plugins.page_ext_clients())
    totals = run_one(read, MemoryMap()).tables["totals"].frame
    buddy = run_one(read, plugins.analyses()["buddy"]()).tables["free"].frame
    pinned = run_one(read, plugins.analyses()["pinned"]()).tables["pages"].frame
    assert totals["size"].sum() == read.memmap.pages * read.target.page_size
    assert totals["free"].sum() + totals["reported"].sum() >= buddy["free"].sum() > 0
    held = pinned.filter(state="held").unique("head_pfn")
    pages = int((2 ** held["order"].cast(int)).sum())
    assert totals["pinned"].sum() == pages * read.target.page_size > 0
