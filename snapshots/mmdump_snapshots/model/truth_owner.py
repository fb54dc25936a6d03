"""What decoders of page_owner, of the stack depot and of the page pinner must find on a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .gfp import Gfp
from .pages import ExtFlag, PageFlag, PageType
from .zone import Migratetype

if TYPE_CHECKING:
    from .machine import Machine
    from .page_owner import Owners
    from .zone import Zone

__all__ = ["OwnerTruth", "Records", "StackSum", "mixed_pageblocks", "owner_truth"]

#: Pages looked at at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Records:
    """Records of pages, one row each, ascending by PFN. All arrays have shape (n,).

    :ivar pfn: int64.
    :ivar members: Column of :class:`Owners` -> its values; ``comm`` as an index into ``OwnerTruth.comms``.
    """

    pfn: NDArray[np.int64]
    members: dict[str, NDArray[np.generic]]

    def __len__(self) -> int:
        return len(self.pfn)

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return self.members[name]

    @property
    def first(self) -> NDArray[np.bool_]:
        """Which are the first page of an allocation, as ``read_page_owner()`` lists them: by alignment."""
        order = self.members["order"].astype(np.int64)
        return (self.pfn & ((1 << order) - 1)) == 0


@dataclass(frozen=True)
class StackSum:
    """The allocations by one call chain that have not been freed.

    :ivar frames: Functions, innermost first.
    :ivar records: Pages with a record of it. Up to 5.3 only the first page of an allocation has one.
    :ivar pages: Pages that the records stand for: the same, and up to 5.3 ``1 << order`` for each record.
    :ivar allocations: Records that are the first of their allocation.
    :ivar oldest: The earliest ``ts_nsec``; 0 in eras without.
    :ivar newest: The latest.
    """

    handle: int
    frames: tuple[str, ...]
    records: int
    pages: int
    allocations: int
    oldest: int
    newest: int


@dataclass(frozen=True)
class OwnerTruth:
    """page_owner, stack depot and page pinner of a machine.

    :ivar enabled: page_owner is on. Without, everything of it is empty.
    :ivar page_size: Bytes.
    :ivar comms: Names of tasks, by the index in the records.
    :ivar allocated: Records of pages that are allocated. Pages on per-CPU lists when page_owner began are
        among them until they return to a free block; their record stays, but free blocks are stepped over.
    :ivar freed: Records of pages that are free, and have a history (5.4 and newer).
    :ivar stacks: Handle -> frames, of every stack in the depot.
    :ivar by_stack: Handle -> sums, for handles of allocated pages.
    :ivar special: ``dummy_handle``, ``failure_handle`` and ``early_handle`` -> handle. What page_owner could
        not tell is the ``by_stack`` of these.
    :ivar listed: Handle -> base pages as ``page_owner_stacks/show_stacks`` counts them, in list order (6.9).
    :ivar mixed: (node, zone) -> mixed pageblocks by migratetype, as ``/proc/pagetypeinfo`` counts them.
    :ivar marked: PFNs that the page pinner has marked, int64.
    :ivar guards: First PFN of each guard -> order.
    """

    enabled: bool
    page_size: int
    comms: tuple[str, ...]
    allocated: Records
    freed: Records
    stacks: dict[int, tuple[str, ...]]
    by_stack: dict[int, StackSum] = field(default_factory=dict)
    special: dict[str, int] = field(default_factory=dict)
    listed: dict[int, int] = field(default_factory=dict)
    mixed: dict[tuple[int, str], dict[str, int]] = field(default_factory=dict)
    marked: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    guards: dict[int, int] = field(default_factory=dict)

    def bytes(self, handle: int) -> int:
        """Bytes that are allocated by a handle, special ones too."""
        return self.by_stack[handle].pages * self.page_size if handle in self.by_stack else 0


def owner_truth(machine: Machine) -> OwnerTruth:
    """What there is to find on a machine now."""
    depot, owner, pinner = machine.stack_depot, machine.page_owner, machine.page_pinner
    nothing = Records(np.zeros(0, np.int64), {})
    truth = OwnerTruth(
        enabled=owner is not None and owner.inited,
        page_size=machine.era.page_size,
        comms=tuple(machine.comms),
        allocated=nothing,
        freed=nothing,
        stacks={record.handle: record.frames for record in depot.records},
        marked=np.array(pinner.marked() if pinner is not None else [], np.int64),
        guards=_guards(machine),
    )
    if owner is None or not owner.inited:
        return truth
    recorded = _pages_with(machine, ExtFlag.OWNER)
    flagged = (machine.page_ext.flags[recorded] & np.uint8(owner.allocated)) != 0
    flagged &= owner.owners.handle[recorded] != 0
    live = _records(owner.owners, recorded[flagged & ~_in_free_blocks(machine, recorded)])
    return replace(
        truth,
        allocated=live,
        freed=_records(owner.owners, recorded[~flagged]),
        by_stack=_sums(live, truth.stacks, every_page=machine.era.owner_on_every_page),
        special={
            "dummy_handle": owner.dummy_handle,
            "failure_handle": owner.failure_handle,
            "early_handle": owner.early_handle,
        },
        listed={
            entry.handle: depot.by_handle[entry.handle].count - 1
            for entry in owner.stack_list
            if entry.handle
        },
        mixed={(zone.node, zone.name): mixed_pageblocks(machine, zone) for zone in machine.zones},
    )


def _pages_with(machine: Machine, flag: ExtFlag) -> NDArray[np.int64]:
    """PFNs of all pages whose page_ext has a flag."""
    flags = machine.page_ext.flags
    found = [
        np.flatnonzero(flags[at : min(at + _CHUNK, end)] & np.uint8(flag)) + at
        for start, end in machine.ram
        for at in range(start, end, _CHUNK)
    ]
    return np.concatenate(found).astype(np.int64, copy=False)


def _in_free_blocks(machine: Machine, pfn: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these pages lie in a free block, ``is_free_buddy_page()``."""
    pages, found = machine.pages, np.zeros(len(pfn), np.bool_)
    for order in range(machine.era.max_order + 1):
        head = pfn & -(1 << order)
        found |= (pages.type[head] == PageType.BUDDY) & (pages.order[head] >= order)
    return found


