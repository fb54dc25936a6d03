"""What is worth saying about the large folios of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mmdump.amounts import bytes_text
from mmdump.result import Finding, Severity

if TYPE_CHECKING:
    from mmdump.result import Table

__all__ = ["headline", "notes_on_counters", "states", "wasted", "wrong_counters"]

#: Waste above this share of memory is a warning.
_MUCH = 0.01
_WASTES = "partially_mapped AND kind = 'anon'"


def _folios(count: int) -> str:
    return f"{count} large folio{'s' if count != 1 else ''}"


def headline(groups: pl.DataFrame) -> str:
    """How many there are, and what they cost: one sentence."""
    count = int(groups["folios"].sum())
    if not count:
        return "There is no large folio."
    kinds = groups.group_by("kind").agg(pl.col("size").sum()).sort("size", "kind", descending=[True, False])
    parts = ", ".join(f"{kind} {bytes_text(size)}" for kind, size in kinds.iter_rows())
    waste = int(groups["waste"].sum())
    held = f"; splitting partially mapped ones would free {bytes_text(waste)}" if waste else ""
    return f"{_folios(count)}: {parts}{held}"


def wasted(groups: pl.DataFrame, memory: int) -> list[Finding]:
    """Memory that only partially mapped folios hold."""
    found = groups.filter(pl.col("waste") > 0)
    waste = int(found["waste"].sum())
    if not waste:
        return []
    parts = []
    pinned = int(found.filter("pinned")["waste"].sum())
    if pinned:
        parts.append(f"{bytes_text(pinned)} of it in pinned folios, which cannot be split")
    unqueued = int(found.filter(pl.col("deferred").eq(other=False))["waste"].sum())
    if unqueued:
        parts.append(f"{bytes_text(unqueued)} in folios on no queue, which reclaim will not split")
    severity = Severity.WARNING if waste > memory * _MUCH else Severity.NOTE
    count = int(found["folios"].sum())
    message = f"{bytes_text(waste)} that nothing maps any more is held by {_folios(count)} mapped in part"
    return [Finding("partially-mapped", severity, "; ".join([message, *parts]) + ".", "folios", _WASTES)]


def wrong_counters(groups: pl.DataFrame, *, live: bool, tables_whole: bool) -> list[Finding]:
    """Counters that contradict one another, or the page tables."""
    found = []
    wrong = int(groups.filter(~pl.col("consistent"))["folios"].sum())
    if wrong:
        message = f"The counters of {_folios(wrong)} contradict one another."
        severity = Severity.NOTE if live else Severity.PROBLEM
        found.append(Finding("inconsistent-counters", severity, message, "folios", "NOT consistent"))
    mixed = groups.filter(pl.col("uncounted"))
    if len(mixed) and groups["counted"].any():
        message = f"{_folios(int(mixed['folios'].sum()))} count no mappings by page, though others do."
        where = "pages_mapped IS NULL AND state = 'whole'"
        found.append(Finding("uncounted-pages", Severity.PROBLEM, message, "folios", where))
    unseen = int(groups.filter(pl.col("unseen").fill_null(value=False))["folios"].sum())
    if unseen and not live and tables_whole:
        message = f"{_folios(unseen)} count other mappings than the page tables of all processes hold."
        where = "mappings_found <> mapcount AND state = 'whole'"
        found.append(Finding("unseen-mappings", Severity.WARNING, message, "folios", where))
    return found


def states(groups: pl.DataFrame, orphans: Table) -> list[Finding]:
    """Folios that were being freed, split or allocated, and tails without a head."""
    found = []
    for state, what in (
        ("frozen", "had no references: they were being freed, split or migrated"),
        ("torn", "had lost tails: they were being freed or split, or their heads are garbage"),
        ("unreadable", "could not be read as a whole"),
    ):
        count = int(groups.filter(pl.col("state") == state)["folios"].sum())
        if count:
            where = f"state = '{state}'"
            found.append(Finding(state, Severity.WARNING, f"{_folios(count)} {what}.", "folios", where))
    tails = int(orphans.frame["pages"].sum())
    if tails:
        message = f"{tails} tail page{'s have' if tails != 1 else ' has'} no head."
        found.append(Finding("orphans", Severity.WARNING, message, "orphans"))
    return found


def notes_on_counters(groups: pl.DataFrame) -> list[str]:
    """What this kernel does not count."""
    if groups["uncounted"].any() and not groups["counted"].any():
        why = "This kernel does not count mappings by page (CONFIG_NO_PAGE_MAPCOUNT)"
        return [f"{why}: which folios are partially mapped, and what that costs, their counters do not say."]
    return []
