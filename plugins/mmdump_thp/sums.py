"""Sums over large folios: by what they are, by order, by process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mmdump.result import Column, Kind, Schema, Table
from mmdump_thp.folios import KINDS, STATES

if TYPE_CHECKING:
    from mmdump_thp.mappings import Mappings

__all__ = [
    "GROUPS",
    "ORDERS",
    "PROCESSES",
    "fold_groups",
    "fold_processes",
    "group_table",
    "groups_of",
    "order_table",
    "process_table",
    "processes_of",
]

GROUPS = Schema(
    "groups",
    (
        Column("kind", Kind.TEXT, "anon, file, shmem ...", values=KINDS),
        Column("order", Kind.ID, "order of the folios"),
        Column(
            "mapped",
            Kind.TEXT,
            "pmd, pte, both, or not: how they are mapped",
            values=("pmd", "pte", "both", "not"),
        ),
        Column("partially_mapped", Kind.BOOL, "whether some pages are mapped and others are not"),
        Column("folios", Kind.COUNT, "how many"),
        Column("size", Kind.BYTES, "their size"),
        Column("waste", Kind.BYTES, "what splitting them would free"),
        Column("deferred", Kind.BOOL, "on a queue of folios to split"),
        Column("pinned", Kind.BOOL, "with FOLL_PIN pins: cannot be split"),
        Column("mlocked", Kind.BOOL, "PG_mlocked"),
        Column("state", Kind.TEXT, "whole, frozen, torn, unreadable, free", values=STATES),
        Column("memcg", Kind.TEXT, "memory cgroup that is charged"),
        Column("consistent", Kind.BOOL, "whether their counters agree", in_text=False),
        Column("unseen", Kind.BOOL, "whether page tables show other mappings than they count", in_text=False),
        Column("uncounted", Kind.BOOL, "whether mappings are not counted by page", in_text=False),
        Column("counted", Kind.BOOL, "whether one has mappings that are counted by page", in_text=False),
        Column("first_pfn", Kind.PFN, "the first of them", in_text=False),
    ),
    "",
)

ORDERS = Schema(
    "orders",
    (
        Column("order", Kind.ID, "order"),
        Column("kind", Kind.TEXT, "anon, file, shmem ...", values=KINDS),
        Column("folios", Kind.COUNT, "how many"),
        Column("size", Kind.BYTES, "their size"),
        Column("pmd_mapped", Kind.COUNT, "of these, mapped as a whole"),
        Column("partially_mapped", Kind.COUNT, "of these, partially mapped"),
        Column("waste", Kind.BYTES, "what splitting would free"),
    ),
    "By order",
)

PROCESSES = Schema(
    "processes",
    (
        Column("pid", Kind.ID, "the process"),
        Column("comm", Kind.TEXT, "its name"),
        Column("folios", Kind.COUNT, "large folios that it maps"),
        Column("AnonHugePages", Kind.BYTES, "mapped by PMDs, as in its smaps"),
        Column("ShmemPmdMapped", Kind.BYTES, "the same of shared memory"),
        Column("FilePmdMapped", Kind.BYTES, "the same of files"),
        Column("pte_mapped", Kind.BYTES, "pages of large folios that it maps by PTEs"),
        Column("partially_mapped", Kind.COUNT, "of its folios, partially mapped ones"),
        Column("waste", Kind.BYTES, "what splitting those would free, whoever maps them besides"),
    ),
    "By process",
)

_KEYS = (
    "kind",
    "order",
    "mapped",
    "partially_mapped",
    "deferred",
    "pinned",
    "mlocked",
    "state",
    "memcg",
    "consistent",
    "unseen",
    "uncounted",
    "counted",
)
_SUMS = ("folios", "size", "waste")
#: Groups kept apart at most: as many memory cgroups as a damaged dump may pretend to have.
_MAX_GROUPS = 1 << 14


def groups_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum the rows of some ranges."""
    entire, ptes = pl.col("entire_mapcount") > 0, pl.col("pte_mapcount") > 0
    return (
        rows.with_columns(
            pl.when(entire & ptes)
            .then(pl.lit("both"))
            .when(entire)
            .then(pl.lit("pmd"))
            .when(ptes)
            .then(pl.lit("pte"))
            .otherwise(pl.lit("not"))
            .alias("mapped"),
            (pl.col("pincount") > 0).alias("pinned"),
            ((pl.col("state") == "whole") & (pl.col("mappings_found") != pl.col("mapcount"))).alias("unseen"),
            (ptes & ~pl.col("uncounted")).alias("counted"),
            pl.lit(1, pl.Int64).alias("folios"),
            pl.col("pfn").alias("first_pfn"),
        )
        .select(*_KEYS, *_SUMS, "first_pfn")
        .pipe(fold_groups)
    )


