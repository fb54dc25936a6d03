"""``mmdump buddy``: free memory, and why a block of some order cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import bytes_text
from mmdump.analysis import Analysis, Columns, Parts, option
from mmdump.errors import UsageError
from mmdump.kernel.freelists import ListHeads, find_lists, free_blocks
from mmdump.kernel.layout import enumerators
from mmdump.result import Result
from mmdump_buddy.account import ZoneAccount, zone_accounts
from mmdump_buddy.failures import FAILURES, failure_findings, failure_table, read_failures
from mmdump_buddy.findings import (
    counter_findings,
    list_findings,
    pcp_findings,
    unread_strangers,
    watermark_findings,
)
from mmdump_buddy.fragmentation import fragmentation_findings
from mmdump_buddy.guards import DEBUG_GUARDPAGE, guard_blocks
from mmdump_buddy.tables import FREE, ORDERS, PCP, ZONES, free_table, order_table, pcp_table, zone_table
from mmdump_buddy.want import WANT, want_findings, want_table

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump.kernel.page import PageRange

__all__ = ["Buddy"]


@dataclass(frozen=True)
class Buddy(Analysis):
    """Free memory by zone, order and migratetype, from the page array and from the free lists."""

    name = "buddy"
    summary = "free memory: lists, watermarks, fragmentation"
    report_rank = 55
    tables = (FREE, ZONES, ORDERS, PCP, FAILURES, WANT)
    page_ext = (DEBUG_GUARDPAGE.name,)

    want: int | None = option(
        "--want",
        "why a block of this order can be had from a zone, or not",
        metavar="ORDER",
        tables=(WANT.name,),
    )

    @classmethod
    def for_report(cls, kernel: Kernel) -> Buddy:
        """About the order of the last allocation that failed, if the kernel's log tells of one."""
        orders = kernel.list_heads.orders
        return cls(want=next((each.order for each in read_failures(kernel) if each.order < orders), None))

    def start(self, kernel: Kernel) -> ListHeads:
        """Read the heads of the lists.

        :raises UsageError: The order that is wanted does not exist.
        """
        heads = kernel.list_heads
        if self.want is not None and not 0 <= self.want < heads.orders:
            raise UsageError(
                f"there is no order {self.want}", f"This kernel's orders are 0 to {heads.orders - 1}."
            )
        return heads

    def scan(self, pages: PageRange, state: ListHeads) -> Mapping[str, Columns]:
        """Free blocks with their links, and guards."""
        return {"blocks": free_blocks(pages, state), "guards": guard_blocks(pages, state)}

    def batch(self, rows: Parts, state: ListHeads) -> Parts:  # noqa: ARG002
        """Sum guards. Blocks are kept: which list one is on only all of them together tell."""
        guards = rows["guards"].select("zone", pages=pl.lit(1, pl.Int64) * 2 ** pl.col("order"))
        return {"blocks": rows["blocks"], "guards": self.fold("guards", guards)}

    def fold(self, part: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Sum guards."""
        if part != "guards":
            return frame
        return frame.group_by("zone").agg(pl.col("pages").sum().cast(pl.Int64))

    def finish(self, kernel: Kernel, state: ListHeads, parts: Parts) -> Result:
        """Hold the lists, the page array and the counters against each other."""
        lists = find_lists(state, parts["blocks"])
        prog, page_size = kernel.target.prog, kernel.target.page_size
        pcp, names = kernel.per_cpu_pages, kernel.pageblocks.names
        guards = {zone: pages for zone, pages in parts["guards"].rows() if zone >= 0}
        accounts = zone_accounts(
            lists, enumerators(prog, "enum migratetype"), kernel.zone_states, pcp, guards
        )
        strangers, incomplete = unread_strangers(kernel, lists)
        findings = [*list_findings(lists), *strangers, *counter_findings(accounts), *pcp_findings(pcp)]
        findings += watermark_findings(accounts)
        zone_types = enumerators(prog, "enum zone_type")
        findings += fragmentation_findings(accounts, zone_types, kernel.pageblocks.order, page_size)
        failures = read_failures(kernel)
        findings = [*failure_findings(failures), *findings]
        tables = {
            "zones": zone_table(accounts, page_size),
            "orders": order_table(accounts, page_size),
            "free": free_table(accounts, names, page_size),
            "pcp": pcp_table(pcp, names, page_size),
        }
        text_tables = ["zones", "orders"]
        if failures:
            tables[FAILURES.name] = failure_table(failures)
            text_tables.insert(0, FAILURES.name)
        if self.want is not None:
            want = want_table(accounts, self.want, zone_types, page_size)
            findings = [*want_findings(want, self.want), *findings]
            tables = {"want": want} | tables
            text_tables = ["want", *text_tables[:-1]]
        return Result(
            self.name,
            summary=[_headline(accounts, page_size)],
            tables=tables,
            primary=FREE.name,
            text_tables=text_tables,
            findings=findings,
            notes=_notes(kernel, accounts),
            incomplete=[*incomplete, *_unreadable(accounts)],
        )


def _headline(accounts: list[ZoneAccount], page_size: int) -> str:
    """What is free: one sentence."""
    free = sum(each.pages for each in accounts) * page_size
    blocks = sum(sum(each.blocks) for each in accounts)
    stock = sum(each.pcp for each in accounts) * page_size
    largest = max((each.largest for each in accounts if each.largest is not None), default=None)
    end = "" if largest is None else f"; the largest free block has order {largest}"
    return f"{bytes_text(free)} free in {blocks:,} blocks, {bytes_text(stock)} more on per-CPU lists{end}."


def _notes(kernel: Kernel, accounts: list[ZoneAccount]) -> list[str]:
    state = kernel.page_ext.client(DEBUG_GUARDPAGE.name)
    notes = []
    if state is not None and state.unreadable:
        notes.append("Whether debug_pagealloc has guard pages could not be read.")
    unaccepted = sum(each.state.snapshot("NR_UNACCEPTED") for each in accounts if each.state is not None)
    if unaccepted > 0:
        notes.append(
            f"{unaccepted:,} pages were never accepted from the host: they count as free, but have no block."
        )
    return notes


def _unreadable(accounts: list[ZoneAccount]) -> list[str]:
    """One sentence for each zone of which something could not be read."""
    found = [
        f"the free lists of {each.name} could not be read" for each in accounts if not each.nr_free_intact
    ]
    for each in accounts:
        if each.state is None:
            found.append(f"the counters of {each.name} could not be read")
        elif not each.state.complete:
            found.append(f"the per-CPU counters of {each.name} could not be read")
    return found
