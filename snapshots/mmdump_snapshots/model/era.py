"""What the kernel's mm did differently from release to release, as far as the model follows it.

A generator is told which kernel to be, so it may go by version, which a decoder never may. Each property
names the release of its change; structures and their layouts are not the model's business but the profiles'.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

__all__ = ["Era", "Mapcounts", "Pincounts", "Pinner"]


class Mapcounts(Enum):
    """Where a large folio counts its mappings."""

    #: ``compound_mapcount`` for PMD mappings, ``_mapcount`` of each subpage, PG_double_map (4.5 to 6.1).
    DOUBLE_MAP = "double_map"
    #: ``subpages_mapcount``: how many subpages are mapped by PTE, and a bit for PMD mappings (6.2).
    SUBPAGES = "subpages"
    #: The same as ``_nr_pages_mapped``, with ``_entire_mapcount`` (6.3 to 6.9).
    NR_PAGES = "nr_pages"
    #: And ``_large_mapcount``, the sum of all mappings (6.10 and newer).
    LARGE = "large"


class Pincounts(Enum):
    """Where FOLL_PIN pins of compound pages are counted; small pages always add 1024 to their refcount."""

    #: No FOLL_PIN (up to 5.6).
    NONE = "none"
    #: ``page[2].hpage_pinned_refcount``, for orders above 1 (5.7 to 5.17); others as small pages.
    ABOVE_ORDER_1 = "above_order_1"
    #: ``compound_pincount``, later ``folio._pincount``, for all compound pages (5.18 and newer).
    ALL = "all"


class Pinner(IntEnum):
    """The page pinner that a kernel was built with; mainline has none. Android's go by generations."""

    #: "[RFC] mm: introduce page pinner" (December 2021): a flag, and trace events.
    RFC = 1
    #: Its second version, "mm: introduce page pin owner": the same, named anew, for every failed migration.
    PIN_OWNER = 2
    #: Early 2021: who last got each page by get_user_pages(), and pages held for long.
    A0 = 10
    #: And puts of pages that were in the way of a contiguous allocation.
    A1 = 11
    #: With what struct page said at that time (android12-5.10).
    A2 = 12
    #: Records that say what happened: put, freed, failure detected.
    B0 = 20
    #: Only failures, in one ring that is allocated late in boot (android13-5.10).
    B1 = 21
    #: That is allocated when page_ext is set up, with times that are not signed (android14-6.1).
    B2 = 22