def _records(owners: Owners, pfn: NDArray[np.int64]) -> Records:
    return Records(pfn, {name: values[pfn] for name, values in vars(owners).items()})


def _sums(live: Records, stacks: dict[int, tuple[str, ...]], *, every_page: bool) -> dict[int, StackSum]:
    """The records by handle."""
    handles, group = np.unique(live["handle"], return_inverse=True)
    ones = np.ones(len(live), np.int64)
    weights = ones if every_page else ones << live["order"].astype(np.int64)
    ts = live["ts"].astype(np.uint64)
    oldest = np.full(len(handles), np.iinfo(np.uint64).max, np.uint64)
    newest = np.zeros(len(handles), np.uint64)
    np.minimum.at(oldest, group, ts)
    np.maximum.at(newest, group, ts)
    records = np.bincount(group, minlength=len(handles))
    pages = np.zeros(len(handles), np.int64)
    np.add.at(pages, group, weights)
    first = np.bincount(group, weights=live.first, minlength=len(handles)).astype(np.int64)
    return {
        int(handle): StackSum(
            handle=int(handle),
            frames=stacks[int(handle)],
            records=int(records[row]),
            pages=int(pages[row]),
            allocations=int(first[row]),
            oldest=int(oldest[row]),
            newest=int(newest[row]),
        )
        for row, handle in enumerate(handles)
    }


def _guards(machine: Machine) -> dict[int, int]:
    """Guards, by flag or by type."""
    if machine.debug_pagealloc is None or not machine.debug_pagealloc.guards:
        return {}
    pages, flags = machine.pages, machine.page_ext.flags
    found: dict[int, int] = {}
    for start, end in machine.ram:
        if machine.era.guard_pages_in_page_ext:
            guard = flags[start:end] & np.uint8(ExtFlag.DEBUG_GUARD) != 0
        else:
            guard = pages.type[start:end] == PageType.GUARD
        pfns = np.flatnonzero(guard) + start
        found |= dict(zip(pfns.tolist(), pages.order[pfns].tolist(), strict=True))
    return found


def mixed_pageblocks(machine: Machine, zone: Zone) -> dict[str, int]:
    """``pagetypeinfo_showmixedcount_print()``: pageblocks with a page of another migratetype in them.

    The kernel goes through a pageblock allocation by allocation, and counts it once at the first that was
    allocated as another type than the block's; a block of CMA counts as movable. Every allocation is stepped
    over by the order in the record that is met, even if that leads into another pageblock.

    :return: Migratetype by name -> pageblocks, types without any left out.
    """
    owner = machine.page_owner
    assert owner is not None
    block_order = machine.era.pageblock_order
    pfn = np.concatenate(list(_allocated_in(machine, zone)))
    if not len(pfn):
        return {}
    block = pfn >> block_order
    after = pfn + (1 << owner.owners.order[pfn].astype(np.int64))
    block_mt = np.where(machine.isolated[block], np.uint8(Migratetype.ISOLATE), machine.migratetype[block])
    other = block_mt != _gfp_migratetype(owner.owners.gfp[pfn])
    # Of most blocks it is clear that nothing is found, and that the next is gone through from its start.
    counts: dict[str, int] = {}
    resume = 0
    for number in np.unique(block[other | (after > (block + 1) << block_order)]).tolist():
        end = (number + 1) << block_order
        row = int(np.searchsorted(pfn, max(number << block_order, resume)))
        while row < len(pfn) and pfn[row] < end:
            if other[row]:
                mt = Migratetype(int(block_mt[row]))
                name = (Migratetype.MOVABLE if mt is Migratetype.CMA else mt).name
                counts[name] = counts.get(name, 0) + 1
                break
            resume = int(after[row])
            row = int(np.searchsorted(pfn, resume))
    return counts


def _allocated_in(machine: Machine, zone: Zone) -> Iterator[NDArray[np.int64]]:
    """PFNs of the pages of a zone that are allocated by their record, not free nor reserved; in pieces."""
    owner = machine.page_owner
    assert owner is not None
    flags = machine.page_ext.flags
    for first in range(zone.start_pfn, zone.start_pfn + zone.spanned, _CHUNK):
        rows = slice(first, min(first + _CHUNK, zone.start_pfn + zone.spanned))
        found = np.flatnonzero(flags[rows] & np.uint8(owner.allocated)) + first
        found = found[machine.pages.flags[found] & np.uint32(PageFlag.RESERVED) == 0]
        yield found[~_in_free_blocks(machine, found)]


def _gfp_migratetype(gfp: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """``gfp_migratetype()`` of gfp masks. Masks have at most one of the two bits."""
    return np.select(
        [gfp & np.uint32(Gfp.MOVABLE) != 0, gfp & np.uint32(Gfp.RECLAIMABLE) != 0],
        [np.uint8(Migratetype.MOVABLE), np.uint8(Migratetype.RECLAIMABLE)],
        np.uint8(Migratetype.UNMOVABLE),
    )
