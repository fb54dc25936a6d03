"""The rows of ``mmdump thp``: one for each large folio, and how they come from codes to names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.kernel.arrays import decoded
from mmdump.result import Column, Kind, Schema
from mmdump_thp.folios import COUNTERS, KINDS, STATES, WHOLE, LargeFolios

if TYPE_CHECKING:
    from mmdump.analysis import Columns
    from mmdump.kernel.arrays import U64
    from mmdump.kernel.memcg import MemoryCgroups
    from mmdump.kernel.names import FlagNames
    from mmdump.kernel.page import PageRange
    from mmdump_thp.layout import LargeLayout
    from mmdump_thp.mappings import Mappings

__all__ = ["FOLIOS", "decode_rows", "folio_rows", "link_rows"]

FOLIOS = Schema(
    "folios",
    (
        Column("pfn", Kind.PFN, "the first page of the folio"),
        Column("order", Kind.ID, "its order"),
        Column("size", Kind.BYTES, "its size"),
        Column(
            "kind",
            Kind.TEXT,
            "anon, file, shmem, huge_zero, hugetlb, or other: without a mapping",
            values=KINDS,
        ),
        Column(
            "state",
            Kind.TEXT,
            "whole; frozen: no references; torn: tails missing; unreadable; free",
            values=STATES,
        ),
        Column("mapcount", Kind.COUNT, "all mappings, folio_mapcount()"),
        Column("entire_mapcount", Kind.COUNT, "mappings of the whole, by PMDs"),
        Column("pte_mapcount", Kind.COUNT, "mappings of its pages by PTEs, summed"),
        Column("pages_mapped", Kind.COUNT, "pages of it that are mapped at all; null where not counted"),
        Column("partially_mapped", Kind.BOOL, "some of its pages are mapped, others are not"),
        Column("waste", Kind.BYTES, "what splitting it would free: unmapped pages of anonymous memory"),
        Column("double_map", Kind.BOOL, "mapped both as a whole and page by page"),
        Column("deferred", Kind.BOOL, "on a queue of folios to split; null where it has no such link"),
        Column("refcount", Kind.COUNT, "references", in_text=False),
        Column("pincount", Kind.COUNT, "FOLL_PIN pins"),
        Column("mlocked", Kind.BOOL, "PG_mlocked"),
        Column("memcg", Kind.TEXT, "path of the memory cgroup that is charged"),
        Column("pids", Kind.ID, "processes whose page tables map it"),
        Column("comms", Kind.TEXT, "their names"),
        Column("pid_pmds", Kind.COUNT, "PMDs of each that map the whole", in_text=False),
        Column("pid_ptes", Kind.COUNT, "PTEs of each that map pages of it", in_text=False),
        Column(
            "mappings_found",
            Kind.COUNT,
            "mappings in all those page tables; should be mapcount",
            in_text=False,
        ),
        Column("consistent", Kind.BOOL, "whether its counters agree with one another", in_text=False),
        Column("wrong", Kind.TEXT, "the counters that do not"),
        Column(
            "PG_double_map",
            Kind.BOOL,
            "the flag, up to 6.1: every page counts one mapping of the whole",
            in_text=False,
        ),
        Column("PG_partially_mapped", Kind.BOOL, "the flag, since 6.12", in_text=False),
        Column("nr_pages_mapped", Kind.BITS, "_nr_pages_mapped as stored, since 6.2", in_text=False),
        Column(
            "mm_ids", Kind.ID, "numbers of up to two address spaces that map it, since 6.15", in_text=False
        ),
        Column("mm_id_mapcounts", Kind.COUNT, "how often each does", in_text=False),
        Column("maybe_mapped_shared", Kind.BOOL, "whether there may be others, since 6.15", in_text=False),
        Column("flags", Kind.TEXT, "page flags of the head", in_text=False),
        Column("node", Kind.ID, "NUMA node", in_text=False),
        Column("zone", Kind.TEXT, "zone", in_text=False),
    ),
    "Large folios",
)

#: Flags of the second page that are columns.
_SECOND_PAGE = ("PG_double_map", "PG_partially_mapped")
#: FOLIO_MM_IDS_SHARED_BITNUM, as a bit of the second id; the ids are below it.
_MM_ID_BIT = 31
#: What a truth value is where there is none.
_UNKNOWN = 2


def folio_rows(pages: PageRange, found: LargeFolios, layout: LargeLayout, memcg: U64 | None) -> Columns:
    """The rows of a range, with codes for what has names.

    :param memcg: The word that leads to the cgroup, of each folio; None without any.
    """
    heads = found.rows
    torn = found.state != WHOLE
    columns: dict[str, np.ndarray] = {
        "pfn": heads + pages.start,
        "order": found.order,
        "kind": found.kind,
        "state": found.state,
        "mapcount": found.mapcount,
        "entire_mapcount": found.entire,
        "pte_mapcount": found.ptes,
        "pages_mapped": found.pages_mapped,
        "wrong": found.wrong,
        "uncounted": found.uncounted,
        "deferred": _deferred(pages, found, layout),
        "refcount": pages.refcount[heads].astype(np.int64),
        "pincount": np.where(torn, 0, pages.folio_pincount(heads)),
        "mlocked": pages.has_flag("PG_mlocked", at=heads),
        "memcg": np.zeros(len(heads), np.uint64) if memcg is None else memcg,
        "flags": pages.flags[heads],
        "node": pages.node_of(heads).astype(np.int64),
        "zone": pages.zone_of(heads),
    }
    second = pages.folio_field("_flags_1", heads)
    for name in _SECOND_PAGE:
        bit = pages.layout.flags.get(name)
        code = np.full(len(heads), _UNKNOWN) if bit is None else np.where(torn, _UNKNOWN, second >> bit & 1)
        columns[name] = code.astype(np.uint8)
    for name in ("_nr_pages_mapped", "_mm_id_0", "_mm_id_1", "_mm_id_mapcount_0", "_mm_id_mapcount_1"):
        field = layout.fields.get(name)
        nothing = np.full(len(heads), -1, np.int64)
        columns[name] = nothing if field is None else np.where(torn, -1, pages.folio_value(field, heads))
    return columns


def _deferred(pages: PageRange, found: LargeFolios, layout: LargeLayout) -> np.ndarray:
    """Whether each folio is on a queue of folios to split: its link leads elsewhere than to itself."""
    follows = _link(pages, found, layout, "next")
    own = _own_link(pages, found, layout)
    # Folios of order 1 have no third page, hugetlb keeps other things there, and what never was initialised
    # is no link.
    none = (follows == 0) | (found.order < 2) | ~_may_be_queued(found)
    return np.where(none, _UNKNOWN, follows != own).astype(np.uint8)


def _may_be_queued(found: LargeFolios) -> np.ndarray:
    return (found.state == WHOLE) & (found.kind != KINDS.index("hugetlb"))


def _link(pages: PageRange, found: LargeFolios, layout: LargeLayout, way: str) -> np.ndarray:
    field = layout.fields.get(f"_deferred_list_{way}")
    nothing = np.zeros(len(found), np.int64)
    return nothing if field is None else pages.folio_value(field, found.rows)


def _own_link(pages: PageRange, found: LargeFolios, layout: LargeLayout) -> np.ndarray:
    """Address of each folio's link, int64 as it wraps around."""
    field = layout.fields.get("_deferred_list_next")
    offset = 0 if field is None else field.offset
    size = pages.layout.dtype.itemsize
    rows = (found.rows + pages.start).astype(np.uint64) * np.uint64(size)
    return (rows + np.uint64(layout.vmemmap + offset)).astype(np.int64)


