"""What holds references to a folio for a known reason: the kernel's own account of them.

Mirrors ``folio_expected_ref_count()`` (include/linux/mm.h, 6.16; before, spread over mm/migrate.c), and adds
two holders that it leaves to its callers: LRU isolation and the per-CPU folio batches (mm/swap.c).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from drgn import FaultError, TypeKind

from mmdump.kernel.arrays import I64, U8, Bools
from mmdump.kernel.layout import find_object
from mmdump.kernel.page import GUP_PIN_COUNTING_BIAS, MAPPING_ANON, MAPPING_KSM, PageRange
from mmdump.kernel.percpu import each_cpu

if TYPE_CHECKING:
    from drgn import Object, Program

    from mmdump.kernel.memmap import MemMap

__all__ = [
    "FolioBatches",
    "FolioKinds",
    "ReferenceAccount",
    "account_references",
    "folio_kinds",
    "read_folio_batches",
]

#: What sort of memory a folio is; ``other`` is the kernel's own.
KIND_NAMES = ("other", "anon", "ksm", "file", "shmem")


@dataclass(frozen=True)
class FolioBatches:
    """References that the per-CPU folio batches hold. Plain data.

    :param pfn: PFNs of folios in a batch, ascending and distinct, int64.
    :param count: How many batches hold each, int64.
    :param complete: Whether every CPU's batches could be read.
    """

    pfn: I64
    count: I64
    complete: bool = True

    def references(self, pfn: I64) -> I64:
        """How many references the batches hold to each of these folios."""
        if not len(self.pfn):
            return np.zeros(len(pfn), np.int64)
        row = np.minimum(np.searchsorted(self.pfn, pfn), len(self.pfn) - 1)
        return np.where(self.pfn[row] == pfn, self.count[row], 0)


def read_folio_batches(prog: Program, memmap: MemMap) -> FolioBatches:
    """Read the batches of every CPU: all that mm/swap.c and mm/mlock.c have."""
    found: list[int] = []
    variables = [find_object(prog, name) for name in _BATCHES]
    complete = any(variable is not None for variable in variables[:3])
    for variable in variables:
        if variable is None:
            continue
        try:
            for batches in each_cpu(prog, variable):
                found.extend(_batched(batches.read_()))
        except (FaultError, LookupError):
            complete = False
    # mlock marks what it batches in the low bits of the pointer (LRU_FOLIO, NEW_FOLIO).
    address = np.array(found, np.uint64) & ~np.uint64(3)
    offset = (address - np.uint64(memmap.vmemmap)).astype(np.int64)
    pfn = offset // memmap.page_size
    pfn = pfn[(offset % memmap.page_size == 0) & memmap.valid(pfn)]
    pfn, count = np.unique(pfn, return_counts=True)
    return FolioBatches(pfn, count, complete)


#: Per-CPU variables that are batches, or whose members are. One of the first three adds pages to the LRU.
#: Up to 5.7 each was a variable of its own; lru_rotate went into cpu_fbatches in 6.12; mlock_pvec became
#: mlock_fbatch in 6.3.
_BATCHES = (
    "cpu_fbatches",  # 5.19
    "lru_pvecs",  # 5.8
    "lru_add_pvec",
    "lru_rotate",
    "lru_rotate_pvecs",
    "lru_deactivate_file_pvecs",
    "lru_deactivate_pvecs",  # 5.4
    "lru_lazyfree_pvecs",
    "activate_page_pvecs",
    "mlock_fbatch",
    "mlock_pvec",
)
#: Types of batches -> their array.
_ARRAYS = {"folio_batch": "folios", "pagevec": "pages"}


def _batched(batches: Object) -> list[int]:
    """Addresses in a ``struct folio_batch`` (or pagevec), or in every member that is one."""
    kind = batches.type_.unaliased()
    if kind.tag in _ARRAYS:
        entries = batches.member_(_ARRAYS[kind.tag])
        used = min(batches.nr.value_(), entries.type_.length or 0)
        return [entries[index].value_() for index in range(used)]
    found: list[int] = []
    for member in kind.members or ():
        if member.name is not None and member.type.kind == TypeKind.STRUCT and member.type.tag in _ARRAYS:
            found.extend(_batched(batches.member_(member.name)))
    return found


@dataclass(frozen=True)
class FolioKinds:
    """What sort of memory a set of folios is, one truth value per folio. Others belong to the kernel."""

    anon: Bools
    ksm: Bools
    file: Bools
    shmem: Bools

    def codes(self) -> U8:
        """Index into :data:`KIND_NAMES` for each folio, uint8."""
        # KSM pages are anonymous too.
        codes = self.anon * np.uint8(1) + self.ksm * np.uint8(1)
        codes[self.file] = 3
        codes[self.shmem] = 4
        return codes


def folio_kinds(pages: PageRange, rows: I64) -> FolioKinds:
    """Tell anonymous, KSM, file and shmem folios by ``folio->mapping`` (rows are heads or small folios)."""
    mapping = pages.mapping[rows]
    # The kernel's own pages have none.
    some = np.flatnonzero(mapping)
    # What has a type uses that word for something else: slabs for their free objects, up to 6.1 or so.
    at = rows[some]
    typed = (pages.is_typed(at=at) & ~pages.is_type("hugetlb", at=at)) | pages.is_type("slab", at=at)
    some = some[~typed]
    tag = mapping[some] & np.uint64(3)
    backed = pages.has_flag("PG_swapbacked", at=rows[some])
    cached = tag == 0

    def of_all(found: Bools) -> Bools:
        kinds = np.zeros(len(rows), bool)
        kinds[some] = found
        return kinds

    return FolioKinds(
        anon=of_all((tag & np.uint64(MAPPING_ANON)) != 0),
        # Both bits: KSM; bit 1 alone: movable pages of a driver (up to 6.16).
        ksm=of_all(tag == MAPPING_KSM),
        # Swap-backed page cache is shmem.
        file=of_all(cached & ~backed),
        shmem=of_all(cached & backed),
    )


@dataclass(frozen=True)
class ReferenceAccount:
    """The references of some folios. Arrays of int64, one value per folio.

    :param references: All of them, ``folio_ref_count()``.
    :param mapcount: Mappings into page tables, ``folio_mapcount()``.
    :param pincount: FOLL_PIN pins; see :meth:`PageRange.folio_pincount`. Of a small folio only references
        without another known reason can be pins: libc's pages are mapped more than 1024 times.
    :param explained: References with a known reason, pins among them.
    :param excess: References that nothing known explains.
    :param cache: Of the explained ones, those of the page cache or the swap cache.
    :param private: That of ``page->private``.
    :param batched: Those of per-CPU folio batches.
    :param owned: That of whoever took the folio off the LRU, or of the allocation itself.
    :param exact_pins: Whether the folio counts its pins, 0 or 1: each is one reference then, and else
        :data:`~mmdump.kernel.page.GUP_PIN_COUNTING_BIAS`.
    """

    kinds: FolioKinds
    references: I64
    mapcount: I64
    pincount: I64
    explained: I64
    excess: I64
    cache: I64
    private: I64
    batched: I64
    owned: I64
    exact_pins: I64


def account_references(pages: PageRange, rows: I64, batches: FolioBatches) -> ReferenceAccount:
    """Explain the references of folios, as far as what can be known at a page explains them.

    Explained are: mappings; page cache or swap cache, one for each page of the folio; private data; FOLL_PIN
    pins; LRU isolation; per-CPU batches; and, for pages that are neither on the LRU nor in any cache, the
    reference of the allocation itself.

    :param rows: Rows that are heads or small folios.
    """
    if not len(rows):
        nothing, none = np.zeros(0, np.int64), np.zeros(0, bool)
        numbers = [each.name for each in fields(ReferenceAccount) if each.name != "kinds"]
        return ReferenceAccount(FolioKinds(none, none, none, none), **dict.fromkeys(numbers, nothing))
    references = pages.refcount[rows].astype(np.int64)
    mapcount = pages.folio_mapcount(rows)
    kinds = folio_kinds(pages, rows)
    count = np.left_shift(1, pages.folio_order[rows].astype(np.int64))
    cached = kinds.file | kinds.shmem
    # PG_swapcache shares its bit, and means the swap cache only together with PG_swapbacked. A shmem folio
    # in the swap cache has no mapping.
    swapcache = pages.has_all_flags("PG_swapcache", "PG_swapbacked", at=rows)
    private = pages.has_flag("PG_private", at=rows) & ~kinds.anon
    batched = batches.references(rows + pages.start)
    cache = np.where(cached | swapcache, count, 0)
    explained = mapcount + cache + private + batched
    exact, pincount = pages.counts_pins(rows), pages.folio_pincount(rows)
    others = np.maximum(references - explained, 0)
    pincount = np.where(exact, pincount, np.minimum(pincount, others // GUP_PIN_COUNTING_BIAS))
    explained += np.where(exact, pincount, pincount * GUP_PIN_COUNTING_BIAS)

    user = kinds.anon | cached
    on_lru = pages.has_flag("PG_lru", at=rows)
    hugetlb = pages.is_type("hugetlb", at=rows)
    # Whoever takes a folio off the LRU holds it. On its way there it is in a batch, counted already.
    isolated = user & ~on_lru & ~hugetlb & (batched == 0) & (references > explained)
    owned = isolated | (~user & ~on_lru & ~hugetlb)
    explained += owned
    explained = np.where(references <= 0, 0, explained)
    return ReferenceAccount(
        kinds=kinds,
        references=references,
        mapcount=mapcount,
        pincount=pincount,
        explained=explained,
        excess=np.maximum(references - explained, 0),
        cache=cache,
        private=private.astype(np.int64),
        batched=batched,
        owned=owned.astype(np.int64),
        exact_pins=exact.astype(np.int64),
    )
