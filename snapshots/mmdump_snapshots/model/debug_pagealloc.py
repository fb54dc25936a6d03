"""debug_pagealloc's guard pages: memory that nobody gets, so that who strays into it faults.

With ``debug_pagealloc=on debug_guardpage_minorder=N``, splitting a free block leaves the halves of orders
below N out of the free lists: they are guards, until a merge takes them back. Since page_ext exists this is
decided at boot: a guard is a flag in its page_ext entry, and a client of page_ext needs the tables for it
("mm/debug-pagealloc: prepare boottime configurable on/off", 3.19). Since 5.3 a guard is a page type, and no
page_ext is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .pages import ExtFlag, PageType

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["DebugPagealloc"]


class DebugPagealloc:
    """Guard pages of a machine.

    :ivar guards: The static key ``_debug_guardpage_enabled``.
    :ivar minorder: ``debug_guardpage_minorder()``.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.minorder = machine.boot.guard_order
        # Without page_ext in between, the switch is thrown before the allocator has its first page.
        self.guards = self.need() and not self._in_page_ext

    @property
    def _in_page_ext(self) -> bool:
        return self._machine.era.guard_pages_in_page_ext

    def need(self) -> bool:
        """``need_debug_guardpage()``: the need callback of its page_ext client."""
        return self._machine.boot.debug_pagealloc and self.minorder > 0

    def init(self) -> None:
        """``init_debug_guardpage()``: the init callback. Blocks split before this have no guards."""
        self.guards = self.need()

    def set_guard(self, pfn: int, order: int) -> bool:
        """``set_page_guard()``: make a guard of half a block that is being split.

        The caller keeps it off the free lists and out of the count of free pages.

        :return: Whether it is a guard now; if not, it goes to its free list as ever.
        """
        if not self.guards or order >= self.minorder:
            return False
        if self._in_page_ext:
            if not self._machine.page_ext.lookup(pfn):
                return False
            self._machine.page_ext.set(pfn, ExtFlag.DEBUG_GUARD)
        else:
            self._machine.pages.type[pfn] = PageType.GUARD
        self._machine.pages.order[pfn] = order
        return True

    def clear_guard(self, pfn: int, order: int) -> None:  # noqa: ARG002 (as the kernel's, which counts pages by it)
        """``clear_page_guard()``: its buddy is free, and both merge."""
        if not self.guards:
            return
        if self._in_page_ext:
            if not self._machine.page_ext.lookup(pfn):
                return
            self._machine.page_ext.clear(pfn, ExtFlag.DEBUG_GUARD)
        else:
            self._machine.pages.type[pfn] = PageType.NONE
        self._machine.pages.order[pfn] = 0

    def is_guard(self, pfn: int) -> bool:
        """``page_is_guard()``: whether a page is the first one of a guard."""
        if not self.guards:
            return False
        if self._in_page_ext:
            return self._machine.page_ext.has(pfn, ExtFlag.DEBUG_GUARD)
        return bool(self._machine.pages.type[pfn] == PageType.GUARD)
