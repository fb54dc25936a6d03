"""``stable_page_flags()``: the kernel's own flags translated into the stable ones of user space.

Mirrors fs/proc/page.c and include/uapi/linux/kernel-page-flags.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Qualifiers

from mmdump.kernel.layout import find_object
from mmdump.kernel.page import MAPPING_ANON, MAPPING_KSM

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, U64, Bools
    from mmdump.kernel.page import PageRange

__all__ = ["KPF_NOPAGE", "KpageFacts", "precise_mapcount", "stable_page_flags"]

# include/uapi/linux/kernel-page-flags.h; part of the ABI, so these never change.
KPF_SLAB, KPF_BUDDY, KPF_MMAP, KPF_ANON, KPF_SWAPCACHE = 7, 10, 11, 12, 13
KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_HUGE, KPF_HWPOISON = 15, 16, 17, 19
KPF_NOPAGE, KPF_KSM, KPF_THP, KPF_OFFLINE, KPF_ZERO_PAGE, KPF_PGTABLE = 20, 21, 22, 23, 24, 26

#: Bits that are copied from the folio's flags (user space bit, kernel flag).
_COPIED = (
    (0, "PG_locked"),
    (1, "PG_error"),  # gone in 6.12
    (2, "PG_referenced"),
    (3, "PG_uptodate"),
    (4, "PG_dirty"),
    (5, "PG_lru"),
    (6, "PG_active"),
    (8, "PG_writeback"),
    (9, "PG_reclaim"),
    (14, "PG_swapbacked"),
    (18, "PG_unevictable"),
    (25, "PG_idle"),
    # The rest is meant for kernel hackers (include/linux/kernel-page-flags.h).
    (32, "PG_reserved"),
    (33, "PG_mlocked"),
    (34, "PG_mappedtodisk"),  # since 6.12 an alias of PG_owner_2
    (35, "PG_private"),
    (36, "PG_private_2"),
    (37, "PG_owner_priv_1"),
    (38, "PG_arch_1"),
    (41, "PG_arch_2"),
    (42, "PG_arch_3"),
)


@dataclass(frozen=True)
class KpageFacts:
    """What the translation needs of this kernel beyond its pages.

    :param zero_pfn: PFN of the zero page; -1 where there is none.
    :param huge_zero_pfn: PFN of the huge zero folio; -1 where there is none.
    :param anon_is_ksm: Whether every anonymous page is called KSM too.
    """

    zero_pfn: int = -1
    huge_zero_pfn: int = -1
    anon_is_ksm: bool = False

    @classmethod
    def find(cls, kernel: Kernel) -> KpageFacts:
        """Read ``zero_pfn`` and ``huge_zero_pfn``, and see which ``stable_page_flags()`` this is."""
        values = []
        for name in ("zero_pfn", "huge_zero_pfn"):
            found = find_object(kernel.target.prog, name)
            try:
                value = int(found.value_()) if found is not None else -1
            except FaultError:
                value = -1
            values.append(value if value < 1 << 52 else -1)
        return cls(values[0], values[1], _anon_is_ksm(kernel))


def _anon_is_ksm(kernel: Kernel) -> bool:
    """Whether this kernel tests ``mapping & PAGE_MAPPING_KSM``, which holds for all anonymous pages.

    6.10 wrote it so when it made the function take a ``const struct page *``; PageKsm() before compared both
    bits.
    """
    try:
        function = kernel.target.prog.function("stable_page_flags")
    except LookupError:
        return False
    parameters = function.type_.parameters
    pointer = parameters[0].type if parameters else None
    return pointer is not None and bool(pointer.type.qualifiers & Qualifiers.CONST)


def precise_mapcount(pages: PageRange) -> U64:
    """How often each page is mapped, ``folio_precise_page_mapcount()`` (6.11; ``page_mapcount()`` before)."""
    own = np.where(pages.is_typed(), 0, pages.raw_mapcount.astype(np.int64) + 1)
    own[~pages.readable] = 0
    heads = np.flatnonzero(pages.is_head)
    entire = np.zeros(len(pages), np.int64)
    entire[heads] = pages.folio_field("_entire_mapcount", heads) + 1
    return (own + entire[_head_rows(pages)]).astype(np.uint64)


def _head_rows(pages: PageRange) -> I64:
    """The row of each page's head; its own where that lies in another range (gigantic folios)."""
    rows = pages.head_pfn - pages.start
    return np.where(rows >= 0, rows, np.arange(len(pages)))


def _copied(layout_flags: dict[str, int], flags: U64) -> U64:
    found = np.zeros(len(flags), np.uint64)
    for bit, name in _COPIED:
        if name in layout_flags:
            found |= ((flags >> np.uint64(layout_flags[name])) & np.uint64(1)) << np.uint64(bit)
    return found


def stable_page_flags(pages: PageRange, facts: KpageFacts) -> U64:
    """The words of /proc/kpageflags for a range of pages."""
    layout = pages.layout
    head_rows = _head_rows(pages)
    flags = pages.flags[head_rows]
    mapping = pages.mapping[head_rows]
    found = _copied(dict(layout.flags), flags)

    def put(bit: int, where: Bools) -> None:
        found[where] |= np.uint64(1 << bit)

    heads = np.arange(len(pages))[head_rows]
    put(KPF_MMAP, pages.folio_mapcount(heads) >= 1)
    anon = (mapping & np.uint64(MAPPING_ANON)) != 0
    put(KPF_ANON, anon)
    put(KPF_KSM, anon if facts.anon_is_ksm else (mapping & np.uint64(3)) == MAPPING_KSM)
    put(KPF_COMPOUND_HEAD, pages.is_head)
    put(KPF_COMPOUND_TAIL, pages.is_tail)

    huge = pages.is_type("hugetlb")[head_rows]
    large = pages.is_head[head_rows]
    rmappable = np.zeros(len(pages), bool)
    rows = np.flatnonzero(pages.is_head)
    # In the flags word of the folio's second page, 6.6 and newer.
    bit = layout.flags.get("PG_large_rmappable")
    if bit is not None:
        rmappable[rows] = pages.folio_field("_flags_1", rows) >> bit & 1 != 0
    thp = large & ~huge & rmappable[head_rows]
    put(KPF_HUGE, huge)
    put(KPF_THP, thp)
    head_pfn = head_rows + pages.start
    huge_zero = ~huge & ~thp & (head_pfn == facts.huge_zero_pfn)
    put(KPF_ZERO_PAGE, huge_zero)
    put(KPF_THP, huge_zero)
    put(KPF_ZERO_PAGE, ~huge & ~thp & ~huge_zero & (head_pfn == facts.zero_pfn))

    put(KPF_BUDDY, pages.is_buddy | ((pages.refcount == 0) & pages.in_free_block))
    put(KPF_OFFLINE, pages.is_type("offline"))
    put(KPF_PGTABLE, pages.is_type("table"))
    put(KPF_SLAB, pages.is_type("slab")[head_rows])
    both = np.uint64(layout.mask("PG_swapbacked", "PG_swapcache"))
    put(KPF_SWAPCACHE, (flags & both) == both)
    if "PG_hwpoison" in layout.flags:
        poison = np.uint64(layout.mask("PG_hwpoison"))
        put(KPF_HWPOISON, (np.where(huge, flags, pages.flags) & poison) != 0)
    found[~pages.readable] = np.uint64(1 << KPF_NOPAGE)
    return found
