"""What the histories of pages say together, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mmdump.amounts import agreeing, counted
from mmdump.kernel.clock import latest_nsec
from mmdump.result import Finding, Severity, Table
from mmdump_page_pinner.history import (
    history_of,
    history_table,
    seconds,
    span,
    timeline_table,
    timelines_of,
)
from mmdump_page_pinner.live import held_now

if TYPE_CHECKING:
    from mmdump.kernel import Kernel
    from mmdump_page_pinner.witnesses import Witnesses

__all__ = ["history_findings", "history_tables"]

#: Groups that are told; the table has all.
_TOLD = 6


def history_tables(
    kernel: Kernel,
    witnesses: Witnesses,
    pages: pl.DataFrame,
    ranges: Sequence[tuple[int, int]] | None,
    unknown: pl.Series | None,
    holders: pl.DataFrame | None = None,
) -> tuple[dict[str, Table], list[Finding]]:
    """Tables ``timelines`` and ``history``, and what they say.

    :param pages: Rows of ``pages`` that the witnesses saw.
    :param ranges: PFNs [first, last) that are asked about; None for all.
    :param unknown: PFNs of which the dump does not tell whether they are held or marked; None for all that
        are not among ``pages``.
    :param holders: Table ``holders`` of mmdump holders, where they were searched for.
    """
    events = history_of(witnesses, pages, ranges, latest_nsec(kernel))
    timelines = timelines_of(events, pages, unknown)
    tables = {
        "timelines": timeline_table(timelines),
        "history": history_table(kernel, events, pages, witnesses),
    }
    findings = history_findings(timelines, witnesses.overrun, holders)
    return tables, [*findings, *_former(timelines, witnesses.source)]


def history_findings(
    timelines: pl.DataFrame, lost: int, holders: pl.DataFrame | None = None
) -> list[Finding]:
    """What is known of pages that were in the way: who let go of them, and what holds the others.

    :param lost: Events that are not in the trace any more.
    :param holders: Table ``holders`` of mmdump holders, where they were searched for.
    """
    failed = timelines.filter(pl.col("failures") > 0)
    if not len(failed):
        return []
    freed = _groups(failed.filter((pl.col("state") != "held") & (pl.col("user_puts") > 0)))
    held = _groups(failed.filter(pl.col("state") == "held"))
    findings = [_held(row, freed, lost, holders) for row in held[:_TOLD]]
    findings += [_let_go(row) for row in freed[:_TOLD]]
    left = len(held[_TOLD:]) + len(freed[_TOLD:])
    if left:
        findings.append(
            Finding("history", Severity.NOTE, f"{left} more groups of pages have histories.", "timelines")
        )
    return findings


def _former(timelines: pl.DataFrame, source: str) -> list[Finding]:
    """Events that are not counted."""
    events, pages = int(timelines["former"].sum()), int((timelines["former"] > 0).sum())
    if not events:
        return []
    are = agreeing(events, "is", "are")
    text = (
        f"{counted(events, 'event')} of {counted(pages, 'page')} in {source} {are} from before the page was "
        "allocated: of a former use, and not counted"
    )
    return [Finding("history-former", Severity.NOTE, f"{text}.", "timelines", "former > 0")]


_KEYS = ("cma_area", "owner", "stack_id", "put_by", "holder", "put_who", "asked_by", "purpose")


def _groups(timelines: pl.DataFrame) -> list[dict[str, Any]]:
    """Pages of one history, the most first."""
    return (
        timelines.group_by(_KEYS)
        .agg(
            pl.len().alias("pages"),
            pl.col("pfn").min().alias("first_pfn"),
            pl.col("head_pfn").unique().alias("heads"),
            pl.col("failures").sum(),
            pl.col("first_failure").min(),
            pl.col("last_failure").max(),
            pl.col("migration_puts").sum(),
            pl.col("user_puts").sum(),
            pl.col("last_put").min().alias("first_put"),
            pl.col("last_put").max(),
        )
        .sort(["pages", "first_pfn"], descending=[True, False])
        .to_dicts()
    )


def _pages(row: Mapping[str, Any], adjective: str) -> str:
    words = "page" if row["pages"] == 1 else "pages"
    owner = f" that {row['owner']} allocated" if row["owner"] else ""
    area = f" in CMA {row['cma_area']}" if row["cma_area"] else ""
    return f"{row['pages']} {adjective}{words}{area}{owner}"


def _asked(row: Mapping[str, Any]) -> str:
    if row["asked_by"]:
        return f"{row['purpose']} by {row['asked_by']}"
    return str(row["purpose"] or "a migration")


def _held(
    row: Mapping[str, Any], freed: list[dict[str, Any]], lost: int, holders: pl.DataFrame | None
) -> Finding:
    """Pages that are held: what was put since, and who holds them, or where to look for that."""
    when = span(row["first_failure"], row["last_failure"])
    text = f"{_pages(row, 'held ')} stood in the way of {_asked(row)} {when}"
    if row["user_puts"]:
        text += f"; {row['put_by'] or 'others'} of {row['put_who']} put references since, and some are left"
    elif lost:
        text += "; no put by anybody else is in the trace, from which older events are lost"
    else:
        only = "only the migration put references of its own" if row["migration_puts"] else "nobody put any"
        them = "it" if row["pages"] == 1 else "them"
        text += f"; since then {only}: what holds {them} was got before, and has no put yet"
    now = []
    if holders is not None:
        now = held_now(holders.filter(pl.col("pfn").is_in(row["heads"])), len(row["heads"]))
    if now:
        text += f"; now held: {', '.join(now)}"
    peer = next(
        (
            each
            for each in freed
            if row["owner"] and (each["owner"], each["stack_id"]) == (row["owner"], row["stack_id"])
        ),
        None,
    )
    if peer is not None and not now and not row["user_puts"]:
        text += (
            f". Pages that the same call chain allocated were put by {peer['put_by'] or 'somebody else'}: "
            f"look there for a get without a put{_holder(peer)}"
        )
    return Finding("history-held", Severity.WARNING, f"{text}.", "timelines", _where(row, "state = 'held'"))


def _let_go(row: Mapping[str, Any]) -> Finding:
    """Pages that somebody let go after a migration had failed."""
    when = seconds(row["last_put"])
    if row["first_put"] != row["last_put"]:
        when = f"{seconds(row['first_put']).removesuffix(' s')} to {when}"
    were = "was" if row["pages"] == 1 else "were"
    they = f"{_pages(row, '')}{' and' if row['owner'] else ''}"
    text = (
        f"{they} that had stood in the way of {_asked(row)} {were} put by "
        f"{row['put_by'] or 'an unknown function'} of {row['put_who']} at {when}{_holder(row)}"
    )
    return Finding("history-released", Severity.NOTE, f"{text}.", "timelines", _where(row, "state <> 'held'"))


def _holder(row: Mapping[str, Any]) -> str:
    return f" ({row['holder']})" if row["holder"] else ""


def _where(row: Mapping[str, Any], state: str) -> str:
    """The condition that selects the rows of a group."""
    terms = [state, *(_is(name, row[name]) for name in ("owner", "put_by"))]
    return " AND ".join(terms)


def _is(name: str, value: str | None) -> str:
    if not value:
        return f"{name} IS NULL"
    quoted = value.replace("'", "''")
    return f"{name} = '{quoted}'"
