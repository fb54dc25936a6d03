"""``mmdump table-check``: what page tables map, and pages where that cannot be."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Need, option
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump_table_check.client import TABLE_CHECK, why_no_counts

STATES = ("anonymous", "file", "both", "free")
ANONYMOUS, FILE, BOTH, FREE = range(len(STATES))

#: Sums by state, for all of memory.
SUMS = Schema(
    "states",
    (
        Column("state", description="anonymous, file; both or free, which cannot be"),
        Column("pages", Kind.COUNT, "pages that page tables map"),
        Column("mappings", Kind.COUNT, "page table entries that map them"),
    ),
)
#: One row for each page where something is wrong. In a damaged dump these could be all pages, so they are
#: streamed: they go to the output as they are found, and never lie in memory together.
SUSPECTS = Schema(
    "suspects",
    (
        Column("pfn", Kind.PFN, "the page"),
        Column("state", description="both: anonymous and not; free: in a free block, yet mapped"),
        Column("anon", Kind.COUNT, "entries that map it as anonymous memory"),
        Column("file", Kind.COUNT, "entries that map it as anything else"),
    ),
    "Pages where this cannot be",
)


@dataclass(frozen=True)
class TableCheck(Analysis):
    """What page tables map, as page_table_check counts it, and pages where that cannot be.

    A page that is free and mapped is somebody's memory that will be given to somebody else.
    """

    name = "table-check"
    summary = "mappings that page_table_check counts, and pages where they cannot be"
    needs = (Need(why_no_counts),)
    page_ext = (TABLE_CHECK.name,)
    stream = SUSPECTS

    least: int | None = option("--least", "only pages with at least so many mappings", default=1, metavar="N")

    def scan(self, pages, state):
        """In numpy, for a range of at most 131,072 pages."""
        counts = pages.ext[TABLE_CHECK.name]
        anon, file = counts["anon"], counts["file"]
        rows = np.flatnonzero(np.maximum(anon, file) >= max(self.least or 1, 1))
        anon, file = anon[rows].astype(np.int64), file[rows].astype(np.int64)
        states = np.where(anon > 0, ANONYMOUS, FILE)
        states[(anon > 0) & (file > 0)] = BOTH
        states[pages.in_free_block[rows]] = FREE
        return {"mapped": {"pfn": pages.pfn[rows], "code": states, "anon": anon, "file": file}}

    def batch(self, rows, state):
        """In polars, for the rows of many ranges: what is kept, and what is streamed."""
        mapped = rows["mapped"].with_columns(
            pl.col("code").replace_strict(dict(enumerate(STATES)), return_dtype=pl.String).alias("state")
        )
        sums = mapped.group_by("state").agg(
            pl.len().cast(pl.Int64).alias("pages"),
            (pl.col("anon") + pl.col("file")).sum().alias("mappings"),
        )
        return {
            "states": sums,
            "suspects": mapped.filter(pl.col("code") >= BOTH).select(SUSPECTS.names),
        }

    def fold(self, part, frame):
        """Sums of sums: memory stays bounded."""
        return frame.group_by("state").agg(pl.col("pages", "mappings").sum())

    def finish(self, kernel, state, parts):
        """The answer."""
        empty = pl.DataFrame(schema={"state": pl.String, "pages": pl.Int64, "mappings": pl.Int64})
        sums = parts.get("states", empty).sort("state")
        pages = dict(sums.select("state", "pages").iter_rows())
        return Result(
            self.name,
            summary=[f"{sum(pages.values()):,} pages are mapped by page tables"],
            tables={SUMS.name: Table(SUMS, sums)},
            primary=SUSPECTS.name,
            text_tables=[SUMS.name, SUSPECTS.name],
            findings=list(_findings(pages)),
        )


def _findings(pages):
    """What a person with a bug to close should know, each in one sentence, with its evidence."""
    for state, what in (
        ("free", "free, and page tables map them: whoever gets them next shares them with a process"),
        ("both", "mapped as anonymous memory and as something else at once"),
    ):
        if pages.get(state):
            yield Finding(
                key=f"table-check-{state}",
                severity=Severity.PROBLEM,
                message=f"{pages[state]:,} page(s) are {what}.",
                table=SUSPECTS.name,
                where=f"state = '{state}'",
            )
