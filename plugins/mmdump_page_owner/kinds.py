"""What an allocated page is used for, as far as ``struct page`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdump.kernel.arrays import I64, U8, Bools
from mmdump.kernel.page import MAPPING_KSM, MAPPING_MOVABLE
from mmdump.kernel.references import folio_kinds

if TYPE_CHECKING:
    from mmdump.kernel.page import PageRange

__all__ = ["KINDS", "KIND_ALIASES", "kernels_own", "kind_codes"]

#: Kinds by code. ``kernel`` is what no other name fits: a driver's buffers, the network's, vmalloc's, a
#: pipe's; ``cma`` the same in a CMA area, where only cma_alloc() puts it. ``other`` is typed (zsmalloc,
#: offline), movable by its driver, or on an LRU without a mapping.
KINDS = ("kernel", "cma", "slab", "anon", "ksm", "file", "shmem", "table", "hugetlb", "reserved", "other")
_KERNEL = 0
#: Words that mean several kinds.
KIND_ALIASES = {"page-cache": ("file", "shmem"), "user": ("anon", "ksm", "file", "shmem", "hugetlb")}

_CODE = {name: np.uint8(code) for code, name in enumerate(KINDS)}


def kernels_own(pages: PageRange, rows: I64) -> Bools:
    """Whether each of these rows is the kernel's own memory, of kind ``kernel`` or ``cma``."""
    if not len(rows):
        return np.zeros(0, bool)
    # Most pages are told apart by two words, and what a type says of those that begin a folio.
    plain, typed = pages.once("plain pages", lambda: _plain(pages))
    own = plain[rows]
    tails = np.flatnonzero(own & pages.is_tail[rows])
    own &= ~typed[rows]
    if len(tails):
        own[tails] = kind_codes(pages, rows[tails]) == _KERNEL
    return own


def _plain(pages: PageRange) -> tuple[Bools, Bools]:
    """Pages without a mapping that are on no LRU, reserved or slab; and pages that have a type."""
    typed = pages.is_typed() | pages.is_type("slab") | pages.is_type("table") | pages.is_type("hugetlb")
    return (pages.mapping == 0) & ~pages.has_flag("PG_lru", "PG_reserved", "PG_slab"), typed


def kind_codes(pages: PageRange, rows: I64, cma: int = -1) -> U8:
    """Index into :data:`KINDS` for each of these rows; tail pages are what their head is.

    :param cma: The number of MIGRATE_CMA, to tell ``cma`` from ``kernel``; -1 where there is none.
    :return: uint8, as many as rows.
    """
    if pages.is_tail[rows].any():
        # A folio is looked at once, not once for each of its pages.
        heads = pages.head_rows(at=rows)
        wanted = np.zeros(len(pages), bool)
        wanted[heads] = True
        folios = np.flatnonzero(wanted)
        of_folio = np.empty(len(pages), np.uint8)
        of_folio[folios] = _folio_codes(pages, folios)
        codes = of_folio[heads]
        # No range cuts a folio but gigantic hugetlb pages.
        outside = np.zeros(len(pages), bool)
        outside[pages.tails[pages.named_heads < 0]] = True
        codes[outside[rows] & (codes != _CODE["slab"])] = _CODE["hugetlb"]
    else:
        codes = _folio_codes(pages, rows)
    if cma >= 0:
        own = np.flatnonzero(codes == _KERNEL)
        codes[own[pages.migratetype_of(rows[own]) == cma]] = _CODE["cma"]
    return codes


def _folio_codes(pages: PageRange, heads: I64) -> U8:
    """The same of rows that are heads, or small folios."""
    codes = np.zeros(len(heads), np.uint8)
    kinds = folio_kinds(pages, heads)
    movable = (pages.mapping[heads] & np.uint64(MAPPING_KSM)) == MAPPING_MOVABLE
    codes[pages.has_flag("PG_lru", at=heads) | movable] = _CODE["other"]
    for name in ("anon", "ksm", "file", "shmem"):
        codes[getattr(kinds, name)] = _CODE[name]
    codes[(codes == _KERNEL) & pages.has_flag("PG_reserved", at=heads)] = _CODE["reserved"]
    # What has a type uses the words above for things of its own.
    slab = pages.is_type("slab", at=heads)
    codes[pages.is_typed(at=heads) & ~slab] = _CODE["other"]
    codes[pages.is_type("table", at=heads)] = _CODE["table"]
    codes[pages.is_type("hugetlb", at=heads)] = _CODE["hugetlb"]
    codes[slab] = _CODE["slab"]
    return codes
