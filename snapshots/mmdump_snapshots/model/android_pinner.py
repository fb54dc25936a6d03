"""Android's page pinner: who took a page, who let go of it, and which pages were in the way.

The page pinner that shipped, before and after the RFC. It keeps a record for each page in page_ext and, in
rings of fixed size, what happened to pages that made a contiguous allocation fail. The generations differ,
see :class:`~.era.Pinner`; each is mirrored with what it does wrong, since memory shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from .era import Pinner
from .gfp import Gfp
from .page_pinner import PagePinner
from .pages import ExtFlag, PageFlag, column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .machine import Machine

__all__ = ["AndroidPinner", "Captured", "PpState", "Records", "Ring"]

#: ``PAGE_PINNER_STACK_DEPTH``.
_STACK_DEPTH = 16
#: ``LONGTERM_PIN_BUCKETS``, ``PP_BUF_SIZE``, ``pp_buf_size``.
_BUF_SIZE = 4096
#: ``sizeof(struct captured_pinner)`` with its state.
_SIZEOF_CAPTURED = 56
_FAILED = ExtFlag.PINNER_MIGRATION_FAILED


class PpState(IntEnum):
    """``enum pp_state``."""

    PUT = 0
    FREE = 1
    FAIL_DETECTED = 2


@dataclass(frozen=True)
class Captured:
    """``struct captured_pinner``: what happened to a page.

    :ivar handle: Of the call chain in the stack depot.
    :ivar usec: When, in microseconds of boottime; of a put, or in the ring of long pins, for how long.
    :ivar elapsed: Which of the two it is.
    :ivar pfn: The page; of a large one its head, whichever page of it the loop is at.
    :ivar count: ``page_count()``.
    :ivar mapcount: ``page_mapcount()``.
    :ivar mapping: ``page_mapping()``, a physical address; 0 for anonymous pages too.
    :ivar flags: :class:`~.pages.PageFlag` bits.
    :ivar mt: Migratetype of its pageblock (up to A1).
    :ivar state: B0 and newer.
    """

    handle: int
    usec: int
    elapsed: bool
    pfn: int
    count: int
    mapcount: int
    mapping: int
    flags: PageFlag
    mt: int
    state: PpState


@dataclass
class Ring:
    """``struct longterm_pinner``, ``struct page_pinner_buffer``.

    :ivar name: Of the variable.
    :ivar index: Where the next record goes.
    :ivar slots: The records by their place; a place that was never written is missing.
    :ivar size: How many there is room for.
    :ivar buffer: Physical address of the slots; 0 where they are in the variable itself.
    """

    name: str
    size: int = _BUF_SIZE
    index: int = 0
    slots: dict[int, Captured] = field(default_factory=dict)
    buffer: int = 0

    def add(self, record: Captured) -> None:
        """``add_record()``."""
        self.slots[self.index] = record
        self.index = (self.index + 1) % self.size

    @property
    def newest_first(self) -> list[Captured]:
        """All records, as the kernel's file shows them."""
        places = [(self.index - 1 - i) % self.size for i in range(self.size)]
        return [self.slots[place] for place in places if place in self.slots]


class Records:
    """``struct page_pinner`` of every page.

    :ivar handle: Of the chain that last got the page (up to B0), uint32.
    :ivar ts_usec: When; since B1 when the page was first in the way. uint64.
    :ivar count: How often it was got since it was freed (up to B0), int32.
    """

    def __init__(self, pages: int) -> None:
        self.handle: NDArray[np.uint32] = column(pages, np.uint32)
        self.ts_usec: NDArray[np.uint64] = column(pages, np.uint64)
        self.count: NDArray[np.int32] = column(pages, np.int32)


