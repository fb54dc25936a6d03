"""The real vmcore read into columns, written as a new dump, read again: the same; drgn agrees on both."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import drgn
import numpy as np
import pytest
from drgn.commands import run_command
from drgn.helpers.linux.mm import (
    compound_head,
    compound_order,
    for_each_valid_page_range,
    page_to_pfn,
    pfn_to_page,
)
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.pid import for_each_task

from mmdump.kernel import Kernel
from mmdump.plugins import load_plugins
from mmdump.target import open_target
from mmdump_snapshots.kernels import profile, profiles
from mmdump_snapshots.writer.dumpstate import DumpState, dump_addresses
from mmdump_snapshots.writer.image import build_state

#: The sample's kernel has no NUMA balancing, which keeps numbers in page->flags.
LIKE_THE_SAMPLE = profile("6.12").with_config(without=("CONFIG_NUMA_BALANCING",))

COLUMNS = (
    "flags",
    "mapping",
    "private",
    "memcg_data",
    "refcount",
    "raw_mapcount",
    "is_head",
    "is_tail",
    "head_pfn",
    "folio_order",
    "is_buddy",
    "buddy_order",
    "zone",
    "node",
    "migratetype",
)


@pytest.fixture(scope="module")
def clients():
    return load_plugins(disabled=["*"]).page_ext_clients()


@pytest.fixture(scope="module")
def before(sample, clients):
    with open_target(sample.elf) as target:
        yield Kernel(target, clients)


@pytest.fixture(scope="module")
def state(before):
    return DumpState(before, dump_addresses(before))


@pytest.fixture(scope="module")
def written(state, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("again")
    build_state(state, LIKE_THE_SAMPLE, dump_addresses(state.kernel)).write(directory)
    return directory


@pytest.fixture(scope="module")
def after(written, clients):
    with open_target(written / "vmcore", symbols=[written / "vmlinux"]) as target:
        yield Kernel(target, clients)


@pytest.fixture(scope="module")
def plain(written):
    """Drgn alone."""
    prog = drgn.Program()
    prog.set_core_dump(written / "vmcore")
    prog.load_debug_info([written / "vmlinux"])
    return prog


def test_every_page_has_the_same_columns(before, after):
    assert np.array_equal(before.memmap.ranges, after.memmap.ranges)
    for start, end in before.memmap.chunks():
        theirs, ours = before.pages(start, end), after.pages(start, end)
        for name in COLUMNS:
            assert np.array_equal(getattr(theirs, name), getattr(ours, name)), name
        heads = np.flatnonzero(theirs.is_head)
        for field in theirs.layout.folio:
            assert np.array_equal(theirs.folio_field(field, heads), ours.folio_field(field, heads)), field


def test_struct_pages_are_the_same_bytes_but_for_the_ends_of_lists(before, after):
    for start, end in before.memmap.chunks():
        raw = [
            kernel.target.reader.read(kernel.memmap.address(start), (end - start) * 64).data.view("<u8")
            for kernel in (before, after)
        ]
        theirs, ours = (words.reshape(-1, 8) for words in raw)
        different = theirs != ours
        assert not different[:, [0, 3, 4, 5, 6, 7]].any()
        # The anchors of lists are elsewhere: in nodes, zones and per-CPU areas that the writer placed.
        vmemmap = np.uint64(before.memmap.vmemmap)
        for word in (1, 2):
            rows = np.flatnonzero(different[:, word])
            in_array = (theirs[rows, word] >= vmemmap) & (theirs[rows, word] < vmemmap + np.uint64(1 << 40))
            assert not in_array.any()


def test_every_page_ext_entry_is_the_same(before, after):
    assert before.page_ext.stride == after.page_ext.stride
    for start, end in before.memmap.chunks():
        theirs, ours = before.pages(start, end, ext=True).ext, after.pages(start, end, ext=True).ext
        assert np.array_equal(theirs.flags, ours.flags)
        for name in theirs["page_owner"].names:
            assert np.array_equal(theirs["page_owner"][name], ours["page_owner"][name]), name


def test_every_stack_is_the_same(state, before, after):
    handles = [record.handle for record in state.depot.records]
    assert len(handles) > 500
    assert before.stack_depot.stacks(handles) == after.stack_depot.stacks(handles)


def test_what_hangs_beside_the_pages_is_the_same(state, after, clients):
    again = DumpState(after, dump_addresses(after))
    assert again.release == state.release
    assert [vars(area) | {"allocated": None} for area in again.cma] == [
        vars(area) | {"allocated": None} for area in state.cma
    ]
    for theirs, ours in zip(state.cma, again.cma, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(theirs.allocated, ours.allocated, strict=True))
    assert again.batches == state.batches
    assert again.reporting == state.reporting
    assert again.switches == state.switches
    assert again.depot.listed == state.depot.listed
    assert [vars(record) for record in again.depot.records] == [
        vars(record) for record in state.depot.records
    ]
    assert [(task.comm, task.pid, task.tgid) for task in again.tasks] == [
        (task.comm, task.pid, task.tgid) for task in state.tasks
    ]
    for theirs, ours in zip(state.nodes[0].zones, again.nodes[0].zones, strict=True):
        assert (theirs.name, theirs.spanned, theirs.managed) == (ours.name, ours.spanned, ours.managed)
        for old, new in zip(theirs.free, ours.free, strict=True):
            assert old.keys() == new.keys()
            assert all(np.array_equal(old[name], new[name]) for name in old)
        for old_cpu, new_cpu in zip(theirs.pcp, ours.pcp, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(old_cpu, new_cpu, strict=True))


def test_drgn_sees_the_same_machine(before, plain):
    real = before.target.prog
    assert [range_[:2] for range_ in for_each_valid_page_range(plain)] == [
        range_[:2] for range_ in for_each_valid_page_range(real)
    ]
    assert [task.comm.string_() for task in for_each_task(plain)] == [
        task.comm.string_() for task in for_each_task(real)
    ]
    pgdats = [
        [int(node.node_present_pages) for node in for_each_online_pgdat(each)] for each in (real, plain)
    ]
    assert pgdats[0] == pgdats[1]
    for pfn in range(0, 131072, 97):
        theirs, ours = pfn_to_page(real, pfn), pfn_to_page(plain, pfn)
        assert compound_head(ours).value_() == compound_head(theirs).value_()
        assert compound_order(ours).value_() == compound_order(theirs).value_()


def _printed(prog: drgn.Program, command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        run_command(prog, command)
    return text.getvalue()


def test_crash_finds_the_same_free_lists(before, plain):
    theirs, ours = (_printed(prog, "crash kmem -f") for prog in (before.target.prog, plain))
    assert "(verified)" in ours
    # Addresses of lists differ, and the free pages that CPUs had not yet added to the zone's counter.
    lists = [
        re.findall(r"^ *(\d+) +\d+k +(\w+) +[0-9a-f]{16} +(\d+) +(\d+)", text, re.M)
        for text in (theirs, ours)
    ]
    assert lists[0] == lists[1]
    assert len(lists[0]) > 100


def test_crash_prints_the_same_pages(before, plain):
    for pfn in (0, 4096, 92160, 114176, 131071):
        page = pfn_to_page(plain, pfn).value_()
        assert _printed(plain, f"crash kmem -p {page:x}") == _printed(
            before.target.prog, f"crash kmem -p {page:x}"
        )


@pytest.mark.parametrize("name", [each for each in profiles() if "arm64" not in each])
def test_the_same_machine_under_any_kernel_has_the_same_free_lists(name, before, state):
    """Only struct page and what hangs beside it: the sample's page_ext and depot are of its own kernel."""
    bare = DumpState(before, dump_addresses(before))
    vars(bare).update(page_ext=None, depot=None)
    prog = build_state(bare, profile(name), dump_addresses(before)).program()
    free = sum(zone.nr_free for zone in state.nodes[0].zones)
    assert f"nr_free_pages: {free}  (verified)" in _printed(prog, "crash kmem -f")
    pages = before.pages(0, 1 << 16)
    for pfn in range(0, 1 << 16, 211):
        page = pfn_to_page(prog, pfn)
        assert page_to_pfn(compound_head(page)) == pages.head_pfn[pfn]
        assert compound_order(page) == pages.folio_order[pfn]
