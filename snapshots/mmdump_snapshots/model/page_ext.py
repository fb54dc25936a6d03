"""page_ext: more data per page than ``struct page`` has room for, decided at boot (mm/page_ext.c).

Every user of it is a client that says by its ``need`` callback, at boot, whether it wants its data. If none
does, nothing is allocated: a kernel with all of them built in costs no memory until its command line asks for
one. What they want is laid out in one entry per page, and each section of memory has a table of entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .era import Pinner
from .gfp import Gfp
from .pages import ExtFlag, column

if TYPE_CHECKING:
    from .era import Era
    from .machine import Machine

__all__ = ["Client", "PageExt", "sizeof_page_owner"]

#: sizeof(struct page_ext): its only member is an unsigned long of flags.
_SIZEOF_PAGE_EXT = 8
#: sizeof(struct page_table_check): two atomic_t.
_SIZEOF_PAGE_TABLE_CHECK = 8
#: sizeof(struct page_pinner) of Android: a handle, a time, a count.
_SIZEOF_PAGE_PINNER = 24
#: sizeof(union codetag_ref): a pointer.
_SIZEOF_CODETAG_REF = 8


@dataclass(frozen=True)
class Client:
    """``struct page_ext_operations``: a user of page_ext.

    :ivar name: As in ``<name>_ops``.
    :ivar size: Bytes of its data in every entry; 0 for one that has only flags.
    :ivar need: Whether it wants to be, asked once at boot.
    :ivar init: Called when the tables exist, needed or not: clients test their own switch again.
    :ivar need_shared_flags: It uses the flags word (6.3 and newer; before, every entry has one).
    """

    name: str
    size: int
    need: Callable[[], bool]
    init: Callable[[], None] | None = None
    need_shared_flags: bool = False


def sizeof_page_owner(era: Era) -> int:
    """``sizeof(struct page_owner)`` on a 64-bit kernel, in bytes."""
    if era.owner_has_free_pid:
        return 64
    if era.owner_has_comm:
        return 56
    if era.owner_has_free_time:
        return 40
    if era.owner_has_pid:
        return 32
    # 4.15 made order and last_migrate_reason short; the model begins after that.
    return 16 if era.owner_has_free_stack else 12


class PageExt:
    """The tables of page_ext entries, and the flags word of every entry.

    :ivar clients: All that this kernel has built in, in the order of their data in an entry.
    :ivar enabled: Names of those that need page_ext, in the same order; empty until :meth:`init`.
    :ivar has_flags: Entries begin with a flags word.
    :ivar stride: Bytes of an entry (``page_ext_size``; up to 5.3 8 and ``extra_mem``); 0 with no client.
    :ivar offsets: Enabled client -> offset of its data from the start of the entry. Since 6.3 this may be 0.
    :ivar tables: Section number -> physical address of the section's table. (The kernel stores this less the
        entries that precede the section, so that an absolute PFN indexes it.)
    :ivar flags: :class:`ExtFlag` bits of every page, uint8 of shape (pages,).
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.clients = tuple(self._page_ext_ops())
        self.enabled: tuple[str, ...] = ()
        self.has_flags = False
        self.stride = 0
        self.offsets: dict[str, int] = {}
        self.tables: dict[int, int] = {}
        self.flags: NDArray[np.uint8] = column(machine.pages.count, np.uint8)

    def _page_ext_ops(self) -> Iterator[Client]:
        """``page_ext_ops[]``: the clients of this release."""
        machine, boot, era = self._machine, self._machine.boot, self._machine.era
        guard = machine.debug_pagealloc
        if guard is not None and era.guard_pages_in_page_ext:
            yield Client("debug_guardpage", 0, guard.need, guard.init)
        if machine.page_owner is not None:
            yield Client(
                "page_owner",
                sizeof_page_owner(era),
                lambda: boot.page_owner,
                machine.page_owner.init,
                need_shared_flags=True,
            )
        pinner = machine.page_pinner
        if pinner is not None and era.android:
            # It uses the flags word, but says so not even since 6.3.
            yield Client("page_pinner", _SIZEOF_PAGE_PINNER, lambda: boot.page_pinner, pinner.init)
        if era.alloc_tags:
            yield Client(
                "page_alloc_tagging",
                _SIZEOF_CODETAG_REF,
                lambda: boot.mem_profiling and not boot.mem_profiling_compressed,
            )
        if era.version >= (5, 17):
            yield Client("page_table_check", _SIZEOF_PAGE_TABLE_CHECK, lambda: boot.page_table_check)
        if pinner is not None and not era.android:
            # Never merged; the RFC adds itself as the last one.
            name = "page_pin_owner" if era.pinner is Pinner.PIN_OWNER else "page_pinner"
            yield Client(name, 0, lambda: boot.page_pinner, pinner.init, need_shared_flags=True)

    def init(self) -> None:
        """``page_ext_init()``: called once the buddy allocator is there (CONFIG_SPARSEMEM).

        Everything that was allocated before this has no record of it, and neither have the tables.

        :raises MemoryError: Not even vmalloc would have had the memory for a table; the kernel panics.
        """
        if not self._invoke_need_callbacks():
            return
        with self._machine.calls("page_ext_init"):
            for section in self._sections():
                self._init_section_page_ext(section)
            for client in self.clients:
                if client.init is not None:
                    client.init()

    def _invoke_need_callbacks(self) -> bool:
        """``invoke_need_callbacks()``: lay out an entry.

        Nothing is aligned: up to 5.3 an entry with page_owner has 8 + 12 bytes, and every other flags word is
        not where an unsigned long would like to be.
        """
        needed = [client for client in self.clients if client.need()]
        self.enabled = tuple(client.name for client in needed)
        if not needed:
            return False
        self.has_flags = self._machine.era.page_ext_flags_always or any(
            client.need_shared_flags for client in needed
        )
        self.stride = _SIZEOF_PAGE_EXT if self.has_flags else 0
        for client in needed:
            self.offsets[client.name] = self.stride
            self.stride += client.size
        return True

    def _sections(self) -> list[int]:
        """Numbers of the sections that have memory, ascending."""
        shift = self.section_order
        sections: set[int] = set()
        for start, end in self._machine.ram:
            sections.update(range(start >> shift, ((end - 1) >> shift) + 1))
        return sorted(sections)

    def _init_section_page_ext(self, section: int) -> None:
        """``init_section_page_ext()``: one table, of an entry for every page that the section may have."""
        size = self.stride << self.section_order
        with self._machine.calls("alloc_page_ext", "init_section_page_ext"):
            pfn = self._machine.alloc_pages_exact(size, Gfp.KERNEL | Gfp.ZERO | Gfp.NOWARN)
        if pfn is None:
            raise MemoryError(f"no memory for {size} bytes of page_ext: the kernel would panic here")
        self.tables[section] = pfn << self._machine.era.page_shift

    @property
    def section_order(self) -> int:
        """``PFN_SECTION_SHIFT``: log2 of the pages of a section."""
        return self._machine.era.section_shift - self._machine.era.page_shift

    def lookup(self, pfn: int) -> bool:
        """``lookup_page_ext()``: whether a page has an entry."""
        return pfn >> self.section_order in self.tables

    def has(self, pfn: int, flag: ExtFlag) -> bool:
        """``test_bit()`` on the flags word of a page."""
        return bool(self.flags[pfn] & flag)

    def set(self, pfn: int, flag: ExtFlag, count: int = 1) -> None:
        """``__set_bit()`` for the pages [pfn, pfn + count)."""
        self.flags[pfn : pfn + count] |= np.uint8(flag)

    def clear(self, pfn: int, flag: ExtFlag, count: int = 1) -> None:
        """``__clear_bit()`` for the pages [pfn, pfn + count)."""
        self.flags[pfn : pfn + count] &= np.uint8(~int(flag) & 0xFF)
