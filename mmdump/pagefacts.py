"""What struct page, its zone and its surroundings say about single pages: the core of ``mmdump page``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from mmdump.amounts import counted
from mmdump.errors import MmdumpError
from mmdump.kernel.cma import read_cma_bitmap
from mmdump.kernel.pcp import NO_CPU
from mmdump.kernel.references import KIND_NAMES, account_references
from mmdump.pagenotes import AskedPages, Fact, Section
from mmdump.result import Kind
from mmdump.target.reader import ReadStatus

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.arrays import I64
    from mmdump.kernel.page import PageRange

__all__ = ["core_facts"]

T = TypeVar("T")


def core_facts(kernel: Kernel, asked: AskedPages) -> dict[int, list[Section]]:
    """The sections of each page, by PFN.

    :raises MmdumpError: The page array itself cannot be read.
    """
    found: dict[int, list[Section]] = {}
    for pages, rows in asked.ranges():
        for row in rows.tolist():
            sections = [_page(kernel, pages, row)]
            if pages.readable[row]:
                sections += _use(kernel, pages, row)
            found[pages.start + row] = [*sections, _place(kernel, pages, row)]
    return found


def _known(find: Callable[[], T], default: Any) -> T:
    """What can be found out; a part of a damaged dump must not hide the rest."""
    try:
        return find()
    except MmdumpError:
        return cast("T", default)


def _one(row: int) -> I64:
    return np.array([row], np.int64)


_STATUS = {
    ReadStatus.READ: None,
    ReadStatus.ZERO_FILLED: "not in the dump, which reads as zeros",
    ReadStatus.UNREADABLE: "not in the dump",
    ReadStatus.ERASED: "erased from the dump",
}


def _page(kernel: Kernel, pages: PageRange, row: int) -> Section:
    """The page itself."""
    pfn = pages.start + row
    facts = [
        Fact("pfn", pfn, Kind.PFN),
        Fact("physical", pfn << kernel.target.page_shift, Kind.ADDRESS),
        Fact("struct page", kernel.memmap.address(pfn), Kind.ADDRESS),
    ]
    lost = _STATUS[ReadStatus(int(pages.status[row]))]
    if lost is not None:
        return Section("page", [*facts, Fact("struct page is", lost)], 0)
    word = int(pages.flags[row])
    flags = _known(lambda: kernel.page_flag_names.split(word), [])
    facts += [
        Fact("flags", "|".join(flags) or "none"),
        Fact("flags word", word, Kind.BITS),
        Fact("is", _state(pages, row)),
    ]
    typed = pages.is_typed(at=_one(row))[0]
    kinds = [name for name in pages.layout.types if typed and pages.is_type(name, at=_one(row))[0]]
    if pages.is_type("slab", at=_one(row))[0] and "slab" not in kinds:
        kinds.append("slab")
    if kinds:
        facts.append(Fact("page type", ", ".join(kinds)))
    facts += [
        Fact("_refcount", int(pages.refcount[row]), Kind.COUNT),
        Fact("_mapcount", int(pages.raw_mapcount[row]), Kind.ID),
        Fact("mapping", int(pages.mapping[row]), Kind.ADDRESS),
        Fact("index", int(pages.index[row]), Kind.BITS),
        Fact("private", int(pages.private[row]), Kind.ADDRESS),
    ]
    return Section("page", facts, 0)


def _state(pages: PageRange, row: int) -> str:
    """In a few words, what this page is."""
    if pages.is_buddy[row]:
        return "the first page of a free block"
    if pages.in_free_block[row]:
        return "in a free block"
    if pages.is_tail[row]:
        return "a tail of a folio"
    if pages.is_head[row]:
        return "the head of a folio"
    if pages.has_flag("PG_reserved", at=_one(row))[0]:
        return "reserved"
    if pages.refcount[row] == 0:
        return "without references: free on a per-CPU list, frozen, or never given to the allocator"
    return "a single page, in use"


def _use(kernel: Kernel, pages: PageRange, row: int) -> list[Section]:
    """The free block it is in, or the folio it belongs to and who refers to that."""
    free = _free(kernel, pages, row)
    if free is not None:
        return [free]
    pfn = pages.start + row
    head_pfn = int(pages.head_pfn[row])
    if head_pfn == pfn and pages.is_tail[row]:
        word = int(pages.compound_head[row])
        return [Section("folio", [Fact("head", f"none: compound_head is {word:#x}, which is no page's")], 10)]
    # The head of a gigantic folio lies in another range.
    if head_pfn < pages.start:
        size = min(kernel.memmap.end_pfn, head_pfn + 2)
        pages, row = kernel.pages(head_pfn, size), 0
    else:
        row = head_pfn - pages.start
    sections = []
    if pages.is_head[row]:
        order = int(pages.folio_order[row])
        facts = [
            Fact("head", head_pfn, Kind.PFN),
            Fact(
                "order",
                order or f"{int(pages.stored_folio_order(_one(row))[0])}, which is impossible",
                Kind.ID,
            ),
            Fact("size", kernel.target.page_size << order, Kind.BYTES),
        ]
        if head_pfn != pfn:
            facts.insert(1, Fact("tail number", pfn - head_pfn, Kind.ID))
            flags = _known(lambda: kernel.page_flag_names.split(int(pages.flags[row])), [])
            facts.append(Fact("head's flags", "|".join(flags) or "none"))
        sections.append(Section("folio", facts, 10))
    elif head_pfn != pfn:
        sections.append(
            Section("folio", [Fact("head", head_pfn, Kind.PFN), Fact("which is", "no head page")], 10)
        )
    return [*sections, _references(kernel, pages, row)]


def _references(kernel: Kernel, pages: PageRange, row: int) -> Section:
    """The account of its references, as ``mmdump pinned`` keeps it."""
    rows = _one(row)
    account = account_references(pages, rows, kernel.folio_batches)
    kinds = account.kinds
    kind = KIND_NAMES[int(kinds.codes()[0])]
    if _typed(pages, row):
        # Where others have their mapping, such a page has something of its own.
        kind = "other"
    batched = int(kernel.folio_batches.references(rows + pages.start)[0])
    cached = bool((kinds.file | kinds.shmem)[0])
    parts = [counted(int(account.mapcount[0]), "mapping")]
    if cached:
        parts.append(f"page cache {1 << int(pages.folio_order[row])}")
    elif pages.has_all_flags("PG_swapcache", "PG_swapbacked", at=rows)[0]:
        parts.append(f"swap cache {1 << int(pages.folio_order[row])}")
    if pages.has_flag("PG_private", at=rows)[0] and not kinds.anon[0]:
        parts.append("private data 1")
    if batched:
        parts.append(f"per-CPU batches {batched}")
    if account.pincount[0]:
        parts.append(f"FOLL_PIN {int(account.pincount[0])}")
    explained = int(account.explained[0])
    if kind == "other" and explained and not parts[1:]:
        parts.append(f"the allocation itself {explained - int(account.mapcount[0])}")
    facts = [
        Fact("kind", "the kernel's own" if kind == "other" else kind),
        Fact("references", int(account.references[0]), Kind.COUNT),
        Fact("explained", explained, Kind.COUNT),
        Fact("by", ", ".join(parts)),
        Fact("excess", int(account.excess[0]), Kind.COUNT),
        Fact("folio mapcount", int(account.mapcount[0]), Kind.COUNT),
    ]
    if "_entire_mapcount" in pages.layout.folio and pages.is_head[row] and not _typed(pages, row):
        facts.append(
            Fact("mapped as a whole", int(pages.folio_field("_entire_mapcount", rows)[0]) + 1, Kind.COUNT)
        )
    return Section("references", facts, 20)


def _typed(pages: PageRange, row: int) -> bool:
    """Whether a page of this type is the kernel's own: slab, page tables and so on, but for hugetlb."""
    rows = _one(row)
    typed = pages.is_typed(at=rows)[0] or pages.is_type("slab", at=rows)[0]
    return bool(typed and not pages.is_type("hugetlb", at=rows)[0])


