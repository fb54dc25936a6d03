"""page_owner: who allocated each page, and who freed it (mm/page_owner.c)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .gfp import Gfp
from .pages import ExtFlag, PageFlag, PageType, column
from .stackdepot import REFCOUNT_SATURATED, gfp_nested_mask

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["PAGE_OWNER_STACK_DEPTH", "Owners", "PageOwner", "StackEntry"]

#: Frames of a stack that are saved.
PAGE_OWNER_STACK_DEPTH = 16
#: Pages looked at at once where all of memory is.
_CHUNK = 1 << 20


class Owners:
    """``struct page_owner`` of every page, one column per member, a row per PFN.

    A row whose ``handle`` is 0 was never written: its memory is zero (so that the kernel's
    ``last_migrate_reason`` is 0 there too, not -1). Members that the era has not stay 0.

    :ivar order: uint8.
    :ivar gfp: ``gfp_mask``, the model's bits, uint32.
    :ivar handle: uint32.
    :ivar free_handle: uint32.
    :ivar ts: ``ts_nsec``, uint64.
    :ivar free_ts: ``free_ts_nsec``, uint64.
    :ivar comm: Index into ``machine.comms``, uint16.
    :ivar pid: int32.
    :ivar tgid: int32.
    :ivar free_pid: int32.
    :ivar free_tgid: int32.
    :ivar migrate_reason: ``last_migrate_reason`` + 1: 0 for never, uint8.
    """

    def __init__(self, count: int) -> None:
        self.order: NDArray[np.uint8] = column(count, np.uint8)
        self.gfp: NDArray[np.uint32] = column(count, np.uint32)
        self.handle: NDArray[np.uint32] = column(count, np.uint32)
        self.free_handle: NDArray[np.uint32] = column(count, np.uint32)
        self.ts: NDArray[np.uint64] = column(count, np.uint64)
        self.free_ts: NDArray[np.uint64] = column(count, np.uint64)
        self.comm: NDArray[np.uint16] = column(count, np.uint16)
        self.pid: NDArray[np.int32] = column(count, np.int32)
        self.tgid: NDArray[np.int32] = column(count, np.int32)
        self.free_pid: NDArray[np.int32] = column(count, np.int32)
        self.free_tgid: NDArray[np.int32] = column(count, np.int32)
        self.migrate_reason: NDArray[np.uint8] = column(count, np.uint8)


#: What tells of the allocation, and moves with a migrated page.
_ALLOCATION = ("order", "gfp", "handle", "ts", "comm", "pid", "tgid", "migrate_reason")


@dataclass(frozen=True)
class StackEntry:
    """``struct stack``: one entry of page_owner's list of stacks (6.9).

    :ivar handle: Of its stack record.
    :ivar address: Physical address of the entry; 0 for ``dummy_stack`` and ``failure_stack``, which are
        variables.
    """

    handle: int
    address: int


class PageOwner:
    """page_owner of a machine.

    :ivar owners: The records.
    :ivar inited: The static key ``page_owner_inited``: allocations are recorded.
    :ivar dummy_handle: Stack of allocations that page_owner makes itself while it saves a stack.
    :ivar failure_handle: Stack of allocations whose stack the depot would not take.
    :ivar early_handle: Stack of pages that were allocated before page_owner was ready.
    :ivar stack_list: Stacks that have counts, in list order: the newest first, then dummy_stack and
        failure_stack. Empty before 6.9.
    :ivar early_pages: How many pages :meth:`init` found allocated.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._era = machine.era
        self.owners = Owners(machine.pages.count)
        self.inited = False
        self.dummy_handle = 0
        self.failure_handle = 0
        self.early_handle = 0
        self.stack_list: list[StackEntry] = []
        self.early_pages = 0
        self._in_page_owner = False
        self._comms: dict[str, int] = {}
        #: The flag that says that a page's record tells of its present allocation.
        self.allocated = ExtFlag.OWNER_ALLOCATED if self._era.owner_on_every_page else ExtFlag.OWNER
        self._flags = np.uint8(ExtFlag.OWNER | self.allocated)

    def init(self) -> None:
        """``init_page_owner()``: the init callback of its page_ext client."""
        if not self._machine.boot.page_owner:
            return
        self.dummy_handle = self._register("register_dummy_stack")
        self.failure_handle = self._register("register_failure_stack")
        self.early_handle = self._register("register_early_stack")
        self._init_early_allocated_pages()
        if self._era.owner_counts_stacks:
            for handle in (self.dummy_handle, self.failure_handle):
                if handle:
                    self._machine.stack_depot.by_handle[handle].count = 1
                self.stack_list.append(StackEntry(handle, 0))
        self.inited = True

    def _register(self, name: str) -> int:
        """``create_dummy_stack()``: four frames from the function that asks, which tells the three apart."""
        with self._machine.calls(name, "init_page_owner"):
            return self._machine.stack_depot.save(self._machine.stack()[:4], Gfp.KERNEL)

    # Where stacks come from.

    def _save_stack(self, caller: str, gfp: Gfp) -> int:
        """``save_stack()``: a handle that is never 0.

        What the depot allocates meanwhile is page_owner's own (``current->in_page_owner``, 5.12; before that
        it looked for itself in the stack).
        """
        if self._in_page_owner:
            return self.dummy_handle
        stack = self._machine.stack()[:PAGE_OWNER_STACK_DEPTH]
        self._in_page_owner = True
        with self._machine.calls("save_stack", caller):
            handle = self._machine.stack_depot.save(stack, gfp)
        self._in_page_owner = False
        return handle or self.failure_handle

    # Allocated and freed.

    def set(self, pfn: int, order: int, gfp: Gfp) -> None:
        """``__set_page_owner()``: called for what is about to be returned to who allocates it."""
        if not self.inited:
            return
        handle = self._save_stack("__set_page_owner", gfp)
        if not self._machine.page_ext.lookup(pfn):
            return
        self._set_handle(slice(pfn, pfn + self._recorded(order)), handle, order, int(gfp))
        if self._era.owner_counts_stacks:
            self._inc_stack_record_count(handle, gfp, 1 << order)

    def _recorded(self, order: int) -> int:
        """How many pages of an allocation have a record: up to 5.3, only its first."""
        return 1 << order if self._era.owner_on_every_page else 1

    def _set_handle(self, rows: slice | NDArray[np.int64], handle: int, order: int, gfp: int) -> None:
        """``__set_page_owner_handle()``, ``__update_page_owner_handle()``: the records of some pages."""
        era, owners, task = self._era, self.owners, self._machine.current
        owners.handle[rows] = handle
        owners.order[rows] = order
        owners.gfp[rows] = int(gfp)
        owners.migrate_reason[rows] = 0
        if era.owner_has_pid:
            owners.ts[rows] = self._machine.clock.now
            owners.pid[rows] = task.pid
        if era.owner_has_comm:
            owners.tgid[rows] = task.tgid
            owners.comm[rows] = self._comm(task.comm)
        self._machine.page_ext.flags[rows] |= self._flags

    def _comm(self, name: str) -> int:
        """The index of a task's name in ``machine.comms``, cut as ``strscpy()`` does to 15 bytes."""
        name = name[:15]
        if name not in self._comms:
            comms = self._machine.comms
            if name not in comms:
                comms.append(name)
            self._comms[name] = comms.index(name)
        return self._comms[name]

    def reset(self, pfn: int, order: int) -> None:
        """``__reset_page_owner()``: called for what is freed, before it is on any list.

        Since 5.4 the record stays, as history, and only says that it is.
        """
        if not self.inited or not self._machine.page_ext.lookup(pfn):
            return
        era, owners = self._era, self.owners
        pages = slice(pfn, pfn + (1 << order))
        self._machine.page_ext.clear(pfn, self.allocated, 1 << order)
        if not era.owner_has_free_stack:
            return
        time, alloc_handle = self._machine.clock.now, int(owners.handle[pfn])
        # Since 6.15 not even GFP_NOWAIT, so that the depot does not allocate: freeing may be anywhere.
        nowait = Gfp.NOWARN if era.depot_obeys_nolock else Gfp.NOWAIT | Gfp.NOWARN
        owners.free_handle[pages] = self._save_stack("__reset_page_owner", nowait)
        self._set_freed(pages, time)
        if era.owner_counts_stacks and alloc_handle != self.early_handle:
            # Early pages were never counted: what counts was not there yet.
            self._dec_stack_record_count(alloc_handle, 1 << order)

    def _set_freed(self, pages: slice, time: int) -> None:
        """``__update_page_owner_free_handle()``: the ids are those of the current task, whoever calls."""
        if self._era.owner_has_free_time:
            self.owners.free_ts[pages] = time
        if self._era.owner_has_free_pid:
            self.owners.free_pid[pages] = self._machine.current.pid
            self.owners.free_tgid[pages] = self._machine.current.tgid

    # Split and migrated.

    def split(self, pfn: int, old_order: int, new_order: int = 0) -> None:
        """``__split_page_owner()``: an allocation becomes several."""
        if not self.inited or not self._machine.page_ext.lookup(pfn):
            return
        pages = slice(pfn, pfn + (1 << old_order))
        if not self._era.owner_on_every_page:
            # Up to 5.3 the parts get their records only now.
            for name in _ALLOCATION:
                values = getattr(self.owners, name)
                values[pages] = values[pfn]
            self._machine.page_ext.set(pfn, ExtFlag.OWNER, 1 << old_order)
        self.owners.order[pages] = new_order if self._era.owner_split_keeps_order else 0

    def set_migrate_reason(self, pfn: int, reason: int) -> None:
        """``__set_page_owner_migrate_reason()``: of the first page only.

        :param reason: ``enum migrate_reason``, see :class:`.migrate.MigrateReason`.
        """
        if self.inited and self._machine.page_ext.lookup(pfn):
            self.owners.migrate_reason[pfn] = reason + 1

    def copy(self, new_pfn: int, old_pfn: int, order: int) -> None:
        """``__folio_copy_owner()`` (5.16), ``__copy_page_owner()``: the new page is the old one's successor.

        Up to 6.8 only the first page's record is copied: the others of a large folio still tell of the
        allocation of the migration target, with the order and gfp_mask of that. The new page's free_ts_nsec
        becomes the time when the old one was allocated.

        Since 6.9 as many records are copied as the old record's order says, and the old pages get the handle
        that the new ones had: the counts of both stacks come out right when the old folio is freed, and its
        history tells of a stack that never allocated it.

        :param order: Of the folio. The kernel goes by the record's order.
        """
        if not self.inited or not self._has_entries(new_pfn, old_pfn):
            return
        era, owners = self._era, self.owners
        if era.owner_migrates_every_page:
            order = int(owners.order[old_pfn])
        count = 1 << order if era.owner_migrates_every_page else 1
        new, old = slice(new_pfn, new_pfn + count), slice(old_pfn, old_pfn + count)
        migrate_handle = int(owners.handle[new_pfn])
        for name in _ALLOCATION:
            values = getattr(owners, name)
            values[new] = values[old_pfn]
        if era.owner_migrates_every_page:
            self._set_freed(new, int(owners.free_ts[old_pfn]))
            owners.handle[old] = migrate_handle
        elif era.owner_has_free_time:
            owners.free_ts[new] = owners.ts[old_pfn]
            if era.owner_has_free_pid:
                owners.free_pid[new] = owners.free_pid[old_pfn]
                owners.free_tgid[new] = owners.free_tgid[old_pfn]
        self._machine.page_ext.set(new_pfn, ExtFlag.OWNER | self.allocated, count)

    def _has_entries(self, *pfns: int) -> bool:
        return all(self._machine.page_ext.lookup(pfn) for pfn in pfns)

    # How many pages a stack has (6.9).

    def _inc_stack_record_count(self, handle: int, gfp: Gfp, nr_base_pages: int) -> None:
        """``inc_stack_record_count()``: a stack that is counted for the first time joins the list."""
        if not handle:
            return
        record = self._machine.stack_depot.by_handle[handle]
        if record.count == REFCOUNT_SATURATED:
            record.count = 1
            self._add_stack_record_to_list(handle, gfp)
        record.count += nr_base_pages

    def _dec_stack_record_count(self, handle: int, nr_base_pages: int) -> None:
        """``dec_stack_record_count()``."""
        if handle:
            self._machine.stack_depot.by_handle[handle].count -= nr_base_pages

    def _add_stack_record_to_list(self, handle: int, gfp: Gfp) -> None:
        """``add_stack_record_to_list()``: its entry is allocated, which is page_owner's own allocation."""
        if self._era.owner_lists_only_spinning and not gfp & Gfp.RECLAIM:
            return
        self._in_page_owner = True
        try:
            with self._machine.calls("add_stack_record_to_list", "__set_page_owner"):
                address = self._machine.objects.alloc("stack", 16, gfp_nested_mask(self._era, gfp))
        except MemoryError:
            # Counted it is, but nobody will print it.
            return
        finally:
            self._in_page_owner = False
        self.stack_list.insert(0, StackEntry(handle, address))

    # Pages from before it was there.

    def _init_early_allocated_pages(self) -> None:
        """``init_pages_in_zone()``: whatever is in no free block and not reserved gets an early record.

        Pages on per-CPU lists and guard pages look allocated here, as they do to the kernel.
        """
        flags, reserved = self._machine.page_ext.flags, np.uint32(PageFlag.RESERVED)
        for start, end in self.outside_buddy():
            for first in range(start, end, _CHUNK):
                rows = slice(first, min(first + _CHUNK, end))
                early = ((self._machine.pages.flags[rows] & reserved) == 0) & (
                    (flags[rows] & ExtFlag.OWNER) == 0
                )
                found = np.flatnonzero(early) + first
                if len(found):
                    self._set_handle(found, self.early_handle, 0, 0)
                    self.early_pages += len(found)

    def outside_buddy(self) -> Iterator[tuple[int, int]]:
        """The ranges of memory that no free block covers: what the kernel sees, stepping over free blocks.

        :return: PFN ranges [start, end), ascending; as many as there are gaps between blocks.
        """
        pages = self._machine.pages
        for ram_start, ram_end in self._machine.ram:
            at = ram_start
            for first in range(ram_start, ram_end, _CHUNK):
                stop = min(first + _CHUNK, ram_end)
                heads = np.flatnonzero(pages.type[first:stop] == PageType.BUDDY) + first
                ends = heads + (1 << pages.order[heads].astype(np.int64))
                begins = np.concatenate(([at], ends[:-1])) if len(heads) else heads
                gaps = np.flatnonzero(heads > begins)
                yield from zip(begins[gaps].tolist(), heads[gaps].tolist(), strict=True)
                if len(ends):
                    at = int(ends[-1])
            if at < ram_end:
                yield at, ram_end
