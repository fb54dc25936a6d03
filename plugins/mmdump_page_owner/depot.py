"""``mmdump stackdepot``: what the stack depot costs, what it holds, and whether it is sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from drgn import FaultError, TypeKind

from mmdump.analysis import Analysis, Columns, Need, Parts, option
from mmdump.errors import IncompleteError
from mmdump.kernel.depot_table import follow_chains, hashes
from mmdump.kernel.layout import find_object
from mmdump.result import Finding, Result, Severity
from mmdump_page_owner.depot_cost import COSTS, cost_table, full, summary
from mmdump_page_owner.depot_tables import (
    BROKEN,
    CHAINS,
    STACKS,
    Depot,
    broken_table,
    chain_table,
    stack_rows,
)
from mmdump_page_owner.record import Owners, read_owners, why_no_owner
from mmdump_page_owner.stack_list import read_stack_list

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["StackDepotAnalysis"]


def _missing(kernel: Kernel) -> str | None:
    """Why there is no depot.

    :raises IncompleteError: The kernel has one, and the dump has not.
    """
    if kernel.stack_depot is None:
        return "this kernel was built without a stack depot (CONFIG_STACKDEPOT)"
    if kernel.depot_state is None:
        return "mmdump does not know the stack records of this kernel"
    if not any(kernel.stack_depot.layout.pools):
        if not _readable(kernel):
            text = "where the pools of the stack depot are could not be read"
            raise IncompleteError(text, "The dump may be truncated, filtered or damaged.")
        return "the stack depot of this kernel is empty: nothing that uses it was switched on"
    return None


def _readable(kernel: Kernel) -> bool:
    """Whether the table of pools is in the dump."""
    pools = find_object(kernel.target.prog, "stack_pools")
    pools = pools if pools is not None else find_object(kernel.target.prog, "stack_slabs")
    if pools is None:
        return False
    try:
        # A pointer from 6.17 on: null until something uses the depot.
        if pools.type_.unaliased().kind != TypeKind.POINTER or pools.value_():
            pools[0].value_()
    except FaultError:
        return False
    return True


@dataclass(frozen=True)
class _State:
    """The depot, and what reading page_owner's records needs; None where they are not read."""

    depot: Depot
    owners: Owners | None


@dataclass(frozen=True)
class StackDepotAnalysis(Analysis):
    """The stack depot: what it costs, what it holds, and whether it is sound."""

    name = "stackdepot"
    summary = "what the stack depot costs, what it holds, and whether it is sound"
    report_rank = 80
    tables = (STACKS, COSTS, CHAINS, BROKEN)
    needs = (Need(_missing),)
    page_ext = ("page_owner",)

    check: bool = option(
        "--check", "read page_owner's record of each page, and hold the kernel's counts by it", default=False
    )

    def wants_pages(self, kernel: Kernel) -> bool:
        """Where the kernel does not count the pages of each stack (up to 6.8), its records are counted."""
        if why_no_owner(kernel) is not None:
            return False
        return self.check or read_stack_list(kernel) is None

    def start(self, kernel: Kernel) -> _State:
        """Read the whole depot."""
        state, records = kernel.depot_state, kernel.depot_records
        assert state is not None
        assert records is not None
        chains = follow_chains(kernel.target.prog, kernel.target.reader, state, records)
        wrong = hashes(records.frames, records.size) != records.hash
        if records.count is not None:
            # What was given back has the list of free records in the place of its frames.
            wrong &= records.count != 0
        # A depot in which hardly any is right has another hash function: that says nothing of its records.
        known = np.count_nonzero(wrong) <= len(records) // 2
        depot = Depot(
            state,
            records,
            chains,
            read_stack_list(kernel),
            np.flatnonzero(wrong) if known else np.empty(0, np.int64),
        )
        return _State(depot, read_owners(kernel) if self.wants_pages(kernel) else None)

    def scan(self, pages: PageRange, state: _State) -> Mapping[str, Columns]:
        """Count the pages that name each handle."""
        owners = state.owners
        if pages.ext is None or owners is None:
            return {}
        allocated = owners.allocated(pages)
        allocated = allocated & ~owners.garbage(pages, allocated)
        record, mask = pages.ext["page_owner"], np.uint32(owners.handle_mask)
        rows = np.flatnonzero(allocated)
        found = [(record["handle"][rows] & mask, owners.pages_of_records(pages, rows), "pages")]
        if "free_handle" in record.names:
            freed = np.flatnonzero(owners.freed(pages))
            found.append((record["free_handle"][freed] & mask, np.ones(len(freed), np.int64), "freed"))
        parts: dict[str, Columns] = {}
        for handles, count, name in found:
            distinct, inverse = np.unique(handles, return_inverse=True)
            sums = np.bincount(inverse, count, len(distinct)).astype(np.int64)
            parts[name] = {"stack_id": distinct.astype(np.int64), "pages": sums}
        return parts

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG002
        """Sum by handle."""
        return frame.group_by("stack_id").agg(pl.col("pages").sum())

    def finish(self, kernel: Kernel, state: _State, parts: Parts) -> Result:
        """Costs, stacks, hash chains, and what is broken."""
        depot = state.depot
        scanned = _scanned(parts) if state.owners is not None else None
        stacks = stack_rows(kernel, depot, scanned)
        broken = broken_table(kernel, depot, scanned)
        costs = cost_table(kernel, depot, stacks)
        tables = {"stacks": stacks, "depot": costs}
        text_tables = ["stacks"]
        if depot.chains is not None:
            tables["chains"] = chain_table(depot.chains)
            text_tables.append("chains")
        tables["broken"] = broken
        if broken.frame.height:
            text_tables.append("broken")
        return Result(
            self.name,
            summary=summary(costs),
            tables=tables,
            primary="stacks",
            text_tables=text_tables,
            findings=[
                *full(costs, depot),
                *_failures(stacks.frame),
                *_unsound(depot, broken.frame),
                *_differing(stacks.frame),
                *_unlisted(stacks.frame),
            ],
            notes=_notes(kernel, depot, scanned),
            incomplete=_incomplete(depot),
        )