def _free(kernel: Kernel, pages: PageRange, row: int) -> Section | None:
    """The free block or per-CPU list that a page is on; None where it is not free."""
    pfn = pages.start + row
    if pages.in_free_block[row]:
        heads = np.flatnonzero(pages.is_buddy[: row + 1])
        order = pages.buddy_order[heads].astype(np.int64)
        # Blocks may overlap in a damaged dump: the last that reaches so far.
        head = int(heads[heads + np.left_shift(1, order) > row][-1])
        reported = "PG_reported" in pages.layout.flags and pages.has_flag("PG_reported", at=_one(head))[0]
        facts = [
            Fact("in", "the buddy allocator"),
            Fact("block", pages.start + head, Kind.PFN),
            Fact("order", int(pages.buddy_order[head]), Kind.ID),
            Fact("reported", bool(reported), Kind.BOOL),
        ]
        return Section("free", facts, 10)
    stock = _known(lambda: kernel.per_cpu_pages, None)
    if stock is None or pages.refcount[row] > 0:
        return None
    sizes = np.left_shift(1, stock.order.astype(np.int64))
    on = np.flatnonzero((stock.pfn <= pfn) & (pfn < stock.pfn + sizes))
    if not len(on):
        return None
    cpu = int(stock.cpu[on[0]])
    facts = [
        Fact("in", "trylock_free_pages of its zone" if cpu == NO_CPU else f"the per-CPU list of CPU {cpu}"),
        Fact("block", int(stock.pfn[on[0]]), Kind.PFN),
        Fact("order", int(stock.order[on[0]]), Kind.ID),
    ]
    kind = int(stock.migratetype[on[0]])
    if kind >= 0:
        names = _known(lambda: kernel.pageblocks.names, ())
        facts.append(Fact("migratetype", names[kind] if kind < len(names) else kind, Kind.ID))
    return Section("free", facts, 10)


