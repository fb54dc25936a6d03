"""Page pinner: who let go of a page that a contiguous allocation could not have (RFC, December 2021).

A page with a reference too many cannot be migrated, and by the time the allocation fails nobody knows who
took that reference. To record every get of every page would cost too much. So the page that an allocation
failed for is marked, and from then on each put of it leaves an event with its call chain: every put answers a
get, and where it comes from tells where the get came from.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .era import Pinner
from .pages import ExtFlag, PageFlag, PageType

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["PagePinner", "PinnerEvent", "print_trace"]

#: ``pageflag_names[]`` as of 5.16, for the flags that the model sets; PG_swapcache is an alias of
#: PG_owner_priv_1 and PG_double_map one of PG_workingset there. PG_reported has no name of its own either.
_FLAG_NAMES = (
    (PageFlag.LOCKED, "locked"),
    (PageFlag.REFERENCED, "referenced"),
    (PageFlag.UPTODATE | PageFlag.REPORTED, "uptodate"),
    (PageFlag.DIRTY, "dirty"),
    (PageFlag.LRU, "lru"),
    (PageFlag.ACTIVE, "active"),
    (PageFlag.WORKINGSET | PageFlag.DOUBLE_MAP, "workingset"),
    (PageFlag.SWAPCACHE, "owner_priv_1"),
    (PageFlag.RESERVED, "reserved"),
    (PageFlag.PRIVATE, "private"),
    (PageFlag.WRITEBACK, "writeback"),
    (PageFlag.HEAD, "head"),
    (PageFlag.RECLAIM, "reclaim"),
    (PageFlag.SWAPBACKED, "swapbacked"),
    (PageFlag.UNEVICTABLE, "unevictable"),
    (PageFlag.MLOCKED, "mlocked"),
    (PageFlag.HWPOISON, "hwpoison"),
)

#: Between an event and its stack, which is an entry of its own, the clock moves on.
_STACK_DELAY = 4_000


@dataclass(frozen=True)
class PinnerEvent:
    """``page_pinner_failure`` or ``page_pinner_put``: fields of the trace event, and its stack.

    :ivar name: Of the event.
    :ivar time: ns since boot.
    :ivar comm: Of the current task.
    :ivar pid: Of the current task.
    :ivar flags: :class:`PageFlag` bits.
    :ivar count: ``page_ref_count()``; of a put, what the put left.
    :ivar mapcount: ``page_mapcount()``.
    :ivar mapping: ``page->mapping`` as it is in :class:`Pages`, with its tag bits.
    :ivar mt: Migratetype of its pageblock, a number of ``enum migratetype``.
    :ivar stack: Functions, innermost first.
    :ivar reason: What the page was to be migrated for (``report_page_pinners``); None where no event says.
    :ivar err: What came of it, an error number below zero.
    """

    name: str
    time: int
    comm: str
    pid: int
    cpu: int
    pfn: int
    flags: PageFlag
    count: int
    mapcount: int
    mapping: int
    mt: int
    stack: tuple[str, ...]
    reason: str | None = None
    err: int = 0

    @property
    def stack_time(self) -> int:
        """When its stack was recorded, which is an entry of its own."""
        return self.time + _STACK_DELAY


class PagePinner:
    """The page pinner of a machine. Its only data per page is the flag ``PAGE_EXT_PINNER``.

    The RFC's second version marks with ``PAGE_EXT_PIN_OWNER``, where a migration fails.

    :ivar flag: What it marks pages with.
    :ivar inited: The static key ``page_pinner_inited``.
    :ivar events: All events so far: what a trace buffer without end would hold.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._second = machine.era.pinner is Pinner.PIN_OWNER
        self.flag = ExtFlag.PIN_OWNER if self._second else ExtFlag.PINNER
        self.inited = False
        self.events: list[PinnerEvent] = []

    def init(self) -> None:
        """``init_page_pinner()``: the init callback of its page_ext client."""
        self.inited = self._machine.boot.page_pinner

    def late_init(self) -> None:
        """What it does when the kernel has booted: nothing."""

    def failure(self, pfn: int) -> None:
        """``__page_pinner_failure()``: ``test_pages_isolated()`` found this page in its way. Mark it."""
        if not self._second:
            self._mark(pfn, "page_pinner_failure")

    def not_isolated(self, head: int) -> None:
        """An anonymous page with a reference too many is not even tried to be migrated."""

    def not_migrated(self, heads: list[int]) -> None:
        """``__report_page_pinners()`` (the second version): these folios could not be migrated."""
        for head in heads if self._second else ():
            self._mark(head, "report_page_pinners")

    def _mark(self, pfn: int, event: str) -> None:
        if not self.inited or not self._machine.page_ext.lookup(pfn):
            return
        reason = None
        if self._second:
            # migrate_reason_names[MR_CONTIG_RANGE], renamed in 5.15.
            reason = "contig_range" if self._machine.era.version >= (5, 15) else "cma"
        self._trace(event, pfn, reason)
        self._machine.page_ext.set(pfn, self.flag)

    def put(self, pfn: int) -> None:
        """``__page_pinner_put()``: a reference of this page is gone, the last perhaps.

        :param pfn: The page whose count it is: of a large folio the head, though it may be a tail that is
            marked. Such a put leaves no event.
        """
        if self.inited and self._machine.page_ext.has(pfn, self.flag):
            self._trace("page_pin_owner_put" if self._second else "page_pinner_put", pfn)

    def set(self, pfn: int, order: int) -> None:
        """``get_user_pages()`` took a reference of the folio: that is nothing to the RFC."""

    def unset(self, pfn: int, order: int) -> None:
        """``put_user_page()`` gave it back."""

    def reset(self, pfn: int, order: int) -> None:
        """``__reset_page_pinner()``: the pages are freed, and with that unmarked.

        The loop ends at the first page that has no mark: where an inner page of a larger block was the one
        that failed, its mark outlives it.
        """
        if not self.inited or not self._machine.page_ext.lookup(pfn):
            return
        if not self._machine.page_ext.has(pfn, self.flag):
            return
        marked = self._machine.page_ext.flags[pfn : pfn + (1 << order)] & np.uint8(self.flag) != 0
        count = len(marked) if marked.all() else int(np.argmin(marked))
        self._machine.page_ext.clear(pfn, self.flag, count)

    def marked(self) -> list[int]:
        """PFNs of the pages that are marked, ascending."""
        flags, found = self._machine.page_ext.flags, []
        for start, end in self._machine.ram:
            for first in range(start, end, 1 << 20):
                rows = flags[first : min(first + (1 << 20), end)]
                found += (np.flatnonzero(rows & np.uint8(self.flag)) + first).tolist()
        return found

    def _trace(self, name: str, pfn: int, reason: str | None = None) -> None:
        machine = self._machine
        task, pages = machine.current, machine.pages
        self.events.append(
            PinnerEvent(
                name,
                time=machine.clock.now,
                comm=task.comm,
                pid=task.pid,
                cpu=machine.cpu,
                pfn=pfn,
                flags=PageFlag(int(pages.flags[pfn])),
                count=int(pages.refcount[pfn]),
                mapcount=self._page_mapcount(pfn),
                mapping=int(pages.mapping[pfn]),
                mt=int(machine.pageblock_migratetype(pfn)),
                stack=(f"__{name}", *machine.stack()),
                reason=reason,
                err=-errno.EAGAIN if reason is not None else 0,
            )
        )
        machine.clock.tick(_STACK_DELAY)

    def _page_mapcount(self, pfn: int) -> int:
        """``page_mapcount()``."""
        pages = self._machine.pages
        if pages.type[pfn] not in (PageType.NONE, PageType.HUGETLB):
            return 0
        head = pages.head(pfn)
        return int(self._machine.rmap.page_mapcounts(head)[pfn - head])


