"""Machines with nothing on them, and what is always true of their free memory."""

from __future__ import annotations

import numpy as np
import pytest

from mmdump_snapshots.model import Boot, Era, Machine, Migratetype
from mmdump_snapshots.model.pages import PageType
from mmdump_snapshots.model.truth_free import free_truth

VERSIONS = [(4, 19), (5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18), (7, 1)]
every_kernel = pytest.mark.parametrize("version", VERSIONS, ids=str)
BLOCK = 1 << 9
ISOLATE = Migratetype.ISOLATE


def quiet(version=(6, 12), memory=128 << 20, **more):
    """A machine with nothing on it, its free memory in the largest blocks."""
    boot = Boot(page_owner=False, page_pinner=False, early_pages=0, **more)
    return Machine(Era(version), memory=memory, reserved=28 << 20, boot=boot)


def lists(machine):
    """Every free list that has blocks, with its blocks."""
    return {key: tuple(pfns.tolist()) for key, pfns in free_truth(machine).free.items()}


def blocks_of(machine):
    """(first PFN, order, migratetype of the list) of every free block."""
    return sorted((pfn, order, name) for (_, _, order, name), pfns in lists(machine).items() for pfn in pfns)


def check(machine, held):
    """What is always true.

    :param held: Blocks that are allocated: first PFN -> order.
    """
    pages, buddy = machine.pages, machine.buddy
    owner = np.zeros(pages.count, np.int8)
    free = blocks_of(machine)
    stock = [block for zone in machine.zones for pcp in zone.pcp for block in pcp.pages()]
    guards = free_truth(machine).guards
    for pfn, order, *_ in [
        *free,
        *stock,
        *held.items(),
        *zip(guards.pfn.tolist(), guards.order.tolist(), strict=True),
    ]:
        assert pfn % (1 << order) == 0
        assert not owner[pfn : pfn + (1 << order)].any(), "blocks overlap"
        owner[pfn : pfn + (1 << order)] = 1
    by_start = {pfn: (order, name) for pfn, order, name in free}
    assert set(np.flatnonzero(pages.type == PageType.BUDDY)) == set(by_start)
    for pfn, (order, name) in by_start.items():
        zone = machine.zone_of(pfn)
        assert zone.start_pfn <= pfn < pfn + (1 << order) <= zone.end_pfn
        assert pages.order[pfn] == order
        assert not pages.refcount[pfn : pfn + (1 << order)].any()
        types = {buddy.migratetype(at) for at in range(pfn, pfn + (1 << order), BLOCK)}
        own = {Migratetype(each).name for each in types}
        if buddy.strict:
            assert own == {name}
        elif own & {"CMA", "ISOLATE"}:
            assert name in own
        other = pfn ^ (1 << order)
        if by_start.get(other, (None,))[0] == order and order < buddy.max_order:
            # Moving pageblocks to other lists does not merge them.
            assert order >= buddy.pageblock_order
            assert ISOLATE in (buddy.migratetype(pfn), buddy.migratetype(other)) or (
                buddy.migratetype(other) != buddy.migratetype(pfn)
            )
    for zone in machine.zones:
        blocks = slice(zone.start_pfn >> 9, zone.end_pfn >> 9)
        assert zone.nr_isolate_pageblock == machine.isolated[blocks].sum()
        mine = [
            (order, name)
            for (_, zoned, order, name), p in lists(machine).items()
            if zoned == zone.name
            for _ in p
        ]
        assert zone.free_pages == sum(1 << order for order, name in mine if name != "ISOLATE")
        assert zone.free_cma == sum(1 << order for order, name in mine if name == "CMA")
        assert all(pcp.count == sum(1 << order for _, order in pcp.pages()) for pcp in zone.pcp)
        rows = owner[zone.start_pfn : zone.end_pfn]
        assert int(rows.sum()) == zone.managed