class AndroidPinner(PagePinner):
    """The page pinner of an Android kernel.

    :ivar records: Per page.
    :ivar longterm: Pages that were held longer than :attr:`threshold` (up to B0), or None.
    :ivar failures: What happened to pages that were in the way (A1 and newer), or None.
    :ivar threshold: ``threshold_usec``.
    :ivar failure_tracking: The static key.
    :ivar failure_handle: Of the chain that stands for those the depot would not take.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._generation = generation = machine.era.pinner
        self.flag = _FAILED
        self.records = Records(machine.pages.count)
        name = "pinner" if generation < Pinner.B0 else "buffer"
        self.longterm = Ring(f"lt_{name}") if generation < Pinner.B1 else None
        self.failures: Ring | None = None
        if generation >= Pinner.A1:
            self.failures = Ring(f"acf_{name}" if generation < Pinner.B1 else "pp_buffer")
        self.threshold = 300_000
        self.failure_tracking = True
        self.failure_handle = 0

    @property
    def rings(self) -> list[Ring]:
        """The rings there are."""
        return [ring for ring in (self.longterm, self.failures) if ring is not None]

    def init(self) -> None:
        """``init_page_pinner()``."""
        machine = self._machine
        if not machine.boot.page_pinner:
            return
        with machine.calls("init_page_pinner"):
            if self._generation >= Pinner.B2:
                self._allocate()
            with machine.calls("register_failure_stack"):
                self.failure_handle = machine.stack_depot.save(machine.stack()[:4], Gfp.KERNEL)
        self.inited = True

    def late_init(self) -> None:
        """``page_pinner_init()``, late in boot: B1 allocates its ring only here."""
        if self.inited and self._generation == Pinner.B1:
            with self._machine.calls("do_one_initcall"):
                self._allocate()

    def _allocate(self) -> None:
        """``kvmalloc_array()``, which does not clear what it returns."""
        assert self.failures is not None
        order = (_BUF_SIZE * _SIZEOF_CAPTURED - 1 >> self._machine.era.page_shift).bit_length()
        pfn = self._machine.alloc_pages(order, Gfp.KERNEL | Gfp.COMP | Gfp.NOWARN | Gfp.NORETRY)
        assert pfn is not None
        self.failures.buffer = pfn << self._machine.era.page_shift

    @property
    def _tracks(self) -> bool:
        return self.inited and self.failure_tracking and self.failures is not None

    # What happens to pages.

    def set(self, pfn: int, order: int) -> None:
        """``__set_page_pinner()``: get_user_pages() took a reference. Until B0."""
        if not self.inited or self._generation >= Pinner.B1:
            return
        handle = self._save_stack()
        if not self._machine.page_ext.lookup(pfn):
            return
        rows = slice(pfn, pfn + (1 << order))
        self.records.handle[rows] = handle
        self.records.ts_usec[rows] = self._now
        self.records.count[rows] += 1
        self._machine.page_ext.set(pfn, ExtFlag.GET, 1 << order)

    def unset(self, pfn: int, order: int) -> None:
        """``reset_page_pinner()``, ``unset_page_pinner()``: put_user_page() gives it back. Until B0.

        The loop stays at the first entry that has no flag. Every entry it gets to stands for the head.
        """
        if not self.inited or self._generation >= Pinner.B1:
            return
        flags = ExtFlag.GET | (_FAILED if self._generation == Pinner.A2 else ExtFlag(0))
        for entry in range(pfn, pfn + (1 << order)):
            if not self._machine.page_ext.has(entry, flags):
                break
            if self._generation < Pinner.A2 and self.records.count[entry] > 0:
                self.records.count[entry] -= 1
            self._check_longterm_pin(entry, pfn)
            self._machine.page_ext.clear(entry, ExtFlag.GET)
            if self._generation == Pinner.B0:
                self.records.ts_usec[entry] = 0

    def _check_longterm_pin(self, entry: int, pfn: int) -> None:
        """``check_longterm_pin()``."""
        assert self.longterm is not None
        delta = max(self._now - int(self.records.ts_usec[entry]), 0)
        if delta > self.threshold:
            handle = int(self.records.handle[entry])
            self.longterm.add(self._capture(pfn, handle, delta, PpState.PUT, elapsed=True))

    def failure(self, pfn: int) -> None:
        """``test_pages_isolated()``: the hook of the RFC, which Android's has elsewhere."""

    def not_isolated(self, head: int) -> None:
        """``isolate_migratepages_block()``: an anonymous page with a reference too many is left alone."""
        if not self._tracks:
            return
        if self._generation >= Pinner.B0:
            self._failure_detect(head)
        else:
            self._migration_failed(head)

    def not_migrated(self, heads: list[int]) -> None:
        """``__alloc_contig_migrate_range()``: -EBUSY; these are about to be put back."""
        if not self._tracks:
            return
        for head in heads:
            # The page will be freed when it is put back.
            if self._machine.pages.refcount[head] == 1:
                continue
            if self._generation >= Pinner.B0:
                self._failure_detect(head)
                continue
            # __page_pinner_mark_migration_failed_pages()
            self._machine.page_ext.set(head, _FAILED)
            if self._generation == Pinner.A2:
                with self._machine.calls("__page_pinner_mark_migration_failed_pages"):
                    self._migration_failed(head)

    def _migration_failed(self, pfn: int) -> None:
        """``__page_pinner_migration_failed()``: up to A2, for failures, puts and frees alike."""
        if self._machine.page_ext.has(pfn, _FAILED):
            self._record(pfn, PpState.FAIL_DETECTED)

    def _failure_detect(self, pfn: int) -> None:
        """``__page_pinner_failure_detect()``."""
        ext = self._machine.page_ext
        if not ext.lookup(pfn) or ext.has(pfn, _FAILED):
            return
        if not self.records.ts_usec[pfn]:
            self.records.ts_usec[pfn] = self._now
        ext.set(pfn, _FAILED)
        self._record(pfn, PpState.FAIL_DETECTED)

    def put(self, pfn: int) -> None:
        """``__page_pinner_put_page()``: a reference is gone; up to A2 the same as any other event."""
        if not self._tracks or not self._machine.page_ext.has(pfn, _FAILED):
            return
        if self._generation < Pinner.B0:
            self._migration_failed(pfn)
            return
        elapsed = max(self._now - int(self.records.ts_usec[pfn]), 0)
        assert self.failures is not None
        self.failures.add(self._capture(pfn, self._save_stack(), elapsed, PpState.PUT, elapsed=True))

    def reset(self, pfn: int, order: int) -> None:
        """``free_page_pinner()``: the pages are freed, and forgotten, as far as the loop gets."""
        if not self.inited or not self._machine.page_ext.lookup(pfn):
            return
        if self._generation < Pinner.B0:
            with self._machine.calls("__reset_page_pinner"):
                self._reset(pfn, order)
        elif self.failures is not None and (self._generation == Pinner.B0 or self.failures.buffer):
            self._free(pfn, order)

    def _reset(self, pfn: int, order: int) -> None:
        """``__reset_page_pinner()``: the loop stays at the first entry that has no flag."""
        ext = self._machine.page_ext
        flags = ExtFlag.GET | (_FAILED if self._generation == Pinner.A2 else ExtFlag(0))
        for entry in range(pfn, pfn + (1 << order)):
            if not ext.has(entry, flags):
                break
            if self._generation == Pinner.A2:
                # Of the head, whose flag is gone after the first.
                self._migration_failed(pfn)
            self.records.count[entry] = 0
            ext.clear(entry, ExtFlag.GET | _FAILED)

    def _free(self, pfn: int, order: int) -> None:
        """``__free_page_pinner()``: the same; up to B1 it also goes back to the first entry each time.

        So where the second page has a flag too, it stays there: a record for each page of the block, and
        none but the first entry's flags cleared.
        """
        ext, flags = self._machine.page_ext, _FAILED
        if self._generation == Pinner.B0:
            flags |= ExtFlag.GET
        entry = pfn
        for _ in range(1 << order):
            if not ext.has(entry, flags):
                break
            self._record(pfn, PpState.FREE)
            self.records.count[entry] = 0
            self.records.ts_usec[entry] = 0
            if self._generation < Pinner.B2:
                entry = pfn
            ext.clear(entry, ExtFlag.GET | _FAILED)
            entry += 1

    # Records.

    @property
    def _now(self) -> int:
        """``ktime_to_us(ktime_get_boottime())``."""
        return self._machine.clock.now // 1000

    def _save_stack(self) -> int:
        """``save_stack()``: without itself and the function that calls it."""
        machine = self._machine
        stack = machine.stack()[:_STACK_DEPTH]
        with machine.calls("save_stack"):
            return machine.stack_depot.save(stack, Gfp.NOWAIT | Gfp.NOWARN) or self.failure_handle

    def _record(self, pfn: int, state: PpState) -> None:
        assert self.failures is not None
        self.failures.add(self._capture(pfn, self._save_stack(), self._now, state))

    def _capture(
        self, pfn: int, handle: int, usec: int, state: PpState, *, elapsed: bool = False
    ) -> Captured:
        """``capture_page_state()``."""
        machine, pages = self._machine, self._machine.pages
        head = pages.head(pfn)
        return Captured(
            handle,
            usec,
            elapsed,
            pfn,
            count=int(pages.refcount[head]),
            mapcount=self._page_mapcount(pfn),
            mapping=self._page_mapping(head),
            flags=PageFlag(int(pages.flags[pfn])),
            mt=int(machine.pageblock_migratetype(pfn)),
            state=state,
        )

    def _page_mapping(self, head: int) -> int:
        """``page_mapping()``. (The model has no address spaces of swap devices.)"""
        pages = self._machine.pages
        mapping = int(pages.mapping[head])
        return 0 if mapping & 1 or pages.has(head, PageFlag.SWAPCACHE) else mapping & ~3