def _place(kernel: Kernel, pages: PageRange, row: int) -> Section:
    """Node, zone, pageblock, CMA area."""
    pfn = pages.start + row
    facts: list[Fact] = []
    if pages.readable[row]:
        node, zone = int(pages.node[row]), int(pages.zone[row])
        names = _known(lambda: {(each.node, each.index): each.name for each in kernel.zones}, {})
        facts += [Fact("node", node, Kind.ID), Fact("zone", names.get((node, zone), f"zone {zone}"))]
    layout = _known(lambda: kernel.pageblocks, None)
    if layout is not None:
        kind = int(pages.migratetype[row])
        name = layout.names[kind] if kind < len(layout.names) else f"unknown ({kind})"
        facts += [
            Fact("pageblock", pfn >> layout.order << layout.order, Kind.PFN),
            Fact("pageblock type", name),
        ]
    facts += _cma(kernel, pfn)
    return Section("place", facts, 40)


def _cma(kernel: Kernel, pfn: int) -> Sequence[Fact]:
    for area in _known(lambda: kernel.cma_areas, []):
        if area.base_pfn <= pfn < area.end_pfn:
            bitmap = read_cma_bitmap(kernel.target.reader, area)
            words = {None: "not in the dump", True: "given out by cma_alloc()", False: "not given out"}
            given = None if bitmap is None else bool(bitmap[pfn - area.base_pfn])
            return [Fact("CMA area", area.name), Fact("in its bitmap", words[given])]
    return ()


def sections_by_rank(found: Mapping[int, Sequence[Section]], pfn: int) -> list[Section]:
    """A page's sections in the order in which they should be read."""
    return sorted(found.get(pfn, ()), key=lambda each: each.rank)
