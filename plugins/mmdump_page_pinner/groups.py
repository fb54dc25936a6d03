"""Held folios summed by evidence, then owner, then call chain.

Grouping by call chain first would say nothing: pinned pages share their page-fault stack with all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from mmdump.result import Column, Finding, Kind, Schema, Severity, Table
from mmdump_page_pinner.evidence import EVIDENCE, FOLL_PIN, STATES

__all__ = [
    "EVIDENCE_LISTS",
    "GROUPS",
    "fold_groups",
    "group_table",
    "groups_of",
    "headline",
    "released",
    "who_holds",
]

GROUPS = Schema(
    "groups",
    (
        Column("evidence", Kind.TEXT, "what says that the folios are held", values=EVIDENCE),
        Column("owner", Kind.TEXT, "name and PID of the task that allocated them"),
        Column("folios", Kind.COUNT, "how many folios", weight=True),
        Column("order", Kind.ID, "order of the folios"),
        Column("cma", Kind.TEXT, "CMA area they lie in"),
        Column("stack_id", Kind.ID, "call chain that allocated them"),
        Column("state", Kind.TEXT, "held, released or unknown", values=STATES),
        Column("get_stack_id", Kind.ID, "call chain that got them last (Android 12)", in_text=False),
        Column("owner_comm", Kind.TEXT, "name of the task that allocated them", in_text=False),
        Column("owner_pid", Kind.ID, "its PID", in_text=False),
        Column("owner_tgid", Kind.ID, "its thread group", in_text=False),
        Column("pages", Kind.COUNT, "rows of table pages", in_text=False),
        Column("first_pfn", Kind.PFN, "the first of them", in_text=False),
        Column("bytes", Kind.BYTES, "size of the folios", in_text=False, weight=True),
    ),
    "",
)

#: Lists of evidence by code.
EVIDENCE_LISTS = pl.Series(
    [[name for bit, name in enumerate(EVIDENCE) if code >> bit & 1] for code in range(1 << len(EVIDENCE))],
    dtype=pl.List(pl.String),
)

_KEYS = (
    *("folio_evidence", "state", "order", "cma_area", "owner_comm", "owner_pid", "owner_tgid", "stack_id"),
    "get_stack_id",
)
#: Groups kept apart at most; garbage in a damaged dump could make each page one of its own.
_MAX_GROUPS = 1 << 16
#: Owners that the headline names.
_NAMED = 4


def groups_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum the rows of a range; see :func:`fold_groups` for the columns."""
    # A folio's tails may have records of their own: the row that stands for the folio speaks for it.
    return (
        rows.group_by(_KEYS)
        .agg(
            pl.col("counted").sum().cast(pl.Int64).alias("folios"),
            pl.len().cast(pl.Int64).alias("pages"),
            pl.col("pfn").min().alias("first_pfn"),
        )
        .pipe(_limit)
    )


def fold_groups(groups: pl.DataFrame) -> pl.DataFrame:
    """Sum groups of several ranges."""
    return (
        groups.group_by(_KEYS)
        .agg(pl.col("folios").sum(), pl.col("pages").sum(), pl.col("first_pfn").min())
        .pipe(_limit)
    )