def link_rows(pages: PageRange, found: LargeFolios, layout: LargeLayout) -> Columns:
    """The links of folios on a queue: ``node``, ``next``, ``prev``, all int64 as they wrap around."""
    queued = _deferred(pages, found, layout) == 1
    return {
        "node": _own_link(pages, found, layout)[queued],
        "next": _link(pages, found, layout, "next")[queued],
        "prev": _link(pages, found, layout, "prev")[queued],
    }


def decode_rows(
    rows: pl.DataFrame,
    page_size: int,
    zone_names: tuple[str, ...],
    flag_names: FlagNames,
    cgroups: MemoryCgroups | None,
    mappings: Mappings,
) -> pl.DataFrame:
    """The columns of table ``folios``, and ``uncounted``."""
    count = pl.lit(1, pl.Int64) * 2 ** pl.col("order")
    mapped = pl.when(pl.col("pages_mapped") >= 0).then(pl.col("pages_mapped"))
    partially = (mapped > 0) & (mapped < count)
    anon, shared = pl.col("kind") == "anon", pl.col("_mm_id_1")
    rows = rows.with_columns(
        pl.Series(KINDS).gather(rows["kind"]).alias("kind"),
        pl.Series(STATES).gather(rows["state"]).alias("state"),
        pl.Series(zone_names).gather(rows["zone"]).alias("zone"),
        flag_names.series(rows["flags"]).alias("flags"),
        _paths(rows["memcg"], cgroups),
        _WRONG.gather(rows["wrong"]).alias("wrong"),
        (pl.col("wrong") == 0).alias("consistent"),
        *(
            pl.when(pl.col(name) != _UNKNOWN).then(pl.col(name) == 1).alias(name)
            for name in ("deferred", *_SECOND_PAGE)
        ),
        count.cast(pl.Int64).alias("count"),
        mapped.alias("pages_mapped"),
    )
    rows = rows.with_columns(
        (pl.col("count") * page_size).alias("size"),
        partially.alias("partially_mapped"),
        ((pl.col("entire_mapcount") > 0) & (pl.col("pte_mapcount") > 0)).alias("double_map"),
        pl.when(pl.col("_nr_pages_mapped") >= 0).then(pl.col("_nr_pages_mapped")).alias("nr_pages_mapped"),
        pl.when(shared != -1).then(_bit(shared)).alias("maybe_mapped_shared"),
        *_mm_ids(),
    )
    waste = pl.when(anon & pl.col("partially_mapped")).then(pl.col("count") - pl.col("pages_mapped"))
    rows = rows.with_columns((waste.otherwise(0) * page_size).alias("waste"))
    return _with_processes(rows, mappings).select(*FOLIOS.names, "uncounted")