def fold_groups(groups: pl.DataFrame) -> pl.DataFrame:
    """Sum groups of several ranges."""
    if groups["memcg"].n_unique() > _MAX_GROUPS:
        groups = groups.with_columns(pl.lit(None, pl.String).alias("memcg"))
    return groups.group_by(_KEYS).agg(*(pl.col(name).sum() for name in _SUMS), pl.col("first_pfn").min())


def group_table(groups: pl.DataFrame) -> Table:
    """The groups, those that waste memory first, then by size."""
    order = ["waste", "size", "first_pfn"]
    return Table(GROUPS, groups.sort(order, descending=[True, True, False]).select(GROUPS.names))


def order_table(groups: pl.DataFrame) -> Table:
    """The groups by order and kind."""
    folios = pl.col("folios")
    frame = (
        groups.group_by("order", "kind")
        .agg(
            folios.sum(),
            pl.col("size").sum(),
            folios.filter(pl.col("mapped").is_in(["pmd", "both"])).sum().alias("pmd_mapped"),
            folios.filter(pl.col("partially_mapped").fill_null(value=False)).sum().alias("partially_mapped"),
            pl.col("waste").sum(),
        )
        .sort("order", "kind", descending=[True, False])
    )
    return Table(ORDERS, frame.select(ORDERS.names))


def processes_of(rows: pl.DataFrame, mappings: Mappings, page_size: int) -> pl.DataFrame:
    """Sum the rows of some ranges by process."""
    lists = {"pids": "pid", "comms": "comm", "pid_pmds": "pmds", "pid_ptes": "ptes"}
    if mappings.why_not is not None:
        rows = rows.head(0)
    exploded = rows.filter(pl.col("pids").list.len() > 0).explode(*lists).rename(lists)
    by_pmd = pl.col("pmds").cast(pl.Int64) * pl.col("size")
    kind = pl.col("kind")
    return exploded.select(
        pl.col("pid").cast(pl.Int64),
        pl.col("comm").cast(pl.String),
        pl.lit(1, pl.Int64).alias("folios"),
        pl.when(kind == "anon").then(by_pmd).otherwise(0).alias("AnonHugePages"),
        pl.when(kind == "shmem").then(by_pmd).otherwise(0).alias("ShmemPmdMapped"),
        pl.when(kind == "file").then(by_pmd).otherwise(0).alias("FilePmdMapped"),
        (pl.col("ptes").cast(pl.Int64) * page_size).alias("pte_mapped"),
        pl.col("partially_mapped").fill_null(value=False).cast(pl.Int64).alias("partially_mapped"),
        pl.col("waste"),
    ).pipe(fold_processes)


def fold_processes(frame: pl.DataFrame) -> pl.DataFrame:
    """Sum processes of several ranges."""
    return frame.group_by("pid", "comm").agg(pl.all().sum()).select(PROCESSES.names)


def process_table(frame: pl.DataFrame) -> Table:
    """The processes, those whose folios waste memory first, then by what they map as a whole."""
    order = ["waste", "AnonHugePages", "pte_mapped", "pid"]
    return Table(PROCESSES, frame.sort(order, descending=[True, True, True, False]))
