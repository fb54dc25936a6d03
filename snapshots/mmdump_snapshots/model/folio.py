"""What the kernel knows of a large folio beyond its first page, and what ``folio->mapping`` can point to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .vma import Vma

__all__ = [
    "COMPOUND_MAPPED",
    "MAPPING_ANON",
    "MAPPING_KSM",
    "MAPPING_TAGS",
    "AnonVma",
    "Folio",
    "FolioKind",
    "Place",
    "StableNode",
]

#: Added to ``_nr_pages_mapped`` (``subpages_mapcount``) while the folio is mapped as a whole; ENTIRELY_MAPPED
#: since 6.7.
COMPOUND_MAPPED = 0x800000

#: Tag bits of ``page->mapping``: PAGE_MAPPING_ANON, and both bits for KSM.
MAPPING_ANON = 1
MAPPING_KSM = 3
MAPPING_TAGS = 3


class FolioKind(Enum):
    """What sort of memory a folio is, by ``folio->mapping`` and PG_swapbacked; the kernel's is ``OTHER``."""

    OTHER = "other"
    ANON = "anon"
    KSM = "ksm"
    FILE = "file"
    SHMEM = "shmem"


@dataclass(frozen=True)
class Place:
    """Where a folio is mapped: a PMD, or PTEs side by side.

    :param slot: The first page, counted from the start of the VMA.
    :param pfn: What is mapped there.
    """

    vma: Vma
    slot: int
    pfn: int
    count: int
    pmd: bool = False

    @property
    def references(self) -> int:
        """References that these mappings hold."""
        return 1 if self.pmd else self.count


@dataclass(eq=False)
class AnonVma:
    """``struct anon_vma``: finds the VMAs that may map an anonymous page.

    :ivar address: Physical address of the slab object.
    """

    address: int
    vmas: list[Vma] = field(default_factory=list)


@dataclass(eq=False)
class StableNode:
    """``struct ksm_stable_node``: finds the places that map a KSM page.

    :ivar items: The VMA and the slot in it of each (``struct ksm_rmap_item``).
    """

    address: int
    items: list[tuple[Vma, int]] = field(default_factory=list)


@dataclass(eq=False)
class Folio:
    """The counters of a compound page that lie beyond its head, without the kernel's bias of -1.

    Only those of the era are used; the others stay 0.

    :ivar entire_mapcount: Mappings as a whole: ``compound_mapcount``, ``_entire_mapcount`` (6.3).
    :ivar nr_pages_mapped: ``subpages_mapcount`` (6.2), ``_nr_pages_mapped`` (6.3): how many pages are mapped
        by PTEs, plus :data:`COMPOUND_MAPPED` while mapped as a whole.
    :ivar large_mapcount: ``_large_mapcount`` (6.10): the sum of all mappings.
    :ivar double_map: PG_double_map on the first tail (up to 6.1).
    :ivar pincount: FOLL_PIN pins, where the era counts them exactly.
    :ivar mm_id: Ids of two of the mms that map it, 0 for none (6.15).
    :ivar mm_id_mapcount: How many of the mappings are theirs.
    :ivar maybe_mapped_shared: FOLIO_MM_IDS_SHARED_BITNUM, ``folio_maybe_mapped_shared()``.
    :ivar deferred: On the deferred split queue (``_deferred_list``).
    :ivar partially_mapped: PG_partially_mapped on the first tail (6.12).
    """

    head: int
    order: int
    entire_mapcount: int = 0
    nr_pages_mapped: int = 0
    large_mapcount: int = 0
    double_map: bool = False
    pincount: int = 0
    mm_id: list[int] = field(default_factory=lambda: [0, 0])
    mm_id_mapcount: list[int] = field(default_factory=lambda: [0, 0])
    maybe_mapped_shared: bool = False
    deferred: bool = False
    partially_mapped: bool = False

    @property
    def nr_pages(self) -> int:
        """``folio_nr_pages()``."""
        return 1 << self.order

    @property
    def rows(self) -> slice:
        """Its pages, as rows of the columns."""
        return slice(self.head, self.head + self.nr_pages)
