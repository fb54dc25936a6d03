"""What is wrong with free memory: lists that are damaged, counts that do not agree, zones that ran dry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdump.amounts import agreeing, counted
from mmdump.kernel.arrays import I64, Bools
from mmdump.kernel.freelists import NO_ORDER, FreeLists
from mmdump.kernel.pcp import NO_CPU, PerCpuPages
from mmdump.result import Finding, Severity
from mmdump.target.reader import ReadStatus
from mmdump_buddy.account import ZoneAccount

if TYPE_CHECKING:
    from mmdump.kernel import Kernel

__all__ = ["counter_findings", "list_findings", "pcp_findings", "unread_strangers", "watermark_findings"]

#: PFNs that a sentence names.
_NAMED = 4
#: Pages on free lists that are looked at again.
_LOOKED_AT = 64


def list_findings(lists: FreeLists) -> list[Finding]:
    """Damage of the free lists themselves."""
    found = []
    for key, rows, what in (
        (
            "free-list-broken",
            lists.broken,
            "free blocks have a neighbour on their list that does not link back",
        ),
        ("free-list-lost", lists.list < 0, "free blocks are on no free list"),
        ("free-list-misplaced", lists.misplaced, "free blocks are on a list of another order or zone"),
        (
            "buddy-order",
            lists.order == NO_ORDER,
            "free blocks have an order that the allocator does not have",
        ),
        ("buddy-zone", lists.zone < 0, "free blocks have page flags of a zone that does not exist"),
    ):
        if rows.any():
            number = int(rows.sum())
            if number == 1:
                for more, one in (("blocks are", "block is"), ("blocks have", "block has"), ("their", "its")):
                    what = what.replace(more, one)  # noqa: PLW2901
            found.append(_problem(key, f"{number:,} {what}: {_some(lists.pfn, rows)}."))
    if lists.broken_heads.any():
        count = int(lists.broken_heads.sum())
        found.append(
            _problem(
                "free-list-head",
                f"{counted(count, 'head')} of free lists {agreeing(count, 'is', 'are')} not linked back to.",
            )
        )
    overlap = _overlapping(lists)
    if overlap.any():
        found.append(
            _problem(
                "buddy-overlap",
                f"{int(overlap.sum()):,} free blocks begin inside another: {_some(lists.pfn, overlap)}.",
            )
        )
    aligned = lists.pfn & ((np.int64(1) << np.minimum(lists.order, 32).astype(np.int64)) - 1) == 0
    crooked = ~aligned & (lists.order != NO_ORDER)
    if crooked.any():
        found.append(
            _problem(
                "buddy-alignment",
                f"{int(crooked.sum()):,} free blocks do not begin at a multiple of their size: "
                f"{_some(lists.pfn, crooked)}.",
            )
        )
    return found


def _overlapping(lists: FreeLists) -> Bools:
    """Blocks that begin before the one in front of them, or any before it, has ended."""
    if not len(lists.pfn):
        return np.zeros(0, bool)
    orders = np.where(lists.order == NO_ORDER, 0, lists.order).astype(np.int64)
    ends = np.maximum.accumulate(lists.pfn + (np.int64(1) << orders))
    return np.concatenate(([False], lists.pfn[1:] < ends[:-1]))


def _some(pfn: I64, rows: Bools) -> str:
    chosen = pfn[rows]
    named = ", ".join(f"{each:#x}" for each in chosen[:_NAMED].tolist())
    return f"PFN {named}" + (" ..." if len(chosen) > _NAMED else "")


def _problem(key: str, message: str, table: str | None = None) -> Finding:
    return Finding(key, Severity.PROBLEM, message, table)


def unread_strangers(kernel: Kernel, lists: FreeLists) -> tuple[list[Finding], list[str]]:
    """Pages that lists lead to and that are no free blocks: damage where they can be seen to be none.

    :return: Findings, and one sentence where the pages themselves are not in the dump.
    """
    strangers = lists.strangers
    if not len(strangers):
        return [], []
    memmap = kernel.memmap
    seen = [
        bool(
            (kernel.target.reader.read(memmap.address(pfn), memmap.page_size).status == ReadStatus.READ).all()
        )
        for pfn in strangers[:_LOOKED_AT].tolist()
    ]
    known = np.zeros(len(strangers), bool)
    known[: len(seen)] = seen
    findings, missing = [], []
    if known.any():
        number = int(known.sum())
        findings.append(
            _problem(
                "free-list-stranger",
                f"Free lists lead to {number:,} {agreeing(number, 'page that is', 'pages that are')} not "
                f"free: {_some(strangers, known)}.",
            )
        )
    if not known.all():
        missing.append(f"free lists lead to {int((~known).sum()):,} pages that could not be looked at")
    return findings, missing


def counter_findings(accounts: Sequence[ZoneAccount]) -> list[Finding]:
    """Counts that do not agree: of the free areas, and of the zone."""
    found = []
    for each in accounts:
        listed = each.lists.sum(axis=1).tolist()
        if each.nr_free_intact and not list(each.nr_free) == list(each.blocks) == listed:
            wrong = [
                order
                for order, counts in enumerate(zip(each.nr_free, each.blocks, listed, strict=True))
                if len(set(counts)) > 1
            ]
            found.append(
                _problem(
                    "nr-free",
                    f"{each.name}: nr_free, the lists and the page array do not agree on the free blocks of "
                    f"order {', '.join(map(str, wrong))}.",
                    "orders",
                )
            )
        if each.state is None or not each.state.complete:
            continue
        # Isolated blocks are not counted as free; memory that was never accepted from the host is (6.5).
        usable = sum(count << order for order, count in enumerate(listed)) - each.pages_on("ISOLATE")
        usable += each.state.snapshot("NR_UNACCEPTED")
        for item, pages in (("NR_FREE_PAGES", usable), ("NR_FREE_CMA_PAGES", each.pages_on("CMA"))):
            counted = each.state.snapshot(item)
            if item in each.state.counted and counted != pages:
                found.append(
                    Finding(
                        "free-pages-counter",
                        Severity.WARNING,
                        f"{each.name}: {item} says {counted:,} pages with the per-CPU counters, the lists "
                        f"have {pages:,}.",
                        "zones",
                    )
                )
    return found


def pcp_findings(pcp: PerCpuPages) -> list[Finding]:
    """Per-CPU lists that are damaged, or that do not hold what they count."""
    found = [Finding("pcp-list", Severity.PROBLEM, f"{sentence}.") for sentence in pcp.broken[:_LOOKED_AT]]
    pages = np.left_shift(1, pcp.order.astype(np.int64))
    for (slot, cpu), count in pcp.counts.items():
        listed = int(pages[(pcp.zone == slot) & (pcp.cpu == cpu)].sum())
        if listed != count and cpu != NO_CPU:
            zone = pcp.zones[slot]
            found.append(
                Finding(
                    "pcp-count",
                    Severity.WARNING,
                    f"CPU {cpu} counts {count:,} pages on its lists in zone {zone.name} of node {zone.node}; "
                    f"they have {listed:,}.",
                    "pcp",
                )
            )
    return found


def watermark_findings(accounts: Sequence[ZoneAccount]) -> list[Finding]:
    """Zones with less than their min watermark."""
    return [
        Finding(
            "below-min",
            Severity.WARNING,
            f"{each.name}: {each.state.page_state('NR_FREE_PAGES'):,} pages are free, less than the min "
            f"watermark ({each.state.watermark[0]:,}).",
            "zones",
        )
        for each in accounts
        if each.state is not None
        and each.state.managed
        and each.state.page_state("NR_FREE_PAGES") < each.state.watermark[0]
    ]
