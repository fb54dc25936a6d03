"""``mmdump page-owner``: allocated pages by call chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmdump.analysis import Analysis, Columns, Need, Parts
from mmdump.errors import IncompleteError
from mmdump.result import Column, Finding, Kind, Result, Schema, Severity, Table
from mmdump_page_owner.record import PAGE_OWNER, Owners, read_owners, why_no_owner
from mmdump_page_owner.stacks import stack_table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["PageOwner"]

GROUPS = Schema(
    "groups",
    (
        Column("pages", Kind.COUNT, "pages allocated by this chain and not freed"),
        Column("bytes", Kind.BYTES, "the same in bytes"),
        Column("allocations", Kind.COUNT, "how many allocations they are"),
        Column("oldest_ts_nsec", Kind.NSEC, "when the oldest was made"),
        Column("newest_ts_nsec", Kind.NSEC, "when the newest was made"),
        Column("stack_id", Kind.ID, "stack depot handle"),
        Column("frames", Kind.TEXT, "call chain, innermost first"),
    ),
    "Allocated pages by call chain",
)


def _missing(kernel: Kernel) -> str | None:
    """Why there is nothing to group.

    :raises IncompleteError: The kernel has it, and the dump has not.
    """
    reason = why_no_owner(kernel)
    state = kernel.page_ext.client(PAGE_OWNER.name)
    if reason is not None and (kernel.page_ext.garbage or (state is not None and state.unreadable)):
        raise IncompleteError(reason, "The dump may be truncated, filtered or damaged.")
    return reason


@dataclass(frozen=True)
class PageOwner(Analysis):
    """Pages that are allocated, by the call chain that allocated them."""

    name = "page-owner"
    summary = "allocated pages by call chain"
    needs = (Need(_missing),)
    page_ext = ("page_owner",)

    def start(self, kernel: Kernel) -> Owners | None:
        """What decoding the records needs."""
        return read_owners(kernel)

    def scan(self, pages: PageRange, state: Owners) -> Mapping[str, Columns]:
        """The pages that have an owner: their stack, and whether an allocation begins with them."""
        if pages.ext is None:
            return {}
        allocated = state.allocated(pages)
        garbage = state.garbage(pages, allocated)
        first = state.first_pages(pages, allocated)
        record = pages.ext["page_owner"]
        rows = np.flatnonzero(allocated & ~garbage)
        columns = {
            "stack_id": record["handle"][rows] & np.uint32(state.handle_mask),
            "pages": state.pages_of_records(pages, rows),
            "allocations": first[rows].astype(np.int64),
        }
        columns["ts_nsec"] = (
            record["ts_nsec"][rows] if "ts_nsec" in record.names else np.zeros(len(rows), np.uint64)
        )
        return {"stacks": columns, "garbage": {"pages": np.array([np.count_nonzero(garbage)])}}

    def batch(self, rows: Parts, state: Owners) -> Parts:  # noqa: ARG002
        """Sum the pages by stack."""
        stacks = rows["stacks"].select(
            pl.col("stack_id").cast(pl.Int64),
            "pages",
            "allocations",
            pl.col("ts_nsec").alias("oldest_ts_nsec"),
            pl.col("ts_nsec").alias("newest_ts_nsec"),
        )
        return {"stacks": self.fold("stacks", stacks), "garbage": rows["garbage"].sum()}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum by stack."""
        if part == "garbage":
            return frame.sum()
        return frame.group_by("stack_id").agg(
            pl.col("pages").sum(),
            pl.col("allocations").sum(),
            pl.col("oldest_ts_nsec").min(),
            pl.col("newest_ts_nsec").max(),
        )

    def finish(self, kernel: Kernel, state: Owners, parts: Parts) -> Result:  # noqa: ARG002
        """Stacks with most memory first."""
        page_size = kernel.target.page_size
        groups = parts["stacks"].with_columns((pl.col("pages") * page_size).alias("bytes"))
        stacks, notes = stack_table(kernel, groups["stack_id"].to_list())
        groups = groups.join(stacks.frame.select("stack_id", "frames"), on="stack_id", how="left")
        groups = groups.sort(["pages", "stack_id"], descending=[True, False]).select(GROUPS.names)
        pages, garbage = int(groups["pages"].sum()), int(parts["garbage"]["pages"].sum())
        findings = []
        if garbage:
            findings.append(
                Finding(
                    "page-owner-garbage",
                    Severity.WARNING,
                    f"{garbage} pages have a page_owner record of an impossible order; they are not counted.",
                )
            )
        summary = (
            f"{pages} allocated pages ({pages * page_size / (1 << 20):.1f} MiB) "
            f"by {len(groups)} call chains, in {int(groups['allocations'].sum())} allocations"
        )
        return Result(
            self.name,
            summary=[summary],
            tables={"groups": Table(GROUPS, groups), "stacks": stacks},
            primary="groups",
            text_tables=["groups"],
            findings=findings,
            notes=notes,
        )