def _limit(groups: pl.DataFrame) -> pl.DataFrame:
    """Lump the smallest groups together by evidence when there are too many to keep."""
    if len(groups) <= _MAX_GROUPS:
        return groups
    groups = groups.sort("folios", "first_pfn", descending=[True, False])
    kept, rest = groups.head(_MAX_GROUPS // 2), groups.tail(-(_MAX_GROUPS // 2))
    lumped = rest.with_columns(
        pl.lit(None).cast(rest.schema[name]).alias(name)
        for name in ("owner_comm", "owner_pid", "owner_tgid", "stack_id", "get_stack_id")
    )
    return pl.concat([kept, fold_groups(lumped)])


def group_table(groups: pl.DataFrame, page_size: int) -> Table:
    """The groups that are held, largest first, and after them those that were released."""
    groups = groups.sort(["state", "folios", "first_pfn"], descending=[False, True, False], nulls_last=True)
    groups = groups.with_columns(
        EVIDENCE_LISTS.gather(groups["folio_evidence"]).alias("evidence"),
        _owner().alias("owner"),
        pl.col("cma_area").alias("cma"),
        (pl.col("folios") * page_size * 2 ** pl.col("order")).cast(pl.Int64).alias("bytes"),
    )
    schema = GROUPS
    if groups["get_stack_id"].is_not_null().any():
        wanted = [
            replace(each, in_text=each.in_text or each.name == "get_stack_id") for each in schema.columns
        ]
        schema = replace(schema, columns=tuple(wanted))
    return Table(schema, groups.select(GROUPS.names))


def _owner() -> pl.Expr:
    """``comm pid``, as far as they are known."""
    return pl.concat_str(
        "owner_comm", pl.col("owner_pid").cast(pl.String), separator=" ", ignore_nulls=True
    ).replace("", None)


def headline(groups: pl.DataFrame) -> str:
    """How many folios are held, by what and whose: one sentence."""
    held = groups.filter(pl.col("state") == "held")
    total = int(held["folios"].sum())
    if not total:
        return "No page is held by anything that mmdump can see."
    by_owner = _by_owner(held)
    parts = [
        f"{row['folios']} {_large(row['folios']) if row['large'] else ''}{_why(row)}"
        for row in by_owner.head(_NAMED).iter_rows(named=True)
    ]
    rest = int(by_owner.tail(-_NAMED)["folios"].sum()) if len(by_owner) > _NAMED else 0
    if rest:
        parts.append(f"{rest} by others")
    return f"{total} folio{'s' if total != 1 else ''} held: {', '.join(parts)}"


def _by_owner(held: pl.DataFrame) -> pl.DataFrame:
    """Folios and pages of each owner, by what holds them, most first."""
    pinned = (pl.col("folio_evidence") & FOLL_PIN) != 0
    return (
        held.with_columns(
            cause=pl.when(pinned).then(pl.lit("FOLL_PIN")).otherwise(pl.lit("unexplained references")),
            large=pl.col("order") > 0,
            owner=_owner().fill_null("an unknown task"),
            whole=pl.col("folios") * 2 ** pl.col("order"),
        )
        .group_by("cause", "large", "owner")
        .agg(pl.col("folios", "whole").sum(), pl.col("first_pfn").min())
        .filter(pl.col("folios") > 0)
        .sort(["cause", "folios", "first_pfn"], descending=[False, True, False])
    )


def who_holds(groups: pl.DataFrame, area: str) -> str:
    """What holds pages of a CMA area, and who allocated them, for a sentence."""
    held = _by_owner(groups.filter((pl.col("state") == "held") & (pl.col("cma_area") == area)))
    parts = [f"{row['whole']} {_why(row)}" for row in held.head(_NAMED).iter_rows(named=True)]
    rest = int(held.tail(-_NAMED)["whole"].sum()) if len(held) > _NAMED else 0
    if rest:
        parts.append(f"{rest} by others")
    return f": {', '.join(parts)}" if parts else ""


def _why(row: Mapping[str, Any]) -> str:
    """What holds folios, and who allocated them, who need not be the same that holds them."""
    return f"by {row['cause']} (allocated by {row['owner']})"


def _large(count: int) -> str:
    return "large folio " if count == 1 else "large folios "


def released(groups: pl.DataFrame) -> list[Finding]:
    """How many marked pages nothing holds any more."""
    findings = []
    unknown = int(groups.filter(pl.col("state") == "unknown")["pages"].sum())
    if unknown:
        findings.append(
            Finding(
                "unknown",
                Severity.WARNING,
                f"{unknown} marked pages could not be read: whether anything holds them is unknown.",
                "pages",
                "state = 'unknown'",
            )
        )
    count = int(groups.filter(pl.col("state") == "released")["pages"].sum())
    if not count:
        return findings
    words = (
        "more was marked by the page pinner and is"
        if count == 1
        else "more were marked by the page pinner and are"
    )
    return [
        *findings,
        Finding("released", Severity.NOTE, f"{count} {words} released.", "pages", "state = 'released'"),
    ]