_WRONG = pl.Series(
    [[name for bit, name in enumerate(COUNTERS) if code >> bit & 1] for code in range(1 << len(COUNTERS))],
    dtype=pl.List(pl.String),
)


def _bit(word: pl.Expr) -> pl.Expr:
    return (word // (1 << _MM_ID_BIT)) % 2 == 1


def _mm_ids() -> list[pl.Expr]:
    """The two slots as lists, without those that are empty."""
    ids = [pl.col(f"_mm_id_{slot}") % (1 << _MM_ID_BIT) for slot in (0, 1)]
    counts = [pl.col(f"_mm_id_mapcount_{slot}") + 1 for slot in (0, 1)]
    there = pl.col("_mm_id_0") != -1
    used = [pl.when(there & (each > 0)).then(each) for each in ids]
    used_counts = [pl.when(there & (each > 0)).then(count) for each, count in zip(ids, counts, strict=True)]
    return [
        pl.when(there).then(pl.concat_list(*each).list.drop_nulls()).alias(name)
        for name, each in (("mm_ids", used), ("mm_id_mapcounts", used_counts))
    ]


def _paths(words: pl.Series, cgroups: MemoryCgroups | None) -> pl.Series:
    if cgroups is None:
        return pl.Series("memcg", [None] * len(words), dtype=pl.String)
    return decoded(words, lambda word: cgroups.charge(word).path, pl.String()).alias("memcg")


_LISTS = {"pids": "pid", "comms": "comm", "pid_pmds": "pmds", "pid_ptes": "ptes"}


def _with_processes(rows: pl.DataFrame, mappings: Mappings) -> pl.DataFrame:
    """Add who maps each folio: lists of equal length, one element for each process."""
    pairs = mappings.of(rows["pfn"].to_numpy())
    numbered = rows.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    found = pairs.group_by("row").agg((pl.col("ptes") + pl.col("pmds")).sum().alias("mappings_found"))
    lists = (
        pairs.join(mappings.processes, on="mm", how="inner")
        .sort("row", "pid")
        .group_by("row")
        .agg(pl.col(each).alias(name) for name, each in _LISTS.items())
    )
    joined = numbered.join(found, on="row", how="left", maintain_order="left")
    joined = joined.join(lists, on="row", how="left", maintain_order="left")
    if mappings.why_not is not None:
        return joined
    return joined.with_columns(
        pl.col("mappings_found").fill_null(0),
        *(pl.col(name).fill_null([]) for name in _LISTS),
    )
