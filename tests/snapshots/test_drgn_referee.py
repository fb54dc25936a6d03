"""drgn alone, without mmdump, on files that were written: it finds what happened on the machine."""

from __future__ import annotations

import contextlib
import io
import re

import drgn
import numpy as np
import pytest
from drgn.commands import run_command
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import (
    PageReserved,
    PageSlab,
    compound_head,
    compound_order,
    for_each_page,
    page_to_pfn,
    pfn_to_page,
    totalram_pages,
)
from drgn.helpers.linux.mmzone import for_each_online_pgdat, pfn_to_section
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.pid import find_task, for_each_task
from drgn.helpers.linux.stackdepot import stack_depot_fetch

from mmdump_snapshots.model.pages import ExtFlag, PageFlag, PageType
from mmdump_snapshots.model.zone import Migratetype
from tests.snapshots.machines import PROFILES, busy


def opened(vmcore):
    """A dump with the debug info beside it."""
    prog = drgn.Program()
    prog.set_core_dump(vmcore)
    prog.load_debug_info([vmcore.with_name("vmlinux")])
    return prog


@pytest.fixture(scope="module", params=PROFILES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def machine(name):
    return busy(name)[0]


@pytest.fixture(scope="module")
def prog(name, tmp_path_factory):
    """The files, opened as drgn's command line opens them with -c and -s."""
    directory = tmp_path_factory.mktemp(name)
    vmcore = busy(name)[1].write(directory)
    return opened(vmcore)


def printed(prog, command):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        run_command(prog, command)
    return text.getvalue()


def sampled(machine, step=61):
    """PFNs all over memory, and everything that is compound."""
    heads = np.flatnonzero(machine.pages.flags & np.uint32(PageFlag.HEAD))
    chosen = np.concatenate([np.arange(0, machine.pages.count, step), heads, heads + 1])
    return [pfn for pfn in np.unique(chosen).tolist() if any(a <= pfn < b for a, b in machine.ram)]


def test_every_valid_page_is_found(prog, machine):
    pages = for_each_page(prog)
    first = next(pages)
    assert page_to_pfn(first) * machine.era.page_size <= machine.ram[0][0] * machine.era.page_size
    assert 1 + sum(1 for _ in pages) >= machine.ram[-1][1] - machine.ram[0][0]


def test_nodes_and_zones_are_those_of_the_machine(prog, machine):
    pgdats = list(for_each_online_pgdat(prog))
    assert [pgdat.node_id.value_() for pgdat in pgdats] == [node.number for node in machine.nodes]
    zones = [
        (zone.name.string_().decode(), zone.zone_start_pfn.value_(), zone.present_pages.value_())
        for pgdat in pgdats
        for zone in pgdat.node_zones
        if zone.present_pages
    ]
    assert zones == [(zone.name, zone.start_pfn, zone.present) for zone in machine.zones]
    assert totalram_pages(prog) == sum(zone.managed for zone in machine.zones)


def test_compound_pages_have_their_heads_and_orders(prog, machine):
    for pfn in sampled(machine):
        page = pfn_to_page(prog, pfn)
        head = machine.pages.head(pfn)
        assert page_to_pfn(compound_head(page)) == head
        is_head = machine.pages.has(pfn, PageFlag.HEAD)
        assert compound_order(page) == (machine.pages.order[pfn] if is_head else 0)


def test_pages_have_their_counts_flags_and_types(prog, machine):
    pages = machine.pages
    buddy = int(re.search(rb"PAGE_BUDDY_MAPCOUNT_VALUE\)=(-\d+)", prog["VMCOREINFO"].string_())[1])
    for pfn in sampled(machine):
        page = pfn_to_page(prog, pfn)
        assert page._refcount.counter == pages.refcount[pfn]
        assert PageReserved(page) == pages.has(pfn, PageFlag.RESERVED)
        assert (page._mapcount.counter.value_() == buddy) == (pages.type[pfn] == PageType.BUDDY)
        if pages.type[pfn] == PageType.BUDDY:
            assert page.private == pages.order[pfn]
        assert PageSlab(page) == (
            pages.type[pages.head(pfn)] == PageType.SLAB and PageSlab(compound_head(page))
        )


def test_crash_verifies_the_free_lists(prog, machine):
    text = printed(prog, "crash kmem -f")
    free = sum(zone.free_pages for zone in machine.zones)
    assert f"nr_free_pages: {free}  (verified)" in text
    assert "CORRUPTED" not in text


def test_free_lists_are_in_the_machines_order(prog, machine):
    types = {
        each.name.removeprefix("MIGRATE_"): each.value for each in prog["MIGRATE_MOVABLE"].type_.enumerators
    }
    by_name = {
        zone.name.string_().decode(): zone
        for pgdat in for_each_online_pgdat(prog)
        for zone in pgdat.node_zones
        if zone.present_pages
    }
    for zone in machine.zones:
        for order, area in enumerate(zone.free_area):
            theirs = by_name[zone.name].free_area[order]
            assert theirs.nr_free == area.nr_free
            for kind in Migratetype:
                head = theirs.free_list[types[kind.name]].address_of_()
                found = [
                    page_to_pfn(page).value_() for page in list_for_each_entry("struct page", head, "lru")
                ]
                assert found == list(area.free_list[kind])


def test_per_cpu_pages_are_on_their_lists(prog, machine):
    by_name = {
        zone.name.string_().decode(): zone
        for pgdat in for_each_online_pgdat(prog)
        for zone in pgdat.node_zones
        if zone.present_pages
    }
    for zone in machine.zones:
        theirs = by_name[zone.name]
        for cpu, mine in enumerate(zone.pcp):
            if hasattr(theirs, "per_cpu_pageset"):
                pcp = per_cpu_ptr(theirs.per_cpu_pageset, cpu)
            else:
                pcp = per_cpu_ptr(theirs.pageset, cpu).pcp.address_of_()
            assert pcp.count == mine.count
            # Stable releases of 6.1 have the second list for THPs that 6.10 brought.
            assert len(pcp.lists) - len(mine.lists) in (0, 1)
            for head, pages in zip(pcp.lists, mine.lists, strict=False):
                found = list_for_each_entry("struct page", head.address_of_(), "lru")
                assert [page_to_pfn(page).value_() for page in found] == list(pages)


def test_crash_prints_pages(prog, machine):
    for pfn in sampled(machine, 2999)[:8]:
        line = printed(prog, f"crash kmem -p {pfn_to_page(prog, pfn).value_():x}").splitlines()[-1].split()
        assert int(line[1], 16) == pfn * machine.era.page_size
        assert int(line[4]) == machine.pages.refcount[pfn]
        assert ("reserved" in line[-1]) == machine.pages.has(pfn, PageFlag.RESERVED)


def test_page_owner_records_lead_to_their_call_chains(prog, machine):
    owners = machine.page_owner.owners
    ops = prog["page_owner_ops"]
    stride = prog["page_ext_size"] if "page_ext_size" in prog else 8 + prog["extra_mem"]
    flag = prog.constant("PAGE_EXT_OWNER").value_()
    rows = np.flatnonzero((machine.page_ext.flags & np.uint8(machine.page_owner.allocated)) != 0)
    assert len(rows) > 100
    for pfn in rows[:: max(len(rows) // 60, 1)].tolist():
        entry = pfn_to_section(prog, pfn).page_ext.value_() + int(stride) * pfn
        assert drgn.Object(prog, "struct page_ext", address=entry).flags.value_() >> flag & 1
        record = drgn.Object(prog, "struct page_owner", address=entry + int(ops.offset))
        assert record.order == owners.order[pfn]
        assert record.handle == owners.handle[pfn]
        if hasattr(record, "pid"):
            assert record.pid == owners.pid[pfn]
            assert record.ts_nsec == owners.ts[pfn]
        if hasattr(record, "comm"):
            assert record.comm.string_().decode() == machine.comms[owners.comm[pfn]]
        trace = stack_depot_fetch(record.handle)
        frames = machine.stack_depot.fetch(int(owners.handle[pfn]))
        assert [frame.name for frame in trace] == [frame.partition("+")[0] for frame in frames]


def test_pages_without_a_record_have_no_flag(prog, machine):
    stride = int(prog["page_ext_size"] if "page_ext_size" in prog else 8 + prog["extra_mem"])
    flag = prog.constant("PAGE_EXT_OWNER").value_()
    rows = np.flatnonzero(machine.page_ext.flags[: machine.ram[0][1]] & np.uint8(ExtFlag.OWNER) == 0)
    for pfn in rows[::37].tolist():
        if not any(start <= pfn < end for start, end in machine.ram):
            continue
        entry = pfn_to_section(prog, pfn).page_ext.value_() + stride * pfn
        assert not drgn.Object(prog, "struct page_ext", address=entry).flags.value_() >> flag & 1


def test_every_task_is_found(prog, machine):
    found = {(task.pid.value_(), task.comm.string_().decode()) for task in for_each_task(prog)}
    assert found == {(task.pid, task.comm[:15]) for task in machine.tasks if task.pid}
    assert find_task(prog, 101).comm.string_() == b"worker/1"


@pytest.mark.parametrize("container", ["kdump", "flattened"])
@pytest.mark.parametrize("kernel", ["4.19", "6.12", "6.12-arm64"])
def test_other_containers_hold_the_same(kernel, container, tmp_path):
    machine, image = busy(kernel)
    prog = opened(image.write(tmp_path, container))
    free = sum(zone.free_pages for zone in machine.zones)
    assert f"nr_free_pages: {free}  (verified)" in printed(prog, "crash kmem -f")
