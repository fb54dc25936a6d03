"""The columns of ``mmdump pages``: how each is read from a range of pages, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import polars as pl

from mmdump.kernel.pageblock import UNKNOWN
from mmdump.kernel.references import KIND_NAMES, account_references, folio_kinds
from mmdump.result import Column, Kind, Schema
from mmdump.target.reader import ReadStatus
from mmdump_kpage.flags import precise_mapcount
from mmdump_page_owner.record import OWNER_COLUMNS
from mmdump_page_pinner.marks import marked

if TYPE_CHECKING:
    from mmdump.kernel.arrays import I64, Struct
    from mmdump.kernel.cma import CmaArea
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange
    from mmdump.kernel.references import FolioBatches
    from mmdump_page_owner.record import Owners

__all__ = ["ALWAYS", "CODED", "DTYPES", "EXT_COLUMNS", "OWNER_NAMES", "PAGES", "READ", "State"]


@dataclass(frozen=True)
class State:
    """What the columns need beside the pages. Plain data, but for what nobody asked for: that is None.

    :param areas: CMA areas.
    :param memcgs: Paths of memory cgroups by the page's word.
    """

    vmemmap: int
    page_shift: int
    zone_names: tuple[str, ...]
    migratetypes: tuple[str, ...]
    areas: tuple[CmaArea, ...]
    flag_names: FlagNames | None
    batches: FolioBatches | None
    owners: Owners | None


PAGES = Schema(
    "pages",
    (
        Column("pfn", Kind.PFN, "page frame number"),
        Column("phys", Kind.ADDRESS, "physical address", in_text=False),
        Column("page", Kind.ADDRESS, "address of its struct page", in_text=False),
        Column(
            "status",
            Kind.TEXT,
            "read; or unreadable, zero_filled or erased, and all else is absent",
            values=("read", "unreadable", "zero_filled", "erased"),
            in_text=False,
        ),
        Column("flags", Kind.TEXT, "page flags"),
        Column("flags_word", Kind.BITS, "page->flags as it is stored", in_text=False),
        Column("page_type", Kind.TEXT, "buddy, slab, table, hugetlb and so on"),
        Column("refcount", Kind.COUNT, "_refcount; 0 in tails, whose folio's is in the head"),
        Column("mapcount", Kind.COUNT, "how often the page is mapped, as in /proc/kpagecount"),
        Column("folio_mapcount", Kind.COUNT, "how often its folio is mapped", in_text=False),
        Column("pincount", Kind.COUNT, "FOLL_PIN pins of its folio", in_text=False),
        Column("explained", Kind.COUNT, "references to its folio that have a known reason", in_text=False),
        Column("excess", Kind.COUNT, "references to its folio that nothing known explains", in_text=False),
        Column("mapping", Kind.ADDRESS, "page->mapping as it is stored", in_text=False),
        Column("index", Kind.BITS, "page->index", in_text=False),
        Column("private", Kind.BITS, "page->private", in_text=False),
        Column("memcg_data", Kind.ADDRESS, "page->memcg_data (mem_cgroup up to 5.10)", in_text=False),
        Column("compound", Kind.TEXT, "head or tail", values=("head", "tail")),
        Column("head_pfn", Kind.PFN, "first page of its folio", in_text=False),
        Column("order", Kind.ID, "order of its folio"),
        Column("free", Kind.BOOL, "in a free block of the buddy allocator", in_text=False),
        Column("buddy_order", Kind.ID, "order of the free block that begins here"),
        Column("kind", Kind.TEXT, "anon, file, shmem, ksm, or other", values=KIND_NAMES),
        Column("node", Kind.ID, "NUMA node", in_text=False),
        Column("zone", Kind.TEXT, "zone"),
        Column("migratetype", Kind.TEXT, "migratetype of its pageblock"),
        Column("cma_area", Kind.TEXT, "CMA area it lies in", in_text=False),
        Column("page_pinner", Kind.BOOL, "marked by the page pinner", in_text=False),
        *(Column(each.name, each.kind, each.description, in_text=False) for each in OWNER_COLUMNS),
    ),
    "Pages",
)

OWNER_NAMES = tuple(each.name for each in OWNER_COLUMNS)
#: Columns that need page_ext.
EXT_COLUMNS = frozenset(OWNER_NAMES) | {"page_pinner"}
#: Columns that are known of pages that could not be read, too.
ALWAYS = ("pfn", "phys", "page", "status")

DTYPES: Mapping[str, pl.DataType] = {
    "pfn": pl.Int64(),
    "phys": pl.UInt64(),
    "page": pl.UInt64(),
    "status": pl.String(),
    "flags": pl.List(pl.String),
    "flags_word": pl.UInt64(),
    "page_type": pl.String(),
    "refcount": pl.Int64(),
    "mapcount": pl.Int64(),
    "folio_mapcount": pl.Int64(),
    "pincount": pl.Int64(),
    "explained": pl.Int64(),
    "excess": pl.Int64(),
    "mapping": pl.UInt64(),
    "index": pl.UInt64(),
    "private": pl.UInt64(),
    "memcg_data": pl.UInt64(),
    "compound": pl.String(),
    "head_pfn": pl.Int64(),
    "order": pl.Int64(),
    "free": pl.Boolean(),
    "buddy_order": pl.Int64(),
    "kind": pl.String(),
    "node": pl.Int64(),
    "zone": pl.String(),
    "migratetype": pl.String(),
    "cma_area": pl.String(),
    "page_pinner": pl.Boolean(),
    "owner_pid": pl.Int64(),
    "owner_tgid": pl.Int64(),
    "owner_comm": pl.String(),
    "owner_ts_nsec": pl.UInt64(),
    "owner_order": pl.Int64(),
    "owner_gfp_mask": pl.UInt64(),
    "owner_gfp_flags": pl.List(pl.String),
    "stack_id": pl.Int64(),
}

Read: TypeAlias = "Callable[[PageRange, State], Struct]"


def _of_folio(find: Callable[[PageRange, I64, State], I64]) -> Read:
    """A column of folios, for every page of them: computed once for each head and small folio."""

    def read(pages: PageRange, state: State) -> Struct:
        heads = pages.head_rows()
        rows, inverse = np.unique(heads, return_inverse=True)
        return find(pages, rows, state)[inverse]

    return read


def _account(name: str) -> Read:
    def find(pages: PageRange, rows: I64, state: State) -> I64:
        assert state.batches is not None
        account = account_references(pages, rows, state.batches)
        return getattr(account, name)

    return _of_folio(find)


def _kinds(pages: PageRange, rows: I64, state: State) -> I64:  # noqa: ARG001
    """What sort of memory; a page of a type has something else where others have their mapping."""
    own = (pages.is_typed(at=rows) | pages.is_type("slab", at=rows)) & ~pages.is_type("hugetlb", at=rows)
    return np.where(own, 0, folio_kinds(pages, rows).codes())


def _type_codes(pages: PageRange, state: State) -> Struct:  # noqa: ARG001
    """Index into the names of page types, sorted; their number where a page has no type."""
    names = sorted({*pages.layout.types, "slab", "hugetlb"} - {"mapcount_underflow"})
    codes = np.full(len(pages), len(names), np.uint8)
    for code, name in enumerate(names):
        codes[pages.is_type(name)] = code
    return codes


def _areas(pages: PageRange, state: State) -> Struct:
    found = np.full(len(pages), len(state.areas), np.int64)
    for code, area in enumerate(state.areas):
        low, high = max(area.base_pfn - pages.start, 0), min(area.end_pfn - pages.start, len(pages))
        found[low : max(low, high)] = code
    return found


def _marks(pages: PageRange, state: State) -> Struct:  # noqa: ARG001
    return marked(pages.ext) if pages.ext is not None else np.zeros(len(pages), bool)


#: How each column is read: numbers as they are, and what has names as codes.
READ: Mapping[str, Read] = {
    "pfn": lambda pages, _: pages.pfn,
    "phys": lambda pages, state: pages.pfn.astype(np.uint64) << np.uint64(state.page_shift),
    "page": lambda pages, state: (
        np.uint64(state.vmemmap) + pages.pfn.astype(np.uint64) * np.uint64(pages.layout.dtype.itemsize)
    ),
    "status": lambda pages, _: pages.status,
    "flags": lambda pages, _: pages.flags,
    "flags_word": lambda pages, _: pages.flags,
    "page_type": _type_codes,
    "refcount": lambda pages, _: pages.refcount.astype(np.int64),
    "mapcount": lambda pages, _: precise_mapcount(pages).astype(np.int64),
    "folio_mapcount": _of_folio(lambda pages, rows, _: pages.folio_mapcount(rows)),
    "pincount": _account("pincount"),
    "explained": _account("explained"),
    "excess": _account("excess"),
    "mapping": lambda pages, _: pages.mapping,
    "index": lambda pages, _: pages.index,
    "private": lambda pages, _: pages.private,
    "memcg_data": lambda pages, _: pages.memcg_data | pages.mem_cgroup,
    "compound": lambda pages, _: pages.is_head + pages.is_tail * np.uint8(2),
    "head_pfn": lambda pages, _: pages.head_pfn,
    # The head of a gigantic folio may lie in another range: its order is not known here.
    "order": lambda pages, _: np.where(
        pages.head_pfn < pages.start, -1, pages.folio_order[pages.head_rows()].astype(np.int64)
    ),
    "free": lambda pages, _: pages.in_free_block,
    "buddy_order": lambda pages, _: np.where(pages.is_buddy, pages.buddy_order.astype(np.int64), -1),
    "kind": _of_folio(_kinds),
    "node": lambda pages, _: pages.node,
    "zone": lambda pages, _: pages.zone,
    "migratetype": lambda pages, _: pages.migratetype,
    "cma_area": _areas,
    "page_pinner": _marks,
}


def _statuses(state: State) -> list[str | None]:  # noqa: ARG001
    return [each.name.lower() for each in ReadStatus]


def _migratetypes(state: State) -> list[str | None]:
    return [*state.migratetypes, *[None] * (UNKNOWN + 1 - len(state.migratetypes))]


#: What codes mean: a list of texts for each column that has them. Types of pages are the layout's.
CODED: Mapping[str, Callable[[State], list[str | None]]] = {
    "status": _statuses,
    "compound": lambda _: [None, "head", "tail", "tail"],
    "kind": lambda _: list(KIND_NAMES),
    "zone": lambda state: list(state.zone_names),
    "migratetype": _migratetypes,
    "cma_area": lambda state: [*(area.name for area in state.areas), None],
}