def _scanned(parts: Parts) -> pl.DataFrame:
    """``stack_id``, ``pages`` and ``freed`` of all handles that pages name."""
    nothing = pl.DataFrame(schema={"stack_id": pl.Int64, "pages": pl.Int64})
    freed = parts.get("freed", nothing).rename({"pages": "freed"})
    pages = parts.get("pages", nothing)
    found = pages.join(freed, on="stack_id", how="full", coalesce=True)
    return found.with_columns(pl.col("pages", "freed").fill_null(0)).sort("stack_id")


def _unsound(depot: Depot, broken: pl.DataFrame) -> list[Finding]:
    """What the depot's checks of itself say."""
    findings = []
    if broken.height:
        findings.append(
            Finding(
                "stackdepot-broken",
                Severity.PROBLEM,
                f"{broken.height} records of the stack depot are broken: something wrote over them.",
                "broken",
            )
        )
    records, counters = depot.records, depot.state.counters
    if records.count is not None and not records.lost_bytes and not broken.height:
        # A record that page_owner counts is one that stays, too.
        ours = {
            "DEPOT_COUNTER_PERSIST_COUNT": len(records),
            "DEPOT_COUNTER_PERSIST_BYTES": int(records.room.sum()),
        }
        evictable = counters.get("DEPOT_COUNTER_REFD_ALLOCS", 0)
        for name, found in ours.items():
            if name in counters and not evictable and counters[name] != found:
                findings.append(
                    Finding(
                        "stackdepot-counters",
                        Severity.WARNING,
                        f"The kernel's {name.removeprefix('DEPOT_COUNTER_').lower()} is {counters[name]}, "
                        f"but {found} were found in the pools.",
                    )
                )
    if depot.chains is not None and depot.chains.loops:
        text = f"{depot.chains.loops} chains of the stack depot's hash table lead back into a chain."
        findings.append(Finding("stackdepot-loops", Severity.PROBLEM, text))
    if depot.stack_list is not None and depot.stack_list.loop:
        text = f"page_owner's list of stacks leads back into itself after {len(depot.stack_list.records)}."
        findings.append(Finding("page-owner-list-loop", Severity.PROBLEM, text))
    return findings


def _failures(stacks: pl.DataFrame) -> list[Finding]:
    """Pages whose stack the depot did not take."""
    pages = stacks.filter((pl.col("used_by") == "failure_handle") & (pl.col("pages") > 0))["pages"].sum()
    if not pages:
        return []
    text = f"The stacks of {pages:,} allocated pages are lost: the stack depot had no room for them."
    where = "used_by = 'failure_handle'"
    return [Finding("stackdepot-lost-stacks", Severity.PROBLEM, text, "stacks", where)]


def _differing(stacks: pl.DataFrame) -> list[Finding]:
    """Stacks whose pages by the kernel's count are not those that pages name."""
    differing = stacks.filter(pl.col("counted_pages") != pl.col("scanned_pages"))
    if not differing.height:
        return []
    pages = (differing["counted_pages"] - differing["scanned_pages"]).abs().sum()
    return [
        Finding(
            "page-owner-counts",
            Severity.WARNING,
            f"The kernel's counts of {differing.height} stacks are off by {pages} pages in all from what the "
            "pages' records say.",
            "stacks",
            "counted_pages <> scanned_pages",
        )
    ]


def _unlisted(stacks: pl.DataFrame) -> list[Finding]:
    """Stacks that show_stacks leaves out, though the kernel counts their pages."""
    missing = stacks.filter(~pl.col("listed") & (pl.col("counted_pages") > 0))
    if not missing.height:
        return []
    return [
        Finding(
            "page-owner-unlisted",
            Severity.NOTE,
            f"{missing.height} stacks with {missing['counted_pages'].sum():,} pages are not in the kernel's "
            "own list: page_owner_stacks/show_stacks leaves them out.",
            "stacks",
            "counted_pages > 0 AND NOT listed",
        )
    ]


def _notes(kernel: Kernel, depot: Depot, scanned: pl.DataFrame | None) -> list[str]:
    reason = why_no_owner(kernel)
    if reason is not None:
        return [f"No pages of stacks: {reason}."]
    if depot.stack_list is not None and scanned is None:
        text = "Pages are by the kernel's counters, which leave out what was allocated before page_owner was "
        return [text + "ready; --check reads the pages' records."]
    return []


def _incomplete(depot: Depot) -> list[str]:
    found = []
    if depot.records.lost_bytes:
        found.append(f"{depot.records.lost_bytes} bytes of the stack depot's pools could not be read")
    if depot.chains is None:
        found.append("the stack depot's hash table was not found")
    elif depot.chains.lost:
        found.append(f"{depot.chains.lost} buckets of the stack depot's hash table could not be read")
    if depot.stack_list is not None and depot.stack_list.lost:
        found.append("page_owner's list of stacks could not be read to its end")
    return found