@dataclass(frozen=True)
class Era:
    """A kernel release, as the model needs to know it.

    :param version: Release, such as ``(6, 12)``.
    :param page_shift: log2 of the page size in bytes.
    :param pinner: Its page pinner; Android's come with Android's kernels.
    """

    version: tuple[int, int]
    page_shift: int = 12
    pinner: Pinner = Pinner.RFC

    @property
    def android(self) -> bool:
        """Android's common kernel."""
        return self.pinner >= Pinner.A0

    @property
    def pcp_types(self) -> int:
        """``MIGRATE_PCPTYPES``: Android caches pages of CMA areas per CPU too, as a type of their own."""
        return 4 if self.android else 3

    @property
    def page_size(self) -> int:
        """In bytes."""
        return 1 << self.page_shift

    @property
    def max_order(self) -> int:
        """The largest order of the buddy allocator (inclusive): 4 MiB with pages of 4 KiB."""
        return 11 if self.page_shift == 14 else 10

    @property
    def pageblock_order(self) -> int:
        """``HUGETLB_PAGE_ORDER``, at most :attr:`max_order`: 2 MiB (4K pages), 32 MiB (16K pages)."""
        return min(2 * self.page_shift - 15, self.max_order) if self.page_shift == 12 else self.max_order

    @property
    def pmd_order(self) -> int:
        """``HPAGE_PMD_ORDER``: a table of 8-byte entries fills a page."""
        return self.page_shift - 3

    @property
    def section_shift(self) -> int:
        """``SECTION_SIZE_BITS``: 128 MiB on x86-64, and on arm64 with pages of 4 and 16 KiB since 5.12."""
        return 27

    # page_ext

    @property
    def page_ext_flags_always(self) -> bool:
        """Every entry has a flags word; since 6.3 only where an enabled client needs it."""
        return self.version < (6, 3)

    @property
    def guard_pages_in_page_ext(self) -> bool:
        """debug_pagealloc marks guard pages in page_ext (up to 5.2); a page type since 5.3."""
        return self.version < (5, 3)

    # memory allocation profiling

    @property
    def alloc_tags(self) -> bool:
        """Memory allocation profiling exists (6.10)."""
        return self.version >= (6, 10)

    @property
    def alloc_tags_swap(self) -> bool:
        """Migration swaps the tags of both folios, and page->flags may hold them (6.13)."""
        return self.version >= (6, 13)

    # page_owner

    @property
    def owner_on_every_page(self) -> bool:
        """Every base page of an allocation has its record, and PAGE_EXT_OWNER_ALLOCATED exists (5.4)."""
        return self.version >= (5, 4)

    @property
    def owner_has_free_stack(self) -> bool:
        """``free_handle`` (5.4)."""
        return self.version >= (5, 4)

    @property
    def owner_has_pid(self) -> bool:
        """``pid`` and ``ts_nsec`` (5.11)."""
        return self.version >= (5, 11)

    @property
    def owner_has_free_time(self) -> bool:
        """``free_ts_nsec`` (5.13)."""
        return self.version >= (5, 13)

    @property
    def owner_has_comm(self) -> bool:
        """``comm`` and ``tgid`` (5.18)."""
        return self.version >= (5, 18)

    @property
    def owner_has_free_pid(self) -> bool:
        """``free_pid`` and ``free_tgid`` (6.8)."""
        return self.version >= (6, 8)

    @property
    def owner_migrates_every_page(self) -> bool:
        """Migration copies the record to every page, and gives the old ones the new one's handle (6.9)."""
        return self.version >= (6, 9)

    @property
    def owner_split_keeps_order(self) -> bool:
        """A split writes the order of the parts (6.9); 0 before."""
        return self.version >= (6, 9)

    @property
    def owner_counts_stacks(self) -> bool:
        """page_owner keeps a list of its stacks and how many base pages each has (6.9)."""
        return self.version >= (6, 9)

    @property
    def owner_lists_only_spinning(self) -> bool:
        """Stacks first seen where the allocator may not spin do not join page_owner's list (6.18)."""
        return self.version >= (6, 18)

    # stack depot

    @property
    def depot_obeys_nolock(self) -> bool:
        """Without __GFP_RECLAIM the depot does not allocate, and page_owner frees with such a mask (6.15)."""
        return self.version >= (6, 15)

    @property
    def depot_handle_bits(self) -> tuple[int, int, int, int]:
        """Widths in the handle: pool index, offset (in 16 bytes), valid, extra."""
        offset = 2 + self.page_shift - 4
        if self.version < (6, 1):
            return 32 - offset - 1, offset, 1, 0
        if self.version < (6, 8):
            return 32 - offset - 1 - 5, offset, 1, 5
        return 32 - offset - 5, offset, 0, 5

    @property
    def depot_index_plus_1(self) -> bool:
        """The handle holds the pool's index plus one, so that none is 0 (6.9)."""
        return self.version >= (6, 9)

    @property
    def depot_header(self) -> int:
        """Bytes of a ``struct stack_record`` before its entries: a list_head and a count since 6.8."""
        return 32 if self.version >= (6, 8) else 24

    # mappings and pins

    @property
    def mapcounts(self) -> Mapcounts:
        """Where large folios count their mappings."""
        if self.version < (6, 2):
            return Mapcounts.DOUBLE_MAP
        if self.version < (6, 3):
            return Mapcounts.SUBPAGES
        return Mapcounts.NR_PAGES if self.version < (6, 10) else Mapcounts.LARGE

    @property
    def mm_ids(self) -> bool:
        """Large folios know up to two mms that map them (``_mm_id``, 6.15)."""
        return self.version >= (6, 15)

    @property
    def pincounts(self) -> Pincounts:
        """Where pins are counted."""
        if self.version < (5, 7):
            return Pincounts.NONE
        return Pincounts.ABOVE_ORDER_1 if self.version < (5, 18) else Pincounts.ALL

    # free page reporting, isolation

    @property
    def direct_io_pins(self) -> bool:
        """Whether direct I/O pins its pages (6.5); before, it got plain references to them."""
        return self.version >= (6, 5)

    @property
    def page_reporting(self) -> bool:
        """Free page reporting exists (5.7)."""
        return self.version >= (5, 7)

    @property
    def isolate_is_a_bit(self) -> bool:
        """An isolated pageblock keeps its migratetype beside a bit (6.17)."""
        return self.version >= (6, 17)
