"""``stable_page_flags()``: the kernel's own flags translated into the stable ones of user space.

Mirrors fs/proc/page.c and include/uapi/linux/kernel-page-flags.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, Qualifiers

from mmdump.kernel.layout import find_object, find_type
from mmdump.kernel.page import MAPPING_ANON, MAPPING_KSM

if TYPE_CHECKING:
    from drgn import Program

    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64, U64, Bools
    from mmdump.kernel.page import PageRange

__all__ = ["KPF_NOPAGE", "KpageFacts", "precise_mapcount", "stable_page_flags"]

# include/uapi/linux/kernel-page-flags.h; part of the ABI, so these never change.
KPF_SLAB, KPF_BUDDY, KPF_MMAP, KPF_ANON, KPF_SWAPCACHE = 7, 10, 11, 12, 13
KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_HUGE, KPF_HWPOISON = 15, 16, 17, 19
KPF_NOPAGE, KPF_KSM, KPF_THP, KPF_OFFLINE, KPF_ZERO_PAGE, KPF_IDLE, KPF_PGTABLE = 20, 21, 22, 23, 24, 25, 26

#: Bits that are copied (user space bit, kernel flag).
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
    # The rest is meant for kernel hackers (include/linux/kernel-page-flags.h).
    (32, "PG_reserved"),
    (33, "PG_mlocked"),
    (34, "PG_mappedtodisk"),  # since 6.12 an alias of PG_owner_2
    (34, "PG_owner_2"),
    (35, "PG_private"),
    (36, "PG_private_2"),
    (37, "PG_owner_priv_1"),
    (38, "PG_arch_1"),
    (39, "PG_uncached"),  # gone in 6.10
    (41, "PG_arch_2"),
    (42, "PG_arch_3"),
)


@dataclass(frozen=True)
class KpageFacts:
    """Which ``stable_page_flags()`` this kernel has, and what it needs beyond the pages.

    :param zero_pfn: PFN of the zero page; -1 where there is none.
    :param huge_zero_pfn: PFN of the huge zero folio; -1 where there is none.
    :param by_folio: Whether flags are those of the folio, also for its tails: 6.10 and newer, which made the
        function take a ``const struct page *``. Before, they were the page's own.
    :param anon_is_ksm: Whether every anonymous page is called KSM too: from 6.10 until the function looked at
        a ``struct page_snapshot`` (6.17), it tested ``mapping & PAGE_MAPPING_KSM``, which is both tag bits.
    """

    zero_pfn: int = -1
    huge_zero_pfn: int = -1
    by_folio: bool = True
    anon_is_ksm: bool = False

    @classmethod
    def find(cls, kernel: Kernel) -> KpageFacts:
        """Find out."""
        prog = kernel.target.prog
        zero = _pfn(prog, "zero_page_pfn")  # the name since 7.1 or so
        by_folio = _takes_const_page(prog)
        return cls(
            zero if zero >= 0 else _pfn(prog, "zero_pfn"),
            _pfn(prog, "huge_zero_pfn"),
            by_folio,
            by_folio and find_type(prog, "struct page_snapshot") is None,
        )


def _pfn(prog: Program, name: str) -> int:
    found = find_object(prog, name)
    try:
        value = int(found.value_()) if found is not None else -1
    except FaultError:
        return -1
    return value if value < 1 << 52 else -1


def _takes_const_page(prog: Program) -> bool:
    try:
        parameters = prog.function("stable_page_flags").type_.parameters
    except LookupError:
        return True
    pointer = parameters[0].type if parameters else None
    return pointer is not None and bool(pointer.type.qualifiers & Qualifiers.CONST)


def precise_mapcount(pages: PageRange) -> U64:
    """How often each page is mapped, ``folio_precise_page_mapcount()`` (6.11; ``page_mapcount()`` before)."""
    layout = pages.layout
    head_rows = pages.head_rows()
    own = pages.raw_mapcount.astype(np.int64) + 1
    own[pages.is_typed() | ~pages.readable] = 0
    heads = np.flatnonzero(pages.is_head)
    whole = np.zeros(len(pages), np.int64)
    whole[heads] = pages.folio_field("_entire_mapcount", heads) + 1
    if "PG_double_map" in layout.flags:
        # Up to 6.1: mappings of the whole count in each page of a file's folio already, and of an anonymous
        # one that is mapped both ways.
        anon = (pages.mapping[heads] & np.uint64(MAPPING_ANON)) != 0
        double = pages.folio_field("_flags_1", heads) >> layout.flags["PG_double_map"] & 1
        huge = pages.is_type("hugetlb", at=heads)
        whole[heads] = np.where(anon | huge, whole[heads] - double, 0)
    slab = pages.is_type("slab")[head_rows]
    return np.where(slab, 0, own + whole[head_rows]).astype(np.uint64)


def _copied(pages: PageRange, flags: U64) -> U64:
    found = np.zeros(len(flags), np.uint64)
    for bit, name in _COPIED:
        if name in pages.layout.flags:
            shift = np.uint64(pages.layout.flags[name])
            found |= ((flags >> shift) & np.uint64(1)) << np.uint64(bit)
    return found


def stable_page_flags(pages: PageRange, facts: KpageFacts) -> U64:
    """The words of /proc/kpageflags for a range of pages."""
    layout = pages.layout
    head_rows = pages.head_rows()
    flags, mapping = pages.flags[head_rows], pages.mapping[head_rows]
    found = _copied(pages, flags if facts.by_folio else pages.flags)

    def put(bit: int, where: Bools) -> None:
        found[where] |= np.uint64(1 << bit)

    slab = pages.is_type("slab")[head_rows]
    anon = (mapping & np.uint64(MAPPING_ANON)) != 0
    put(KPF_MMAP, pages.folio_mapcount(head_rows) >= 1)
    put(KPF_ANON, anon)
    put(KPF_KSM, anon if facts.anon_is_ksm else (mapping & np.uint64(3)) == MAPPING_KSM)
    put(KPF_COMPOUND_HEAD, pages.is_head)
    put(KPF_COMPOUND_TAIL, pages.is_tail)
    huge = pages.is_type("hugetlb")[head_rows]
    thp = pages.is_head[head_rows] & ~huge & _rmappable(pages, head_rows)
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
    put(KPF_SLAB, slab)
    put(KPF_IDLE, (flags & np.uint64(layout.mask("PG_idle"))) != 0)
    both = np.uint64(layout.mask("PG_swapbacked", "PG_swapcache"))
    put(KPF_SWAPCACHE, (flags & both) == both)
    if "PG_hwpoison" in layout.flags:
        poison = np.uint64(layout.mask("PG_hwpoison"))
        put(KPF_HWPOISON, (np.where(huge & facts.by_folio, flags, pages.flags) & poison) != 0)
    found[~pages.readable] = np.uint64(1 << KPF_NOPAGE)
    return found


def _rmappable(pages: PageRange, head_rows: I64) -> Bools:
    """Whether a large folio may be a THP."""
    bit = pages.layout.flags.get("PG_large_rmappable")
    if bit is None:
        # Before 6.6 a large folio was told from other compound pages by what happens to THPs alone.
        anon = (pages.mapping[head_rows] & np.uint64(MAPPING_ANON)) != 0
        return anon | pages.has_flag("PG_lru", at=head_rows)
    # In the flags word of the folio's second page.
    heads = np.flatnonzero(pages.is_head)
    found = np.zeros(len(pages), bool)
    found[heads] = (pages.folio_field("_flags_1", heads) >> bit & 1) != 0
    return found[head_rows]
