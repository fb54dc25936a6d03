"""get_user_pages(): references and pins taken on what a process has mapped (mm/gup.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callchains import calls
from .era import Pincounts
from .migrate import MigrateReason, migrate_pages
from .pages import PageFlag
from .references import get_refs, put_refs
from .zone import Migratetype

if TYPE_CHECKING:
    from .machine import Machine
    from .vma import Vma

__all__ = ["GUP_PIN_COUNTING_BIAS", "Gup"]

#: A pin of a page without a pin count of its own is this many references, in every kernel with FOLL_PIN.
GUP_PIN_COUNTING_BIAS = 1024


class Gup:
    """Pins of pages, and who knows of them.

    :ivar pins: FOLL_PIN pins by head PFN, exact whatever the era counts.
    :ivar gets: Plain references taken here (FOLL_GET, and FOLL_PIN before it existed), by head PFN.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.pins: dict[int, int] = {}
        self.gets: dict[int, int] = {}

    def counted(self, head: int) -> bool:
        """``folio_has_pincount()``, ``hpage_pincount_available()``: pins of it are counted exactly."""
        how, order = self._machine.era.pincounts, self._machine.rmap.order(head)
        return (how is Pincounts.ALL and order > 0) or (how is Pincounts.ABOVE_ORDER_1 and order > 1)

    def pin(self, pfn: int, count: int = 1) -> int:
        """``try_grab_folio(FOLL_PIN)``: pin the folio of a page, once for each page pinned.

        Before 5.7 there are no pins, only the references of ``get_user_pages()``.

        :return: The head, for :meth:`unpin`.
        """
        head = self._machine.pages.head(pfn)
        if self._machine.era.pincounts is Pincounts.NONE:
            return self.get(pfn, count)
        if self.counted(head):
            self._machine.rmap.folios[head].pincount += count
            get_refs(self._machine, head, count)
        else:
            get_refs(self._machine, head, count * GUP_PIN_COUNTING_BIAS)
        self.pins[head] = self.pins.get(head, 0) + count
        return head

    def pin_longterm(self, vma: Vma, slot: int, count: int = 1) -> list[int]:
        """``pin_user_pages(FOLL_LONGTERM)``: pin what a process maps, moved out of CMA areas first.

        This is how pins that last are meant to be had (5.2 for CMA, 5.13 for the zone): what stays there
        cannot be moved any more.

        :return: PFNs of the pages that were pinned; fewer where a page is not mapped or cannot be moved.
        """
        machine, pinned = self._machine, []
        for at in range(slot, slot + count):
            pfn = vma.mapped(at)
            if pfn and not self._longterm_pinnable(pfn):
                self._migrate_unpinnable(machine.pages.head(pfn))
                pfn = vma.mapped(at)
            if not pfn or not self._longterm_pinnable(pfn):
                break
            self.pin(pfn)
            pinned.append(pfn)
        return pinned

    def _longterm_pinnable(self, pfn: int) -> bool:
        """``folio_is_longterm_pinnable()``."""
        version = self._machine.era.version
        movable = version >= (5, 13) and self._machine.zone_of(pfn).name == "Movable"
        kind = self._machine.pageblock_migratetype(pfn)
        return not movable and (version < (5, 2) or kind not in (Migratetype.CMA, Migratetype.ISOLATE))

    def _migrate_unpinnable(self, head: int) -> None:
        """``migrate_longterm_unpinnable_folios()``."""
        machine = self._machine
        machine.batches.drain_all()
        if machine.pages.has(head, PageFlag.LRU):
            machine.get_page(head)
            machine.batches.isolate(head)
            # A reason of its own since 5.13.
            longterm = machine.era.version >= (5, 13)
            reason = MigrateReason.LONGTERM_PIN if longterm else MigrateReason.CONTIG_RANGE
            left, _ = migrate_pages(machine, [head], reason)
            for page in left:
                machine.batches.putback(page)

    def unpin(self, pfn: int, count: int = 1) -> None:
        """``unpin_user_page()``, ``gup_put_folio()``; ``put_page()`` before 5.7."""
        head = self._machine.pages.head(pfn)
        if self._machine.era.pincounts is Pincounts.NONE:
            self.put(pfn, count)
            return
        _take(self.pins, head, count)
        if self.counted(head):
            self._machine.rmap.folios[head].pincount -= count
            self._put(head, count, "gup_put_folio", "unpin_user_pages")
        else:
            self._put(head, count * GUP_PIN_COUNTING_BIAS, "gup_put_folio", "unpin_user_pages")

    def get(self, pfn: int, count: int = 1) -> int:
        """``try_grab_folio(FOLL_GET)``, ``get_page()``: a plain reference, which has no name on it."""
        head = self._machine.pages.head(pfn)
        get_refs(self._machine, head, count)
        if self._machine.page_pinner is not None:
            self._machine.page_pinner.set(head, self._machine.rmap.order(head))
        self.gets[head] = self.gets.get(head, 0) + count
        return head

    def put(self, pfn: int, count: int = 1) -> None:
        """``put_page()`` of what :meth:`get` took."""
        head = self._machine.pages.head(pfn)
        _take(self.gets, head, count)
        put_refs(self._machine, head, count)

    def put_user(self, pfn: int) -> None:
        """``put_user_page()``: the same for who tells the page pinner (Android 12)."""
        head = self._machine.pages.head(pfn)
        if self._machine.page_pinner is not None:
            self._machine.page_pinner.unset(head, self._machine.rmap.order(head))
        self.put(pfn)

    def _put(self, head: int, count: int, *names: str) -> None:
        with calls(self._machine, *names):
            put_refs(self._machine, head, count)

    def maybe_dma_pinned(self, head: int) -> bool:
        """``folio_maybe_dma_pinned()``: of pages without a count, 1024 plain references look like a pin."""
        if self.counted(head):
            return self._machine.rmap.folios[head].pincount > 0
        if self._machine.era.pincounts is Pincounts.NONE:
            return False
        return int(self._machine.pages.refcount[head]) >= GUP_PIN_COUNTING_BIAS


def _take(counts: dict[int, int], head: int, count: int) -> None:
    """Subtract, and forget what is zero. Raises ValueError when there are not so many."""
    left = counts.get(head, 0) - count
    if left < 0:
        raise ValueError(f"page {head} has only {left + count} of {count} references to drop")
    if left:
        counts[head] = left
    else:
        counts.pop(head, None)