def flag_names(flags: int) -> str:
    """``show_page_flags()``: names of page flags as a trace event prints them."""
    return "|".join(name for bits, name in _FLAG_NAMES if flags & bits) or "none"


def hashed_pointer(pointer: int, key: bytes = b"") -> str:
    """``%p``: a number that is the same for the same pointer, and tells nothing else of it.

    :param key: What the kernel draws at boot.
    """
    if not pointer:
        return f"{0:016x}"
    digest = hashlib.blake2b(pointer.to_bytes(8, "little"), digest_size=4, key=key).digest()
    return f"{int.from_bytes(digest, 'little'):016x}"


def _time(nanoseconds: int) -> str:
    """``trace_print_time()``: seconds and microseconds."""
    seconds, micros = divmod((nanoseconds + 500) // 1000, 1_000_000)
    return f"{seconds:5d}.{micros:06d}"


def print_trace(events: Iterable[PinnerEvent], key: bytes = b"") -> str:
    """The events as ``/sys/kernel/tracing/trace`` shows them with the option stacktrace.

    :param key: For the pointers; see :func:`hashed_pointer`.
    """
    lines = []
    for event in events:
        context = f"{event.comm:>16}-{event.pid:<7} [{event.cpu:03d}] .... "
        fields = (
            f"pfn={event.pfn:#x} flags={flag_names(event.flags)} count={event.count} "
            f"mapcount={event.mapcount} mapping={hashed_pointer(event.mapping, key)} mt={event.mt}"
        )
        if event.reason is not None:
            fields += f" reason={event.reason} err={event.err}"
        lines.append(f"{context}{_time(event.time)}: {event.name}: {fields}")
        lines.append(f"{context}{_time(event.stack_time)}: <stack trace>")
        lines += [f" => {frame}" for frame in event.stack]
    return "".join(f"{line}\n" for line in lines)
